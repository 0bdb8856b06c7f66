"""What a report says where runs failed or missed the target, and where there are too few to say anything."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders import filled, opening, plain, record_of, text_of
from rich.console import Console

from ablations.catalog import load_study
from ablations.records import RunRecord, Store
from ablations.reporting.files import write_report
from ablations.reporting.terminal import print_summary
from ablations.runs import Run

NUM_1X1 = load_study("num_1x1")
OWN = ["0x", "1x", "3x", "4x"]


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
        if run.variant != "4x":
            return replace(plain(run), examples_seen=budget)
        record = record_of(run, test_accuracy=0.1)
        first = replace(record.curve[0], val_accuracy=0.1, val_loss=math.nan)
        return replace(record, status="diverged", curve=[first], examples_seen=first.examples)

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
    assert "`0x` (2 of 3 collapsed or diverged)" in opening(store)
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
def test_an_answer_names_the_networks_whose_runs_failed(tmp_path: Path) -> None:
    lost = {("0x", 0), ("2x", 0), ("2x", 1)}
    store = filled(tmp_path, lambda run: replace(plain(run), dead_classes=int((run.variant, run.seed) in lost)))
    write_report(NUM_1X1, "smoke", store)
    assert ", but 1 of 3 lost classes with `0x` and 2 of 3 lost classes with `2x`: this measures" in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_a_verdict_on_a_variant_whose_runs_failed_says_so(tmp_path: Path) -> None:
    def collapses(run: Run) -> RunRecord:
        if run.variant == "4x":
            return record_of(run, status="collapsed", test_accuracy=0.1 + 0.001 * run.seed, dead_classes=9)
        return plain(run)

    store = filled(tmp_path, collapses)
    write_report(NUM_1X1, "smoke", store)
    assert "`1x` and `4x` worse (3 of 3 collapsed with `4x`)" in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_a_seed_each_gives_no_verdict(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=1)
    write_report(NUM_1X1, "smoke", store)
    assert "training images: no verdict: each variant has one seed.**" in opening(store)


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
    assert "Seeds 0, 1 and 2; some variants lack some of these runs" in text_of(store)
    assert "Without results for some seeds: 0x@2x-params." in text_of(store)
    assert "Not trained: 2x@3x-gflops (a control that would be identical" in text_of(store)


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
