"""An estimate and its confidence interval."""

import math
from dataclasses import dataclass

POINTS = 100  # per unit of accuracy


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval; nan where the data do not give one."""

    estimate: float
    low: float
    high: float

    def as_accuracy(self, name: str) -> dict[str, float]:
        """A mean accuracy in the columns `name`_mean, _low and _high, clipped: Student's interval can exceed the possible range."""
        return {
            f"{name}_mean": self.estimate,
            f"{name}_low": max(self.low, 0.0),
            f"{name}_high": min(self.high, 1.0),
        }

    def in_points(self, bound: float = 1.0) -> dict[str, float]:
        """A difference of accuracies in points, in the columns that tables of differences have.

        bound  the largest difference that is possible, as a fraction, to which the ends are clipped: 1 of accuracies, 2 of their
               changes and of gaps, whose two accuracies each differ by 1 at most
        """
        low, high = (end if math.isnan(end) else POINTS * min(max(end, -bound), bound) for end in (self.low, self.high))
        return {"difference": POINTS * self.estimate, "difference_low": low, "difference_high": high}


UNKNOWN = Interval(math.nan, math.nan, math.nan)
