"""Intervals over seeds and test images, and samples in which runs collapsed."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special
from scipy import stats as scipy_stats

from ablations.analysis.moderated import PrimaryTest
from ablations.analysis.stats import wilson
from ablations.analysis.variance import seeds_and_images, trained


def two_way_mean_squares(d: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of seeds, of images and of the residual, by the textbook's table."""
    n, m = d.shape
    rows, columns, mean = d.mean(axis=1, keepdims=True), d.mean(axis=0, keepdims=True), d.mean()
    return (
        m * ((rows - mean) ** 2).sum() / (n - 1),
        n * ((columns - mean) ** 2).sum() / (m - 1),
        ((d - rows - columns + mean) ** 2).sum() / ((n - 1) * (m - 1)),
    )


def test_variance_of_the_mean_is_that_of_the_two_way_table(rng: np.random.Generator) -> None:
    """(MS seeds + MS images - MS residual) / (n m), with Satterthwaite's degrees of freedom."""
    x, y = rng.random((4, 300)) < 0.5 * (rng.random((4, 1)) + rng.random(300)), rng.random((4, 300)) < 0.5
    result = seeds_and_images(x, y)
    seeds, images, residual = two_way_mean_squares(x.astype(float) - y)
    both = (seeds + images - residual) / (4 * 300)
    freedom = both**2 / ((seeds / 1200) ** 2 / 3 + (images / 1200) ** 2 / 299)
    half = scipy_stats.t.ppf(0.975, freedom) * math.sqrt(both)
    assert result.difference.high - result.difference.estimate == pytest.approx(half)
    assert result.seeds == pytest.approx(math.sqrt(seeds / 1200))
    assert result.seeds**2 + result.images**2 == pytest.approx(both)  # the residual is in the part of the seeds
    assert (result.p < 0.05) == (not result.difference.low <= 0 <= result.difference.high)


def test_the_moderated_variance_takes_the_place_of_that_of_seeds(rng: np.random.Generator) -> None:
    x, y = rng.random((3, 500)) < 0.9, rng.random((3, 500)) < 0.8
    own, wider = seeds_and_images(x, y), seeds_and_images(x, y, PrimaryTest(0.1, 0.2, 8, 3, "moderated"))
    assert wider.seeds == 0.2
    assert wider.images == pytest.approx(own.images)
    assert wider.difference.high - wider.difference.low > own.difference.high - own.difference.low


def test_it_is_wider_than_either_source_alone(rng: np.random.Generator) -> None:
    x, y = (rng.random((5, 400)) < 0.7 + 0.1 * rng.standard_normal((5, 1)) for _ in range(2))
    result = seeds_and_images(x, y)
    assert result.difference.high - result.difference.estimate > 1.9 * max(result.seeds, result.images)


def test_it_is_never_narrower_than_the_test_over_seeds_alone(rng: np.random.Generator) -> None:
    """Degrees of freedom grow with the images, which alone would make the interval of more sources the narrower one."""
    x, y = rng.random((3, 5_000)) < 0.9, rng.random((3, 5_000)) < 0.9
    for test in (PrimaryTest(0.0, 0.02, 2, 3, "paired"), PrimaryTest(0.0, 0.02, 2, 3, "welch")):
        result = seeds_and_images(x, y, test)
        low, high = test.interval.low, test.interval.high
        assert result.difference.high - result.difference.low >= high - low
        assert result.p >= 2 * scipy_stats.t.sf(abs(result.difference.estimate) / test.error, 2) - 1e-12


@pytest.mark.parametrize("shape", [(1, 100), (3, 5), (3, 0)])
def test_too_few_seeds_or_images_give_no_interval(shape: tuple[int, int]) -> None:
    result = seeds_and_images(np.ones(shape), np.zeros(shape))
    assert math.isnan(result.difference.low)
    assert math.isnan(result.p)


