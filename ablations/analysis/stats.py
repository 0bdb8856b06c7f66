"""Intervals, tests, corrections: arrays in, numbers out.

Accuracies are fractions throughout. What cannot be decided (a single seed, samples without any variance) is nan, and a
comparison that rests on it reads "inconclusive"; nothing here raises for small samples or turns them into claims.

Follows Welch (1947) and Satterthwaite (1946) for differences, Holm (1979) for many of them, Schuirmann (1987) for sameness.
The test that verdicts rest on is in `ablations.analysis.moderated`, its power in `ablations.analysis.planning`.
"""

import gc
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from ablations.analysis import planning
from ablations.analysis.interval import UNKNOWN, Interval
from ablations.analysis.moderated import (
    ALPHA,
    NAN,
    PrimaryTest,
    contrast_test,
    paired_tests,
    sample_variance,
    welch_test,
)

Array = NDArray[np.float64]
SIGN_FLIP_MIN = 6  # below six pairs an exact sign-flip test cannot reach p = 0.05
SIGN_FLIP_RESAMPLES = 2**16  # all sign patterns of up to 16 pairs; of more pairs, so many random ones
SIGN_FLIP_NORMAL = 100  # pairs
MAX_DUNNETT = 50  # comparisons: what it takes grows with the cube of their number
DIGITS = 12  # of a mean of accuracies, which are shares of at most millions of images: what follows is rounding

