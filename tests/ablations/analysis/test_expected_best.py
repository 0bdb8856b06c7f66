"""Expected best accuracy of k trials, against all subsets of k."""

import itertools
import math

import numpy as np
import pytest

from ablations.analysis.expected_best import expected_best, spread_of_best

TRIALS = [0.61, 0.72, 0.10, 0.72, 0.69, 0.55]


@pytest.mark.parametrize("num", range(1, len(TRIALS) + 1))
def test_without_replacement_it_is_the_mean_over_subsets(num: int) -> None:
    best = [max(subset) for subset in itertools.combinations(TRIALS, num)]
    assert expected_best(TRIALS)[num - 1] == pytest.approx(np.mean(best))
    assert spread_of_best(TRIALS)[num - 1] == pytest.approx(np.std(best), abs=1e-12)


def test_all_trials_together_have_the_best_one() -> None:
    assert expected_best(TRIALS)[-1] == pytest.approx(max(TRIALS))


def test_it_is_without_bias(rng: np.random.Generator) -> None:
    """Of the maximum of 5 of 10 uniform values, 5 / 6 in truth; drawn with replacement it would be 0.02 less."""
    estimates = [expected_best(study)[4] for study in rng.random((4_000, 10))]
    assert np.mean(estimates) == pytest.approx(5 / 6, abs=0.004)


def test_hundreds_of_trials_do_not_overflow(rng: np.random.Generator) -> None:
    curve = expected_best(rng.random(500))
    assert np.isfinite(curve).all()
    assert (np.diff(curve) >= -1e-12).all()


def test_no_trials_have_no_curve() -> None:
    assert len(expected_best([])) == len(spread_of_best([])) == 0


def test_a_trial_without_an_accuracy_is_refused() -> None:
    with pytest.raises(ValueError, match="count a diverged one as 0"):
        expected_best([0.5, math.nan])
