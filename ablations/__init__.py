"""Ablations of Network in Network: studies, the execution of their runs, and their results.

    from ablations import Study, Variant, run_study

    study = Study("average", {name: Variant(model={"pooling": name}) for name in ("average", "max")}, name="two_poolings")
    if __name__ == "__main__":
        print(run_study(study, protocol="smoke", seeds=2).summary)

Each name below is loaded when it is first used, so that listing studies loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.api import Results, load_results, run_study
    from ablations.catalog import load_study, study_names
    from ablations.execution.launch import EngineOptions
    from ablations.study import Match, Published, Study, Variant

__all__ = [
    "EngineOptions",
    "Match",
    "Published",
    "Results",
    "Study",
    "Variant",
    "load_results",
    "load_study",
    "run_study",
    "study_names",
]

_MODULES = {
    "ablations.api": ("Results", "load_results", "run_study"),
    "ablations.catalog": ("load_study", "study_names"),
    "ablations.execution.launch": ("EngineOptions",),
    "ablations.study": ("Match", "Published", "Study", "Variant"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the requested name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
