"""Statistics agree with published examples, closed forms and second implementations; what they announce comes true in simulation."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import TTestPower

from ablations.analysis import convergence, planning, stats
from ablations.analysis.interval import Interval
from ablations.analysis.moderated import contrast_test, welch_test

NUM_STUDIES = 2_000  # simulated
SEED_COUNTS = (3, 5, 10)
INF, NAN = math.inf, math.nan

# Extra hours of sleep under two drugs, Student (1908); R's `sleep`.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Differences in height of 15 pairs of maize plants, in eighths of an inch: Darwin's, in Fisher (1935), The Design of Experiments.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

# Blood counts: Dunnett (1955), and the example of scipy.stats.dunnett.
BLOOD_CONTROL = [7.40, 8.50, 7.20, 8.24, 9.84, 8.32]
BLOOD_DRUGS = {"A": [9.76, 8.80, 7.68, 9.36], "B": [12.80, 9.68, 12.16, 9.20, 10.55]}

few = st.lists(st.integers(0, 20).map(float), min_size=2, max_size=8)


def by_seed(values: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(values))


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def is_unknown(interval: Interval) -> bool:
    return math.isnan(interval.low) and math.isnan(interval.high)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2014)


# Published examples


def test_welch_is_that_of_r() -> None:
    """R: t.test(extra ~ group, data = sleep)."""
    test = welch_test(SLEEP_1, SLEEP_2)
    interval, p = test.interval, test.p
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((-1.58, -3.3654832, 0.2054832), abs=1e-7)
    assert p == pytest.approx(0.07939, abs=5e-6)


def test_mean_interval_is_that_of_r() -> None:
    """R: t.test(sleep$extra[1:10])."""
    interval = stats.mean_interval(SLEEP_1)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.75, -0.5297804, 2.0297804), abs=1e-7)


def test_sign_flip_is_fishers_on_darwins_maize() -> None:
    """Fisher (1935), section 21: 863 of 32,768 patterns have so large a sum, so 1,726 in both directions."""
    assert stats.sign_flip(MAIZE) == pytest.approx(1726 / 32768, abs=1e-12)


def test_dunnett_is_that_of_blood_counts() -> None:
    samples = {"control": BLOOD_CONTROL, **BLOOD_DRUGS}
    comparisons = stats.compare({name: by_seed(x) for name, x in samples.items()}, "control", ["A", "B"])
    assert comparisons["A"].p_dunnett == pytest.approx(0.620, abs=0.002)
    assert comparisons["B"].p_dunnett == pytest.approx(0.0059, abs=0.0005)


@pytest.mark.parametrize(
    ("count", "num", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(count: int, num: int, low: float, high: float) -> None:
    """Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3."""
    interval = stats.wilson(count, num)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_p_of_rates_is_fishers_tea_tasting() -> None:
    """R: fisher.test(TeaTasting), two-sided."""
    assert stats.fisher_p(3, 4, 1, 4) == pytest.approx(0.4857, abs=5e-5)


def test_holm_by_hand() -> None:
    """4 x 0.005, 3 x 0.01, 2 x 0.03, and then never less than the one before."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_network_of_92_percent_has_a_standard_error_of_027_points_on_10000_images() -> None:
    interval = stats.mean_interval([1] * 9_200 + [0] * 800)
    assert (interval.high - interval.low) / 2 / 1.96 == pytest.approx(0.0027, abs=5e-5)


# Second implementations and closed forms


@given(st.lists(st.integers(-9, 9), min_size=6, max_size=9))
def test_sign_flip_tries_every_pattern(differences: list[int]) -> None:
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    extreme = sum(abs(total) >= abs(sum(differences)) for total in sums)
    assert stats.sign_flip(differences) == pytest.approx(extreme / len(sums))


@given(st.lists(st.tuples(st.integers(8_400, 8_410), st.integers(8_400, 8_410)), min_size=6, max_size=9))
def test_sign_flip_of_accuracies_counts_ties_as_that_of_numbers_of_images(pairs: list[tuple[int, int]]) -> None:
    """0.8405 - 0.8402 and 0.8403 - 0.8400 are both 3 images in 10,000, but differ as floats."""
    accuracies = [x / 10_000 - y / 10_000 for x, y in pairs]
    assert stats.sign_flip(accuracies) == stats.sign_flip([x - y for x, y in pairs])


