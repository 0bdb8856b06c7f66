"""The primary test: closed forms, safeguards, and simulated studies of every condition that docs/statistics.md lists."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special
from scipy import stats as scipy_stats

from ablations.analysis.moderated import PrimaryTest, inverse_trigamma, moderate, paired_tests, welch_test

NAN = math.nan
Array = NDArray[np.float64]
NUM_STUDIES = 20_000
CORRELATIONS = (0.0, 0.4)
COLLAPSED = -400.0  # 10 % instead of 90 % accuracy, in standard deviations of 0.2 points
SPREADS = (
    "equal",
    "1 to 5",
    "1 to 5, baseline 3",
    "1 to 5, baseline 5",
    "baseline 1, variants 5",
    "baseline 5, variants 1",
    "inverse chi-squared",
    "a tenth collapses",
)


def deviations(spread: str, num_variants: int, num_studies: int, rng: np.random.Generator) -> Array:
    """Of (studies, 1 + variants) arms, the baseline first."""
    arms = np.ones((num_studies, 1 + num_variants))
    if spread.startswith("1 to 5"):
        arms[:, 1:] = np.linspace(1, 5, num_variants)
        arms[:, 0] = float(spread[-1]) if "baseline" in spread else 1
    elif spread == "baseline 1, variants 5":
        arms[:, 1:] = 5
    elif spread == "baseline 5, variants 1":
        arms[:, 0] = 5
    elif spread == "baseline 3, variants 1":
        arms[:, 0] = 3
    elif spread.startswith("one "):
        arms[:, 1] = float(spread.removeprefix("one "))
    elif spread == "inverse chi-squared":
        arms = np.sqrt(2 / rng.chisquare(2, arms.shape))
    return arms


def null_studies(
    spread: str, num_variants: int, num_seeds: int, correlation: float, num_studies: int = NUM_STUDIES, seed: int = 0
) -> Array:
    """Accuracies in standard deviations, all means alike: (studies, 1 + variants, seeds)."""
    rng = np.random.default_rng(seed)
    arms = deviations(spread, num_variants, num_studies, rng)
    shared = rng.standard_normal((num_studies, 1, num_seeds))
    own = rng.standard_normal((num_studies, 1 + num_variants, num_seeds))
    runs = arms[..., None] * (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)
    if spread == "a tenth collapses":
        runs = np.where(rng.random(runs.shape) < 0.1, COLLAPSED, runs)
    return runs


def moderated_tests(runs: Array) -> tuple[Array, Array, Array]:
    """Differences, standard errors and degrees of freedom of many studies at once."""
    variance, freedom = moderate(runs)
    return (runs[:, 1:] - runs[:, :1]).mean(axis=-1), np.sqrt(variance / runs.shape[-1]), freedom


def any_below(p: Array, alpha: float = 0.05) -> float:
    """Share of studies in which Holm's correction leaves a p below alpha: his first step decides that."""
    return float(np.mean(p.min(axis=1) < alpha / p.shape[1]))


def by_seed(values: Array | list[float]) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


# Closed forms


def test_inverse_trigamma_inverts() -> None:
    for y in (0.02, 0.5, 1, 5, 100, 1e5):
        assert inverse_trigamma(special.polygamma(1, y)) == pytest.approx(y, rel=1e-4)


