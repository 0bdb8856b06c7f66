"""Results belong to the data that they were trained on: never taken for those of changed data, and never averaged with them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import record_of, smoke_runs
from PIL import Image
from processes import call
from rich.console import Console

from ablations import report, run
from ablations.catalog import load_study
from ablations.execution.data import of_other_data, prepare
from ablations.execution.engines import Ended, Event, Started
from ablations.records import Store
from ablations.reporting.files import load_covered_records
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from nin.data import load
from nin.images import Decoded, decode
from nin.spec import DataSpec

FOLDER = ["--set", "data.name=folder:pets", "--set", "data.train_examples=0", "--set", "data.test_examples=0"]
ARGUMENTS = ["num_1x1", "--protocol", "smoke", "--variants", "0x", *FOLDER, "--set", "data.val_examples=4"]


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a data root of its own."""
    monkeypatch.setenv("NIN_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "pets"
    for part, count in (("train", 12), ("test", 4)):
        for k in range(count):
            path = folder / part / ("cat", "dog")[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), (10 * k + len(part)) % 256).save(path)
    return folder


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> list[Run]:
    """The runs that were executed, by an engine that trains nothing."""
    runs: list[Run] = []

    class Toy:
        workers = 1
        device = "cpu"

        def execute(self, asked: Iterable[Run]) -> Iterator[Event]:
            for each in asked:
                yield Started(each)
                runs.append(each)
                started = f"2026-01-01T00:00:{len(runs):02}+00:00"
                yield Ended(each, record_of(each, data_checksum=load(each.data).checksum, started_at=started))

    monkeypatch.setattr("ablations.session.make_engine", lambda *_, **__: Toy())
    monkeypatch.setattr("ablations.session.handle_signals", lambda: None)
    monkeypatch.setattr("ablations.session.open_tracker", lambda *_: Tracker())
    return runs


def relabel(pets: Path) -> None:
    (pets / "train" / "cat" / "0.png").rename(pets / "train" / "dog" / "0.png")


def test_repaired_labels_are_trained_on_and_old_results_kept_aside(
    pets: Path, tmp_path: Path, executed: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*ARGUMENTS, "--results", str(tmp_path)]
    assert run.main(arguments) == 0
    assert "folder:pets: 8/4/4 images for training/validation/test" in capsys.readouterr().out
    assert run.main(arguments) == 0
    assert "4 runs, 4 done, 0 to do" in capsys.readouterr().out
    store = Store(tmp_path, "num_1x1", "smoke")
    before = {path.name: path.read_bytes() for path in store.runs_folder.glob("*.json")}

    relabel(pets)
    assert run.main([*arguments, "--dry-run"]) == 0
    assert {path.name: path.read_bytes() for path in store.runs_folder.glob("*.json")} == before
    capsys.readouterr()
    assert run.main(arguments) == 0
    shown = capsys.readouterr()
    assert "4 runs, 0 done, 4 to do" in shown.out
    (line,) = (line for line in shown.err.splitlines() if "used older" in line)
    assert line == (
        "warning: 4 finished runs of num_1x1 used older images or labels of folder:pets: trained again "
        f"(old records: {store.superseded_folder})"
    )
    assert len(executed) == 8
    assert {path.name: path.read_bytes() for path in store.superseded_folder.glob("*/*.json")} == before
    assert run.main(arguments) == 0
    assert "4 runs, 4 done, 0 to do" in capsys.readouterr().out


def test_pixels_that_another_decoder_makes_of_the_same_files_are_other_data(
    pets: Path, tmp_path: Path, executed: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*ARGUMENTS, "--results", str(tmp_path / "r"), "--seeds", "1"]
    assert run.main(arguments) == 0
    num_runs = len(executed)
    assert run.main(arguments) == 0
    assert len(executed) == num_runs  # the same library, the same pixels

    def brighter(*arguments: Any) -> Decoded:
        pixels, remarks = decode(*arguments)
        return Decoded(np.minimum(pixels, 254) + 1, remarks)

    monkeypatch.setattr("nin.sources.decode", brighter)
    assert run.main(arguments) == 0
    assert len(executed) == 2 * num_runs
    assert "used older images or labels of folder:pets: trained again" in capsys.readouterr().err


