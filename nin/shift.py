"""Measure accuracy on shifted test images.

The textbook claims that global average pooling makes a network invariant to translation. `python -m nin.shift RUN` shifts the
test images of a trained network by 0 to N pixels and prints its accuracy.
"""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nin.cli import SUCCESS, OneLineParser, add_run_argument, exit_with, positive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nin.data import ImageData
    from nin.history import Score
    from nin.spec import TrainSpec

SHIFT = 3  # pixels of the data set's own images: about a tenth of the side of Fashion-MNIST's
DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def shifted(images_NCHW: "Tensor", pixels: int) -> "Tensor":
    """Move images (N, C, H, W) by that many pixels, each in one of eight directions in turn; fill with black."""
    import torch
    from torch.nn import functional as F

    height, width = images_NCHW.shape[2:]
    padded = F.pad(images_NCHW, [pixels] * 4)
    moved = torch.empty_like(images_NCHW)
    for k, (dy, dx) in enumerate(DIRECTIONS):
        top, left = pixels * (1 + dy), pixels * (1 + dx)
        moved[k :: len(DIRECTIONS)] = padded[k :: len(DIRECTIONS), :, top : top + height, left : left + width]
    return moved


def shifted_score(network: "nn.Module", data: "ImageData", spec: "TrainSpec", pixels: int = SHIFT) -> "Score":
    """Return the score of a network on the test images of `data`, shifted by that many pixels."""
    from nin.data import Split
    from nin.train import evaluate

    return evaluate(network, data, Split(shifted(data.test.images, pixels), data.test.labels), spec)[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_args(argv)

    from nin.text import text_table
    from nin.weights import find, load, load_data

    trained = load(find(arguments.run, arguments.results))
    card = trained.card
    side = min(card.image_shape[1:])
    if arguments.most >= side:
        raise ValueError(f"--most {arguments.most}: must be less than the {side} pixels of an image's side")
    data = load_data(card)
    rows = []
    for pixels in range(arguments.most + 1):
        score = shifted_score(trained.network, data, card.train, pixels)
        if not math.isfinite(score.loss):
            raise card.diverged("classifies nothing")
        rows.append([f"{pixels}", f"{100 * score.accuracy:.2f} %"])
    print(f"{card.name} on {len(data.test.labels):,} test images of {card.data.name}, shifted in eight directions")
    print(text_table(["shift, pixels", "test accuracy"], rows))
    return SUCCESS


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nin.shift", description="Measure accuracy on shifted test images.")
    add_run_argument(parser)
    parser.add_argument("--most", type=positive, default=6, metavar="N", help="pixels to shift by at most (default: 6)")
    return parser


if __name__ == "__main__":
    exit_with(main)
