"""Tables of a study say which sources their numbers cover, which runs trained, and what was added after a look."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import NUM_TEST, plain, record_of, smoke_runs
from scipy.stats import ttest_ind

from ablations.analysis.circumstances import AddedSeeds
from ablations.analysis.stats import wilson
from ablations.analysis.summary import Summary, summarise
from ablations.catalog import load_study
from ablations.records import RunRecord, pack_correctness
from ablations.reporting.answer import grounds
from ablations.reporting.files import Report
from ablations.reporting.provenance import what_was_run
from ablations.reporting.sections import sections
from ablations.runs import Run
from ablations.tuning.winners import Winner, with_winners
from nin.spec import DataSpec

NUM_1X1 = load_study("num_1x1")
NAMES = ["0x", "1x", "3x", "4x"]


def summary_of(record: Callable[[Run], RunRecord], seeds: int = 3) -> Summary:
    return summarise(NUM_1X1, "smoke", [record(run) for run in smoke_runs(seeds=seeds, variants=NAMES)])


# --- seeds and test images


def drawn(run: Run, num_images: int = NUM_TEST) -> RunRecord:
    """Which images are right is drawn anew for each run; accuracy is their share."""
    rng = np.random.default_rng([run.seed, run.model.num_1x1])
    correct = rng.random(num_images) < 0.7 + 0.05 * run.model.num_1x1
    record = record_of(run, test_accuracy=float(correct.mean()))
    return replace(record, test_correct=pack_correctness(correct), test_examples=num_images)


def test_the_interval_over_test_images_too_is_never_narrower_than_that_over_seeds() -> None:
    rows = summary_of(drawn).variants.set_index("variant").loc[NAMES]
    assert (rows["difference_both_low"] <= rows["difference_low"] + 1e-9).all()
    assert (rows["difference_both_high"] >= rows["difference_high"] - 1e-9).all()
    assert (rows["p_both"] >= rows["p"] - 1e-9).all()
    assert (rows[["error_seeds", "error_images"]] > 0).all(axis=None)


def test_there_is_no_interval_over_images_where_networks_saw_different_ones() -> None:
    rows = summary_of(lambda run: drawn(run, NUM_TEST if run.variant == "2x" else 100)).variants.set_index("variant")
    assert rows["difference_both_low"].isna().all()
    assert rows.loc[NAMES, "difference_low"].notna().all()


@pytest.mark.slow
def test_a_report_says_which_sources_its_intervals_cover() -> None:
    def facts(study: str, protocol: str, *overrides: str) -> str:
        records = [plain(run) for run in load_study(study).expand(protocol, 2, ["1x"], overrides)]
        return what_was_run(load_study(study), protocol, records, overrides, [])

    division = "the division into training and validation images"
    covered, _, left_out = facts("num_1x1", "standard").partition("None covers")
    assert division in covered
    assert division not in left_out
    covered, _, left_out = facts("num_1x1", "quick").partition("None covers")
    assert division not in covered
    assert division in left_out
    assert "dropout" not in facts("num_1x1", "quick", "model.dropout=0.0").partition("Intervals")[2].splitlines()[0]
    assert division not in facts("num_1x1", "d2l")  # whose validation images are the test set


def test_the_validation_images_of_a_folder_may_be_its_own_and_fewer() -> None:
    study = load_study("num_1x1")
    runs = [
        replace(run, data=DataSpec(name="folder:pets", val_examples=200)) for run in study.expand("smoke", 2, ["1x"])
    ]
    facts = what_was_run(study, "smoke", [plain(run) for run in runs], [], [])
    assert "is on at most 200 images, of val/ where the folder has one, else set aside" in facts


def test_a_comparison_of_all_runs_has_no_interval_over_shared_seeds() -> None:
    runs = smoke_runs(seeds=6, variants=[*NAMES, "3x3"])
    records = [drawn(run) for run in runs if run.variant != "3x3" or run.seed in (0, 1, 2)]
    rows = summarise(NUM_1X1, "smoke", records).variants.set_index("variant")
    assert rows.loc["3x3", "test"] == "welch"
    assert np.isnan(rows.loc["3x3", "difference_both_low"])
    assert rows.loc[NAMES, "difference_both_low"].notna().all()


def test_memory_is_of_runs_in_the_baselines_precision_where_there_are_some() -> None:
    def made(run: Run) -> RunRecord:
        precision = "float32" if run.variant == "0x" and run.seed == 0 else "bf16"
        environment = {"device": "cpu (test)", "precision": precision}
        return record_of(
            run, environment=environment, peak_memory_bytes=32_000_000 if precision == "float32" else 19_000_000
        )

    assert summary_of(made).variants["peak_memory_mb"].tolist() == [19.0] * 5


def test_a_loss_has_no_interval_below_zero_and_a_run_that_learned_nothing_is_not_the_fastest() -> None:
    def made(run: Run) -> RunRecord:
        broken = run.variant == "0x"
        return replace(plain(run), test_loss=0.1 + 3.0 * broken * run.seed, dead_classes=9 * broken)

    row = summary_of(made).variants.set_index("variant").loc["0x"]
    assert row["test_loss_low"] == 0
    assert row["test_loss_high"] > row["test_loss_mean"]
    assert np.isinf(row["examples_to_99_percent_of_final_median"])


# --- runs that did not train


def one_collapses(run: Run) -> RunRecord:
    if (run.variant, run.seed) == ("0x", 1):
        return record_of(run, status="collapsed", test_accuracy=0.1)
    return plain(run)


def test_with_collapsed_runs_the_share_that_trained_and_their_mean_stand_beside_the_mean_of_all() -> None:
    rows = summary_of(one_collapses).variants.set_index("variant")
    row, others = rows.loc["0x"], rows.drop("0x")
    share = wilson(2, 3)
    assert not row["mean_is_reliable"]
    assert (row["share_trained"], row["share_trained_low"], row["share_trained_high"]) == pytest.approx(
        (share.estimate, share.low, share.high)
    )
    assert row["trained_accuracy_mean"] > 0.75 > 0.6 > row["test_accuracy_mean"]
    assert others["mean_is_reliable"].all()
    assert others["trained_accuracy_mean"].tolist() == others["test_accuracy_mean"].tolist()


# --- generalisation


def test_gaps_and_shifted_images_are_compared_with_the_baseline_by_welchs_test() -> None:
    def made(run: Run) -> RunRecord:
        noise = np.random.default_rng([run.seed, run.model.num_1x1]).normal(0, 0.01, 2)
        overfits = 0.04 if run.variant == "4x" else 0.01
        record = record_of(run, shifted_accuracy=float(0.7 - 0.02 * run.model.num_1x1 + noise[0]))
        return replace(record, train_accuracy=record.test_accuracy + overfits + float(noise[1]))

    records = [made(run) for run in smoke_runs(seeds=4, variants=NAMES)]
    table = summarise(NUM_1X1, "smoke", records).variants.set_index("variant")
    for measure in ("generalization_gap", "shifted_accuracy"):
        values = {
            name: np.array([getattr(r, measure) for r in records if r.run.variant == name]) for name in ("2x", "4x")
        }
        row, test = table.loc["4x"], ttest_ind(values["4x"], values["2x"], equal_var=False)
        interval = test.confidence_interval()
        assert row[f"{measure}_mean"] == pytest.approx(values["4x"].mean())
        assert row[f"{measure}_difference"] == pytest.approx(100 * (values["4x"].mean() - values["2x"].mean()))
        assert row[f"{measure}_difference_low"] == pytest.approx(100 * interval.low)
        assert row[f"{measure}_difference_high"] == pytest.approx(100 * interval.high)
        assert row[f"{measure}_low"] < row[f"{measure}_mean"] < row[f"{measure}_high"]
    assert np.isnan(table.loc["2x", "generalization_gap_difference"])


def test_what_was_not_measured_of_every_run_is_not_compared() -> None:
    def some(run: Run) -> RunRecord:
        return record_of(run, shifted_accuracy=float("nan") if run.seed == 0 else 0.7)

    table = summary_of(some).variants
    assert table["shifted_accuracy_difference"].isna().all()
    assert table["generalization_gap_mean"].notna().all()


# --- seeds beyond those declared


def test_seeds_as_declared_are_not_spoken_of() -> None:
    assert summary_of(plain, seeds=2).added is None


def test_seeds_beyond_those_declared_are_named() -> None:
    summary = summary_of(plain, seeds=4)  # of which `smoke` declares two
    assert summary.added == AddedSeeds(2, (2, 3), "")


def test_seeds_that_started_days_later_were_added_after_that_day() -> None:
    def later(run: Run) -> RunRecord:
        return replace(plain(run), started_at=f"2026-01-0{5 if run.seed > 1 else 2}T10:00:00+00:00")

    summary = summary_of(later, seeds=3)
    assert summary.added == AddedSeeds(2, (2,), "2026-01-02")


# --- tuned variants


DRAW, OTHER = {"train.lr": 0.01, "train.momentum": 0.5}, {"train.lr": 0.02, "train.momentum": 0.9}


@pytest.fixture(scope="module")
def tuned() -> tuple[str, Summary, str]:
    """0x is worse as it is and better as tuned; the same draw won for it and the baseline. The answer, tables, and report."""
    own = {run.variant: run.settings for run in smoke_runs(seeds=1, variants=NAMES)}
    found = {name: Winner(9, 0.9, DRAW, [1009], own[name]) for name in ("2x", "0x")}
    found["1x"] = Winner(4, 0.9, OTHER, [1004], own["1x"])
    study = with_winners(NUM_1X1, "smoke", found)
    means = {"2x": 0.80, "0x": 0.75, "1x": 0.80, "2x tuned": 0.81, "0x tuned": 0.86, "1x tuned": 0.81}

    def made(run: Run) -> RunRecord:
        noise = np.random.default_rng([run.seed, len(run.variant), run.model.num_1x1]).normal(0, 0.003)
        return record_of(run, test_accuracy=means[run.variant] + noise)

    records = [made(run) for run in study.expand("smoke", 5)]
    summary = summarise(study, "smoke", records)
    words = grounds(study, "smoke", summary)
    report = Report(Path(), "", words, [], summary, records, [])
    return words, summary, sections(study, "smoke", report, [], [], [])[0]


def test_a_tuned_study_has_verdicts_against_the_tuned_baseline(tuned: tuple[str, Summary, str]) -> None:
    _, summary, _ = tuned
    row = summary.tuned.set_index("variant").loc["0x"]
    assert (row["verdict_fixed"], row["verdict_tuned"]) == ("worse", "better")
    assert row["difference_tuned"] == pytest.approx(5, abs=0.7)
    assert row["difference_fixed"] == pytest.approx(-5, abs=0.7)


def test_winners_that_are_the_same_draw_are_counted_once(tuned: tuple[str, Summary, str]) -> None:
    _, summary, _ = tuned
    assert summary.tuned.set_index("variant")["draw"].to_dict() == {"2x": 1, "0x": 1, "1x": 2}
    assert summary.tuned.set_index("variant").loc["0x", "setting"] == "lr 0.01, momentum 0.5"


def test_the_report_of_a_tuned_study_answers_the_tuned_question(tuned: tuple[str, Summary, str]) -> None:
    answer, _, title = tuned
    assert title == f"# num_1x1-tuned: With each variant tuned: {NUM_1X1.question}"
    assert "the tuned baseline `2x`" in answer
    assert "`0x` is better" in answer
    assert "`0x` is worse" not in answer
    assert "Tuning changes the verdict on `0x`." in answer
    assert "3 variants have 2 winning settings: the same for `2x` and `0x`." in answer