def test_sign_flip_says_nothing_below_six_pairs() -> None:
    assert math.isnan(stats.sign_flip([1, 1, 1, 1, 1]))
    assert stats.sign_flip([1, 1, 1, 1, 1, 1]) == 2 / 2**6


@given(few, few)
def test_prob_better_is_mann_whitneys_u_per_pair(x: list[float], y: list[float]) -> None:
    assert stats.prob_better(x, y) == pytest.approx(scipy_stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    assert stats.prob_better(x, y) + stats.prob_better(y, x) == pytest.approx(1)


def test_holm_leaves_out_what_is_unknown() -> None:
    assert stats.holm([0.01, NAN, 0.04]) == pytest.approx([0.02, NAN, 0.04], nan_ok=True)
    assert stats.holm([NAN]) == pytest.approx([NAN], nan_ok=True)
    assert stats.holm([]) == []


def test_pooled_sd_is_the_residual_of_an_analysis_of_variance() -> None:
    samples = [SLEEP_1, SLEEP_2[:4], [2.0], []]
    residuals = np.concatenate([np.array(x) - np.mean(x) for x in samples if x])
    assert stats.pooled_sd(samples) == pytest.approx(math.sqrt(sum(residuals**2) / (9 + 3)))


def test_interaction_of_alike_cells_is_the_analysis_of_variance() -> None:
    """With equal sizes and equal sample variances Satterthwaite's degrees of freedom are those of the residual."""
    offsets = np.array([-2.0, 0.5, 0.0, 1.5])
    means = {("a", "x"): 1.0, ("a", "y"): 2.5, ("b", "x"): 1.5, ("b", "y"): 4.5}
    design = np.array([[1, a == "b", b == "y", (a, b) == ("b", "y")] for a, b in means for _ in offsets], dtype=float)
    fit = OLS(np.concatenate([mean + offsets for mean in means.values()]), design).fit()
    test = stats.two_way({key: mean + offsets for key, mean in means.items()}, ("a", "x"))["b", "y"]
    interval, p = test.interval, test.p
    assert interval.estimate == pytest.approx(fit.params[3])
    assert (interval.low, interval.high) == pytest.approx(tuple(fit.conf_int()[3]))
    assert p == pytest.approx(fit.pvalues[3])


def test_contrast_of_unlike_cells_has_the_error_of_robust_least_squares(rng: np.random.Generator) -> None:
    """Over cell means HC2 (MacKinnon and White 1985) is the sum of each cell's own variance over its size."""
    cells = [rng.normal(0, sd, n) for sd, n in ((1, 4), (5, 7), (2, 3), (9, 5))]
    weights = np.array([1.0, -1.0, -0.5, 0.5])
    group = np.repeat(range(4), [len(cell) for cell in cells])
    fit = OLS(np.concatenate(cells), np.eye(4)[group]).fit(cov_type="HC2")
    test = contrast_test(cells, list(weights))
    interval, p = test.interval, test.p
    error = math.sqrt(weights @ fit.cov_params() @ weights)
    parts = weights**2 * [cell.var(ddof=1) / len(cell) for cell in cells]
    freedom = parts.sum() ** 2 / sum(parts**2 / ([len(cell) - 1 for cell in cells] * np.ones(4)))
    assert interval.high - interval.estimate == pytest.approx(scipy_stats.t.ppf(0.975, freedom) * error)
    assert p == pytest.approx(2 * scipy_stats.t.sf(abs(interval.estimate / error), freedom))


def test_main_effects_average_over_the_other_factor() -> None:
    means = {("a", "x"): 1.0, ("a", "y"): 2.0, ("a", "z"): 3.0, ("b", "x"): 2.0, ("b", "y"): 4.0, ("b", "z"): 9.0}
    effects = stats.two_way({key: [mean - 0.1, mean + 0.1] for key, mean in means.items()}, ("a", "x"))
    assert {key: effect.estimate for key, effect in effects.items()} == pytest.approx(
        {("b", None): 3.0, (None, "y"): 1.5, (None, "z"): 4.5, ("b", "y"): 1.0, ("b", "z"): 5.0}
    )


def test_a_table_with_holes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: \[\('b', 'y'\)\]"):
        stats.two_way({("a", "x"): [1, 2], ("a", "y"): [1, 2], ("b", "x"): [1, 2]}, ("a", "x"))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    beaten = [any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points) for cost, value in points]
    costs, values = zip(*points, strict=True)
    assert list(stats.pareto_front(costs, values)) == [not b for b in beaten]


