"""Variance over seeds, over test images, and over runs that do not all train: arrays in, numbers out.

Accuracies are fractions. Nothing here raises for small samples: what they do not tell is nan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ablations.analysis.interval import UNKNOWN, Interval
from ablations.analysis.moderated import ALPHA, NAN, PrimaryTest
from ablations.analysis.stats import Comparison, mean_interval, wilson

Array = NDArray[np.float64]
NORMAL_IMAGES = 30  # fewer images make a bounded mean too far from normal


@dataclass(frozen=True)
class SeedsAndImages:
    """A variant minus the baseline, for other seeds and other test images than those seen.

    difference   with its 95 % interval
    p            two-sided, that the difference is 0
    seeds        standard error from seeds alone; `images` what test images add to it. Their squares sum to that of both
    """

    difference: Interval
    p: float
    seeds: float
    images: float


def seeds_and_images(
    variant: ArrayLike, baseline: ArrayLike, test: PrimaryTest | Comparison | None = None
) -> SeedsAndImages:
    """Difference in accuracy with an interval over both seeds and test images, crossed random effects.

    Rows are seeds, the same for both, columns images, entries whether an image is classified rightly. With n seeds and m images
    the variance is that of row means / n plus that of column means / m, less the residual variance / (n m), which both contain
    (Owen 2007; the two-way layout of Cornfield and Tukey 1956). Degrees of freedom are Satterthwaite's.

    With the `test` of these runs over seeds its variance takes the place of that of row means, and the interval is never narrower
    than the test's, which covers less. nan for fewer than two seeds or NORMAL_IMAGES images.
    """
    x, y = np.atleast_2d(np.asarray(variant, dtype=float)), np.atleast_2d(np.asarray(baseline, dtype=float))
    if x.shape != y.shape:
        raise ValueError(f"seeds and images must be the same on both sides: {x.shape} and {y.shape}")
    d = x - y
    n, m = d.shape
    if n < 2 or m < NORMAL_IMAGES:
        return SeedsAndImages(Interval(float(d.mean()) if d.size else NAN, NAN, NAN), NAN, NAN, NAN)
    rows, columns = d.mean(axis=1), d.mean(axis=0)
    estimate = float(d.mean())
    # ((d - rows - columns + mean) ** 2).sum(), without a matrix of that size
    residual = (
        float((d**2).sum()) - m * float((rows**2).sum()) - n * float((columns**2).sum()) + n * m * estimate**2
    ) / ((n - 1) * (m - 1))
    given = test if test is not None and test.error > 0 else None
    over_seeds = given.error**2 if given else float(rows.var(ddof=1)) / n
    seed_freedom = given.freedom if given else n - 1.0
    over_images = float(columns.var(ddof=1)) / m
    both = max(over_seeds + over_images - residual / (n * m), over_images)
    if not both > 0:
        return SeedsAndImages(Interval(estimate, NAN, NAN), NAN, math.sqrt(over_seeds), 0.0)
    freedom = both**2 / (over_seeds**2 / seed_freedom + over_images**2 / (m - 1))
    sources = [(math.sqrt(both), freedom)] + ([(given.error, given.freedom)] if given else [])
    half = max(float(special.stdtrit(freedom, 1 - ALPHA / 2)) * error for error, freedom in sources)
    return SeedsAndImages(
        difference=Interval(estimate, estimate - half, estimate + half),
        p=max(float(2 * special.stdtr(freedom, -abs(estimate) / error)) for error, freedom in sources),
        seeds=math.sqrt(over_seeds),
        images=math.sqrt(max(both - over_seeds, 0.0)),
    )


@dataclass(frozen=True)
class Trained:
    """Accuracy of a sample in which some runs may not have trained.

    share      of the runs that trained, with Wilson's interval
    accuracy   mean of those that trained, with Student's 95 % interval
    overall    mean of all runs, with Student's 95 % interval, which is to be trusted only if `reliable`
    reliable   every run trained: where a tenth of them collapse, Student's interval of the mean covers 27, 41 and 65 % at 3, 5 and
               10 runs, not 95 %
    """

    share: Interval
    accuracy: Interval
    overall: Interval
    reliable: bool


def trained(accuracies: ArrayLike, has_trained: Sequence[bool]) -> Trained:
    """Summary of a sample, given of each run whether it learned (neither collapsed nor diverged, and predicts every class)."""
    x, good = np.asarray(accuracies, dtype=float), np.asarray(has_trained, dtype=bool)
    if x.shape != good.shape:
        raise ValueError(f"one flag for each run: {len(x)} accuracies, {len(good)} flags")
    return Trained(
        share=wilson(int(good.sum()), len(good)),
        accuracy=mean_interval(x[good]) if good.any() else UNKNOWN,
        overall=mean_interval(x),
        reliable=bool(good.all()),
    )
