"""What a study says follows from its records, claims nothing that they do not carry, and can be made again from them."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import filled, plain, record_of
from rich.console import Console
from scipy import stats as scipy_stats

from ablations.analysis.moderated import paired_tests
from ablations.analysis.summary import summarise
from ablations.records import RunRecord, Store
from ablations.report import main
from ablations.reporting.figures import FIGURES
from ablations.reporting.files import load_covered_records, write_report
from ablations.reporting.section_comparisons import _accuracy_notes
from ablations.reporting.section_training import generalization_sections
from ablations.reporting.terminal import print_summary
from ablations.runs import Run
from ablations.study import load_study

NUM_1X1 = load_study("num_1x1")
OWN = ["0x", "1x", "3x", "4x"]
SUMMARY_COLUMNS = {
    *("variant", "role", "n", "params", "gflops", "test_accuracy_mean", "test_accuracy_low", "test_accuracy_high"),
    *("difference", "difference_low", "difference_high", "p_holm", "prob_better", "verdict", "hits"),
    *("examples_to_target_median", "examples_to_target_restricted_mean", "p_logrank_holm", "collapsed", "diverged"),
    "generalization_gap_mean",
}


def text_of(store: Store) -> str:
    return (store.folder / "report.md").read_text()


def opening(store: Store) -> str:
    """The answer and its grounds."""
    return "\n\n".join(text_of(store).split("\n\n")[1:3])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of a report's time."""
    monkeypatch.setattr("ablations.reporting.figures.FIGURES", {})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = filled(tmp_path_factory.mktemp("results"), plain, seeds=5)
    write_report(NUM_1X1, "smoke", store)
    return store


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
            tuple(100 * limit for limit in primary[name].limits())
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
    title, answer, grounds, heading, caveats, figure = text_of(written).split("\n\n")[:6]
    assert title == f"# num_1x1: {NUM_1X1.question}"
    assert answer == (
        "**After 1,024 training images: NiN without 1x1 convolutions is less accurate than NiN with two; compared with `2x` "
        "(two 1x1 convolutions): `3x` and `4x` better; `1x` worse.**"
    )
    interval = f"{100 * base.test_accuracy_low:.2f} to {100 * base.test_accuracy_high:.2f}"
    assert grounds.startswith(
        f"Under `smoke` the baseline 2x reaches a test accuracy of {100 * base.test_accuracy_mean:.2f} % ({interval}), n = 5 seeds. "
    )
    assert (
        f"4x is better by {best.difference:.2f} points ({best.difference_low:.2f} to {best.difference_high:.2f})"
        in grounds
    )
    assert heading == "What could change this answer:"
    assert "- **tuning each variant**: " in caveats
    assert figure == "![differences](figures/differences.png)"


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
            "80 % power",
        ),
    ):
        assert wanted in text, wanted


def test_the_table_of_generalisation_has_shifted_images_only_where_they_were_measured(written: Store) -> None:
    summary = pd.read_csv(written.folder / "summary.csv").set_index("variant")
    row = summary.loc["4x"]
    difference = f"{row.shifted_accuracy_difference:+.2f} ({row.shifted_accuracy_difference_low:+.2f} to "
    assert difference in text_of(written).partition("## Generalisation")[2]
    unmeasured = summary.reset_index().assign(shifted_accuracy_mean=float("nan"))
    assert "shifted" in " ".join(generalization_sections(summary.reset_index(), []))
    assert "shifted" not in " ".join(generalization_sections(unmeasured, []))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("devices", "said"), [(("cpu (a)", "cpu (a)"), False), (("cpu (a)", "cpu (b)"), True)])
def test_seconds_of_different_devices_are_not_to_be_compared(
    devices: tuple[str, str], said: bool, tmp_path: Path
) -> None:
    store = filled(tmp_path, lambda run: record_of(run, environment={"device": devices[run.seed % 2]}))
    write_report(NUM_1X1, "smoke", store)
    assert ("timings are not comparable across devices" in text_of(store)) == said


def test_html_is_one_file_that_fetches_nothing(written: Store) -> None:
    page = (written.folder / "report.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == len(FIGURES)
    assert not re.search(r'(src="(?!data:)|href="(?!#))', page)
    assert "<table>" in page


def test_every_figure_is_drawn_as_png_and_svg(written: Store) -> None:
    files = {path.name for path in (written.folder / "figures").iterdir()}
    assert files == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}


