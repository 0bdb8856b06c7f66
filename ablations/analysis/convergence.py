"""Speed of learning: training images until a target, censored where it is missed, and the height of a learning curve.

Accuracies are fractions; times are in any unit. What cannot be said (no runs, a single one) is nan.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from ablations.analysis import stats
from ablations.analysis.interval import UNKNOWN, Interval
from ablations.analysis.moderated import NAN


@dataclass(frozen=True)
class TimesToTarget:
    """Times, in any unit, of which some are censored at the budget because the target was missed.

    hits             runs that reached the target, of `num`
    median           infinite when fewer than half did
    restricted_mean  mean of min(time, limit), with Student's t interval: a rough one where few runs hit or times are skewed
    """

    hits: int
    num: int
    median: float
    restricted_mean: Interval


def time_to_target(times: ArrayLike, accuracies: ArrayLike, target: float) -> float:
    """The first of `times` at which the accuracy is at least `target`; infinite if there is none."""
    reached = np.flatnonzero(np.asarray(accuracies, dtype=float) >= target)
    return float(np.asarray(times, dtype=float)[reached[0]]) if len(reached) else math.inf


def median_time(times: ArrayLike) -> float:
    """Kaplan and Meier's median: the first of `times` by which half of the runs have hit, infinite where fewer do; nan of no runs."""
    t = np.sort(np.asarray(times, dtype=float))
    return float(t[math.ceil(len(t) / 2) - 1]) if len(t) else NAN


def summarise_times(times: ArrayLike, limit: float) -> TimesToTarget:
    """Summary of times to target, infinite where missed.

    limit  one for all groups that are compared, and none beyond the shortest budget: what later times would be is not known of all
    """
    t = np.asarray(times, dtype=float)
    if not len(t):
        return TimesToTarget(0, 0, NAN, UNKNOWN)
    return TimesToTarget(int(np.isfinite(t).sum()), len(t), median_time(t), stats.mean_interval(np.minimum(t, limit)))


def logrank(times_a: ArrayLike, times_b: ArrayLike, budgets_a: ArrayLike, budgets_b: ArrayLike) -> float:
    """p that two groups reach the target equally fast; misses (infinite times) are censored at the budget that the run had.

    nan if a group has fewer than two runs or nobody ever hits; 1 if the times order nothing, as when all that hit do so at once. The
    normal approximation is rough for few runs: equal groups of 3, 5 and 10 fall below 0.05 in 10, 7.5 and 6 % of studies.
    """
    a, b = np.asarray(times_a, dtype=float), np.asarray(times_b, dtype=float)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).any() or np.isfinite(b).any()):
        return NAN
    censored = [
        scipy_stats.CensoredData.right_censored(np.where(np.isfinite(t), t, budgets), ~np.isfinite(t))
        for t, budgets in ((a, budgets_a), (b, budgets_b))
    ]
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is ordered
        p = float(scipy_stats.logrank(x=censored[0], y=censored[1]).pvalue)
    return 1.0 if math.isnan(p) else p


def area_under_curve(examples: ArrayLike, accuracies: ArrayLike) -> float:
    """Mean height of a learning curve between its first and last point (trapezoids)."""
    x, y = np.asarray(examples, dtype=float), np.asarray(accuracies, dtype=float)
    if len(x) < 2:
        return float(y[0]) if len(y) else NAN
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def time_to_own_final(times: ArrayLike, accuracies: ArrayLike, fraction: float = 0.99) -> float:
    """The first of `times` at which a run has the given fraction of its own last accuracy."""
    y = np.asarray(accuracies, dtype=float)
    return time_to_target(times, y, fraction * y[-1]) if len(y) else NAN
