"""The primary test: differences paired by seed, their variances moderated over the declared comparisons.

Runs of equal seed share the order of images and the weights that layers of the same place and shape begin with, so each variant is
compared with the baseline seed by seed. At three seeds a variance is hardly known. Each variance is therefore drawn towards a common
one by empirical Bayes (Smyth 2004), as far as the variants' variances look alike. Four safeguards limit the family-wise error where
they are not alike, or where the shared baseline makes all of them err together. Where no variant truly differs it is below 6 % if runs
of equal seed correlate by up to 0.4, at three seeds up to 8 % if by 0.95; where others differ, a noisier variant errs more often
(docs/statistics.md has the simulated tables):

- The common variance is the larger of two estimates: the mean of the paired variances, and twice the residual variance of a
  table of variants and seeds, which is what differences have if all spreads are equal. The less the variances are alike, the
  nearer it moves to their geometric mean, which a single collapsed variant cannot drive up.
- The prior weighs at most as much as `variants - 1.5` variances.
- A variance is at least MIN_OWN_SHARE times the one seen.
- Degrees of freedom shrink towards those of a single variance as differences correlate by more than EQUAL_CORRELATION.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ablations.analysis.interval import Interval

Array = NDArray[np.float64]
NAN = math.nan
ALPHA = 0.05  # level of every test, corrected for many where a claim rests on several; intervals cover 1 - ALPHA
ROUNDING = 1e-9  # a spread below this part of the values is rounding, not variance
SMALLEST = 1e-5  # part of the mean variance that a variance counts as at least, since its logarithm is taken
SIMILARITY_EXPONENT = 1.5  # of how alike the variances look, from 0 to 1, in the weight of the larger common variance
MIN_OWN_SHARE = 0.9  # of the variance seen
EQUAL_CORRELATION = 0.5  # of differences that share a baseline, where all spreads are equal
FEWEST_SEEDS = 3  # below this degrees of freedom are not pooled
NEWTON_STEPS = 10  # more than enough from this start: convergence is quadratic

Method = Literal["moderated", "paired", "welch"]


@dataclass(frozen=True)
class PrimaryTest:
    """A variant against the baseline; nan where the data decide nothing.

    estimate   variant minus baseline
    error      its standard error
    freedom    degrees of freedom of `error`
    num_seeds  seeds that both have, or the smaller number of runs for "welch"
    method     "moderated" over several variants; "paired" for a single one; "welch" where fewer than two seeds are shared, or the
               difference does not vary
    """

    estimate: float
    error: float
    freedom: float
    num_seeds: int
    method: Method

    @property
    def p(self) -> float:
        """Two-sided p that the means are equal."""
        return float(2 * special.stdtr(self.freedom, -abs(self.estimate) / self.error)) if self.error > 0 else NAN

    def p_equivalent(self, margin: float) -> float:
        """p of two one-sided tests that the means differ by less than `margin` (Schuirmann 1987)."""
        if not self.error > 0:
            return NAN
        return float(special.stdtr(self.freedom, -(margin - abs(self.estimate)) / self.error))

    @property
    def interval(self) -> Interval:
        """The difference with its 95 % confidence interval."""
        half = float(special.stdtrit(self.freedom, 1 - ALPHA / 2)) * self.error if self.error > 0 else NAN
        return Interval(self.estimate, self.estimate - half, self.estimate + half)

    @property
    def sd_difference(self) -> float:
        """Deviation of the difference at one seed."""
        return self.error * math.sqrt(self.num_seeds)


NO_TEST = PrimaryTest(NAN, NAN, NAN, 0, "welch")


def moderate(accuracies: ArrayLike) -> tuple[Array, Array]:
    """Moderated variances of paired differences, and their degrees of freedom.

    `accuracies` have the shape (..., 1 + variants, seeds), the baseline first; both results have (..., variants). A single
    variant keeps its own variance. Variances are nan where no difference varies; where only some do not, leave those out before,
    since their zero would draw the common variance down. Needs two seeds.
    """
    y = np.asarray(accuracies, dtype=float)
    num_variants, num_seeds = y.shape[-2] - 1, y.shape[-1]
    own_freedom = num_seeds - 1.0
    seen = _paired_variances(y)
    mean = seen.mean(axis=-1, keepdims=True)
    mean = np.where(mean > 0, mean, NAN)
    if num_variants == 1:
        return np.where(seen > 0, seen, NAN), np.full(seen.shape, own_freedom)
    floored = np.maximum(seen, SMALLEST * mean)
    most = own_freedom * (num_variants - 1.5)
    prior_freedom = np.minimum(_prior_freedom(floored, own_freedom), most)[..., None]
    larger = np.maximum(mean, 2 * _residual_variance(y)[..., None])
    alike = (prior_freedom / most) ** SIMILARITY_EXPONENT
    common = larger**alike * np.minimum(_geometric_mean(floored, own_freedom), larger) ** (1 - alike)
    variance = (prior_freedom * common + own_freedom * floored) / (prior_freedom + own_freedom)
    correlation = 1 - _residual_variance(y[..., 1:, :])[..., None] / mean
    excess = np.clip((correlation - EQUAL_CORRELATION) / (1 - EQUAL_CORRELATION), 0, 1)
    independent = num_variants / (1 + (num_variants - 1) * excess**2) if num_seeds >= FEWEST_SEEDS else 1.0
    freedom = np.minimum(prior_freedom + own_freedom, own_freedom * independent)
    return np.maximum(variance, MIN_OWN_SHARE * floored), np.broadcast_to(freedom, seen.shape).copy()


def paired_tests(
    samples: Mapping[str, Mapping[int, float]], baseline: str, family: Collection[str]
) -> dict[str, PrimaryTest]:
    """Tests of the `family` against the baseline; `samples` are accuracies by variant and seed.

    A variant's variance is moderated together with those of the family that have all the seeds which it shares with the baseline.
    A difference that does not vary at all (networks that agree run by run) has Welch's test, and is left out of the others' variances.
    """
    base = samples[baseline]
    family = [name for name in family if name in samples and name != baseline]
    shared = {name: tuple(sorted(samples[name].keys() & base.keys())) for name in family}
    finite = {name for name in family if np.isfinite([samples[name][seed] for seed in shared[name]]).all()}
    tests: dict[str, PrimaryTest] = {}

    def unpaired(name: str) -> PrimaryTest:
        return welch_test(list(samples[name].values()), list(base.values()))

    for seeds in dict.fromkeys(shared.values()):
        ours = [name for name in family if shared[name] == seeds]
        peers = [name for name in family if name in finite and samples[name].keys() >= set(seeds)]
        values = np.array([[samples[name][seed] for seed in seeds] for name in (baseline, *peers)])
        if len(seeds) < 2:
            tests |= {name: unpaired(name) for name in ours}
        elif not peers or not np.isfinite(values).all():
            tests |= dict.fromkeys(ours, NO_TEST)
        else:
            varies = _paired_variances(values) > 0
            varying = [name for name, does in zip(peers, varies, strict=True) if does]
            together = _moderated_tests(varying, values[np.r_[True, varies]])
            for name in ours:
                if name in together:
                    tests[name] = together[name]
                else:
                    tests[name] = unpaired(name) if name in finite else NO_TEST
    return {name: tests[name] for name in family}


def _moderated_tests(names: Sequence[str], values: Array) -> dict[str, PrimaryTest]:
    """Tests of the named variants, whose variances are moderated together; `values` (1 + variants, seeds), the baseline first."""
    if not names:
        return {}
    variances, freedoms = moderate(values)
    num_seeds = values.shape[1]
    method: Method = "moderated" if len(names) > 1 else "paired"
    return {
        name: PrimaryTest(float(difference), math.sqrt(variance / num_seeds), float(freedom), num_seeds, method)
        for name, difference, variance, freedom in zip(
            names, (values[1:] - values[0]).mean(axis=1), variances, freedoms, strict=True
        )
    }


def welch_test(variant: ArrayLike, baseline: ArrayLike) -> PrimaryTest:
    """Test a difference of means by Welch's test, which pairs nothing.

    Only the difference is known for fewer than two values on a side, or if neither side varies at all: identical runs are a sign of
    seeds that do nothing, not of certainty. Where one side varies, this is the test of the other's constant against it.
    """
    return contrast_test([variant, baseline], [1, -1])


def contrast_test(cells: Sequence[ArrayLike], weights: Sequence[float]) -> PrimaryTest:
    """Test a weighted sum of cell means, by Welch and Satterthwaite: unequal variances and sizes.

    Only the estimate is known where a cell with weight has fewer than two values, or none varies.
    """
    used = [(w, np.asarray(x, dtype=float)) for w, x in zip(weights, cells, strict=True) if w != 0]
    num = min(len(x) for _, x in used)
    estimate = float(sum(w * x.mean() for w, x in used)) if num else NAN
    parts = np.array([w**2 * sample_variance(x) / len(x) for w, x in used]) if num > 1 else np.zeros(1)
    if not (math.isfinite(estimate) and parts.sum() > 0):
        return PrimaryTest(estimate, NAN, NAN, num, "welch")
    freedom = parts.sum() ** 2 / sum(part**2 / (len(x) - 1) for part, (_, x) in zip(parts, used, strict=True))
    return PrimaryTest(estimate, math.sqrt(parts.sum()), float(freedom), num, "welch")


def sample_variance(x: Array) -> float:
    """Unbiased variance of at least two values, and exactly 0 for values that differ by rounding only."""
    return float(x.var(ddof=1)) if np.ptp(x) > ROUNDING * np.abs(x).max() else 0.0


def _paired_variances(y: Array) -> Array:
    """Variances (..., variants) of the differences of (..., 1 + variants, seeds) to the first; exactly 0 for rounding alone."""
    seen = (y[..., 1:, :] - y[..., :1, :]).var(axis=-1, ddof=1)
    rounding = (ROUNDING * np.abs(y).max(axis=(-2, -1)))[..., None] ** 2
    return np.where(seen > rounding, seen, 0.0)


def _residual_variance(y: Array) -> Array:
    """Variance of what is left of (..., variants, seeds) without the means of variants and of seeds."""
    rows, columns = y.shape[-2:]
    residuals = y - y.mean(axis=-1, keepdims=True) - y.mean(axis=-2, keepdims=True)
    residuals += y.mean(axis=(-2, -1), keepdims=True)
    return np.asarray((residuals**2).sum(axis=(-2, -1)) / ((rows - 1) * (columns - 1)))


def _prior_freedom(variances: Array, freedom: float) -> Array:
    """Degrees of freedom of the prior that the logarithms of (..., variants) variances tell (Smyth 2004, section 6.2).

    Infinite where they scatter less than variances of one common value do.
    """
    excess = np.log(variances).var(axis=-1, ddof=1) - special.polygamma(1, freedom / 2)
    return np.where(excess > 0, 2 * inverse_trigamma(np.where(excess > 0, excess, 1.0)), np.inf)


def _geometric_mean(variances: Array, freedom: float) -> Array:
    """Unbiased estimate of the true variances, by the logarithms of the sample variances (..., variants); (..., 1)."""
    bias = special.digamma(freedom / 2) - math.log(freedom / 2)
    return np.asarray(np.exp(np.log(variances).mean(axis=-1, keepdims=True) - bias))


def inverse_trigamma(values: ArrayLike) -> Array:
    """Positive y with trigamma(y) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    x = np.asarray(values, dtype=float)
    y = 0.5 + 1 / x
    for _ in range(NEWTON_STEPS):
        trigamma = special.zeta(2, y)
        y = y + trigamma * (1 - trigamma / x) / (-2 * special.zeta(3, y))
    return np.asarray(y)
