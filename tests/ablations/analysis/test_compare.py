"""Two folders of results, laid side by side run by run."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from builders import filled, plain, record_of

from ablations.analysis.compare import compare_folders
from ablations.catalog import load_study
from ablations.records import RunRecord, Store
from ablations.report import main
from ablations.runs import Run

NUM_1X1 = load_study("num_1x1")


def test_two_folders_are_compared_run_by_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "a", plain, seeds=1)
    theirs = filled(tmp_path / "b", plain, seeds=1)
    first, second, third = NUM_1X1.expand("smoke", 1)[:3]
    theirs.write(record_of(first, test_accuracy=0.123))
    (theirs.runs_folder / f"{second.run_id}.json").unlink()
    changed = next(
        run for run in NUM_1X1.expand("smoke", 1, overrides=["train.lr=0.5"]) if run.variant == second.variant
    )
    theirs.write(plain(changed))
    (theirs.runs_folder / f"{third.run_id}.json").unlink()
    arguments = ["num_1x1", "--protocol", "smoke", "--results", str(tmp_path / "a"), "--against", str(tmp_path / "b")]
    assert main(arguments) == 0
    lines = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "test_accuracy" in lines[first.label]
    assert "train.lr 0.005 / 0.5" in lines[second.label]
    assert "only here" in lines[third.label]
    assert "nothing: identical" in lines["4x seed 0"]


def against(capsys: pytest.CaptureFixture[str], here: Path, there: Path) -> list[list[str]]:
    """The cells of the table of two folders, row by row."""
    assert main(["num_1x1", "--protocol", "smoke", "--results", str(here), "--against", str(there)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def test_a_folder_without_runs_is_an_error_and_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path / "a", plain, seeds=1)
    for here, there in (("a", "nowhere"), ("nowhere", "a")):
        with pytest.raises(ValueError, match=r"no runs to compare in .*nowhere"):
            against(capsys, tmp_path / here, tmp_path / there)


def test_every_record_of_both_folders_is_in_the_table_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "a", plain, seeds=1)
    theirs = filled(tmp_path / "b", plain, seeds=1)
    first = NUM_1X1.expand("smoke", 1)[0]
    for overrides in (["train.lr=0.5"], ["train.lr=0.25"]):
        again = NUM_1X1.expand("smoke", 1, overrides=overrides)[0]
        theirs.write(plain(again))
    broken = theirs.runs_folder / f"{'0' * 16}.json"
    broken.write_text("{")
    rows = [row for row in against(capsys, tmp_path / "a", tmp_path / "b") if row[0]]  # others are wrapped text
    assert len(rows) == len(theirs.run_ids())
    assert [row[1] for row in rows if row[0] == first.label] == ["same run", "only there", "only there"]
    assert [row[0] for row in rows if row[1] == "unreadable there"] == ["0" * 16]


def test_a_diverged_run_is_identical_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def diverged(run: Run) -> RunRecord:
        record = plain(run)
        curve = [replace(record.curve[0], train_loss=math.nan, seconds=float(len(str(tmp_path))))]
        return replace(record, status="diverged", test_loss=math.nan, curve=curve)

    for folder in ("a", "b"):
        filled(tmp_path / folder, diverged, seeds=1)
    assert {row[-1] for row in against(capsys, tmp_path / "a", tmp_path / "b")} == {"nothing: identical"}


def test_runs_are_listed_by_variant_and_then_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        store = Store(tmp_path / folder, "num_1x1", "smoke")
        for run in NUM_1X1.expand("smoke", 11, ["1x"]):
            store.write(plain(run))
    labels = [row[0] for row in against(capsys, tmp_path / "a", tmp_path / "b")]
    assert labels == [f"{variant} seed {seed}" for variant in ("1x", "2x") for seed in range(11)]


def test_runs_of_some_settings_alone_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out --set"):
        main(["num_1x1", "--against", str(tmp_path), "--set", "train.lr=0.5"])


def test_runs_of_other_added_code_say_so(tmp_path: Path) -> None:
    for name, code in (("a", "d1"), ("b", "d2")):
        filled(tmp_path / name, lambda run, code=code: record_of(replace(run, code=code)), seeds=1)
    rows, _ = compare_folders(*(Store(tmp_path / name, "num_1x1", "smoke") for name in ("a", "b")))
    assert {row["differs in"] for row in rows} == {"added code"}


def test_runs_that_differ_say_in_what_their_machines_and_versions_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {"device": "cpu (A, 2 cores, bf16)", "torch": "2.12.0", "threads": "1", "host": "one"}
    theirs = {**ours, "device": "cpu (B, 8 cores)", "torch": "2.13.0", "host": "other"}
    for name, environment, accuracy in (("a", ours, 0.8), ("b", theirs, 0.7), ("c", {**ours, "host": "c"}, 0.7)):
        filled(
            tmp_path / name,
            lambda run, used=environment, seen=accuracy: record_of(run, test_accuracy=seen, environment=used),
            seeds=1,
        )
    rows, _ = compare_folders(*(Store(tmp_path / name, "num_1x1", "smoke") for name in ("a", "b")))
    assert all(str(row["differs in"]).endswith("(another processor, torch)") for row in rows)
    assert (
        main(["num_1x1", "--protocol", "smoke", "--results", str(tmp_path / "a"), "--against", str(tmp_path / "b")])
        == 0
    )
    said = capsys.readouterr().out
    num_runs = len(NUM_1X1.expand("smoke", 1))
    assert f"processor: cpu (A, 2 cores, bf16) / cpu (B, 8 cores) ({num_runs} runs)" in said
    assert f"torch: 2.12.0 / 2.13.0 ({num_runs} runs)" in said
    assert "host" not in said
    rows, _ = compare_folders(*(Store(tmp_path / name, "num_1x1", "smoke") for name in ("a", "c")))
    assert all(str(row["differs in"]).endswith("(same processor and versions)") for row in rows)


def test_a_run_in_another_precision_is_named_and_not_called_different(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, precision in (("a", "float32"), ("b", "bf16")):
        filled(tmp_path / name, lambda run, used=precision: record_of(run, environment={"precision": used}), seeds=1)
    rows = against(capsys, tmp_path / "a", tmp_path / "b")
    assert {row[1] for row in rows} == {"same run, another precision"}
    assert {row[4] for row in rows} == {"precision float32 / bf16"}