def test_what_is_unknown_is_not_on_the_front() -> None:
    assert list(stats.pareto_front([1, 2, 3], [0.5, NAN, 0.6])) == [True, False, True]


# Verdicts


CLOSE = [0.9000, 0.9001, 0.9002]


@pytest.mark.parametrize(
    ("variant", "verdict"),
    [
        ([x + 0.01 for x in CLOSE], "better"),
        ([x - 0.01 for x in CLOSE], "worse"),
        (CLOSE, "equivalent"),
        ([x + 0.001 for x in CLOSE], "equivalent"),  # significant, and surely inside the margin
        ([0.89, 0.90, 0.912], "inconclusive"),
    ],
)
def test_verdict(variant: list[float], verdict: str) -> None:
    samples = {"base": by_seed(CLOSE), "variant": by_seed(variant)}
    assert stats.compare(samples, "base", ["variant"])["variant"].verdict == verdict


def test_only_confirmatory_comparisons_are_corrected() -> None:
    samples = {"base": SLEEP_1, "a": SLEEP_2, "b": SLEEP_2, "control": SLEEP_2}
    comparisons = stats.compare({name: by_seed(x) for name, x in samples.items()}, "base", ["a", "b"])
    assert comparisons["a"].p_welch == pytest.approx(2 * 0.07939, abs=2e-5)
    assert comparisons["control"].p_welch == pytest.approx(0.07939, abs=1e-5)
    assert comparisons["a"].p_holm == comparisons["b"].p_holm == pytest.approx(2 * comparisons["a"].p)
    assert math.isnan(comparisons["control"].p_holm)
    assert comparisons["control"].p == pytest.approx(0.07939, abs=1e-5)
    assert [comparisons[name].method for name in ("a", "control")] == ["moderated", "welch"]


def test_a_single_comparison_is_the_paired_t_test() -> None:
    """Student's data: the same ten patients took both drugs, and the paired p is 0.002833."""
    comparison = stats.compare({"base": by_seed(SLEEP_1), "a": by_seed(SLEEP_2)}, "base", ["a"])["a"]
    assert comparison.p == pytest.approx(0.002833, abs=1e-6)
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert comparison.method == "paired"


def test_pairs_are_joined_by_seed_not_by_row() -> None:
    base = {seed: 0.9 + seed / 1000 for seed in range(7)}
    variant = {seed: base[seed] + 0.001 for seed in reversed(range(7))}
    comparison = stats.compare({"base": base, "variant": variant | {99: 0.1}}, "base", ["variant"])["variant"]
    assert comparison.p_sign_flip == 2 / 2**7


# What cannot be decided claims nothing


SAME = [0.9] * 3
SPREAD = [0.89, 0.90, 0.91]


@pytest.mark.parametrize(
    ("variant", "base"),
    [
        pytest.param([0.8], SPREAD, id="single-seed"),
        pytest.param([0.8], [0.9], id="single-seeds"),
        pytest.param([], SPREAD, id="empty"),
        pytest.param([0.8] * 3, SAME, id="zero-variance"),
        pytest.param(SAME, SAME, id="all-tied"),
        pytest.param([0.1 + 0.2, 0.3, 0.3], SAME, id="only-rounding"),
        pytest.param([0.8, NAN, 0.8], SPREAD, id="nan"),
    ],
)
def test_undecidable_comparison_is_inconclusive(variant: list[float], base: list[float]) -> None:
    samples = {"base": by_seed(base), "variant": by_seed(variant), "tied": by_seed(base)}
    comparison = stats.compare(samples, "base", ["variant", "tied"])["variant"]
    assert comparison.verdict == "inconclusive"
    assert is_unknown(comparison.difference)
    unknown = (comparison.p, comparison.p_holm, comparison.p_dunnett, comparison.p_sign_flip, comparison.p_equivalent)
    assert all(map(math.isnan, unknown))
    assert all(map(math.isnan, (comparison.seeds_if_seen, comparison.seeds_if_margin)))
    test = welch_test(variant, base)
    assert is_unknown(test.interval)
    assert math.isnan(test.p)


