"""Group-sequential looks: published boundaries, decisions replayed from results, and whole studies simulated."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import special
from test_moderated import SPREADS, null_studies

from ablations.analysis.moderated import PrimaryTest
from ablations.analysis.sequential import Decision, after_stopping, decide, looks, nominal_levels

LOOKS = (3, 5, 8, 12)
NUM_STUDIES = 1_500
Samples = dict[str, dict[int, float]]


def samples_of(runs: np.ndarray) -> Samples:
    """Runs (arms, seeds) of a baseline "base" and variants "0", "1", and so on."""
    names = ["base", *map(str, range(len(runs) - 1))]
    return {name: dict(enumerate(map(float, values))) for name, values in zip(names, runs, strict=True)}


def family(samples: Samples) -> list[str]:
    return [name for name in samples if name != "base"]


def wrong(decisions: dict[str, Decision]) -> bool:
    return any(decision.verdict in ("better", "worse") for decision in decisions.values())


# Designs


@pytest.mark.parametrize(
    ("first", "most", "expected"),
    [(3, 12, (3, 5, 8, 12)), (5, 12, (5, 8, 12)), (3, 3, (3,)), (3, 4, (3, 4)), (5, 20, (5, 8, 13, 20))],
)
def test_looks_grow_by_about_the_same_factor(first: int, most: int, expected: tuple[int, ...]) -> None:
    assert looks(first, most) == expected


@pytest.mark.parametrize(("first", "most"), [(1, 5), (5, 3)])
def test_impossible_looks_are_named(first: int, most: int) -> None:
    with pytest.raises(ValueError, match=rf"first at {first} seeds .*--max-seeds {most}\)"):
        looks(first, most)


def test_boundaries_are_the_published_ones() -> None:
    """Lan and DeMets' O'Brien-Fleming function, five equal looks, 0.025 on either side: the example of R's gsDesign and ldbounds."""
    boundaries = [-special.ndtri(level / 2) for level in nominal_levels((1, 2, 3, 4, 5), 0.05)]
    assert boundaries == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


def test_a_single_look_spends_all() -> None:
    assert nominal_levels((7,), 0.0125) == pytest.approx([0.0125])


def test_the_first_of_very_many_seeds_may_spend_nothing() -> None:
    levels = nominal_levels(looks(3, 10_000), 0.05 / 12)
    assert 0 <= levels[0] < 1e-12
    assert levels[-1] == pytest.approx(0.05 / 12, rel=0.5)


def test_all_looks_together_have_the_wanted_error(rng: np.random.Generator) -> None:
    """Of 200,000 random walks."""
    levels = nominal_levels(LOOKS, 0.05)
    steps = rng.standard_normal((200_000, len(LOOKS))) * np.sqrt(np.diff([0, *LOOKS]))
    z = np.abs(steps.cumsum(axis=1)) / np.sqrt(LOOKS)
    assert np.mean((z > -special.ndtri(np.array(levels) / 2)).any(axis=1)) == pytest.approx(0.05, abs=0.002)


# Decisions


def test_a_large_difference_stops_and_a_small_one_goes_on(rng: np.random.Generator) -> None:
    runs = rng.normal(0, 0.001, (3, 5))
    runs[1] += 0.05
    runs[2] += 0.003
    decisions = decide(samples_of(runs), "base", ["0", "1"], LOOKS)
    assert (decisions["0"].verdict, decisions["0"].next_seeds) == ("better", None)
    assert (decisions["1"].verdict, decisions["1"].num_seeds, decisions["1"].next_seeds) == ("pending", 5, 8)


def test_seeds_after_a_stop_are_not_read(rng: np.random.Generator) -> None:
    """Whether or not somebody has run them: a decision depends on the looks up to its own."""
    runs = rng.normal(0, 0.001, (3, 12))
    runs[1] += 0.05
    samples = samples_of(runs)
    stop = decide(samples, "base", family(samples), LOOKS)["0"].num_seeds
    more = samples | {"0": samples["0"] | dict.fromkeys(range(stop, 12), 0.0)}
    assert decide(more, "base", family(samples), LOOKS)["0"] == decide(samples, "base", family(samples), LOOKS)["0"]


def test_a_study_that_was_interrupted_comes_to_the_same_decisions(rng: np.random.Generator) -> None:
    samples = samples_of(rng.normal(0, 0.003, (4, 12)))
    whole = decide(samples, "base", family(samples), LOOKS)
    seeds = LOOKS[0]
    while True:
        so_far = {name: {seed: x for seed, x in sample.items() if seed < seeds} for name, sample in samples.items()}
        decisions = decide(so_far, "base", family(samples), LOOKS)
        wanted = [decision.next_seeds for decision in decisions.values() if decision.next_seeds]
        if not wanted:
            break
        assert min(wanted) > seeds
        seeds = min(wanted)
    assert decisions == whole


def test_before_the_first_look_everything_is_undecided(rng: np.random.Generator) -> None:
    samples = samples_of(rng.normal(0, 1, (3, 2)))
    assert {(d.verdict, d.num_seeds, d.next_seeds) for d in decide(samples, "base", ["0", "1"], LOOKS).values()} == {
        ("pending", 0, 3)
    }


def test_a_look_waits_for_a_missing_run(rng: np.random.Generator) -> None:
    samples = samples_of(rng.normal(0, 1, (3, 3)))
    del samples["1"][2]
    assert all(d.num_seeds == 0 for d in decide(samples, "base", ["0", "1"], LOOKS).values())