def test_the_same_records_make_the_same_files(written: Store, tmp_path: Path) -> None:
    again = filled(tmp_path, plain, seeds=5)
    write_report(NUM_1X1, "smoke", again)
    ours = {path.relative_to(written.folder): path.read_bytes() for path in written.folder.rglob("*") if path.is_file()}
    theirs = {path.relative_to(again.folder): path.read_bytes() for path in again.folder.rglob("*") if path.is_file()}
    assert ours.keys() == theirs.keys()
    assert [str(name) for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=1)
    write_report(NUM_1X1, "smoke", store)
    (store.folder / "report.md").write_text("mine")
    write_report(NUM_1X1, "smoke", store, force=False)
    assert text_of(store) == "mine"
    store.write(plain(NUM_1X1.expand("smoke", 2)[-1]))
    write_report(NUM_1X1, "smoke", store, force=False)
    assert text_of(store) != "mine"


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=1)
    write_report(NUM_1X1, "smoke", store)
    (store.folder / "report.html").unlink()
    write_report(NUM_1X1, "smoke", store, force=False)
    assert (store.folder / "report.html").exists()


def test_every_seed_on_disk_is_covered_whatever_is_missing_between(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 20):
        if run.seed in (3, 19):
            store.write(plain(run))
    records, damaged, _ = load_covered_records(NUM_1X1, "smoke", store)
    assert {record.run.seed for record in records} == {3, 19}
    assert len(records) == len(store.run_ids())
    assert damaged == []


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_record_is_a_warning_beside_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path, plain, seeds=2)
    run = NUM_1X1.expand("smoke", 1)[0]
    (store.runs_folder / f"{run.run_id}.json").write_text("{")
    assert main(["num_1x1", "--protocol", "smoke", "--results", str(tmp_path)]) == 0
    assert re.search(rf"warning: .*{run.run_id}.json is damaged", capsys.readouterr().err)