def test_without_variance_nothing_is_said_to_be_detectable() -> None:
    samples = {"base": by_seed(SAME), "variant": by_seed([0.8] * 3)}
    assert math.isnan(stats.compare(samples, "base", ["variant"])["variant"].detectable)


def test_one_constant_side_is_tested_against_the_other() -> None:
    """A variant that collapses in every run has no variance: Welch's test is then that of one sample against a constant."""
    expected = scipy_stats.ttest_1samp(SPREAD, 0.1)
    test = welch_test([0.1] * 3, SPREAD)
    interval, p = test.interval, test.p
    assert p == pytest.approx(expected.pvalue)
    assert interval.high - interval.low == pytest.approx(np.diff(expected.confidence_interval())[0])
    comparison = stats.compare({"base": by_seed(SPREAD), "variant": by_seed([0.1] * 3)}, "base", ["variant"])["variant"]
    assert comparison.verdict == "worse"


def test_mean_of_few_values() -> None:
    assert stats.mean_interval([0.9]).estimate == 0.9
    assert is_unknown(stats.mean_interval([0.9]))
    assert math.isnan(stats.mean_interval([]).estimate)
    assert stats.mean_interval([0.1] * 3).high == stats.mean_interval([0.1] * 3).low == pytest.approx(0.1)
    assert is_unknown(stats.mean_interval([1, INF]))


def test_without_data_there_are_no_numbers() -> None:
    assert math.isnan(stats.wilson(0, 0).estimate)
    assert math.isnan(stats.fisher_p(0, 0, 1, 3))
    assert math.isnan(stats.prob_better([], [0.9]))
    assert math.isnan(stats.pooled_sd([[0.9], []]))


def test_sign_flips_of_many_pairs_agree_with_their_permutations(rng: np.random.Generator) -> None:
    """Against scipy's own permutations, at a p large enough for 10,000 of them to tell."""
    d = rng.normal(0.1, 1, 400)
    permuted = scipy_stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=9999, vectorized=True, rng=rng
    ).pvalue
    assert stats.sign_flip(d) == pytest.approx(permuted, abs=0.02)
    assert stats.sign_flip(np.zeros(400)) == 1


def test_a_comparison_says_what_it_could_find_at_the_error_seen() -> None:
    """The error seen is taken for the true one, so it is what a paired t test of normal values has a power of 80 % for."""
    samples = {"base": by_seed([0.90, 0.901, 0.902]), "variant": by_seed([0.80, 0.85, 0.90])}
    comparison = stats.compare(samples, "base", ["variant"])["variant"]
    expected = TTestPower().solve_power(nobs=3, alpha=0.05, power=0.8) * comparison.error * math.sqrt(3)
    assert comparison.detectable == pytest.approx(float(np.ravel(expected)[0]), rel=0.01)


# Simulated studies


def coverage(covered: Sequence[bool]) -> float:
    assert len(covered) >= NUM_STUDIES
    return float(np.mean(covered))


def normal_studies(
    rng: np.random.Generator, num_seeds: int, *deviations: float, num_studies: int = NUM_STUDIES
) -> list[list[NDArray[np.float64]]]:
    """Of each study, a sample per deviation, all with mean 0."""
    return [[rng.normal(0, sd, num_seeds) for sd in deviations] for _ in range(num_studies)]


@pytest.mark.parametrize("num_seeds", SEED_COUNTS)
def test_coverage_of_the_mean(num_seeds: int, rng: np.random.Generator) -> None:
    studies = normal_studies(rng, num_seeds, 1)
    assert 0.93 <= coverage([holds(stats.mean_interval(x), 0) for (x,) in studies]) <= 0.97


@pytest.mark.parametrize(
    ("num_seeds", "deviations"), [(5, (1, 1)), (10, (1, 1)), (3, (1, 3)), (5, (1, 3)), (10, (1, 3))]
)
def test_coverage_of_welch(num_seeds: int, deviations: tuple[float, float], rng: np.random.Generator) -> None:
    studies = normal_studies(rng, num_seeds, *deviations)
    assert 0.93 <= coverage([holds(welch_test(x, y).interval, 0) for x, y in studies]) <= 0.97


