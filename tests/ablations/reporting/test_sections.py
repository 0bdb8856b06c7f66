"""The report's sections on controls, factors, memory, failures and published runs."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import accuracy, filled, opening, plain, record_of, text_of
from scipy import stats as scipy_stats

from ablations.analysis.summary import summarise
from ablations.catalog import load_study
from ablations.looks import Declaration, Looks
from ablations.records import RunRecord, Store
from ablations.reporting.caveats import caveats, in_short
from ablations.reporting.files import read_report, write_report
from ablations.reporting.plain import plain_answer
from ablations.reporting.section_accuracy import accuracy_sections
from ablations.reporting.section_published import published_sections
from ablations.reporting.section_training import failure_sections, generalization_sections
from ablations.runs import Run

NUM_1X1 = load_study("num_1x1")


def test_the_table_of_generalisation_has_shifted_images_only_where_they_were_measured(written: Store) -> None:
    summary = pd.read_csv(written.folder / "summary.csv").set_index("variant")
    row = summary.loc["4x"]
    difference = f"{row.shifted_accuracy_difference:+.2f} ({row.shifted_accuracy_difference_low:+.2f} to "
    assert difference in text_of(written).partition("## Generalisation")[2]
    noisy = " ".join(generalization_sections(summary.reset_index(), [], has_label_noise=True))
    assert "compare gaps only between variants with the same noise" in noisy
    assert "never trained on" not in noisy
    partly = " ".join(generalization_sections(summary.reset_index(), [], passes=8 / 11))
    assert "about 27 % of these training images were never trained on" in partly
    unmeasured = summary.reset_index().assign(shifted_accuracy_mean=float("nan"))
    assert "shifted" in " ".join(generalization_sections(summary.reset_index(), []))
    assert "shifted" not in " ".join(generalization_sections(unmeasured, []))


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
        mean = cells.get((run.model.trunk, run.model.head), 0.5) + 0.002 * run.seed
        gap = 0.02 + 0.03 * (run.model.trunk == run.model.head == "alexnet") + 0.001 * run.seed
        return record_of(run, test_accuracy=mean, train_accuracy=mean + gap)

    store = filled(tmp_path, cell, study="heads")
    table = write_report(load_study("heads"), "smoke", store).summary.factors.set_index("effect")
    factors, gaps = table["difference"], table["gap_difference"]
    assert gaps["interaction of trunk alexnet and head alexnet"] == pytest.approx(3)
    assert "| +3.00 (" in text_of(store).partition("## Main effects")[2]
    assert factors["interaction of trunk alexnet and head alexnet"] == pytest.approx(
        100 * ((0.70 - 0.80) - (0.88 - 0.90))
    )
    trunk = next(
        value for effect, value in factors.items() if str(effect).startswith("trunk alexnet instead of trunk nin")
    )
    assert trunk == pytest.approx(100 * ((0.80 + 0.70) / 2 - (0.90 + 0.88) / 2))
    assert "Main effects and interactions" in text_of(store)


@pytest.mark.usefixtures("undrawn")
def test_the_interval_of_a_large_interaction_holds_its_estimate(tmp_path: Path) -> None:
    """An interaction is a difference of two differences, so it can reach 200 points."""

    def cell(run: Run) -> RunRecord:
        return record_of(run, test_accuracy=0.9 - 0.8 * (run.model.trunk == "nin") - 0.01 * run.seed)

    def crossed(run: Run) -> RunRecord:
        is_equal = run.model.trunk == run.model.head
        return record_of(run, test_accuracy=(0.1 if is_equal else 0.9) + 0.01 * run.seed)

    for make, largest in ((crossed, 160), (cell, 80)):
        store = filled(tmp_path / make.__name__, make, study="heads")
        table = write_report(load_study("heads"), "smoke", store).summary.factors
        assert (table["difference_low"] <= table["difference"]).all()
        assert (table["difference"] <= table["difference_high"]).all()
        assert table["difference"].abs().max() == pytest.approx(largest)


@pytest.mark.usefixtures("undrawn")
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


def test_two_batches_make_no_line_and_memory_that_stays_the_same_does_not_grow(tmp_path: Path) -> None:
    study = load_study("batch_memory")

    def answered(results: Path, batches: int, power: int) -> str:
        store = Store(results, study.name, "smoke")
        runs = [run for run in study.expand("smoke", 1) if run.variant.startswith("nin ")]
        for run in runs[:batches]:
            store.write(replace(plain(run), peak_memory_bytes=1_000_000 * run.train.batch_size**power))
        return read_report(study, "smoke", store).answer

    assert answered(tmp_path / "two", 2, 2) == "**Not answered yet.**"
    assert answered(tmp_path / "same", 5, 0) == "**Not for nin.**"
    assert answered(tmp_path / "line", 5, 1) == "**Yes, for nin.**"


def test_differences_of_unequal_seeds_and_of_another_test_are_said(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 5, ["0x", "1x"]):
        if run.variant == "2x" or run.seed < 3:
            store.write(plain(run))
    assert "minus the baseline's, over the seeds that both have. The test pairs runs" in accuracy_notes(store)
    for run in NUM_1X1.expand("smoke", 2, ["3x3"]):
        store.write(plain(run))
    assert "the seeds that both have, but over all runs where the test is Welch's. " in accuracy_notes(store)
    alike = Store(tmp_path / "alike", "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 3, ["0x", "1x", "3x"]):
        copied = replace(run, model=replace(run.model, num_1x1=2)) if run.variant == "3x" else run
        alike.write(record_of(run, test_accuracy=accuracy(copied)))
    assert "other comparisons. Of 3x it is Welch's, since fewer than two seeds are shared, or the" in accuracy_notes(
        alike
    )
    apart = Store(tmp_path, "heads", "smoke")
    study = load_study("heads")
    for run in study.expand("smoke", 6):
        if run.variant in ("nin+nin", "nin+alexnet") and (run.variant == "nin+nin") == (run.seed < 3):
            apart.write(plain(run))
    summary = read_report(study, "smoke", apart).summary
    assert "The test is Welch's, of all runs" in " ".join(accuracy_sections(study, summary.variants, []))


def test_an_equivalence_whose_interval_goes_beyond_the_margin_is_explained(written: Store) -> None:
    table = read_report(NUM_1X1, "smoke", written).summary.variants
    wide = table.assign(verdict="equivalent", difference_low=-0.2, difference=0.05, difference_high=0.4)
    said = " ".join(accuracy_sections(NUM_1X1, wide, []))
    assert "extends beyond the margin, although equivalence is shown: two one-sided tests at 5 % go with" in said
    assert "extends beyond" not in " ".join(accuracy_sections(NUM_1X1, wide.assign(difference_high=0.25), []))


def accuracy_notes(store: Store) -> str:
    summary = read_report(NUM_1X1, store.folder.name, store).summary
    return " ".join(accuracy_sections(NUM_1X1, summary.variants, [], summary.looks))


def test_comparisons_decided_in_looks_are_not_explained_as_those_of_a_fixed_number_of_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "digits")
    gains = {"2x": (0.0,) * 4, "0x": (0.2, 0.2003, 0.2006, 0.2009), "1x": (0.02, 0.004, 0.012, 0.003)}
    for run in NUM_1X1.expand("digits", 4, ["0x", "1x"]):
        accuracy = 0.7 + 0.002 * (-1) ** run.seed + gains[run.variant][run.seed]
        store.write(record_of(run, test_accuracy=accuracy))
    assert "Holm's method; the interval is not" in accuracy_notes(store)
    assert "the missing seeds" in dict(read_report(NUM_1X1, "digits", store).caveats)
    Looks(store.folder, NUM_1X1).declare(Declaration((2, 4, 12), ("0x", "1x"), 40_000))
    said = accuracy_notes(store)
    assert "in looks at 2, 4 and 12 seeds that were declared beforehand. The test pairs runs of equal seed" in said
    assert "median-unbiased estimate after stopping" in said
    assert "*Pending*: the next look waits for seeds." in said
    assert "the interval is not" not in said
    listed = dict(read_report(NUM_1X1, "digits", store).caveats)
    assert listed["more seeds"] == "`1x` waits for the seeds of the next look"
    assert "the missing seeds" not in listed


def test_after_looks_a_study_without_words_of_its_own_is_answered_by_a_variant_with_a_verdict(written: Store) -> None:
    summary = read_report(NUM_1X1, "smoke", written).summary
    verdicts = {"2x": "", "0x": "pending", "1x": "better"}
    looked = summary.variants[summary.variants["variant"].isin(list(verdicts))].assign(
        p_holm=float("nan"), verdict=lambda table: table["variant"].map(verdicts)
    )
    answer = plain_answer(replace(NUM_1X1, name="own"), replace(summary, variants=looked)).answer
    assert answer == "`1x` is more accurate than `2x`; compared with `2x`: `0x` undecided"


def test_only_columns_that_are_there_are_explained(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 1, ["0x"]):
        store.write(plain(run))
    said = accuracy_notes(store)
    assert "GFLOP" in said
    for name in ("seeds to decide", "Seeds to decide", "Dunnett", "Welch's p", "P(better)"):
        assert name not in said
    for run in NUM_1X1.expand("smoke", 2, ["0x"]):
        store.write(plain(run))
    assert "P(better)" in accuracy_notes(store)


def test_many_runs_a_variant_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 150, ["0x"]):
        store.write(plain(run))
    table = read_report(NUM_1X1, "smoke", store).summary.variants
    assert "With 150 runs a variant" in " ".join(failure_sections(table))


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
    # Runs end after 1,024 images here; one that diverged counts as given the protocol's 3 epochs of 512.
    assert opening(store).startswith("**After 1,024 to 1,536 training images: runs fail most often with ")
    failed = "**4 of 4** (51 to 100 %) with `narrow relu 1`, `narrow relu 0.1` and `wide relu 1`; "
    assert failed + "**0 of 4** (0 to 49 %) with `narrow linear 1`," in opening(store)
    # Of 4 in 4 against 0 in 4 the exact p is 2 in 70, seven times which is 0.2.
    assert "undecided with `narrow relu 0.1`, `narrow linear 1`" in opening(store)


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_failures_says_with_which_variants_there_are_fewer(tmp_path: Path) -> None:
    def of_one_kind(run: Run) -> RunRecord:
        return replace(plain(run), dead_classes=int(run.variant.endswith(" relu 1")))

    store = filled(tmp_path, of_one_kind, seeds=6, study="class_block")
    write_report(load_study("class_block"), "smoke", store)
    p = 7 * scipy_stats.fisher_exact([[6, 0], [0, 6]]).pvalue
    assert f"**fewer with `narrow relu 0.1` ({p:.4f})" in opening(store)
    assert "undecided with `wide relu 1`." in opening(store)


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


@pytest.mark.parametrize(
    ("fc", "answer"),
    [
        (
            (0.0, 0.05),
            "a hint that it is: .* a fully connected head overfits more.*; neither is shown to be more accurate",
        ),
        (
            (0.0, -0.05),
            "a hint that it is not: .* a fully connected head overfits less.*; neither is shown to be more accurate",
        ),
        ((0.1, 0.0), "undecided: neither head is shown to overfit more .*; the fully connected head is more accurate"),
        ((-0.1, 0.05), "a hint that it is: .* a fully connected head overfits more.*; NiN's head is more accurate"),
    ],
)
def test_a_question_about_overfitting_is_answered_by_the_gap_first(fc: tuple[float, float], answer: str) -> None:
    """A fully connected head differs by this much in accuracy, and in the gap between training and test accuracy."""
    noise = np.random.default_rng(0)

    def made(run: Run) -> RunRecord:
        is_fc = run.model.head == "alexnet"
        reached, gap = 0.8 + fc[0] * is_fc + noise.normal(0, 0.001), 0.02 + fc[1] * is_fc + noise.normal(0, 0.001)
        return record_of(run, test_accuracy=reached, train_accuracy=reached + gap)

    study = load_study("dropout")
    summary = summarise(study, "smoke", [made(run) for run in study.expand("smoke", 3)])
    found = plain_answer(study, summary)
    assert re.match(rf"{answer} \(exploratory\)$", found.answer)
    assert float(found.effect.split()[0]) == pytest.approx(100 * fc[1], abs=0.1), found.effect
    asks_for_seeds = [
        caveat for caveat in caveats(study, "smoke", summary) if "train minus test accuracy" in caveat.why
    ]
    assert bool(asks_for_seeds) is answer.startswith("undecided")


@pytest.mark.usefixtures("undrawn")
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
    assert lenet["p_spread"] == pytest.approx(1)  # each of the three is as far from its median as theirs
    assert lenet["p_distribution"] == pytest.approx(0.1)
    assert (nin["failed_ours"], nin["failed_theirs"], nin["n_theirs"]) == (0, 3, 4)
    assert nin["p_failed"] == pytest.approx(scipy_stats.fisher_exact([[0, 3], [3, 1]]).pvalue)
    text = text_of(store)
    assert "| 3/4 (30 to 95 %)" in text
    assert "`lenet` 81.0 % (n = 3) against 71.0 % (n = 3), p = 0.1000" in opening(store)
    assert (store.folder / "figures/beside_published.png").exists()


def test_one_run_beside_published_ones_tells_nothing(tmp_path: Path) -> None:
    study = load_study("textbook")
    store = Store(tmp_path, "textbook", "d2l")
    (run,) = (run for run in study.expand("d2l", 1, ["lenet"]) if run.variant == "lenet")
    store.write(record_of(run))
    report = read_report(study, "d2l", store)
    assert "1 run of LeNet cannot tell whether it differs from 181 published ones" in report.answer
    assert "standard deviation" not in plain_answer(study, report.summary).effect
    assert "more seeds" in in_short(report.caveats)
    assert "nan" not in " ".join(published_sections(study, report.summary.published, []))


@pytest.mark.parametrize(("step", "more"), [(0.02, "more"), (0.0001, "less")])
def test_runs_that_spread_unlike_published_ones_are_said_to(step: float, more: str) -> None:
    study = load_study("textbook")
    records = [
        record_of(run, test_accuracy=0.805 + step * (run.seed - 4.5)) for run in study.expand("d2l", 10, ["lenet"])
    ]
    answer, effect = plain_answer(study, summarise(study, "d2l", [r for r in records if r.run.variant == "lenet"]))
    assert answer == (
        "the median accuracy of LeNet does not differ significantly from that of 181 published runs, but ours spread "
        f"{more}"
    )
    assert re.search(r"; standard deviation \d\.\d against 1\.\d points, p [=<] 0\.\d+$", effect)


@pytest.mark.usefixtures("undrawn")
def test_runs_of_changed_settings_are_not_laid_beside_published_ones(tmp_path: Path) -> None:
    study, changed = load_study("textbook"), ["train.epochs=2"]
    store = Store(tmp_path, "textbook", "d2l")
    for run in study.expand("d2l", 2, ["lenet"], changed):
        store.write(plain(run))
    assert write_report(study, "d2l", store, changed).summary.published.empty
    assert "published runs" not in text_of(store)
    assert not (store.folder / "figures/beside_published.png").exists()
