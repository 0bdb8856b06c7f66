"""Controls: a network of one kind, made as large as a network of another kind, so that size cannot explain a difference."""

from dataclasses import replace

from ablations.runs import Run
from nin.data import shape
from nin.sizes import NetworkSize, size
from nin.spec import ModelSpec

WIDTH_STEPS = 1000  # widths are multiples of a thousandth: finer than a channel in any of our layouts


def matched(run: Run, other: Run, field: str, by: str) -> Run:
    """`run` with one field of its network solved so that its parameters or FLOPs are as near to those of `other` as can be.

    field  "width" or "hidden"
    by     "params" or "gflops"

    Both grow with the width, in steps of whole channels, so halving the range finds the nearest on either side.
    Raises ValueError for a field or size that cannot be matched.
    """
    if field not in ("width", "hidden") or by not in ("params", "gflops"):
        raise ValueError(f"cannot match {by!r} by {field!r}: sizes are params or gflops, fields width or hidden")
    wanted = _size_by(other.model, other, by)

    def candidate(steps: int) -> ModelSpec:
        if field == "hidden":
            return replace(run.model, hidden=steps)
        return replace(run.model, width=steps / WIDTH_STEPS)

    low, high = 1, 8 * (WIDTH_STEPS if field == "width" else 4096)
    while high - low > 1:
        middle = (low + high) // 2
        if _size_by(candidate(middle), run, by) < wanted:
            low = middle
        else:
            high = middle
    nearest = min((low, high), key=lambda steps: abs(_size_by(candidate(steps), run, by) - wanted))
    return replace(run, model=candidate(nearest))


def _size_by(model: ModelSpec, run: Run, by: str) -> float:
    in_shape, num_classes = shape(run.data)
    network: NetworkSize = size(model, in_shape, num_classes)
    return float(getattr(network, by))
