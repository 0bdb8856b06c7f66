"""Draw class maps over test images: the maps that global pooling averages show where a network sees each class.

    python -m nin.cam RUN                  one trained network, on images that it gets right and wrong
    python -m nin.cam RUN RUN --seed 1     several side by side, on other images

In NiN every class has a map of its own, whose mean is the class's logit (Lin, Chen and Yan, arXiv:1312.4400, section 3.2 and
figure 4). A head that is linear over pooled features has such maps too: features weighted as the class weighs them, the class
activation maps of Zhou et al. (arXiv:1512.04150). Fully connected heads have none: flattening loses positions.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin.cli import OneLineParser, add_run_argument, exit_with, positive, require_figure_file
from nin.text import counted, shape_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from nin.data import Split
    from nin.model import Network
    from nin.weights import Card, TrainedNetwork

COLUMN_INCHES, ROW_INCHES = 1.2, 1.5
MAX_NAME_LENGTH = 16  # characters
MAX_CANDIDATES = 1000  # test images among which examples are chosen
MAX_ROWS = 50  # images of a figure: more take minutes to draw, and soon more pixels than a picture can have
CAPTION = (
    "Class maps: red speaks for the class, blue against it,\nin one scale per image and network. "
    "Bold: the answer,\nin blue if it is right, in orange if it is wrong."
)
RIGHT, WRONG = "#0173B2", "#D55E00"  # colours that colour-blind readers can tell apart


def class_maps(network: "Network", x_NCHW: "Tensor") -> "Tensor":
    """Return a map per class, (N, K, H', W'), of images (N, C, H, W) preprocessed as for the network, in evaluation mode.

    With average pooling, a map's mean is the class's logit but for the bias of a last linear layer.
    Raises ValueError if the head has no maps that belong to classes, or for what is no network or no such images.
    """
    import torch
    from torch import nn

    from nin.model import Network, evaluating, refusing
    from nin.pooling import GlobalPool

    if not isinstance(network, Network) or not isinstance(x_NCHW, torch.Tensor) or x_NCHW.dim() != 4:
        raise ValueError("class_maps takes a network, as from nin.build(...), and images as a tensor (N, C, H, W)")
    head: Any = network.head
    layers = head if isinstance(head, nn.Sequential) else ()
    place = next((i for i, layer in enumerate(layers) if isinstance(layer, GlobalPool)), None)
    if place is None:
        raise ValueError("class activation maps need head 'nin' or 'linear'; fully connected layers lose positions")
    if not head[place].channel_by_channel:
        raise ValueError(f"its {type(head[place]).__name__} mixes maps and positions, so no map belongs to a class")
    x_NCHW = x_NCHW.to(next(network.parameters()).device)
    with evaluating(network):
        with refusing(x_NCHW):
            maps_NCHW: Tensor = head[:place](network.trunk(x_NCHW))
        if not isinstance(head[-1], nn.Linear):
            return maps_NCHW
        if head[-1].in_features != maps_NCHW.shape[1]:
            raise ValueError(f"its {type(head[place]).__name__} returns more or fewer numbers than there are maps")
        return torch.einsum("nchw,kc->nkhw", maps_NCHW, head[-1].weight)


def choose_images(right_RN: "Tensor", count: int) -> list[int]:
    """Choose the first `count` of N images; where possible, half of them are images that some of the R networks get wrong.

    right_RN  whether each network classifies each image correctly. Images that some networks get wrong come last
    """
    all_right = right_RN.all(dim=0).tolist()
    right, wrong = ([i for i, flag in enumerate(all_right) if flag == wanted] for wanted in (True, False))
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    return right[: count - num_wrong] + wrong[:num_wrong]


def class_map_figure(trained: "TrainedNetwork | Sequence[TrainedNetwork]", images: "Split") -> "Figure":
    """Draw a row per image: the image, and for each network the maps of its label and of the likeliest other class.

    A network's two maps of an image share one scale, symmetric about zero. Raises ValueError for other arguments, more than MAX_ROWS
    images, or networks and images that do not belong together.
    """
    from matplotlib.figure import Figure

    from nin.predict import in_batches
    from nin.sources import Split
    from nin.weights import TrainedNetwork

    trained = [trained] if isinstance(trained, TrainedNetwork) else trained
    if not isinstance(trained, Sequence) or not all(isinstance(network, TrainedNetwork) for network in trained):
        raise ValueError("class_map_figure takes trained networks, as from nin.load_trained(...)")
    if not isinstance(images, Split) or not 1 <= len(images.labels) <= MAX_ROWS or not trained:
        raise ValueError(
            f"class_map_figure takes one or more networks, and 1 to {MAX_ROWS} images with labels, such as data.test.first(4)"
        )
    for network in trained:
        card, first = network.card, trained[0].card
        if card.classes != first.classes:
            raise ValueError(f"{card.name} and {first.name} have different classes")
        if images.images.shape[1:] != card.image_shape:
            raise ValueError(f"{card.name} takes images {card.image_shape}, and these are {shape_text(images.images)}")
    images = images.to("cpu")
    rows, classes = len(images.labels), trained[0].card.classes
    figure = Figure(figsize=(COLUMN_INCHES * (1 + 2 * len(trained)), ROW_INCHES * rows + 0.8), layout="constrained")
    figure.suptitle(CAPTION, fontsize=8)
    parts = figure.subfigures(1, 1 + len(trained), width_ratios=[1, *[2] * len(trained)], squeeze=False)[0]
    parts[0].suptitle("image", fontsize=9)
    axes = parts[0].subplots(rows, 1, squeeze=False)
    for row, label in enumerate(images.labels.tolist()):
        _show(axes[row, 0], images.images[row], f"{_shortened(classes[label])}\n ")
    for part, network in zip(parts[1:], trained, strict=True):
        part.suptitle(network.card.label, fontsize=9)
        axes = part.subplots(rows, 2, squeeze=False)
        classifier = network.classifier()
        probabilities_NK = in_batches(classifier, images.images)
        inputs_NCHW = classifier.preprocessing(images.images.to(next(network.network.parameters()).device))
        maps_NKHW = class_maps(network.network, inputs_NCHW).cpu()
        for row, label in enumerate(images.labels.tolist()):
            ranked = probabilities_NK[row].argsort(descending=True).tolist()
            other = next(k for k in ranked if k != label)
            limit = float(maps_NKHW[row, [label, other]].abs().max()) or 1.0
            for column, k in enumerate((label, other)):
                title = f"{_shortened(classes[k])}\n{float(probabilities_NK[row, k]):.0%}"
                colour = "dimgrey" if k != ranked[0] else RIGHT if k == label else WRONG
                _overlay(axes[row, column], images.images[row], maps_NKHW[row, k], limit, title, colour)
    return figure


def _show(axes: "Axes", image_CHW: "Tensor", title: str, colour: str = "black") -> None:
    """Draw the image in grey or RGB under a title of two lines, so that rows stay level."""
    axes.set_axis_off()
    axes.imshow(image_CHW.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=7, color=colour, fontweight="normal" if colour == "dimgrey" else "bold", pad=2)


def _overlay(axes: "Axes", image_CHW: "Tensor", map_HW: "Tensor", limit: float, title: str, colour: str) -> None:
    """Draw the map, red above zero and blue below, over the image in lighter tones, whose black would hide the map."""
    _show(axes, 128 + image_CHW // 2, title, colour)
    left, right, bottom, top = axes.images[0].get_extent()
    box = (left, right, bottom, top)
    colours: Any = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "bilinear", "alpha": 0.7}
    axes.imshow(map_HW.numpy(), extent=box, **colours)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _tested_on(card: "Card") -> tuple[object, ...]:
    """The test images and classes, which networks shown side by side have in common; their training images may differ."""
    return card.data.name, card.data.test_split, card.image_shape, card.classes


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m nin.cam", description="Draw class maps of trained networks on test images.")
    add_run_argument(parser, several=True)
    parser.add_argument(
        "--out", type=Path, default=Path("class-maps.png"), metavar="FILE", help="figure file (default: class-maps.png)"
    )
    parser.add_argument("--images", type=positive, default=8, metavar="N", help="test images to show (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of images (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_intermixed_args(argv)
    require_figure_file(arguments.out)
    if arguments.images > MAX_ROWS:
        raise ValueError(f"--images {arguments.images}: at most {MAX_ROWS} fit into a picture")

    import torch

    from nin.predict import in_batches
    from nin.spec import stream
    from nin.weights import find, load, load_data

    trained = [load(find(name, arguments.results)) for name in arguments.runs]
    first = trained[0].card
    for network in trained:
        card = network.card
        if _tested_on(card) != _tested_on(first):
            raise ValueError(f"{card.name} and {first.name} were not tested on the same images and classes")
        try:
            class_maps(network.network, torch.zeros(1, *card.in_shape))
        except ValueError as error:
            raise ValueError(f"{card.name} has no class maps: {error}") from error
    # Each network's own, of which the first's are shown: images may have been added between two trainings.
    cards = {network.card.data_checksum: network.card for network in trained}
    test, *_ = [load_data(card).test for card in cards.values()]
    generator = torch.Generator().manual_seed(stream(arguments.seed, "cam"))
    drawn = test.take(torch.randperm(len(test.labels), generator=generator)[:MAX_CANDIDATES])
    right = []
    for network in trained:
        probabilities_NK = in_batches(network.classifier(), drawn.images)
        if not bool(probabilities_NK.isfinite().all()):
            raise network.card.diverged("has no class maps")
        right.append(probabilities_NK.argmax(dim=1) == drawn.labels)
    right_RN = torch.stack(right)
    chosen = drawn.take(torch.tensor(choose_images(right_RN, arguments.images)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure = class_map_figure(trained, chosen)
    with warnings.catch_warnings(record=True, action="always") as caught:
        figure.savefig(arguments.out, dpi=160)
    networks = counted(len(trained), "network")
    print(f"{len(chosen.labels)} test images of {first.data.name}, {networks}: {arguments.out}")
    if any("missing from font" in str(warning.message) for warning in caught):  # one for each character
        print(
            "note: the font lacks characters of some class names, shown as boxes: "
            "name one that has them as font.family in a matplotlibrc file"
        )
    return 0


if __name__ == "__main__":
    exit_with(main)
