"""A report answers from its records, says what it rests on, and claims nothing that they do not carry."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import accuracy, filled, opening, plain, record_of, text_of
from scipy import stats as scipy_stats

from ablations.analysis.moderated import paired_tests
from ablations.analysis.summary import summarise
from ablations.catalog import load_study
from ablations.records import RunRecord, Store
from ablations.reporting.files import load_covered_records, write_report
from ablations.reporting.section_accuracy import accuracy_sections
from ablations.runs import Run

NUM_1X1 = load_study("num_1x1")
OWN = ["0x", "1x", "3x", "4x"]
SUMMARY_COLUMNS = {
    *("variant", "role", "n", "params", "gflops", "test_accuracy_mean", "test_accuracy_low", "test_accuracy_high"),
    *("difference", "difference_low", "difference_high", "p_holm", "prob_better", "verdict", "hits"),
    *("examples_to_target_median", "examples_to_target_restricted_mean", "p_logrank_holm", "collapsed", "diverged"),
    "generalization_gap_mean",
}


def test_summary_has_a_row_per_variant_in_the_promised_columns(written: Store) -> None:
    summary = pd.read_csv(written.folder / "summary.csv")
    assert set(summary.columns) >= SUMMARY_COLUMNS
    assert summary["variant"].is_unique
    assert summary.set_index("variant")["role"][["2x", "4x"]].tolist() == ["baseline", "confirmatory"]


def test_summarys_numbers_are_those_of_the_runs(written: Store) -> None:
    summary = pd.read_csv(written.folder / "summary.csv").set_index("variant")
    runs = pd.read_csv(written.folder / "runs.csv").set_index("variant")["test_accuracy"]
    samples = {name: dict(enumerate(runs[name])) for name in ("2x", *OWN)}
    primary = paired_tests(samples, "2x", OWN)
    smallest = min(test.p for test in primary.values())
    welch = {name: scipy_stats.ttest_ind(runs[name], runs["2x"], equal_var=False) for name in OWN}
    for name in OWN:
        row = summary.loc[name]
        assert row["test_accuracy_mean"] == pytest.approx(runs[name].mean())
        assert row["difference"] == pytest.approx(100 * (runs[name].mean() - runs["2x"].mean()))
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            tuple(100 * end for end in (primary[name].interval.low, primary[name].interval.high))
        )
        assert row["difference_welch_low"] == pytest.approx(100 * welch[name].confidence_interval().low)
        assert row["p_holm"] >= primary[name].p
    assert summary.loc[OWN, "p_holm"].min() == pytest.approx(4 * smallest)
    assert summary.loc[OWN, "p_welch"].min() == pytest.approx(4 * min(test.pvalue for test in welch.values()))


def test_controls_are_compared_but_not_corrected_for(written: Store) -> None:
    summary = pd.read_csv(written.folder / "summary.csv").set_index("variant")
    controls = summary[summary["role"] == "control"]
    assert len(controls) > 0
    assert controls["p_holm"].isna().all()
    assert controls["difference"].notna().all()


def test_a_report_opens_with_the_question_the_answer_and_its_certainty(written: Store) -> None:
    rows = pd.read_csv(written.folder / "summary.csv").set_index("variant")
    base, best = rows.loc["2x"], rows.loc["4x"]
    title, answer, grounds, heading, caveats = text_of(written).split("\n\n")[:5]
    assert title == f"# num_1x1: {NUM_1X1.question}"
    assert answer == (
        "**After 1,024 training images: NiN without 1x1 convolutions is less accurate than NiN with two; compared with `2x` "
        "(two 1x1 convolutions): `3x` and `4x` better; `1x` worse.**"
    )
    interval = f"{100 * base.test_accuracy_low:.2f} to {100 * base.test_accuracy_high:.2f}"
    assert grounds.startswith(
        f"Under `smoke` the baseline `2x` reaches a test accuracy of {100 * base.test_accuracy_mean:.2f} % ({interval}), n = 5 seeds. "
    )
    assert (
        f"`4x` is better by {best.difference:.2f} points ({best.difference_low:.2f} to {best.difference_high:.2f})"
        in grounds
    )
    assert heading == "What could change this answer:"
    assert "- **tuning each variant**: " in caveats


@pytest.mark.usefixtures("undrawn")
def test_a_difference_below_the_margin_is_called_so(tmp_path: Path) -> None:
    """Differences of 0.24 points: too far from 0 to be chance, too near 0.3 to be equivalent."""
    means = {"0x": -0.0024, "1x": 0.0024, "3x": 0.02, "4x": -0.02}

    def close(run: Run) -> RunRecord:
        scatter = 0.0005 * (-1, 1, -1, 1, 0)[(run.seed + run.model.num_1x1) % 5]
        return record_of(run, test_accuracy=0.5 + means.get(run.variant, 0.0) + scatter)

    write_report(NUM_1X1, "smoke", filled(tmp_path, close, seeds=5))
    assert (
        "NiN without 1x1 convolutions is less accurate than NiN with two, but by less than the margin; compared with `2x` "
        "(two 1x1 convolutions): `3x` better; `1x` better, but by less than the margin; `4x` worse.**"
    ) in (tmp_path / "num_1x1/smoke/report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_what_could_have_been_found_is_said_of_each_undecided_variant_and_not_of_the_worst(tmp_path: Path) -> None:
    def noisy(run: Run) -> RunRecord:
        spread = 0.1 if run.variant == "4x" else 0.01
        noise = np.random.default_rng([run.seed, run.model.num_1x1]).normal(0, spread)
        return record_of(run, test_accuracy=0.5 + float(noise))

    store = filled(tmp_path, noisy)
    rows = write_report(NUM_1X1, "smoke", store).summary.variants.set_index("variant").loc[OWN]
    assert (rows["verdict"] == "inconclusive").all()
    found = rows["detectable"]
    assert found.max() > found.min()
    assert f"80 % power: {found.min():.1f} to {found.max():.1f} points, by variant" in opening(store)

    def noisy_once(run: Run) -> RunRecord:
        return record_of(run, test_accuracy=accuracy(run) + (run.seed - 1) * 0.06 * (run.variant == "4x"))

    store = filled(tmp_path / "decided", noisy_once)
    rows = write_report(NUM_1X1, "smoke", store).summary.variants.set_index("variant").loc[OWN]
    assert list(rows.index[rows["verdict"] == "inconclusive"]) == ["4x"]
    assert f"given the spread between seeds: {rows['detectable']['4x']:.2f} points. There may be a smaller" in text_of(
        store
    )


def test_the_report_states_what_it_rests_on(written: Store) -> None:
    text = text_of(written)
    for wanted in (
        *("Seeds 0 to 4", "3 epochs", "adamw, lr 0.005", "schedule one-cycle", "none was tuned"),
        *(
            "Validation accuracy (targets, curves) is on 200 images",
            "on the test set after the last step, read once",
            "cpu (test)",
        ),
        *(
            "Wall time",
            "Command: `python -m ablations.run num_1x1 --protocol smoke --seeds 5`",
            "declared before the runs",
        ),
    ):
        assert wanted in text, wanted


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("devices", "said"), [(("cpu (a)", "cpu (a)"), False), (("cpu (a)", "cpu (b)"), True)])
def test_seconds_of_different_devices_are_not_to_be_compared(
    devices: tuple[str, str], said: bool, tmp_path: Path
) -> None:
    store = filled(tmp_path, lambda run: record_of(run, environment={"device": devices[run.seed % 2]}))
    write_report(NUM_1X1, "smoke", store)
    assert ("timings are not comparable across devices" in text_of(store)) == said


def test_an_interval_within_the_margin_that_is_not_equivalent_is_explained() -> None:
    published = Store(Path(__file__).parents[3] / "results" / "reference", "num_1x1", "standard")
    three = [record for record in load_covered_records(NUM_1X1, "standard", published).records if record.run.seed < 3]
    table = summarise(NUM_1X1, "standard", three).variants
    assert dict(zip(table["variant"], table["verdict"], strict=True))["0x"] == "inconclusive"
    assert "after correction equivalence is not shown: 0x (p = 0.0577)." in " ".join(
        accuracy_sections(NUM_1X1, table, [])
    )


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("precisions", "said"),
    [
        (("bf16", "bf16"), "schedule one-cycle, bf16; weights"),
        (("float32", "bf16"), "**computed in different precisions (bf16: 12 runs and float32: 12 runs)**"),
    ],
)
def test_a_report_says_when_runs_were_computed_in_different_precisions(
    tmp_path: Path, precisions: tuple[str, str], said: str
) -> None:
    def record(run: Run) -> RunRecord:
        return replace(plain(run), environment={"precision": precisions[run.seed]})

    store, auto = Store(tmp_path, "num_1x1", "smoke"), ["train.precision=auto"]
    for run in NUM_1X1.expand("smoke", 2, overrides=auto):
        store.write(record(run))
    write_report(NUM_1X1, "smoke", store, auto)
    assert said in text_of(store)