def test_variances_alike_share_one_with_pooled_freedom() -> None:
    """Each variance is 1, with 2 degrees of freedom; alike as they are, the prior has the most it may: 2 times 3 - 1.5.

    Residuals of variants and seeds, of a baseline that does not vary, have the variance 1, and differences are taken to have twice
    that.
    """
    differences = [[-1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [1.0, -1.0, 0.0]]
    variance, freedom = moderate([[0.0] * 3, *differences])
    assert variance == pytest.approx([(3 * 2 + 2 * 1) / (3 + 2)] * 3)
    assert freedom == pytest.approx([3 + 2] * 3)


def test_a_single_variant_keeps_its_paired_t_test(rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 1, (2, 6))
    test = paired_tests({"base": by_seed(y), "variant": by_seed(x)}, "base", ["variant"])["variant"]
    expected = scipy_stats.ttest_rel(x, y)
    assert test.p == pytest.approx(expected.pvalue)
    assert (test.interval.low, test.interval.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (test.method, test.freedom, test.num_seeds) == ("paired", 5, 6)


def test_equivalence_is_two_one_sided_tests() -> None:
    test = PrimaryTest(0.1, 0.1, 7, 8, "paired")
    assert test.p_equivalent(0.3) == pytest.approx(scipy_stats.t.sf(2, 7))
    assert test.p_equivalent(0.05) > 0.5


def test_welch_test_is_scipys(rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 1, 4), rng.normal(0, 3, 7)
    expected = scipy_stats.ttest_ind(x, y, equal_var=False)
    test = welch_test(x, y)
    assert test.p == pytest.approx(expected.pvalue)
    assert (test.interval.low, test.interval.high) == pytest.approx(tuple(expected.confidence_interval()))


# Safeguards


def test_the_collapsed_run_of_one_variant_does_not_hide_the_others(rng: np.random.Generator) -> None:
    """Its variance is ten thousand times theirs, so theirs are hardly moved."""
    base, good, collapsed = rng.normal(0, 1, (3, 5))
    collapsed[0] = COLLAPSED
    variance, _ = moderate([base, good, good[::-1], rng.normal(0, 1, 5), collapsed])
    assert variance[0] < 10 * (good - base).var(ddof=1)
    assert variance[3] > 0.9 * (collapsed - base).var(ddof=1)


def test_a_shared_noisy_baseline_leaves_little_more_than_its_own_freedom(rng: np.random.Generator) -> None:
    """All differences are the baseline's noise: however many there are, it was drawn three times."""
    runs = rng.normal(0, 1e-6, (13, 3))
    runs[0] = [-1.0, 0.0, 1.0]
    _, freedom = moderate(runs)
    assert freedom == pytest.approx([2.0] * 12, abs=1e-3)


def test_a_shift_of_all_accuracies_changes_nothing(rng: np.random.Generator) -> None:
    runs = rng.normal(0, 1, (5, 4))
    for ours, shifted in zip(moderate(runs), moderate(runs + 100), strict=True):
        assert ours == pytest.approx(shifted)


def test_two_seeds_pool_no_freedom(rng: np.random.Generator) -> None:
    assert moderate(rng.normal(0, 1, (5, 2)))[1] == pytest.approx([1.0] * 4)


def test_a_constant_difference_borrows_no_variance_from_others_and_lends_none(rng: np.random.Generator) -> None:
    base, one, other = rng.normal(90, 1, (3, 3))
    runs = {"base": base, "same": base, "one": one, "shifted": base + 1, "other": other}
    samples = {name: by_seed(x) for name, x in runs.items()}
    tests = paired_tests(samples, "base", ["same", "one", "shifted", "other"])
    for name in ("same", "shifted"):
        assert tests[name] == welch_test(*(list(samples[which].values()) for which in (name, "base")))
    varying = paired_tests(samples, "base", ["one", "other"])
    assert varying["one"].method == "moderated"
    assert {name: tests[name] for name in varying} == varying
    assert paired_tests(samples, "base", ["same"])["same"].method == "welch"


# Samples that are not complete


def test_variances_are_shared_by_those_that_have_the_seeds(rng: np.random.Generator) -> None:
    """One variant lacks a seed: the others are tested as if it were not there, it with their runs at its seeds."""
    runs = rng.normal(0, 1, (4, 5))
    names = ["base", "a", "b", "c"]
    samples = {name: by_seed(x) for name, x in zip(names, runs, strict=True)}
    del samples["c"][4]
    tests = paired_tests(samples, "base", names[1:])
    variance, freedom = moderate(runs[:3])
    assert tests["a"].error == pytest.approx(math.sqrt(variance[0] / 5))
    assert tests["a"].freedom == pytest.approx(freedom[0])
    variance, _ = moderate(runs[:, :4])
    assert tests["c"].error == pytest.approx(math.sqrt(variance[2] / 4))
    assert tests["c"].num_seeds == 4


def test_seeds_that_are_not_shared_fall_back_to_welch(rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 1, (2, 4))
    samples = {"base": by_seed(y), "variant": {seed + 10: value for seed, value in by_seed(x).items()}}
    test = paired_tests(samples, "base", ["variant"])["variant"]
    assert test.method == "welch"
    assert test.p == pytest.approx(scipy_stats.ttest_ind(x, y, equal_var=False).pvalue)


@pytest.mark.parametrize(
    ("variant", "base"),
    [
        ([0.9], [0.8]),
        ([0.9, NAN, 0.8], [0.7, 0.8, 0.9]),
        ([0.9] * 3, [0.8] * 3),
        ([], []),
        ([0.9] * 3, [0.7, NAN, 0.9]),
    ],
)
def test_undecidable_samples_claim_nothing(variant: list[float], base: list[float]) -> None:
    test = paired_tests({"base": by_seed(base), "variant": by_seed(variant)}, "base", ["variant"])["variant"]
    assert math.isnan(test.p)
    assert math.isnan(test.p_equivalent(1))
    assert all(map(math.isnan, (test.interval.low, test.interval.high)))


def test_a_variant_with_an_infinite_accuracy_does_not_spoil_the_others(rng: np.random.Generator) -> None:
    runs = rng.normal(0, 1, (4, 3))
    runs[3, 0] = math.inf
    samples = {name: by_seed(x) for name, x in zip(["base", "a", "b", "bad"], runs, strict=True)}
    tests = paired_tests(samples, "base", ["a", "b", "bad"])
    assert tests["a"].p == pytest.approx(paired_tests(samples, "base", ["a", "b"])["a"].p)
    assert math.isnan(tests["bad"].p)


# Simulated studies


def test_studies_of_equal_variants_seldom_differ() -> None:
    difference, error, freedom = moderated_tests(null_studies("equal", 4, 3, 0.4, num_studies=4_000))
    p = 2 * special.stdtr(freedom, -np.abs(difference) / error)
    assert 0.02 < any_below(p) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("num_variants", [4, 12])
@pytest.mark.parametrize("spread", SPREADS)
def test_family_wise_error_is_at_most_6_percent(
    spread: str, num_variants: int, num_seeds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for correlation in CORRELATIONS:
        runs = null_studies(spread, num_variants, num_seeds, correlation)
        difference, error, freedom = moderated_tests(runs)
        p = 2 * special.stdtr(freedom, -np.abs(difference) / error)
        # every variant truly as far from the baseline as the margin: 3 deviations of the mean of the baseline
        margin = 3 * math.sqrt(2 / num_seeds)
        p_equivalent = special.stdtr(freedom, -(margin - np.abs(difference + margin)) / error)
        covered = np.abs(difference) < error * special.stdtrit(freedom, 0.975)
        errors = any_below(p), any_below(p_equivalent)
        with capsys.disabled():
            print(
                f"\n{spread}, {num_variants} variants, {num_seeds} seeds, correlation {correlation}: false differences "
                f"{errors[0]:.2%}, false equivalence {errors[1]:.2%}, coverage {covered.mean():.1%} "
                f"(worst variant {covered.mean(axis=0).min():.1%})",
                end="",
            )
        assert max(errors) <= 0.06
        assert covered.mean() >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "correlation", "num_variants"),
    [
        ("1 to 5", 0.95, 12),
        ("1 to 5", 0.8, 12),
        ("1 to 5", 0.9, 4),
        ("1 to 5", 0.8, 4),
        ("one 10", 0.0, 12),
        ("baseline 3, variants 1", 0.4, 12),
    ],
)
def test_where_three_seeds_err_more_often(
    spread: str, correlation: float, num_variants: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worst that a search over spreads and correlations has found: docs/statistics.md lists it."""
    runs = null_studies(spread, num_variants, 3, correlation, 2 * NUM_STUDIES)
    difference, error, freedom = moderated_tests(runs)
    ours = any_below(2 * special.stdtr(freedom, -np.abs(difference) / error))
    paired = any_below(scipy_stats.ttest_rel(runs[:, 1:], runs[:, :1], axis=-1).pvalue)
    with capsys.disabled():
        print(f"\n{spread}, {num_variants}, correlation {correlation}: {ours:.2%}, paired t {paired:.2%}", end="")
    assert 0.06 < ours < 0.09


@pytest.mark.slow
@pytest.mark.parametrize("num_variants", [4, 12])
@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_coverage_of_one_noisy_variant(num_seeds: int, num_variants: int) -> None:
    """Five times as noisy as its peers: its own interval covers 84 to 94 %."""
    for correlation in CORRELATIONS:
        runs = null_studies("one 5", num_variants, num_seeds, correlation)
        difference, error, freedom = moderated_tests(runs)
        covered = np.abs(difference) < error * special.stdtrit(freedom, 0.975)
        assert 0.835 < covered[:, 0].mean() < 0.945


@pytest.mark.slow
@pytest.mark.parametrize("num_variants", [4, 12])
def test_power_beside_other_tests(num_variants: int, capsys: pytest.CaptureFixture[str]) -> None:
    """One variant is 0.5 points better at a deviation of 0.2: found more often than by Welch's test or the paired t test."""
    for num_seeds in (3, 5, 10):
        for correlation in CORRELATIONS:
            runs = null_studies("equal", num_variants, num_seeds, correlation)
            runs[:, 1] += 2.5
            difference, error, freedom = moderated_tests(runs)
            ours = 2 * special.stdtr(freedom, -np.abs(difference) / error)
            paired = scipy_stats.ttest_rel(runs[:, 1:], runs[:, :1], axis=-1).pvalue
            welchs = scipy_stats.ttest_ind(runs[:, 1:], runs[:, :1], axis=-1, equal_var=False).pvalue
            found = [float(np.mean(p[:, 0] < 0.05 / num_variants)) for p in (ours, paired, welchs)]
            with capsys.disabled():
                print(
                    f"\n{num_variants} variants, {num_seeds} seeds, correlation {correlation}: power {found[0]:.0%}, "
                    f"paired t {found[1]:.0%}, Welch {found[2]:.0%}",
                    end="",
                )
            assert found[0] > max(found[1:]) - 0.01
