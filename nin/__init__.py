"""Network in Network: the networks and their training. Imports nothing of experiments.

    import nin

    network = nin.build("nin-small", num_1x1=1)       # by name or by `ModelSpec`
    nin.layers(network)                               # a table: shapes, parameters, FLOPs
    data = nin.load_data("fashion-mnist", train_examples=10_000)
    history = nin.fit(network, data, epochs=2)        # with a progress bar
    history.plot()

Each name below is loaded when it is first used, so that `import nin` costs nothing.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nin.api import build, fit, layers, load_data, load_trained, probabilities
    from nin.cam import class_map_figure, class_maps
    from nin.data import ImageData
    from nin.history import Evaluation, History
    from nin.model import Network
    from nin.spec import DataSpec, ModelSpec, TrainSpec
    from nin.weights import TrainedNetwork

__version__ = "0.1.0"

__all__ = [
    "DataSpec",
    "Evaluation",
    "History",
    "ImageData",
    "ModelSpec",
    "Network",
    "TrainSpec",
    "TrainedNetwork",
    "build",
    "class_map_figure",
    "class_maps",
    "fit",
    "layers",
    "load_data",
    "load_trained",
    "probabilities",
]

_MODULES = {
    "nin.api": ("build", "fit", "layers", "load_data", "load_trained", "probabilities"),
    "nin.cam": ("class_map_figure", "class_maps"),
    "nin.data": ("ImageData",),
    "nin.history": ("Evaluation", "History"),
    "nin.model": ("Network",),
    "nin.spec": ("DataSpec", "ModelSpec", "TrainSpec"),
    "nin.weights": ("TrainedNetwork",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the requested name from its module, or the module of that name (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