BETTER, WORSE, EQUIVALENT, INCONCLUSIVE = "better", "worse", "equivalent", "inconclusive"


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline, in test accuracy (differences as fractions: 0.01 is one point).

    difference    variant minus baseline, with the 95 % interval of the primary test: paired by seed, variances moderated over the
                  confirmatory comparisons; Welch's for exploratory ones, and where fewer than two seeds are shared or it does not vary
    p             of the primary test; p_holm corrected over the confirmatory comparisons, nan for others
    p_dunnett     many-to-one comparison that assumes equal variances, nan for more than MAX_DUNNETT variants
    p_sign_flip   exact, over differences of equal seeds; corrected like p
    p_equivalent  two one-sided tests at the margin, corrected like p
    prob_better   probability that a run of the variant beats one of the baseline, ties counting half
    detectable    difference that this comparison would have found with a power of 80 %, at the standard error seen; nan without
    verdict       "better", "worse", "equivalent" or "inconclusive"
    method        of the primary test: "moderated", "paired" or "welch"
    error         standard error of the difference, with `freedom` degrees of freedom, by the primary test
    welch         variant minus baseline over all runs, with Welch's 95 % interval: a check
    p_welch       of Welch's test, p_welch_equivalent of Welch's two one-sided tests at the margin; both corrected like p
    seeds_if_seen, seeds_if_margin
                  seeds in all that decide an inconclusive comparison with a power of 80 % if the true difference is the one seen, or
                  the margin; infinite beyond what is feasible, nan for other verdicts
    """

    difference: Interval
    p: float
    p_holm: float
    p_dunnett: float
    p_sign_flip: float
    p_equivalent: float
    prob_better: float
    detectable: float
    verdict: str
    method: str = ""
    error: float = NAN
    freedom: float = NAN
    welch: Interval = UNKNOWN
    p_welch: float = NAN
    p_welch_equivalent: float = NAN
    seeds_if_seen: float = NAN
    seeds_if_margin: float = NAN


NO_COMPARISON = Comparison(  # of the baseline, and of a variant whose test says nothing
    difference=UNKNOWN,
    p=NAN,
    p_holm=NAN,
    p_dunnett=NAN,
    p_sign_flip=NAN,
    p_equivalent=NAN,
    prob_better=NAN,
    detectable=NAN,
    verdict="",
)


def mean_interval(values: ArrayLike) -> Interval:
    """Mean with Student's t interval of 95 % (ddof = 1); nan ends for fewer than two values, or if one is not finite.

    Values without variance (a variant that collapsed in every run) give an interval without width.
    """
    x = np.asarray(values, dtype=float)
    mean = float(x.mean()) if len(x) else NAN
    if len(x) < 2 or not math.isfinite(mean):
        return Interval(mean, NAN, NAN)
    half = float(stats.t.ppf(1 - ALPHA / 2, len(x) - 1)) * math.sqrt(sample_variance(x) / len(x))
    return Interval(mean, mean - half, mean + half)


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided p that paired differences are symmetric about zero, over all patterns of signs; nan below six pairs.

    From SIGN_FLIP_NORMAL pairs on the sum over random signs is normal for all that matters, its variance the sum of squares.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < SIGN_FLIP_MIN or not np.isfinite(d).all():
        return NAN
    if len(d) >= SIGN_FLIP_NORMAL:
        return float(2 * stats.norm.sf(abs(d.sum()) / math.sqrt((d**2).sum()))) if d.any() else 1.0
    result = stats.permutation_test(
        (d,), _rounded_mean, permutation_type="samples", n_resamples=SIGN_FLIP_RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def prob_better(variant: ArrayLike, baseline: ArrayLike) -> float:
    """Probability that a value of `variant` exceeds one of `baseline`, ties counting half (Vargha and Delaney's A)."""
    x, y = np.asarray(variant, dtype=float), np.asarray(baseline, dtype=float)
    if not len(x) or not len(y) or not np.isfinite([*x, *y]).all():
        return NAN
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction over those p-values that are not nan; the others stay nan."""
    p = np.asarray(p_values, dtype=float)
    known = ~np.isnan(p)
    if known.any():
        gc.freeze()  # multipletests collects garbage at each call: tenths of a second where much is loaded, of which none is garbage
        try:
            p[known] = multipletests(p[known], method="holm")[1]
        finally:
            gc.unfreeze()
    return [float(value) for value in p]


def compare(
    samples: Mapping[str, Mapping[int, float]],
    baseline: str,
    confirmatory: Sequence[str],
    margin: float = 0.003,
    checks: bool = True,
) -> dict[str, Comparison]:
    """Compare every variant with the baseline.

    samples  accuracies by variant and seed
    checks   also compute what no verdict rests on: Welch's test beside the primary one, Dunnett, sign-flip, detectable difference,
             seeds needed. They take most of the time

    Both families of tests, for a difference and for equivalence, are Holm-corrected over `confirmatory`: among those, they aim
    at a probability of ALPHA for any false "better" or "worse", and the same for any false "equivalent" (docs/statistics.md says
    how near they come). Other variants are exploratory and judged by their own p. A difference that is real but surely smaller than
    the margin reads "equivalent": that is what matters to who chooses between the two, and the interval still shows the difference.

    Raises KeyError if `samples` lacks the baseline.
    """
    values = {name: np.array(list(sample.values()), dtype=float) for name, sample in samples.items()}
    base = values[baseline]
    others = [name for name in samples if name != baseline]
    family = [name for name in others if name in confirmatory]

    def corrected(p: Mapping[str, float]) -> dict[str, float]:
        """Holm's correction over the confirmatory comparisons; the p of others stay."""
        return {**p, **dict(zip(family, holm([p[name] for name in family]), strict=True))}

    unpaired = {name: welch_test(values[name], base) for name in others}
    tests = unpaired | paired_tests(samples, baseline, family)
    p_holm = corrected({name: test.p for name, test in tests.items()})
    p_same = corrected({name: test.p_equivalent(margin) for name, test in tests.items()})
    p_welch = p_welch_same = p_flip = p_dunnett = {}
    if checks:
        p_welch = corrected({name: test.p for name, test in unpaired.items()})
        p_welch_same = corrected({name: test.p_equivalent(margin) for name, test in unpaired.items()})
        p_flip = corrected({name: sign_flip(_paired(samples[name], samples[baseline])) for name in others})
        p_dunnett = _dunnett({name: values[name] for name in family}, base)
    comparisons = {}
    for name in others:
        test = tests[name]
        if p_same[name] < ALPHA:
            verdict = EQUIVALENT
        elif p_holm[name] < ALPHA:
            verdict = BETTER if test.estimate > 0 else WORSE
        else:
            verdict = INCONCLUSIVE
        num_tests = len(family) if name in family else 1
        if_seen, if_margin = (
            float(np.maximum(planning.seeds_needed(true, test.sd_difference, margin, num_tests), test.num_seeds + 1))
            if checks and verdict == INCONCLUSIVE
            else NAN
            for true in (test.estimate, margin)
        )
        comparisons[name] = Comparison(
            difference=test.interval,
            p=test.p,
            p_holm=p_holm[name] if name in family else NAN,
            p_dunnett=p_dunnett.get(name, NAN),
            p_sign_flip=p_flip.get(name, NAN),
            p_equivalent=p_same[name],
            prob_better=prob_better(values[name], base),
            detectable=planning.detectable_at(test.error, test.freedom, num_tests) if checks else NAN,
            verdict=verdict,
            method=test.method,
            error=test.error,
            freedom=test.freedom,
            welch=unpaired[name].interval,
            p_welch=p_welch.get(name, NAN),
            p_welch_equivalent=p_welch_same.get(name, NAN),
            seeds_if_seen=if_seen,
            seeds_if_margin=if_margin,
        )
    return comparisons


def pooled_sd(samples: Sequence[ArrayLike]) -> float:
    """Standard deviation within samples: the root of their pooled variance; nan if none has two values."""
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    freedom = sum(max(0, len(x) - 1) for x in arrays)
    return math.sqrt(sum((len(x) - 1) * sample_variance(x) for x in arrays if len(x) > 1) / freedom) if freedom else NAN


def wilson(count: int, num: int) -> Interval:
    """A share with Wilson's 95 % interval (Wilson 1927); nan without trials."""
    if num == 0:
        return UNKNOWN
    interval = stats.binomtest(count, num).proportion_ci(method="wilson")
    return Interval(count / num, float(interval.low), float(interval.high))


def fisher_p(count: int, num: int, base_count: int, base_num: int) -> float:
    """Fisher's exact two-sided p that two shares are the same; nan without trials."""
    if num == 0 or base_num == 0:
        return NAN
    return float(stats.fisher_exact(np.array([[count, num - count], [base_count, base_num - base_count]])).pvalue)


def two_way(
    cells: Mapping[tuple[str, str], ArrayLike], base: tuple[str, str]
) -> dict[tuple[str | None, str | None], PrimaryTest]:
    """Test effects in a complete table of two factors, cells keyed by their levels, as contrasts against the base levels.

    (a, None) is the main effect of a against base[0], averaged over all levels of the other factor, each weighing the same;
    (None, b) likewise. (a, b) is their interaction: the difference that a makes at b, minus that at base[1].

    Raises ValueError for a table with holes, or without the base.
    """
    rows, columns = (list(dict.fromkeys(key[factor] for key in (base, *cells))) for factor in (0, 1))
    holes = [(a, b) for a in rows for b in columns if (a, b) not in cells]
    if holes:
        raise ValueError(f"a table of two factors needs every cell; missing: {holes}")

    def effect(signs_a: Mapping[str, float], signs_b: Mapping[str, float]) -> PrimaryTest:
        return contrast_test(list(cells.values()), [signs_a.get(a, 0) * signs_b.get(b, 0) for a, b in cells])

    over_a, over_b = dict.fromkeys(rows, 1 / len(rows)), dict.fromkeys(columns, 1 / len(columns))
    steps_a, steps_b = ({level: {level: 1.0, levels[0]: -1.0} for level in levels[1:]} for levels in (rows, columns))
    return (
        {(a, None): effect(step, over_b) for a, step in steps_a.items()}
        | {(None, b): effect(over_a, step) for b, step in steps_b.items()}
        | {(a, b): effect(step_a, step_b) for a, step_a in steps_a.items() for b, step_b in steps_b.items()}
    )


def same_distribution(ours: ArrayLike, theirs: ArrayLike) -> dict[str, float]:
    """p of three tests whether two samples come from one distribution; nan where a sample is too small for a test.

    location      Mann and Whitney's; from two values in each sample on
    spread        Brown and Forsythe's; from three values in each on, unless neither sample varies
    distribution  Kolmogorov and Smirnov's of any difference; from two values in each on
    """
    x, y = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    smallest = min(len(x), len(y))
    some_vary = smallest > 0 and (np.ptp(x) > 0 or np.ptp(y) > 0)
    return {
        "location": float(stats.mannwhitneyu(x, y).pvalue) if smallest > 1 else NAN,
        "spread": float(stats.levene(x, y, center="median").pvalue) if smallest > 2 and some_vary else NAN,
        "distribution": float(stats.ks_2samp(x, y).pvalue) if smallest > 1 else NAN,
    }


def pareto_front(costs: ArrayLike, values: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other beats by costing no more, being worth no less, and differing. Points with nan are not marked."""
    cost, value = np.asarray(costs, dtype=float), np.asarray(values, dtype=float)
    no_worse = (cost[:, None] <= cost) & (value[:, None] >= value)
    differs = (cost[:, None] < cost) | (value[:, None] > value)
    beaten = (no_worse & differs).any(axis=0)
    return np.asarray(np.isfinite(cost) & np.isfinite(value) & ~beaten, dtype=np.bool_)


def _paired(variant: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Differences of equal seeds."""
    return [value - baseline[seed] for seed, value in variant.items() if seed in baseline]


def _dunnett(variants: Mapping[str, Array], baseline: Array) -> dict[str, float]:
    testable = {name: x for name, x in variants.items() if _testable(x, baseline)}
    if not 0 < len(testable) <= MAX_DUNNETT:
        return {}
    with _constants_allowed():
        result = stats.dunnett(*testable.values(), control=baseline, rng=np.random.default_rng(0))
    return dict(zip(testable, (float(p) for p in result.pvalue), strict=True))


@contextmanager
def _constants_allowed() -> Iterator[None]:
    """Silence scipy's warning of constant samples, such as collapsed runs, which `_testable` has checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        yield


def _testable(x: Array, y: Array) -> bool:
    return (
        min(len(x), len(y)) >= 2 and bool(np.isfinite([*x, *y]).all()) and sample_variance(x) + sample_variance(y) > 0
    )


def _rounded_mean(x: Array, axis: int) -> Array:
    """Patterns of signs with the same mean are tied; told apart by rounding, they would make p too small."""
    return np.asarray(x.mean(axis=axis).round(DIGITS))
