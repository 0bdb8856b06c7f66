"""Controls: a network of one kind, made as large as a network of another kind, so that size cannot explain a difference."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from ablations.runs import Run
from nin.sizes import size
from nin.spec import DataSpec, ModelSpec, Shape

MAX_MISS = 0.1  # by which a size may miss at the end of the range; within it, whole channels decide
WIDTH_STEPS = 1000  # widths are multiples of a thousandth: finer than a channel in any of our layouts


def matched(run: Run, other: Run, field: str, by: str, shape_of: Callable[[DataSpec], tuple[Shape, int]]) -> Run:
    """`run` with one field of its network solved so that its parameters or FLOPs are as near to those of `other` as can be.

    field     "width" or "hidden"
    by        "params" or "gflops"
    shape_of  `nin.data.shape`, or a function that remembers what it returned

    Both grow with the width, in steps of whole channels, so halving the range finds the nearest on either side.
    Raises ValueError for a size that cannot be reached.
    """

    def size_by(model: ModelSpec, data: DataSpec) -> float:
        return float(getattr(size(model, *shape_of(data)), by))

    wanted = size_by(other.model, other.data)

    def candidate(steps: int) -> ModelSpec:
        if field == "hidden":
            return replace(run.model, hidden=steps)
        return replace(run.model, width=steps / WIDTH_STEPS)

    largest = 8 * (WIDTH_STEPS if field == "width" else 4096)
    sizes = range(largest + 1)
    high = bisect_left(sizes, wanted, lo=2, hi=largest, key=lambda steps: size_by(candidate(steps), run.data))
    nearest = min((high - 1, high), key=lambda steps: abs(size_by(candidate(steps), run.data) - wanted))
    found = size_by(candidate(nearest), run.data)
    if high in (2, largest) and abs(found - wanted) > MAX_MISS * wanted:
        raise ValueError(
            f"variant {run.variant!r} cannot have the {by} of {other.variant!r}, {wanted:,.9g}: with any {field} it has {found:,.9g} "
            f"{'or more' if found > wanted else 'at most'}"
        )
    return replace(run, model=candidate(nearest))