@pytest.mark.parametrize("num_seeds", SEED_COUNTS)
def test_coverage_of_an_interaction(num_seeds: int, rng: np.random.Generator) -> None:
    studies = normal_studies(rng, num_seeds, 1, 1, 2, 2)
    assert 0.93 <= coverage([holds(contrast_test(cells, [1, -1, -1, 1]).interval, 0) for cells in studies]) <= 0.97


@pytest.mark.parametrize("num_seeds", SEED_COUNTS)
def test_coverage_of_the_restricted_mean(num_seeds: int, rng: np.random.Generator) -> None:
    """Of times that are nearly normal and seldom censored; of skewed ones Student's interval covers less."""
    times = rng.normal(100, 10, (NUM_STUDIES, num_seeds))
    summaries = [convergence.summarise_times(np.where(t > 115, INF, t), 115) for t in times]
    standard = 1.5
    excess = scipy_stats.norm.pdf(standard) - standard * scipy_stats.norm.sf(standard)
    assert 0.93 <= coverage([holds(s.restricted_mean, 100 - 10 * excess) for s in summaries]) <= 0.97


@pytest.mark.parametrize("num", SEED_COUNTS)
def test_coverage_of_a_rate_over_all_rates(num: int) -> None:
    """Exactly: Wilson's interval covers 95 % on average over the rates, though not at each."""
    rates = (np.arange(2_000) + 0.5) / 2_000
    intervals = [stats.wilson(count, num) for count in range(num + 1)]
    covered = sum(
        scipy_stats.binom.pmf(count, num, rates) * ((interval.low <= rates) & (rates <= interval.high))
        for count, interval in enumerate(intervals)
    )
    assert 0.93 <= np.mean(covered) <= 0.97


def share_of_studies_with(
    verdicts: set[str], true_difference: float, deviations: Sequence[float], num_seeds: int, rng: np.random.Generator
) -> float:
    """Share of studies in which any variant gets one of the verdicts; accuracies have a deviation of 0.2 points times those."""
    names = ["base", *(f"variant {k}" for k in range(1, len(deviations)))]
    means = [0.9, *[0.9 + true_difference] * (len(deviations) - 1)]
    hits = []
    for _ in range(NUM_STUDIES):
        draws = zip(names, means, deviations, strict=True)
        samples = {name: by_seed(rng.normal(mean, 0.002 * sd, num_seeds)) for name, mean, sd in draws}
        comparisons = stats.compare(samples, "base", names, checks=False)
        hits.append(any(comparison.verdict in verdicts for comparison in comparisons.values()))
    return coverage(hits)


@pytest.mark.parametrize(
    ("num_seeds", "deviations"),
    [
        (5, (1, 1, 1)),
        pytest.param(5, (1, 1, 1, 1), marks=pytest.mark.slow),
        pytest.param(3, (1, 1, 1, 1), marks=pytest.mark.slow),
        pytest.param(10, (1, 1, 1, 1, 1, 1), marks=pytest.mark.slow),
        pytest.param(3, (1, 3, 3, 3), marks=pytest.mark.slow),
        pytest.param(10, (3, 1, 1, 1), marks=pytest.mark.slow),
    ],
)
def test_equal_variants_are_seldom_told_apart(
    num_seeds: int, deviations: tuple[float, ...], rng: np.random.Generator
) -> None:
    assert share_of_studies_with({"better", "worse"}, 0.0, deviations, num_seeds, rng) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [5, 10])
def test_variants_at_the_margin_are_seldom_called_equivalent(num_seeds: int, rng: np.random.Generator) -> None:
    assert share_of_studies_with({"equivalent"}, 0.003, (0.5, 0.5, 0.5, 0.5), num_seeds, rng) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", SEED_COUNTS)
def test_better_variants_are_found_as_often_as_announced(num_seeds: int, rng: np.random.Generator) -> None:
    difference = planning.detectable_difference(planning.sd_of_difference(0.002), num_seeds)
    assert share_of_studies_with({"better"}, difference, (1, 1), num_seeds, rng) == pytest.approx(0.80, abs=0.03)