def test_networks_that_agree_on_every_image_give_no_interval() -> None:
    result = seeds_and_images(np.ones((3, 100)), np.ones((3, 100)))
    assert result.difference.estimate == 0
    assert math.isnan(result.difference.low)


def test_other_images_on_either_side_are_refused() -> None:
    with pytest.raises(ValueError, match="the same on both sides"):
        seeds_and_images(np.ones((3, 100)), np.ones((3, 99)))


def test_without_collapsed_runs_the_mean_is_reliable() -> None:
    sample = trained([0.90, 0.91, 0.92], [True] * 3)
    assert sample.reliable
    assert sample.accuracy == sample.overall


def test_collapsed_runs_leave_the_share_that_trained_and_their_mean() -> None:
    sample = trained([0.90, 0.92, 0.10, 0.91], [True, True, False, True])
    assert not sample.reliable
    assert sample.share == wilson(3, 4)
    assert sample.accuracy.estimate == pytest.approx(0.91)
    assert sample.overall.estimate == pytest.approx(0.7075)


def test_when_no_run_trained_there_is_no_mean_of_those_that_did() -> None:
    sample = trained([0.1, 0.1], [False, False])
    assert sample.share.estimate == 0
    assert math.isnan(sample.accuracy.estimate)
    assert sample.overall.estimate == pytest.approx(0.1)


def test_flags_must_match_runs() -> None:
    with pytest.raises(ValueError, match="2 accuracies, 1 flags"):
        trained([0.1, 0.2], [True])


def simulated_coverage(num_seeds: int, sd_seeds: float, num_studies: int, rng: np.random.Generator) -> float:
    """Of the true difference of two probit models: an image's difficulty, its taste for a variant, and a seed's skill add up."""
    num_images, sd_taste, skills = 1_000, 0.3, (1.6, 1.5)
    total = math.sqrt(1 + 1 + sd_taste**2 + sd_seeds**2)
    true = float(special.ndtr(skills[0] / total) - special.ndtr(skills[1] / total))
    covered = 0
    for _ in range(num_studies):
        difficulty = rng.standard_normal(num_images)
        right = [
            skill
            + difficulty
            + sd_taste * rng.standard_normal(num_images)
            + sd_seeds * rng.standard_normal((num_seeds, 1))
            + rng.standard_normal((num_seeds, num_images))
            > 0
            for skill in skills
        ]
        interval = seeds_and_images(*right).difference
        covered += interval.low <= true <= interval.high
    return covered / num_studies


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("sd_seeds", [0.06, 0.1, 0.2])
def test_coverage_over_seeds_and_images(
    num_seeds: int, sd_seeds: float, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds vary 2, 4 and 12 times as much as chance on images alone would make them; in published studies 1.6 times or more."""
    coverage = simulated_coverage(num_seeds, sd_seeds, 3_000, rng)
    with capsys.disabled():
        print(f"\n{num_seeds} seeds, skill of a seed with deviation {sd_seeds}: coverage {coverage:.1%}", end="")
    assert 0.93 <= coverage <= 0.97


def test_seeds_that_differ_by_chance_alone_are_covered_too_often_rather_than_too_seldom(
    rng: np.random.Generator,
) -> None:
    assert simulated_coverage(5, 0.0, 300, rng) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("num_runs", "expected"), [(3, 0.27), (5, 0.41), (10, 0.65)])
def test_students_interval_fails_where_a_tenth_of_the_runs_collapse(
    num_runs: int, expected: float, rng: np.random.Generator
) -> None:
    """The numbers that `Trained` warns with."""
    runs = np.where(rng.random((20_000, num_runs)) < 0.1, 0.1, rng.normal(0.9, 0.002, (20_000, num_runs)))
    half = special.stdtrit(num_runs - 1, 0.975) * runs.std(axis=1, ddof=1) / math.sqrt(num_runs)
    assert np.mean(np.abs(runs.mean(axis=1) - 0.82) <= half) == pytest.approx(expected, abs=0.01)