def test_equal_variants_are_called_equivalent_early(rng: np.random.Generator) -> None:
    samples = samples_of(rng.normal(0, 0.0003, (4, 12)))
    decisions = decide(samples, "base", family(samples), LOOKS, margin=0.003)
    assert {d.verdict for d in decisions.values()} == {"equivalent"}
    assert max(d.num_seeds for d in decisions.values()) < 12


def test_noise_far_above_the_margin_is_futile() -> None:
    """Differences of plus and minus a tenth in turn: their mean is 0 at eight seeds, and equivalence within 0.0001 is far off."""
    base = dict(enumerate(np.linspace(0.7, 0.8, 12)))
    variant = {seed: value + (0.1 if seed % 2 else -0.1) for seed, value in base.items()}
    decisions = decide({"base": base, "v": variant}, "base", ["v"], LOOKS, margin=1e-4)
    assert decisions["v"].verdict == "futile"
    assert decisions["v"].num_seeds < 12


# Estimates after stopping


def test_at_the_first_look_nothing_is_corrected() -> None:
    test = PrimaryTest(0.01, 0.004, 4, 3, "moderated")
    corrected = after_stopping(test, (3,), ())
    assert corrected == test.interval


def test_the_interval_of_what_is_not_found_is_at_least_that_of_the_t_test(rng: np.random.Generator) -> None:
    base = rng.normal(0, 0.002, 12)
    samples = samples_of(np.array([base, *(base + rng.normal(0, 0.002, 12) for _ in range(4))]))
    decided = [each for each in decide(samples, "base", family(samples), LOOKS).values() if each.num_seeds > 3]
    assert {each.verdict for each in decided} & {"equivalent", "futile", "inconclusive"}
    for each in decided:
        if each.verdict in ("equivalent", "futile", "inconclusive"):
            assert each.corrected.low <= each.seen.low
            assert each.corrected.high >= each.seen.high


def test_a_difference_found_late_is_corrected_towards_zero_and_its_interval_is_wider() -> None:
    test = PrimaryTest(0.01, 0.003, 20, 8, "moderated")
    corrected = after_stopping(test, (3, 5, 8), (0.01, 0.01))
    low, high = test.interval.low, test.interval.high
    assert 0 < corrected.estimate < test.estimate
    assert corrected.high - corrected.low > high - low


def test_corrections_are_symmetric() -> None:
    up, down = (
        after_stopping(PrimaryTest(sign * 0.01, 0.003, 20, 8, "moderated"), (3, 5, 8), (0.01, 0.01)) for sign in (1, -1)
    )
    assert (down.estimate, down.low, down.high) == pytest.approx((-up.estimate, -up.high, -up.low), abs=1e-7)


def test_an_untestable_comparison_has_no_corrected_estimate() -> None:
    assert math.isnan(after_stopping(PrimaryTest(0.1, math.nan, math.nan, 3, "welch"), (3,), ()).estimate)


# Whole studies


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("spread", SPREADS)
def test_family_wise_error_with_looks_is_at_most_6_percent(spread: str, capsys: pytest.CaptureFixture[str]) -> None:
    runs = null_studies(spread, 4, LOOKS[-1], 0.4, num_studies=NUM_STUDIES, seed=2)
    verdicts: Counter[str] = Counter()
    errors, seeds = 0, 0
    for study in runs:
        samples = samples_of(study)
        decisions = decide(samples, "base", family(samples), LOOKS, margin=1.5, estimates=False)
        errors += wrong(decisions)
        verdicts.update(decision.verdict for decision in decisions.values())
        seeds += sum(decision.num_seeds for decision in decisions.values())
    num = verdicts.total()
    with capsys.disabled():
        shares = ", ".join(f"{verdict} {count / num:.1%}" for verdict, count in verdicts.most_common())
        print(f"\n{spread}: any false difference {errors / NUM_STUDIES:.2%}, {seeds / num:.1f} seeds; {shares}", end="")
    assert errors / NUM_STUDIES <= 0.06


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("difference", "margin"), [(0.0, 1.5), (1.25, 0.75), (2.0, 0.75)])
def test_estimates_after_stopping_are_median_unbiased(
    difference: float, margin: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all stops together, in deviations of a run. Those of one kind are not: what was found "better" looks too good."""
    runs = null_studies("equal", 4, LOOKS[-1], 0.4, num_studies=500, seed=3)
    runs[:, 1:] += difference
    corrected, seen, found, covered = [], [], [], []
    for study in runs:
        samples = samples_of(study)
        for decision in decide(samples, "base", family(samples), LOOKS, margin=margin).values():
            corrected.append(decision.corrected.estimate - difference)
            seen.append(decision.seen.estimate - difference)
            found.append(decision.verdict == "better")
            covered.append(decision.corrected.low <= difference <= decision.corrected.high)
    better = np.array(corrected)[found].mean() if any(found) else math.nan
    with capsys.disabled():
        print(
            f"\ntrue difference {difference}: mean bias {np.mean(corrected):+.3f} (uncorrected {np.mean(seen):+.3f}), of those "
            f"found better {better:+.3f}, median {np.median(corrected):+.3f} (uncorrected {np.median(seen):+.3f}), "
            f"coverage {np.mean(covered):.1%}",
            end="",
        )
    assert abs(np.median(corrected)) < 0.04
    assert abs(np.mean(corrected)) < 0.03
    assert np.mean(covered) >= 0.94