@pytest.mark.parametrize("options", [["--seeds", "2"], ["--variants", "1x"], ["--lengths", "40k"]])
def test_a_report_takes_no_selection_of_runs(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It covers every variant and seed on disk."""
    with pytest.raises(SystemExit):
        main(["num_1x1", "--protocol", "smoke", "--results", str(tmp_path), *options])
    assert f"unrecognized arguments: {' '.join(options)}" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_runs_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=2)
    for run in NUM_1X1.expand("smoke", 2, overrides=["train.lr=0.5"]):
        store.write(record_of(run, test_accuracy=0.1))
    report = write_report(NUM_1X1, "smoke", store)
    assert report.summary.variants["n"].max() == 2
    assert report.summary.variants["test_accuracy_mean"].min() > 0.7
    assert f"Not covered: {len(store.run_ids()) // 2} records in the same folder" in text_of(store)
    other = write_report(NUM_1X1, "smoke", store, overrides=["train.lr=0.5"])
    assert other.summary.variants["test_accuracy_mean"].max() < 0.2
    assert "`--set train.lr=0.5`" in text_of(store)
    assert other.answer.startswith("**With `train.lr=0.5`, after 1,024 training images: ")


def test_an_interval_within_the_margin_that_is_not_equivalent_is_explained() -> None:
    published = Store(Path(__file__).parents[3] / "results" / "reference", "num_1x1", "standard")
    three = [record for record in load_covered_records(NUM_1X1, "standard", published).records if record.run.seed < 3]
    table = summarise(NUM_1X1, "standard", three).variants
    assert dict(zip(table["variant"], table["verdict"], strict=True))["0x"] == "inconclusive"
    assert "not shown to be equivalent once p is corrected: 0x (p = 0.0577)." in _accuracy_notes(NUM_1X1, table)


# --- where there is too little, or it went wrong


def claims_nothing(summary: pd.DataFrame) -> None:
    assert not set(summary["verdict"]) & {"better", "worse"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("seeds", [1, 3])
def test_runs_without_variance_decide_nothing(tmp_path: Path, seeds: int) -> None:
    store = filled(tmp_path, lambda run: record_of(run, test_accuracy=0.5 + 0.1 * run.model.num_1x1), seeds)
    table = write_report(NUM_1X1, "smoke", store).summary.variants
    claims_nothing(table)
    assert set(table.set_index("variant")["verdict"][OWN]) == {"inconclusive"}


@pytest.mark.usefixtures("undrawn")
def test_misses_are_shown_as_misses(tmp_path: Path) -> None:
    def some_miss(run: Run) -> RunRecord:
        return record_of(run, test_accuracy=0.3 if run.variant == "4x" else 0.8)

    store = filled(tmp_path, some_miss)
    summary = write_report(NUM_1X1, "smoke", store).summary.variants.set_index("variant")
    assert (summary.loc["4x", "hits"], summary.loc["2x", "hits"]) == (0, 3)
    assert math.isinf(summary.loc["4x", "examples_to_target_median"])
    assert summary.loc["4x", "examples_to_target_restricted_mean"] == 1024
    row = next(line for line in text_of(store).splitlines() if line.startswith("| 4x ") and "0/3" in line)
    assert "∞" in row


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_diverges_early_is_not_taken_for_a_fast_one(tmp_path: Path) -> None:
    budget = 3 * 512  # images of three epochs, of which the first evaluation comes after half an epoch

    def diverges(run: Run) -> RunRecord:
        record = plain(run)
        if run.variant != "4x":
            return record
        first = replace(record.curve[0], val_accuracy=0.1, val_loss=math.nan)
        return replace(record, status="diverged", curve=[first], examples_seen=first.examples, test_accuracy=0.1)

    summary = write_report(NUM_1X1, "smoke", filled(tmp_path, diverges)).summary
    row = summary.variants.set_index("variant").loc["4x"]
    assert (row["hits"], row["diverged"]) == (0, 3)
    assert row["examples_to_target_restricted_mean"] == budget
    assert math.isinf(row["examples_to_99_percent_of_final_median"])
    assert row["area_under_curve_mean"] == pytest.approx(0.1)
    assert set(summary.target_sweep.set_index("variant")["restricted_mean"]["4x"]) == {budget}


@pytest.mark.usefixtures("undrawn")
def test_a_curve_that_ends_high_and_early_counts_its_last_accuracy_to_the_budget(tmp_path: Path) -> None:
    def diverges(run: Run) -> RunRecord:
        record = record_of(run, test_accuracy=0.8)
        fallen = replace(record.curve[2], val_accuracy=0.1)
        return replace(record, status="diverged", curve=[*record.curve[:2], fallen], examples_seen=fallen.examples)

    summary = write_report(NUM_1X1, "smoke", filled(tmp_path, diverges, seeds=1)).summary.variants
    heights = (256 * (0.2 + 0.4) / 2 + 256 * (0.4 + 0.1) / 2 + 768 * 0.1) / (1536 - 256)
    assert summary["area_under_curve_mean"].tolist() == pytest.approx([heights] * len(summary))


@pytest.mark.usefixtures("undrawn")
def test_every_seed_of_every_variant_may_miss(tmp_path: Path) -> None:
    store = filled(tmp_path, lambda run: record_of(run, test_accuracy=0.1 + 0.001 * run.seed))
    summary = write_report(NUM_1X1, "smoke", store).summary.variants
    assert (summary["hits"] == 0).all()
    assert summary["p_logrank_holm"].isna().all()
    claims_nothing(summary)


@pytest.mark.usefixtures("undrawn")
def test_collapsed_and_diverged_runs_are_counted_and_kept_in_the_mean(tmp_path: Path) -> None:
    def bad(run: Run) -> RunRecord:
        if (run.variant, run.seed) == ("0x", 0):
            return record_of(run, status="collapsed", test_accuracy=0.1, dead_classes=9)
        if (run.variant, run.seed) == ("0x", 1):
            return record_of(run, status="diverged", test_accuracy=0.1, test_loss=math.nan)
        return plain(run)

    store = filled(tmp_path, bad)
    row = write_report(NUM_1X1, "smoke", store).summary.variants.set_index("variant").loc["0x"]
    assert (row["collapsed"], row["diverged"], row["n"]) == (1, 1, 3)
    assert row["test_accuracy_mean"] < 0.4
    assert "0x (2 of 3 collapsed or diverged)" in opening(store)
    assert "33.33 (6.15 to 79.23)" in text_of(store)  # Wilson's interval of 1 in 3 that trained
    assert "unreliable" in next(line for line in text_of(store).splitlines() if line.startswith("| 0x "))


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_are_named_with_their_cause_and_not_in_the_numbers(tmp_path: Path) -> None:
    def one_fails(run: Run) -> RunRecord:
        if (run.variant, run.seed) == ("4x", 2):
            return record_of(
                run, status="failed", error="its worker was ended by SIGKILL", test_accuracy=math.nan, curve=[]
            )
        return plain(run)

    store = filled(tmp_path, one_fails)
    summary = write_report(NUM_1X1, "smoke", store).summary.variants.set_index("variant")
    assert summary.loc["4x", "n"] == 2
    assert "Failed: 4x seed 2: its worker was ended by SIGKILL" in text_of(store)
    assert re.search(r"Without results for some seeds: 4x", text_of(store))


@pytest.mark.usefixtures("undrawn")
def test_without_a_single_result_a_report_says_so(tmp_path: Path) -> None:
    store = filled(tmp_path, lambda run: record_of(run, status="failed", error="no", test_accuracy=math.nan, curve=[]))
    write_report(NUM_1X1, "smoke", store)
    assert "Not answered yet" in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_without_the_baseline_nothing_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 2):
        if run.variant != "2x":
            store.write(plain(run))
    report = write_report(NUM_1X1, "smoke", store)
    assert "Not answered yet" in opening(store)
    print_summary(report, Console(width=200))
    assert not set(report.summary.variants["role"]) & {"baseline"}
    assert "Not answered yet" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_seeds_are_said_to_be_the_same_only_where_they_are(tmp_path: Path) -> None:
    store = filled(tmp_path, plain)
    write_report(NUM_1X1, "smoke", store)
    assert "Seeds 0, 1 and 2, the same for every variant" in text_of(store)
    missing = next(run for run in NUM_1X1.expand("smoke", 3) if (run.variant, run.seed) == ("0x@2x-params", 2))
    (store.runs_folder / f"{missing.run_id}.json").unlink()
    write_report(NUM_1X1, "smoke", store)
    assert "Seeds 0, 1 and 2, but not all of them of every variant" in text_of(store)
    assert "Without results for some seeds: 0x@2x-params." in text_of(store)
    assert "Not trained: 2x@3x-gflops (a control that comes out as a network that is there" in text_of(store)


@pytest.mark.usefixtures("undrawn")
def test_a_ladder_has_no_target_of_all_images_or_more(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "paper-mnist")
    for run in NUM_1X1.expand("paper-mnist", 1, ["1x"]):
        store.write(plain(run))
    ladder = write_report(NUM_1X1, "paper-mnist", store).summary.target_sweep
    assert ladder["target"].unique().tolist() == pytest.approx([0.88, 0.93, 0.98])


@pytest.mark.usefixtures("undrawn")
def test_what_went_wrong_is_not_taken_for_a_tag(tmp_path: Path) -> None:
    def one_fails(run: Run) -> RunRecord:
        if (run.variant, run.seed) == ("4x", 2):
            return record_of(run, status="failed", error="got <class 'int'>", test_accuracy=math.nan, curve=[])
        return plain(run)

    store = filled(tmp_path, one_fails)
    write_report(NUM_1X1, "smoke", store)
    assert "Failed: 4x seed 2: got &lt;class 'int'" in (store.folder / "report.html").read_text()


# --- controls and two factors


@pytest.mark.usefixtures("undrawn")
def test_a_variant_is_compared_with_the_control_of_its_size(tmp_path: Path) -> None:
    store = filled(tmp_path, plain)
    summary = write_report(NUM_1X1, "smoke", store).summary
    runs = pd.read_csv(store.folder / "runs.csv").groupby("variant")["test_accuracy"]
    table = summary.controls.set_index("comparison")
    for comparison, row in table.iterrows():
        variant, control = str(comparison).split(" minus ")
        assert row["difference"] == pytest.approx(100 * (runs.mean()[variant] - runs.mean()[control]))
    assert "## At equal size" in text_of(store)
    assert "parameters or FLOPs within 1 %" in text_of(store)


@pytest.mark.usefixtures("undrawn")
def test_how_far_a_control_is_from_the_size_it_should_have_is_said(tmp_path: Path) -> None:
    """Whole channels of a tiny network come no nearer than a few percent."""

    def sized(run: Run) -> RunRecord:
        return replace(plain(run), params_trunk=963 if run.variant == "3x3@2x-params" else 1000)

    store = filled(tmp_path, sized)
    summary = write_report(NUM_1X1, "smoke", store).summary
    assert summary.controls["size_off"].max() == pytest.approx(37 / 1100)
    assert "parameters or FLOPs within 4 %" in text_of(store)


@pytest.mark.usefixtures("undrawn")
def test_main_effects_and_interactions_are_contrasts_of_cells(tmp_path: Path) -> None:
    cells = {("nin", "nin"): 0.90, ("nin", "alexnet"): 0.88, ("alexnet", "nin"): 0.80, ("alexnet", "alexnet"): 0.70}

    def cell(run: Run) -> RunRecord:
        mean = cells.get((run.model.trunk, run.model.head), 0.5)
        return record_of(run, test_accuracy=mean + 0.002 * run.seed)

    store = filled(tmp_path, cell, study="heads")
    factors = write_report(load_study("heads"), "smoke", store).summary.factors.set_index("effect")["difference"]
    assert factors["interaction of trunk alexnet and head alexnet"] == pytest.approx(
        100 * ((0.70 - 0.80) - (0.88 - 0.90))
    )
    trunk = next(
        value for effect, value in factors.items() if str(effect).startswith("trunk alexnet instead of trunk nin")
    )
    assert trunk == pytest.approx(100 * ((0.80 + 0.70) / 2 - (0.90 + 0.88) / 2))
    assert "Main effects and interactions" in text_of(store)


# --- what studies ask beside accuracy


def test_peak_memory_is_a_column_and_of_lines_the_slope_and_the_fixed_part_are_said(tmp_path: Path) -> None:
    """Memory made up as 100 MB + 2 MB per image for NiN, as 10 MB + 1 MB per image for LeNet, is found to be that."""
    lines = {"nin": (100, 2), "lenet": (10, 1), "alexnet": (5, 3), "vgg11": (7, 4)}

    def measured(run: Run) -> RunRecord:
        fixed, slope = lines[run.variant.partition(" ")[0]]
        return replace(plain(run), peak_memory_bytes=round(1e6 * (fixed + slope * run.train.batch_size)))

    store = filled(tmp_path, measured, seeds=1, study="batch_memory")
    memory = write_report(load_study("batch_memory"), "smoke", store).summary.memory.set_index("network")
    for name, (fixed, slope) in lines.items():
        assert memory.loc[name, ["fixed_mb", "per_image_mb", "r_squared"]].tolist() == pytest.approx([fixed, slope, 1])
    assert "**grows linearly with the batch**: lenet 10 MB + 1 MB per image (R squared 1.0000)" in opening(store)
    assert pd.read_csv(store.folder / "summary.csv")["peak_memory_mb"].notna().all()


def test_memory_that_does_not_grow_along_a_line_is_said(tmp_path: Path) -> None:
    def measured(run: Run) -> RunRecord:
        power = 3 if run.variant.startswith("nin") else 1
        return replace(plain(run), peak_memory_bytes=1000 * run.train.batch_size**power)

    store = filled(tmp_path, measured, seeds=1, study="batch_memory")
    write_report(load_study("batch_memory"), "smoke", store)
    assert "**does not grow linearly with the batch for nin (R squared below 0.99)**" in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_failures_begins_with_their_counts(tmp_path: Path) -> None:
    """Collapsed, diverged and dead classes count alike; intervals are Wilson's."""
    outcomes = {
        "narrow relu 1": {"status": "collapsed", "dead_classes": 9},
        "narrow relu 0.1": {"status": "diverged"},
        "wide relu 1": {"dead_classes": 1},
    }
    store = filled(
        tmp_path, lambda run: replace(plain(run), **outcomes.get(run.variant, {})), seeds=4, study="class_block"
    )
    write_report(load_study("class_block"), "smoke", store)
    assert opening(store).startswith("**After 1,024 training images: runs fail most often with ")
    failed = "**4 of 4** (51 to 100 %) with narrow relu 1, narrow relu 0.1 and wide relu 1; "
    assert failed + "**0 of 4** (0 to 49 %) with narrow linear 1," in opening(store)
    # Of 4 in 4 against 0 in 4 the exact p is 2 in 70, seven times which is 0.2.
    assert "undecided with narrow relu 0.1, narrow linear 1" in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_failures_says_with_which_variants_there_are_fewer(tmp_path: Path) -> None:
    def of_one_kind(run: Run) -> RunRecord:
        return replace(plain(run), dead_classes=int(run.variant.endswith(" relu 1")))

    store = filled(tmp_path, of_one_kind, seeds=6, study="class_block")
    write_report(load_study("class_block"), "smoke", store)
    p = 7 * scipy_stats.fisher_exact([[6, 0], [0, 6]]).pvalue
    assert f"**fewer with narrow relu 0.1 ({p:.4f})" in opening(store)
    assert "undecided with wide relu 1." in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_other_comparisons_that_a_study_declares_are_in_the_report(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, study="dropout")
    contrasts = write_report(load_study("dropout"), "smoke", store).summary.contrasts
    assert contrasts["comparison"].tolist()[:2] == ["gap 0.5 minus fc 0.5", "gap 0.0 minus fc 0.0"]
    assert "## Other comparisons" in text_of(store)


@pytest.mark.usefixtures("undrawn")
def test_factors_are_compared_within_each_setting_of_the_rest(tmp_path: Path) -> None:
    """Dropout helps the FC head by 10 points, with a tenth of the images by 20, and the GAP head never."""

    def made(run: Run) -> RunRecord:
        tenth = run.data.train_fraction < 1
        gain = (0.2 if tenth else 0.1) * (run.model.head == "alexnet") * (run.model.dropout > 0)
        return record_of(run, test_accuracy=0.5 + gain + 0.001 * run.seed)

    store = filled(tmp_path, made, study="dropout")
    factors = write_report(load_study("dropout"), "smoke", store).summary.factors.set_index("effect")["difference"]
    interactions = factors[factors.index.str.startswith("interaction")]
    assert interactions.abs().tolist() == pytest.approx([10, 20])
    assert [("train_fraction 0.1" in name) for name in interactions.index] == [False, True]


def test_published_runs_are_laid_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours are better in every run and never fail; of theirs, two have a loss above the limit and one has none."""
    study = load_study("textbook")
    rows = ["# source", "network,train_loss,test_accuracy", *["lenet,0.4,0.70", "lenet,0.4,0.71", "lenet,0.4,0.72"]]
    rows += ["nin,0.4,0.70", "nin,0.6,0.5", "nin,2.3,0.1", "nin,,0.1"]
    (tmp_path / "textbook.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr("ablations.analysis.published.PUBLISHED", tmp_path)
    store = Store(tmp_path / "results", "textbook", "d2l")
    for run in study.expand("d2l", 3):
        record = record_of(run, test_accuracy=0.8 + 0.01 * run.seed)
        store.write(replace(record, curve=[replace(record.curve[-1], train_loss=0.3)]))
    summary = write_report(study, "d2l", store).summary.published.set_index("variant")
    lenet, nin = summary.loc["lenet"], summary.loc["nin"]
    assert (lenet["median_ours"], lenet["median_theirs"]) == (pytest.approx(0.81), pytest.approx(0.71))
    assert lenet["p_location"] == pytest.approx(0.1)  # 2 of the 20 orders of three and three
    assert lenet["p_distribution"] == pytest.approx(0.1)
    assert (nin["failed_ours"], nin["failed_theirs"], nin["n_theirs"]) == (0, 3, 4)
    assert nin["p_failed"] == pytest.approx(scipy_stats.fisher_exact([[0, 3], [3, 1]]).pvalue)
    text = text_of(store)
    assert "| 3/4 (30 to 95 %)" in text
    assert "lenet 81.0 % (n = 3) against 71.0 % (n = 3), p = 0.1000" in opening(store)
    assert (store.folder / "figures/beside_published.png").exists()


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

    store = filled(tmp_path, record, seeds=2)
    write_report(NUM_1X1, "smoke", store)
    assert said in text_of(store)
