"""Search spaces: one table per protocol, ranges around the protocol's own setting. Standard library only.

The nuisance parameters of training, which a comparison holds equal or tunes with equal budgets; never what a study is about.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ablations.protocols import PROTOCOLS
from ablations.runs import Run, parse_overrides
from ablations.study import Study

EDGE = 0.05  # share of a range: a best value that near to its end may lie beyond it


@dataclass(frozen=True)
class Range:
    """Real numbers from low to high, spread evenly or, with `log`, evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    def is_at_edge(self, value: float) -> bool:
        """Return whether the value lies in the outermost EDGE of the range; 0 is no edge, since nothing lies below it."""
        low, high, at = (
            (math.log(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        margin = EDGE * (high - low)
        return at > high - margin or (self.low != 0 and at < low + margin)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[str | int | float, ...]


Space = Mapping[str, Range | Choice]


def _around(protocol: str) -> Space:
    lr = PROTOCOLS[protocol].train.lr
    return {
        "train.lr": Range(lr / 10, lr * 10, log=True),
        "train.momentum": Range(0.0, 0.98),
        "train.weight_decay": Range(0.0, 2e-3),
        "train.label_smoothing": Range(0.0, 0.2),
        "model.dropout": Range(0.0, 0.8),
        "train.schedule": Choice(("none", "cosine", "one-cycle")),
        "data.augment": Choice(("none", "flip", "crop-flip")),
    }


NUISANCE: dict[str, Space] = {name: _around(name) for name in PROTOCOLS}

# Widths and depths, for the trade of accuracy against size.
SIZES: Space = {
    "model.width": Range(0.05, 1.0, log=True),
    "model.num_1x1": Choice((0, 1, 2, 3)),
}

# Everything that a NiN may be, for the search of the best one.
NETWORKS: Space = {
    "model.layout": Choice(("small", "cifar", "mnist")),
    "model.width": Range(0.1, 1.0, log=True),
    "model.num_1x1": Choice((0, 1, 2, 3)),
    "model.pooling": Choice(("average", "max", "avgmax", "gem", "concat")),
    "model.activation": Choice(("relu", "gelu", "batchnorm-relu")),
}


def space_of(
    study: Study, run: Run, overrides: Iterable[str] = (), with_sizes: bool = False
) -> dict[str, Range | Choice]:
    """The search space of a study's run, without fields that any variant or override changes, or its optimizer does not read."""
    fixed = set(parse_overrides(overrides)) | ({"train.momentum"} if not run.train.has_momentum else set())
    space = {**NUISANCE[run.protocol]}
    if study.searches:
        space |= NETWORKS
    else:
        space |= SIZES if with_sizes else {}
        fixed = fixed.union(*(variant.settings for variant in study.variants.values()))
    return {key: range_ for key, range_ in space.items() if key not in fixed}
