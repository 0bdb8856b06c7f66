"""The interface for notebooks and scripts: build a network, list its layers, train it, use it. Exported by `nin`.

A caller's mistake raises a ValueError of one line, as on the command lines. Only `layers` and `History.to_frame` import pandas.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import nin.data
import nin.model
import nin.predict
import nin.weights
from nin.data import ImageData
from nin.fetch import expanded
from nin.history import Evaluation, History
from nin.machine import choose_device, cpu_threads
from nin.model import Network, build_model, refusing
from nin.progress import progress_bar
from nin.settings import SETTINGS
from nin.sizes import NETWORKS, layer_rows, require_effect
from nin.sources import link_folder
from nin.spec import DataSpec, ModelSpec, Shape, TrainSpec, as_shape, changed, choose, is_whole
from nin.text import one_line, shape_text
from nin.train import train
from nin.weights import TrainedNetwork, find

if TYPE_CHECKING:
    import pandas as pd

# GFLOP of a step below which threads wait for each other longer than they compute, above all if other programs use the cores. An epoch
# of `quick` over 4,000 images took 5.9 and 9.5 s with one thread and 103 s with two (torch 2.13.0, 2 virtual cores of an AMD EPYC at
# a load of 7).
SMALL_STEP_GFLOP = 5.0


def build(
    network: str | ModelSpec = "nin-d2l",
    in_shape: Shape | None = None,
    num_classes: int = 10,
    *,
    seed: int = 0,
    **changes: object,
) -> Network:
    """Build a network with fresh weights, on the CPU; iterating over it gives its blocks in the order of the forward pass.

    network   a name ("nin-d2l", "nin-cifar", "nin-small", "alexnet", "vgg11", "vgg16", "lenet") or a specification
    in_shape  (C, H, W) of the images; by default a name has the textbook's, a specification has none (`data.in_shape`)
    seed      seed of the weights, layer by layer: networks that share a trunk start with the same one
    changes   fields of `ModelSpec`, such as num_1x1=3 or pooling="max"

    Raises ValueError for a name or value that does not exist, a change that the network has no part for, or images that are
    too small for it.
    """
    return build_model(*_resolved(network, in_shape, num_classes, changes), num_classes, seed)


def layers(
    network: str | ModelSpec | nn.Module,
    in_shape: Shape | None = None,
    num_classes: int | None = None,
    **changes: object,
) -> "pd.DataFrame":
    """Return a table of layers in the order of the forward pass: part, name, kind, output_shape, params, flops.

    network      as for `build`, or a built network; a module from elsewhere needs in_shape
    num_classes  10 by default; a built network has its own

    Output shapes are (C, H, W) or (C,). FLOPs are those of one image's forward pass, two per multiply-accumulate.
    """
    import pandas as pd

    if not isinstance(network, nn.Module):
        classes = 10 if num_classes is None else num_classes
        with torch.device("meta"):  # which has shapes but no numbers
            network = build_model(*_resolved(network, in_shape, classes, changes), classes)
    elif given := [*changes, *(["num_classes"] if num_classes is not None else [])]:
        raise ValueError(f"{', '.join(given)}: a network that was built cannot be changed; name it, or give its spec")
    in_shape = getattr(network, "in_shape", None) if in_shape is None else as_shape(in_shape)
    if in_shape is None:
        raise ValueError("in_shape: this module does not say the size of its images; name it, such as (1, 28, 28)")
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        rows = layer_rows(network, torch.zeros(1, *in_shape, device=device))
    except RuntimeError as error:
        raise ValueError(f"in_shape={in_shape}: the network does not take such images ({one_line(error)})") from error
    return pd.DataFrame([asdict(row) for row in rows])


def _resolved(
    network: str | ModelSpec, in_shape: Shape | None, num_classes: int, changes: Mapping[str, object]
) -> tuple[ModelSpec, Shape]:
    """Return the specification with its changes, and the shape of its images."""
    spec, known_shape = (network, None) if isinstance(network, ModelSpec) else choose(NETWORKS, network, "network")
    shape = known_shape if in_shape is None else as_shape(in_shape)
    if shape is None:
        raise ValueError("in_shape: a ModelSpec does not say the size of its images; name it, such as (1, 28, 28)")
    spec = changed(spec, changes)
    require_effect(changes, [(spec, shape, num_classes)])
    return spec, shape


def load_data(
    data: str | Path | DataSpec = "fashion-mnist",
    *,
    seed: int = 0,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    **changes: object,
) -> ImageData:
    """Return a divided data set on the training device; a data set that is not in the data root is fetched into it.

    data     a name ("fashion-mnist", "cifar-10", "synthetic", "folder:NAME", "folder:/path/of/a/folder", ...), the path of a folder
             of images, or a specification
    seed     seed of the division, where each seed has its own (split="by-seed")
    root     folder of data sets; by default `$NIN_DATA`, or `~/.cache/nin-ablations/data`
    device   "auto": an accelerator that torch sees, else the CPU; or "cpu", "cuda", "mps" or "xpu"
    changes  fields of `DataSpec`, such as train_examples=10_000 or image_size=224

    What is unusual about a folder's images, such as test images that are training images as well, is a warning. Raises ValueError for
    a name or value that does not exist, `nin.data.DataError` for files that are missing or damaged.
    """
    name = f"folder:{expanded(data).absolute()}" if isinstance(data, Path) else data
    spec = DataSpec(name=name) if isinstance(name, str) else name
    if not isinstance(spec, DataSpec):
        raise ValueError(f"data={data!r}: must be a data set's name, the path of a folder, or a DataSpec")
    spec = changed(spec, changes).for_seed(seed)
    place = None if root is None else expanded(root)
    spec = replace(spec, name=link_folder(spec.name, place))
    loaded = nin.data.load(spec, place, choose_device(str(device)))
    for remark in loaded.remarks:
        warnings.warn(remark, stacklevel=2)
    return loaded


def fit(
    network: nn.Module,
    data: ImageData,
    training: str | TrainSpec = "quick",
    on_eval: Callable[[Evaluation], None] | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    threads: int = 0,
    **changes: object,
) -> History:
    """Train `network` in place on `data.train`, on the device of the data; evaluate it on `data.val` from time to time.

    training    a setting ("quick", "full", or "d2l", the textbook's own) or a specification
    on_eval     called with each point of the learning curve
    seed        seed of the order of images, augmentation and dropout
    progress    show a bar, in a terminal or a notebook
    checkpoint  file in which the state is saved at evaluations; if it exists, training resumes from it, with the weights in it in
                the place of the network's. A file for each training: two networks that differ in first weights alone look alike
    threads     CPU threads; 0: one for a network whose steps are small, else as many as torch has. Their number changes results
                in the last digits
    changes     fields of `TrainSpec`, such as epochs=1 or lr=0.05

    Raises ValueError for a name or value that does not exist, or a network of other images or classes. A training that diverges is
    an outcome, not an error.
    """
    if not isinstance(network, nn.Module) or not isinstance(data, ImageData):
        raise ValueError("fit takes a network, as from nin.build(...), and data, as from nin.load_data(...)")
    spec = choose(SETTINGS, training, "training").train if isinstance(training, str) else training
    if not isinstance(spec, TrainSpec):
        raise ValueError(f"training={training!r}: must be the name of a setting, or a TrainSpec")
    spec = changed(spec, changes)
    if not is_whole(threads) or threads < 0:
        raise ValueError(f"threads={threads!r}: must be 0 or more, and a whole number")
    _require_same_shapes(network, data)
    with progress_bar(spec.images(len(data.train.labels)), shown=progress) as show:

        def on_point(point: Evaluation) -> None:
            show(point)
            if on_eval:
                on_eval(point)

        with cpu_threads(threads or _suitable_threads(network, data, spec)):
            file = None if checkpoint is None else expanded(checkpoint)
            return train(network, data, spec, on_point, seed=seed, checkpoint=file)


def _require_same_shapes(network: nn.Module, data: ImageData) -> None:
    """Raise ValueError unless the network takes the data's images and has an output per class."""
    channels, height, width = data.in_shape
    of_data = f"images of {channels}x{height}x{width} in {data.num_classes} classes"
    build = "build it with nin.build(NAME, data.in_shape, data.num_classes)"
    blank = torch.zeros(1, *data.in_shape, device=data.train.images.device)
    try:
        num_outputs = nin.model.predict(network.to(blank.device), blank).shape[-1]
    except RuntimeError as error:
        raise ValueError(f"the network does not take {of_data} ({one_line(error)}): {build}") from error
    if num_outputs != data.num_classes:
        raise ValueError(f"the network has {num_outputs} outputs; the data has {of_data}: {build}")


def _suitable_threads(network: nn.Module, data: ImageData, spec: TrainSpec) -> int:
    """Return 1 if a step is small, else torch's own number of threads."""
    device = data.train.images.device
    if device.type != "cpu":
        return torch.get_num_threads()
    rows = layer_rows(network.to(device), torch.zeros(1, *data.in_shape))
    gflop = 3 * spec.batch_size * sum(row.flops for row in rows) / 1e9  # a backward pass costs about two forward ones
    return 1 if gflop < SMALL_STEP_GFLOP else torch.get_num_threads()


def load_trained(run: str | Path, results: str | Path = "results") -> TrainedNetwork:
    """Load a trained network that a run kept (`keep_weights`), with the card that describes it.

    run  a .safetensors file, (the start of) a run_id, or a name such as "2x:0", looked for under `results`

    Raises ValueError, listing the networks there, unless exactly one matches.
    """
    return nin.weights.load(find(str(run), expanded(results)))


def probabilities(
    network: nn.Module | TrainedNetwork,
    images: Tensor | NDArray[np.uint8] | str | Path | Iterable[str | Path],
    *,
    invert: bool = False,
) -> Tensor:
    """Return class probabilities (N, K) on the CPU, each row summing to 1.

    network  a trained network, which takes images as bytes or image files; or a module, which takes inputs as in its training
    images   a tensor or array (N, C, H, W), or paths of image files, which are squeezed to the size of the network's data set
    invert   swap light and dark of image files; Fashion-MNIST shows light clothes on black

    Raises ValueError for images of another kind than the network takes.
    """
    if isinstance(images, np.ndarray):
        try:
            images = torch.from_numpy(images)
        except (TypeError, ValueError) as error:  # an array of objects, or a view backwards
            raise ValueError(f"images: {one_line(error)}") from error
    if invert and isinstance(images, Tensor):
        raise ValueError("invert: is for image files; subtract a tensor of bytes from 255")
    if not isinstance(network, TrainedNetwork):
        if not isinstance(images, Tensor):
            raise ValueError("images: a bare network takes a tensor; files need a trained network (load_trained)")
        with refusing(images):
            return nin.predict.in_batches(network, images)
    shape = network.card.image_shape
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
            raise ValueError(
                f"images: a trained network takes bytes, uint8 (N, {', '.join(map(str, shape))}), such as data.test.images; "
                f"these are {shape_text(images)}"
            )
        return nin.predict.probabilities(network, images.cpu())
    paths = [images] if isinstance(images, str | Path) else list(images) if isinstance(images, Iterable) else []
    if not paths or not all(isinstance(path, str | Path) for path in paths):
        raise ValueError(
            "images: a trained network takes bytes, uint8 (N, C, H, W), or paths of image files, at least one"
        )
    pixels, notes = nin.predict.read_images([Path(path) for path in paths], shape, invert)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return nin.predict.probabilities(network, pixels)
