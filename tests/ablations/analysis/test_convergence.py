"""Times to a target agree with second implementations, whether runs hit it, miss it or are none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.duration.survfunc import survdiff

from ablations.analysis import convergence, stats
from ablations.analysis.interval import Interval

INF = math.inf


def test_logrank_is_that_of_statsmodels() -> None:
    a, b, budget = [3, 5, 5, INF, INF], [2, 3, 4, 5, 5, INF], 6
    times = np.array([*a, *b])
    _, p = survdiff(np.minimum(times, budget), np.isfinite(times), np.repeat([0, 1], (len(a), len(b))))
    assert convergence.logrank(a, b, budget, budget) == pytest.approx(p, rel=1e-9)


@given(st.lists(st.integers(1, 12).map(lambda t: INF if t > 9 else float(t)), min_size=1, max_size=9))
def test_median_time_is_kaplan_and_meiers(times: list[float]) -> None:
    t = np.array(times)
    summary = convergence.summarise_times(t, 10)
    survival = scipy_stats.ecdf(scipy_stats.CensoredData.right_censored(np.minimum(t, 10), np.isinf(t))).sf
    below = np.flatnonzero(survival.probabilities <= 0.5 + 1e-12)
    assert summary.median == (survival.quantiles[below[0]] if len(below) else INF)
    assert math.isinf(summary.median) == (summary.hits < len(times) / 2)


def test_times_of_hits_and_misses() -> None:
    summary = convergence.summarise_times([100, 200, INF], 300)
    assert (summary.hits, summary.num, summary.median) == (2, 3, 200)
    assert summary.restricted_mean == stats.mean_interval([100, 200, 300])


def test_time_to_target_is_the_first_point_at_or_above_it() -> None:
    examples, accuracies = [10, 20, 30, 40], [0.2, 0.5, 0.4, 0.6]
    assert convergence.time_to_target(examples, accuracies, 0.5) == 20
    assert convergence.time_to_target(examples, accuracies, 0.51) == 40
    assert convergence.time_to_target(examples, accuracies, 0.61) == INF
    assert convergence.time_to_own_final(examples, [0.2, 0.5, 0.595, 0.6]) == 30


def test_area_under_a_straight_line_is_its_middle_on_any_grid() -> None:
    assert convergence.area_under_curve([1, 2, 5], [0.1, 0.2, 0.5]) == pytest.approx(0.3)
    assert convergence.area_under_curve([7], [0.4]) == 0.4


def test_every_run_misses_the_target() -> None:
    summary = convergence.summarise_times([INF] * 3, 1_000)
    assert (summary.hits, summary.num, summary.median) == (0, 3, INF)
    assert summary.restricted_mean == Interval(1_000, 1_000, 1_000)
    assert math.isnan(convergence.logrank([INF] * 3, [INF] * 3, 1_000, 1_000))
    assert 0 < convergence.logrank([INF] * 3, [100, 200, 300], 1_000, 1_000) < 1


@pytest.mark.parametrize("other", [[100.0] * 3, [100.0] * 2])
def test_every_run_hits_at_the_same_point(other: list[float]) -> None:
    assert convergence.logrank([100] * 3, other, 1_000, 1_000) == 1


def test_a_run_is_at_risk_no_longer_than_its_own_budget() -> None:
    """Misses within 100 images say nothing about those that hit after 150."""
    hits = [150, 150, 160, 160, 170, 170]
    assert convergence.logrank([INF] * 6, hits, 100, 200) == 1
    assert convergence.logrank([INF] * 6, hits, 200, 200) < 0.01
    assert convergence.logrank([INF] * 6, hits, [100] * 3 + [200] * 3, 200) > convergence.logrank(
        [INF] * 6, hits, 200, 200
    )


@pytest.mark.parametrize(("a", "b"), [([100], [200, 300]), ([], [200, 300]), ([], [])])
def test_logrank_of_too_few_runs_is_unknown(a: list[float], b: list[float]) -> None:
    assert math.isnan(convergence.logrank(a, b, 1_000, 1_000))


def test_without_runs_there_are_no_numbers() -> None:
    assert math.isnan(convergence.summarise_times([], 10).median)
    assert math.isnan(convergence.area_under_curve([], []))
    assert math.isnan(convergence.time_to_own_final([], []))