def test_a_mean_is_never_taken_over_two_data_sets(
    pets: Path, tmp_path: Path, executed: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Another variant is trained after the change, and the first is not asked for again; then `report` comes."""
    arguments = ["num_1x1", "--protocol", "smoke", *FOLDER, "--set", "data.val_examples=4", "--results", str(tmp_path)]
    assert run.main([*arguments, "--variants", "0x"]) == 0
    relabel(pets)
    assert run.main([*arguments, "--variants", "1x"]) == 0
    capsys.readouterr()
    options = [*arguments[:3], *FOLDER, "--set", "data.val_examples=4", "--results", str(tmp_path)]
    assert report.main(options) == 0
    assert "2 runs in" in (error := capsys.readouterr().err)
    assert "used older images or labels of folder:pets and are not covered" in error
    text = (tmp_path / "num_1x1" / "smoke" / "report.md").read_text()
    assert "are not covered" in text
    rows = (tmp_path / "num_1x1" / "smoke" / "runs.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[2] for row in rows) == ["1x", "1x", "2x", "2x"]


def test_records_of_one_data_set_are_all_covered_and_of_two_the_newest(tmp_path: Path) -> None:
    store, study = Store(tmp_path, "num_1x1", "smoke"), load_study("num_1x1")
    for k, each in enumerate(smoke_runs()):
        store.write(record_of(each, started_at=f"2026-01-01T00:00:{k:02}+00:00"))
    everything = load_covered_records(study, "smoke", store)
    assert (len(everything.records), everything.notes, everything.num_others) == (len(smoke_runs()), [], 0)
    store.write(record_of(smoke_runs()[0], data_checksum="1" * 64, started_at="2025-12-31T00:00:00+00:00"))
    without_old = load_covered_records(study, "smoke", store)
    assert smoke_runs()[0].run_id not in {record.run_id for record in without_old.records}
    assert len(without_old.records) == len(smoke_runs()) - 1
    assert len(without_old.notes) == 1


def test_what_cannot_be_at_one_length_is_refused_before_the_first_run() -> None:
    short = smoke_runs()[0]
    long = replace(short, train=replace(short.train, examples=1_000_000_000, eval_every=1))
    with pytest.raises(ValueError, match="evaluations"):
        prepare([short, long], Console(quiet=True))


def test_data_that_is_not_there_any_more_leaves_results_as_they_are(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = DataSpec(name="folder:pets", val_examples=4)
    record = record_of(replace(smoke_runs()[0], data=spec), data_checksum=load(spec).checksum)
    assert of_other_data([record]) == []
    relabel(pets)
    assert of_other_data([record]) == [record]
    pets.rename(pets.with_name("elsewhere"))
    assert of_other_data([record]) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot check whether existing results match folder:pets as it is now: there is no folder" in line


def test_a_record_that_another_driver_has_made_since_is_not_set_aside(tmp_path: Path) -> None:
    store, (each, *_) = Store(tmp_path, "num_1x1", "smoke"), smoke_runs()
    store.write(record_of(each, data_checksum="2" * 64))
    store.set_aside(record_of(each, data_checksum="1" * 64))
    store.set_aside(record_of(each, data_checksum="2" * 64, started_at="2025-12-31T00:00:00+00:00"))
    assert store.has_result(each)
    store.set_aside(record_of(each, data_checksum="2" * 64))
    assert not store.has_result(each)
    assert [path.name for path in store.superseded_folder.iterdir()] == [f"{'2' * 12}-float32"]


def test_weights_go_aside_with_their_record(tmp_path: Path) -> None:
    store, (each, *_) = Store(tmp_path, "num_1x1", "smoke", keep_weights=True), smoke_runs()
    store.write(record_of(each), b"weights")
    store.set_aside(record_of(each))
    assert not store.has_weights(each.run_id)
    assert sorted(path.suffix for path in store.superseded_folder.glob("*/*")) == [".json", ".safetensors"]


def test_a_result_in_another_precision_leaves_the_weights_to_the_new_one(tmp_path: Path) -> None:
    store, (each, *_) = Store(tmp_path, "num_1x1", "smoke", keep_weights=True), smoke_runs()
    store.write(record_of(each, environment={"precision": "float32"}), b"theirs")
    store.write(record_of(each, environment={"precision": "bf16"}), b"ours")
    assert [path.read_bytes() for path in store.weights_folder.iterdir()] == [b"ours"]
    assert [path.read_bytes() for path in store.superseded_folder.glob("*/*.safetensors")] == [b"theirs"]


def test_a_batch_beyond_the_data_is_said_and_one_of_a_single_image_refused(
    pets: Path, tmp_path: Path, executed: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*ARGUMENTS, "--set", "train.batch_size=4000", "--results", str(tmp_path / "a")]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "batch_size" in line)
    assert line == (
        "warning: train.batch_size=4,000 is more than the 8 training images of folder:pets: every step takes all of them"
    )
    options = [
        "--set",
        "model.activation=batchnorm-relu",
        "--set",
        "train.batch_size=7",
        "--results",
        str(tmp_path / "b"),
    ]
    for also in ([], ["--dry-run"]):
        with pytest.raises(ValueError, match="batch_size=7 leaves a batch of one of 8 training images"):
            run.main([*ARGUMENTS, *options, *also])
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_command_that_is_called_again_trains_on_what_is_there_now(pets: Path, tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, "--seeds", "1", "--set", "train.epochs=1"]
    first = call(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    relabel(pets)
    second = call(*arguments, cwd=tmp_path)
    assert "2 runs, 0 done, 2 to do" in second.stdout
    assert second.stderr.count("used older images or labels") == 1
    runs = tmp_path / "results" / "num_1x1" / "smoke" / "runs"
    kept = tmp_path / "results" / "num_1x1" / "smoke" / "superseded"
    checksums = [
        {json.loads(path.read_text())["data_checksum"] for path in folder}
        for folder in (runs.glob("*.json"), kept.glob("*/*.json"))
    ]
    assert [len(each) for each in checksums] == [1, 1]
    assert checksums[0] != checksums[1]
