"""What is known of a run survives being written, read, torn and edited."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import record_of, smoke_runs

from ablations.catalog import load_study
from ablations.records import Store, curves_frame, runs_frame
from nin.files import write_atomically

RUN = smoke_runs()[0]

RUNS_COLUMNS = {
    *("study", "protocol", "variant", "seed", "run_id", "status", "params", "params_trunk", "params_head", "gflops"),
    *("train_accuracy", "val_accuracy", "test_accuracy", "test_loss", "generalization_gap", "dead_classes"),
    *("examples_seen", "examples_to_target", "train_seconds", "device"),
}
CURVES_COLUMNS = {
    *("run_id", "variant", "seed", "examples", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    "seconds",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, RUN.study, RUN.protocol)


def test_a_record_is_read_back_as_it_was_written(store: Store) -> None:
    record = record_of(RUN)
    store.write(record)
    assert store.read(RUN.run_id) == record


def test_a_record_holds_the_resolved_run_as_json(store: Store) -> None:
    store.write(record_of(RUN))
    written = json.loads((store.runs_folder / f"{RUN.run_id}.json").read_text())
    assert written["run"]["model"]["num_1x1"] == RUN.model.num_1x1
    assert written["run"]["train"]["lr"] == RUN.train.lr


def test_what_is_not_a_number_survives(store: Store) -> None:
    store.write(record_of(RUN, status="diverged", test_loss=math.nan))
    record = store.read(RUN.run_id)
    assert record is not None
    assert math.isnan(record.test_loss)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
def test_correctness_per_example_is_packed_without_loss(count: int) -> None:
    from ablations.records import pack_correctness

    correct = np.random.default_rng(0).random(count) < 0.5
    record = record_of(RUN, test_correct=pack_correctness(correct), test_examples=count)
    assert (record.test_correctness() == correct).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "\x00\xff",
        lambda text: "[]",
        lambda text: text.replace('"status"', '"state"'),
        lambda text: text.replace('"seed": 0', '"seed": 7'),
        lambda text: text.replace('"test_accuracy": 0.8', '"test_accuracy": "high"'),
        lambda text: text.replace('"test_accuracy": 0.8', '"test_accuracy": NaN'),
        lambda text: text.replace('"test_accuracy": 0.8', '"test_accuracy": 0.9'),
        lambda text: text.replace('"examples": 512', '"examples": 256'),
        lambda text: text.replace('"epoch": 0.5', '"epoch": 0.0'),
    ],
)
def test_a_damaged_record_is_one_line_and_leaves_the_others(store: Store, damage: object) -> None:
    first, second = smoke_runs(seeds=1)[:2]
    store.write(record_of(first))
    store.write(record_of(second))
    path = store.runs_folder / f"{first.run_id}.json"
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    records, damaged = store.read_all([first, second])
    assert list(records) == [second.run_id]
    assert len(damaged) == 1
    assert str(path) in damaged[0]
    assert "\n" not in damaged[0]


def test_a_variant_that_was_renamed_keeps_its_runs(store: Store) -> None:
    store.write(record_of(RUN))
    renamed = replace(RUN, variant="none", role="exploratory")
    records, _ = store.read_all([renamed])
    assert records[RUN.run_id].run == renamed


def test_failed_is_no_result_and_the_other_outcomes_are() -> None:
    assert [record_of(RUN, status=s).is_result for s in ("finished", "diverged", "collapsed", "failed")] == [1, 1, 1, 0]


def test_time_to_target_is_the_first_evaluation_at_or_above_it() -> None:
    record = record_of(RUN, test_accuracy=0.8)  # 0.2, 0.4, 0.6, 0.8 after 256, 512, 768, 1024 examples
    assert [record.examples_to_target(target) for target in (0.2, 0.41, 0.8, 0.81)] == [256, 768, 1024, math.inf]


def test_tables_have_the_promised_columns_and_a_row_per_run_and_evaluation() -> None:
    records = [record_of(run) for run in smoke_runs()]
    runs, curves = runs_frame(records, target=0.5), curves_frame(records)
    assert set(runs.columns) >= RUNS_COLUMNS
    assert set(curves.columns) >= CURVES_COLUMNS
    assert (len(runs), len(curves)) == (len(records), 4 * len(records))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*file"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_trial_that_collapsed_is_a_sound_record_although_it_has_read_no_test_set(tmp_path: Path) -> None:
    run = replace(smoke_runs()[0], trial=3)
    store = Store(tmp_path, run.study, run.protocol)
    store.write(replace(record_of(run, status="collapsed"), test_accuracy=math.nan))
    read = store.read(run.run_id)
    assert read is not None
    assert (read.status, read.run.trial) == ("collapsed", 3)


def test_a_result_in_another_precision_is_set_aside_before_it_is_replaced(tmp_path: Path) -> None:
    auto, bf16 = (
        load_study("num_1x1").expand("quick", 1, ["0x"], [f"train.precision={precision}"])[0]
        for precision in ("auto", "bf16")
    )
    store = Store(tmp_path, "num_1x1", "quick")
    store.write(record_of(auto, environment={"precision": "float32"}))
    first = (store.runs_folder / f"{auto.run_id}.json").read_bytes()
    store.write(record_of(bf16, environment={"precision": "bf16"}))
    (aside,) = store.superseded_folder.glob(f"*-float32/{auto.run_id}.json")
    assert aside.read_bytes() == first
    store.write(record_of(bf16, environment={"precision": "bf16"}))
    assert len(list(store.superseded_folder.glob("*/*"))) == 1


def test_what_killed_writes_have_left_is_removed_once_it_is_old(store: Store) -> None:
    store.write(record_of(RUN))
    (record,) = store.runs_folder.iterdir()
    old, young = (record.with_name(f".{record.name}.{digit * 32}") for digit in "ab")
    for file in (old, young):
        file.touch()
    os.utime(old, (0, 0))
    store.drop_leftovers()
    assert set(store.runs_folder.iterdir()) == {record, young}


def test_a_record_says_in_which_precision_it_was_computed() -> None:
    """Those from before it was kept have what protocols asked for then, also where a run now asks for auto."""
    auto, float32 = (
        load_study("num_1x1").expand("quick", 1, ["0x"], [f"train.precision={precision}"])[0]
        for precision in ("auto", "float32")
    )
    assert record_of(auto).precision == "bf16"
    assert record_of(float32).precision == "float32"
    assert record_of(auto, environment={"precision": "float16"}).precision == "float16"
