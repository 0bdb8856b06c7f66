"""Power of the primary test, and seeds that a comparison needs: numbers in, numbers out.

Given the variances that a study happens to see, a difference of means is normal. Power is therefore a normal probability,
averaged over moderated variances of simulated studies (fixed random numbers, so equal questions get equal answers). All
studies have equal spreads. Differences and deviations may be in any common unit.
"""

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from ablations.analysis.moderated import ALPHA, NAN, moderate

Array = NDArray[np.float64]
WANTED_POWER = 0.8  # probability of a verdict that plans aim at
VALUES = 6_000  # simulated runs per variant, shared out over studies
FEWEST_STUDIES = 40
MAX_PLANNED_SEEDS = 1_000  # a comparison that needs more is reported as needing "more than 1,000"
QUANTILES = 200  # support points of the distribution of a variance with known degrees of freedom


def sd_of_difference(sd: float, correlation: float = 0.0) -> float:
    """Deviation of a paired difference, of runs with the deviation `sd` that correlate over seeds with the baseline's."""
    return sd * math.sqrt(2 * (1 - correlation))


def detectable_difference(sd_difference: float, num_seeds: int, num_comparisons: int = 1) -> float:
    """The smallest true difference that the primary test finds with WANTED_POWER; nan for fewer than two seeds or no variance.

    Read at ALPHA / num_comparisons, Holm's first and hardest step, so this is an upper bound. `sd_difference` is the deviation
    of the difference at one seed (`sd_of_difference`).
    """
    if num_seeds < 2 or not sd_difference > 0:
        return NAN
    thresholds, _ = _thresholds(num_seeds, num_comparisons)
    return _shift_found(thresholds) * sd_difference / math.sqrt(num_seeds)


def detectable_at(error: float, freedom: float, num_comparisons: int = 1) -> float:
    """The difference that a study with this standard error, known to these degrees of freedom, finds with WANTED_POWER.

    For a comparison whose runs are there: it takes the error that was seen for the true one. nan if undefined.
    """
    if not (error > 0 and freedom > 0):
        return NAN
    ratios = (
        stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, freedom) / freedom
    )  # of a variance seen to the true one
    thresholds = np.sqrt(ratios) * stats.t.isf(ALPHA / num_comparisons / 2, freedom)
    return _shift_found(thresholds) * error


def prob_decided(
    difference: float,
    sd_difference: float,
    num_seeds: int,
    margin: float,
    num_comparisons: int = 1,
) -> float:
    """Probability of any verdict but "inconclusive" at a true difference: better, worse, or equivalent within `margin`.

    nan for fewer than two seeds or without variance.
    """
    if num_seeds < 2 or not sd_difference > 0:
        return NAN
    root = math.sqrt(num_seeds) / sd_difference
    shift, reach = abs(difference) * root, margin * root
    different, alike = _thresholds(num_seeds, num_comparisons)
    edge = np.maximum(reach - alike, 0)  # equivalent where the estimate is nearer to 0 than this
    start = np.maximum(different, edge)
    return float(
        np.mean(
            special.ndtr(shift - start)
            + special.ndtr(-shift - start)
            + special.ndtr(edge - shift)
            - special.ndtr(-edge - shift)
        )
    )


def seeds_needed(difference: float, sd_difference: float, margin: float, num_comparisons: int = 1) -> float:
    """About the smallest number of seeds in all at which `prob_decided` reaches WANTED_POWER; by simulation, which is not quite steady.

    Infinite beyond MAX_PLANNED_SEEDS: near the margin neither a difference nor equivalence is soon shown. nan if undefined.
    """
    if not sd_difference > 0 or not math.isfinite(difference):
        return NAN

    def enough(num_seeds: int) -> bool:
        return prob_decided(difference, sd_difference, num_seeds, margin, num_comparisons) >= WANTED_POWER

    high = 2
    while not enough(high):
        if high >= MAX_PLANNED_SEEDS:
            return math.inf
        high = min(2 * high, MAX_PLANNED_SEEDS)
    candidates = range(high // 2 + 1, high)
    return candidates.start + bisect_left(candidates, True, key=enough)


@lru_cache(maxsize=4096)
def _thresholds(num_seeds: int, num_comparisons: int) -> tuple[Array, Array]:
    """Estimates from which a difference is found, and margins less estimates from which equivalence is.

    Both are in units of the true standard error, one for each comparison of the simulated studies, all equally likely.
    """
    ratio, freedom = _moderated(num_seeds, num_comparisons)
    level, root = ALPHA / num_comparisons, np.sqrt(ratio)
    return stats.t.isf(level / 2, freedom) * root, stats.t.isf(level, freedom) * root


@lru_cache(maxsize=1024)
def _moderated(num_seeds: int, num_comparisons: int) -> tuple[Array, Array]:
    """Moderated variances, over the true one, and degrees of freedom of simulated studies with equal spreads."""
    num_studies = max(FEWEST_STUDIES, VALUES // num_seeds)
    rng = np.random.default_rng(0)
    variance, freedom = moderate(rng.standard_normal((num_studies, 1 + num_comparisons, num_seeds)))
    return variance.ravel() / 2, freedom.ravel()


def _found(shift: float, thresholds: ArrayLike) -> float:
    """Probability that a difference of `shift` standard errors is found either way, over equally likely thresholds."""
    at = np.asarray(thresholds, dtype=float)
    return float(np.mean(special.ndtr(shift - at) + special.ndtr(-shift - at)))


def _shift_found(thresholds: Array) -> float:
    return math.exp(
        optimize.brentq(lambda log: _found(math.exp(log), thresholds) - WANTED_POWER, math.log(1e-6), math.log(1e9))
    )
