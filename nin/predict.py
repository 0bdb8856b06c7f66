"""Classify your own images with a trained network.

    python -m nin.predict RUN photo.png other.jpg       the likeliest classes of each, with probabilities
    python -m nin.predict RUN photo.png --invert        dark on light: Fashion-MNIST shows light clothes on black

Images are decoded as those of a training folder: upright by their orientation tag, over white where they are transparent, in grey
or RGB, squeezed to the size of the network's data set.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nin.cli import SOME_RUN_FAILED, SUCCESS, OneLineParser, add_run_argument, exit_with, output_console, positive

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

    from nin.images import Decoded
    from nin.spec import Shape
    from nin.weights import TrainedNetwork

LIGHT_ON_BLACK = ("fashion-mnist", "mnist", "kmnist", "digits")
BATCH = 256  # images


def read_images(paths: Sequence[Path], shape: "Shape", invert: bool = False) -> "tuple[Tensor, list[str]]":
    """Read image files as (N, C, H, W) uint8 of that (C, H, W); also return a line for each kind of conversion.

    Raises DataError, naming the file, for a file that is not a whole image.
    """
    from nin.images import decode

    return _stacked([decode(path, *shape) for path in paths], invert)


def _stacked(decoded: "Sequence[Decoded]", invert: bool) -> "tuple[Tensor, list[str]]":
    import numpy as np
    import torch

    from nin.images import notes

    images = torch.from_numpy(np.stack([pixels for pixels, _ in decoded])).permute(0, 3, 1, 2).contiguous()
    return 255 - images if invert else images, notes(remarks for _, remarks in decoded)


def probabilities(trained: "TrainedNetwork", images_NCHW: "Tensor") -> "Tensor":
    """Return class probabilities (N, K) of images (N, C, H, W), uint8 in the data set's own size."""
    return in_batches(trained.classifier(), images_NCHW)


def in_batches(network: "nn.Module", x_NCHW: "Tensor") -> "Tensor":
    """Return class probabilities (N, K) on the CPU, of BATCH images at a time on the network's device."""
    import torch

    from nin.model import predict

    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    return torch.cat([predict(network, batch.to(device)).cpu() for batch in torch.split(x_NCHW, BATCH)])


def seems_inverted(image_CHW: "Tensor") -> bool:
    """Return whether the image's border is light rather than dark."""
    import torch

    border = torch.cat([image_CHW[:, [0, -1]].flatten(), image_CHW[:, :, [0, -1]].flatten()])
    return float(border.float().mean()) > 127


def _table(paths: Sequence[Path], probabilities_NK: "Tensor", classes: Sequence[str], top: int) -> "Table":
    from rich.markup import escape
    from rich.table import Column, Table

    top = min(top, len(classes))
    table = Table(
        Column("image", overflow="fold"), *("likeliest" if rank == 1 else f"{rank}." for rank in range(1, top + 1))
    )
    for path, probabilities_K in zip(paths, probabilities_NK, strict=True):
        likeliest = probabilities_K.topk(top)
        cells = zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        name = os.fsencode(path).decode(errors="backslashreplace")  # of a file name that is no UTF-8, its bytes
        table.add_row(escape(name), *(f"{escape(classes[k])} {share:.1%}" for share, k in cells))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nin.predict", description="Classify your own images with a trained network.")
    add_run_argument(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=positive, default=3, metavar="K", help="classes to show (default: 3)")
    parser.add_argument(
        "--invert", action="store_true", help="swap light and dark; Fashion-MNIST shows light clothes on black"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 if some of the files are no images, which leaves the others' answers.

    Raises ValueError, in one line, for invalid arguments, and if none of the files is an image.
    """
    arguments = _parser().parse_intermixed_args(argv)

    from nin.fetch import DataError
    from nin.images import decode
    from nin.weights import find, load

    trained = load(find(arguments.run, arguments.results))
    card = trained.card
    decoded: dict[Path, Decoded] = {}
    unreadable: list[DataError] = []
    for path in arguments.images:
        try:
            decoded[path] = decode(path, *card.image_shape)
        except DataError as error:
            unreadable.append(error)
    if not decoded:
        raise unreadable[0]
    images, notes = _stacked(list(decoded.values()), arguments.invert)
    probabilities_NK = probabilities(trained, images)
    if not bool(probabilities_NK.isfinite().all()):
        raise card.diverged("gives no probabilities")
    console = output_console()
    console.print(_table(list(decoded), probabilities_NK, card.classes, arguments.top))
    console.print(f"{card.name}, {card.test_accuracy:.1%} right on the test images of {card.data.name}", markup=False)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    if card.data.name in LIGHT_ON_BLACK and any(seems_inverted(image) for image in images):
        hint = "try without --invert" if arguments.invert else "try --invert"
        console.print(f"note: {card.data.name} shows light things on black, these images are light around: {hint}")
    for problem in unreadable:
        print(f"error: {problem}", file=sys.stderr)
    return SOME_RUN_FAILED if unreadable else SUCCESS


if __name__ == "__main__":
    exit_with(main)
