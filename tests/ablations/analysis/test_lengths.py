"""A verdict goes with its length of training: the longest decides, and how a difference changes stands beside it."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import record_of

from ablations.analysis import lengths
from ablations.analysis.summary import summarise
from ablations.records import RunRecord
from ablations.reporting.answer import answer, grounds
from ablations.reporting.caveats import caveats
from ablations.reporting.files import Report
from ablations.reporting.section_comparisons import length_sections
from ablations.reporting.sections import sections
from ablations.study import Study, Variant

STUDY = Study(
    baseline="2x",
    variants={"2x": Variant(), "0x": Variant(model={"num_1x1": 0}), "3x": Variant(model={"num_1x1": 3})},
    protocols=("digits",),
    name="counts",
    question="How many?",
)
NOISE = (0.001, -0.002, 0.0, 0.002, -0.001)  # of five seeds
EXTRA = {"2x": 0.0, "0x": 0.0005, "3x": 0.0004}  # what seeds of a variant have besides
# Differences to the baseline in points after few and after many images: 0x trains faster, and is no better in the end.
DIFFERENCES = {"2x": (0.0, 0.0), "0x": (3.14, 0.45), "3x": (-2.8, -0.1)}


@pytest.fixture
def records() -> list[RunRecord]:
    return [
        record_of(
            run,
            test_accuracy=(0.83 if run.length == 10_000 else 0.894)
            + DIFFERENCES[run.variant][run.length > 10_000] / 100
            + NOISE[run.seed]
            + EXTRA[run.variant] * ((run.seed + (run.length > 10_000)) % 3 - 1),
            examples_seen=run.length,
        )
        for run in STUDY.expand("digits", len(NOISE))
    ]


def test_the_verdict_is_that_of_the_longest_training(records: list[RunRecord]) -> None:
    summary = summarise(STUDY, "digits", records)
    assert summary.length == 40_000
    differences = dict(zip(summary.variants["variant"], summary.variants["difference"], strict=True))
    assert differences["0x"] == pytest.approx(0.45, abs=0.03)
    assert summary.examples == (40_000, 40_000)


def test_differences_stand_at_every_length_and_what_was_seen_early_does_not_hold(records: list[RunRecord]) -> None:
    table = lengths.by_length(STUDY, records).set_index(["length", "variant"])
    assert list(table.loc[10_000].index) == ["2x", "0x", "3x"]
    assert table.loc[(10_000, "0x"), "verdict"] == "better"
    assert table.loc[(10_000, "3x"), "verdict"] == "worse"
    assert table.loc[(40_000, "3x"), "verdict"] == "equivalent"
    assert table.loc[(10_000, "0x"), "difference"] == pytest.approx(3.14, abs=0.03)


def test_lengths_at_which_runs_had_another_precision_are_told_apart(records: list[RunRecord]) -> None:
    mixed = [
        replace(r, environment={"precision": "float32" if (r.run.variant, r.run.length) == ("0x", 10_000) else "bf16"})
        for r in records
    ]
    table = lengths.by_length(STUDY, mixed).set_index(["length", "variant"])
    assert list(table.index[table["other_precision"]]) == [(10_000, "0x")]


def test_a_change_is_paired_by_seed_and_has_an_interval(records: list[RunRecord]) -> None:
    row = lengths.change(STUDY, records).set_index("variant").loc["0x"]
    assert (row["shortest"], row["longest"], row["n"]) == (10_000, 40_000, 5)
    assert row["difference"] == pytest.approx(0.45 - 3.14, abs=0.05)
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_a_seed_that_lacks_a_length_is_left_out_of_the_change(records: list[RunRecord]) -> None:
    some = [r for r in records if not (r.run.seed == 4 and r.run.variant == "0x" and r.run.length == 40_000)]
    assert lengths.change(STUDY, some).set_index("variant").loc["0x", "n"] == 4
    assert lengths.by_length(STUDY, some).set_index(["length", "variant"]).loc[(40_000, "0x"), "n"] == 4


def test_runs_that_did_not_learn_are_counted_at_each_length(records: list[RunRecord]) -> None:
    some = [
        replace(r, dead_classes=3) if (r.run.variant, r.run.length, r.run.seed) == ("0x", 10_000, 1) else r
        for r in records
    ]
    table = lengths.by_length(STUDY, some).set_index(["length", "variant"])["impaired"]
    assert table[(10_000, "0x")] == 1
    assert table.sum() == 1
    (part,) = (part for part in length_sections(STUDY, summarise(STUDY, "digits", some)) if "after 10k" in part)
    assert part.count("(1 of 5 did not learn)") == 1


def test_a_longest_training_without_a_variant_to_compare_decides_nothing_yet(records: list[RunRecord]) -> None:
    some = [record for record in records if record.run.length == 10_000 or record.run.variant == "2x"]
    assert lengths.of_verdicts(STUDY, some) == 10_000


def test_single_seeds_of_a_longer_training_do_not_take_the_answer_away(records: list[RunRecord]) -> None:
    some = [record for record in records if record.run.length == 10_000 or record.run.seed == 0]
    assert lengths.of_verdicts(STUDY, some) == 10_000
    assert lengths.of_verdicts(STUDY, [record for record in some if record.run.seed == 0]) == 40_000


def test_a_change_goes_to_the_length_of_the_verdicts(records: list[RunRecord]) -> None:
    """A longer training of the baseline alone does not take it away."""
    longer = [
        replace(record, run=replace(record.run, train=replace(record.run.train, examples=160_000)))
        for record in records
        if record.run.variant == "2x" and record.run.length == 40_000
    ]
    assert lengths.change(STUDY, records + longer).equals(lengths.change(STUDY, records))


def test_a_control_alone_at_the_longest_length_does_not_take_the_answer_away(records: list[RunRecord]) -> None:
    study = replace(STUDY, variants={**STUDY.variants, "3x": replace(STUDY.variants["3x"], role="control")})
    some = [record for record in records if record.run.length == 10_000 or record.run.variant != "0x"]
    assert lengths.of_verdicts(study, some) == 10_000
    assert lengths.of_verdicts(study, [record for record in some if record.run.variant != "0x"]) == 40_000


def test_one_length_has_no_table_of_lengths(records: list[RunRecord]) -> None:
    short = [record for record in records if record.run.length == 10_000]
    assert not len(lengths.by_length(STUDY, short))
    assert not len(lengths.change(STUDY, short))


def test_the_lead_sentence_and_the_report_say_after_how_many_images(records: list[RunRecord]) -> None:
    summary = summarise(STUDY, "digits", records)
    words = answer(STUDY, summary), grounds(STUDY, "digits", summary)
    assert words[0].startswith("**After 40,000 training images: ")
    report = Report(Path(), *words, caveats(STUDY, "digits", summary), summary, records, [])
    parts = sections(STUDY, "digits", report, [("difference_against_images", "x")], (), ())
    assert parts[1:3] == list(words)
    assert "is not the same after 10k as after 40k training images" in parts[3]
    assert parts[4].startswith("![")
    (table,) = (part for part in parts if "| after 10k" in part)
    assert "after 40k" in table
    assert "+3.13" in table
