"""Power and seeds needed of the primary test."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from statsmodels.stats.power import TTestPower

from ablations.analysis import planning
from ablations.analysis.moderated import moderate


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_power_of_a_single_comparison_is_the_paired_t_tests(num_seeds: int) -> None:
    expected = TTestPower().power(1.2, num_seeds, 0.05)
    assert planning.prob_decided(1.2, 1, num_seeds, margin=0) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("num_seeds", "num_comparisons"), [(3, 4), (5, 4), (3, 12), (10, 12)])
def test_power_is_what_was_announced(num_seeds: int, num_comparisons: int) -> None:
    """Of simulated studies in which the runs correlate over seeds by 0.4."""
    sd_difference = planning.sd_of_difference(1, 0.4)
    difference = planning.detectable_difference(sd_difference, num_seeds, num_comparisons)
    rng = np.random.default_rng(1)
    shape = (10_000, 1 + num_comparisons, num_seeds)
    runs = math.sqrt(0.4) * rng.standard_normal((10_000, 1, num_seeds)) + math.sqrt(0.6) * rng.standard_normal(shape)
    runs[:, 1] += difference
    variance, freedom = moderate(runs)
    t = (runs[:, 1] - runs[:, 0]).mean(axis=-1) / np.sqrt(variance[:, 0] / num_seeds)
    found = 2 * special.stdtr(freedom[:, 0], -np.abs(t)) < 0.05 / num_comparisons
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


@settings(deadline=None)
@given(st.floats(1e-4, 1), st.integers(2, 64), st.integers(1, 12))
def test_detectable_difference_has_the_wanted_power(sd_difference: float, num_seeds: int, num_comparisons: int) -> None:
    difference = planning.detectable_difference(sd_difference, num_seeds, num_comparisons)
    for sign in (1, -1):
        power = planning.prob_decided(sign * difference, sd_difference, num_seeds, 0, num_comparisons)
        assert power == pytest.approx(0.8, abs=1e-6)


def test_correlation_over_seeds_makes_differences_less_noisy() -> None:
    assert planning.sd_of_difference(0.2) == pytest.approx(0.2 * math.sqrt(2))
    assert planning.sd_of_difference(0.2, 0.5) == pytest.approx(0.2)


def test_with_a_wide_margin_equal_variants_are_surely_called_equivalent() -> None:
    assert planning.prob_decided(0, 1, 10, margin=5) == pytest.approx(1)


@pytest.mark.parametrize("difference", [0.0, 0.001, 0.003, 0.01])
def test_seeds_needed_are_the_fewest_that_decide(difference: float) -> None:
    num_seeds = planning.seeds_needed(difference, 0.003, 0.003, num_comparisons=4)
    enough, too_few = (planning.prob_decided(difference, 0.003, int(n), 0.003, 4) for n in (num_seeds, num_seeds - 1))
    assert too_few < 0.8 <= enough


def test_what_no_feasible_number_of_seeds_decides() -> None:
    assert planning.seeds_needed(0.0001, 0.1, 0.0001) == math.inf


@pytest.mark.parametrize(("sd_difference", "num_seeds"), [(0.0, 5), (math.nan, 5), (0.002, 1)])
def test_power_of_no_study_is_unknown(sd_difference: float, num_seeds: int) -> None:
    assert math.isnan(planning.detectable_difference(sd_difference, num_seeds))
    assert math.isnan(planning.prob_decided(0.01, sd_difference, num_seeds, 0.003))


def test_seeds_needed_without_variance_are_unknown() -> None:
    assert math.isnan(planning.seeds_needed(0.01, 0.0, 0.003))
    assert math.isnan(planning.seeds_needed(math.nan, 0.1, 0.003))
