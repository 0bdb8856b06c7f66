"""Controls: a network of one kind, made as large as a network of another kind, so that size cannot explain a difference."""

from dataclasses import replace

from ablations.study import Match, Run
from nin.data import shape
from nin.measure import NetworkSize, size
from nin.spec import ModelSpec

WIDTH_STEPS = 1000  # widths are multiples of a thousandth: finer than a channel in any of our layouts


def matched(run: Run, other: Run, match: Match) -> Run:
    """`run` with `match.field` solved so that its parameters or FLOPs are as near to those of `other` as can be.

    Both grow with the width, in steps of whole channels, so halving the range finds the nearest on either side.
    Raises ValueError for a field or size that cannot be matched.
    """
    if match.field not in ("width", "hidden") or match.by not in ("params", "gflops"):
        raise ValueError(
            f"cannot match {match.by!r} by {match.field!r}: sizes are params or gflops, fields width or hidden"
        )
    wanted = _size_by(other.model, other, match.by)

    def candidate(steps: int) -> ModelSpec:
        if match.field == "hidden":
            return replace(run.model, hidden=steps)
        return replace(run.model, width=steps / WIDTH_STEPS)

    low, high = 1, 8 * (WIDTH_STEPS if match.field == "width" else 4096)
    while high - low > 1:
        middle = (low + high) // 2
        if _size_by(candidate(middle), run, match.by) < wanted:
            low = middle
        else:
            high = middle
    nearest = min((low, high), key=lambda steps: abs(_size_by(candidate(steps), run, match.by) - wanted))
    return replace(run, model=candidate(nearest))


def _size_by(model: ModelSpec, run: Run, by: str) -> float:
    in_shape, num_classes = shape(run.data)
    network: NetworkSize = size(model, in_shape, num_classes)
    return float(getattr(network, by))
