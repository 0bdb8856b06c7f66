"""`python -m ablations.run` as a user types it, on the smoke protocol."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from builders import record_of, smoke_runs
from PIL import Image
from processes import call, command

from ablations import report, run
from ablations.execution.engines import Ended, Event, Started
from ablations.records import Store
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from nin.weights import load, load_data

TINY = ["--protocol", "smoke", "--variants", "0x", "--set", "train.epochs=2"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """A folder in which a study has been run once."""
    folder = tmp_path_factory.mktemp("ran")
    return folder, call("num_1x1", *TINY, cwd=folder)


def contents(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "mlartifacts" not in path.parts}


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_images_may_be_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIN_DATA", str(tmp_path / "root"))
    for i in range(60):
        path = tmp_path / "disk" / "pets" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    words = [
        "num_1x1",
        "--protocol",
        "smoke",
        "--variants",
        "2x",
        "--seeds",
        "1",
        "--results",
        str(tmp_path / "results"),
    ]
    changes = [
        f"data.name=folder:{tmp_path / 'disk/pets'}",
        "data.val_examples=6",
        "data.train_examples=0",
        "data.test_examples=0",
    ]
    assert run.main([*words, *(word for change in changes for word in ("--set", change))]) == 0
    record = next((tmp_path / "results").rglob("runs/*.json")).read_text()
    assert '"folder:pets"' in record
    assert "disk" not in record + (tmp_path / "results/num_1x1/smoke/report.md").read_text()
    with pytest.raises(SystemExit):
        run.main([*words, "--set", f"data.name=folder:{tmp_path / 'gone'}"])
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_ends_with_a_table_and_every_file(ran: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    folder, done = ran
    assert done.returncode == 0, done.stderr
    assert "4 runs, 0 done, 4 to do" in done.stdout
    assert "verdict" in done.stdout
    place = folder / "results" / "num_1x1" / "smoke"
    for name in ("report.md", "report.html", "summary.csv", "runs.csv", "curves.csv"):
        assert (place / name).stat().st_size > 0
    assert {path.suffix for path in (place / "figures").iterdir()} == {".png", ".svg"}
    assert (folder / "results" / "mlflow.db").exists()
    runs = pd.read_csv(place / "runs.csv")
    assert set(runs["variant"]) == {"0x", "2x"}
    assert len(list((place / "runs").glob("*.json"))) == len(runs) == 4


@pytest.mark.slow
def test_a_record_says_where_it_comes_from(ran: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    record = json.loads(next((ran[0] / "results/num_1x1/smoke/runs").glob("*.json")).read_text())
    assert record["run"]["train"]["epochs"] == 2
    assert record["environment"]["torch"]
    assert record["environment"]["device"].startswith("cpu")
    assert len(record["environment"]["commit"].rstrip("+")) in (0, 40)
    assert len(record["data_checksum"]) == 64
    assert record["test_examples"] == 200


@pytest.mark.slow
def test_a_second_call_trains_nothing(ran: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    before = contents(ran[0])
    done = call("num_1x1", *TINY, cwd=ran[0])
    assert done.returncode == 0
    assert "4 runs, 4 done, 0 to do" in done.stdout
    assert "verdict" in done.stdout
    assert contents(ran[0]) == before


@pytest.mark.slow
def test_the_same_run_twice_gives_identical_records(
    ran: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path
) -> None:
    call("num_1x1", *TINY, "--seeds", "1", "--workers", "1", cwd=tmp_path)
    done = call(
        "num_1x1", "--protocol", "smoke", "--against", str(ran[0] / "results"), cwd=tmp_path, module="ablations.report"
    )
    assert done.stdout.count("nothing: identical") == 2, done.stdout + done.stderr


@pytest.mark.slow
def test_a_damaged_record_is_one_line_and_is_made_again(ran: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    path = next((ran[0] / "results/num_1x1/smoke/runs").glob("*.json"))
    whole = path.read_text()
    path.write_text(whole[:100])
    done = call("num_1x1", *TINY, cwd=ran[0])
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if path.name in line and "is damaged" in line]
    assert "4 runs, 3 done, 1 to do" in done.stdout
    assert json.loads(path.read_text())["curve"][-1]["val_loss"] == json.loads(whole)["curve"][-1]["val_loss"]


@pytest.mark.slow
def test_weights_are_kept_only_where_they_are_asked_for(
    ran: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path
) -> None:
    assert not list(ran[0].rglob("*.safetensors"))
    shutil.copytree(ran[0] / "results", tmp_path / "results")
    done = call("num_1x1", *TINY, "--seeds", "1", "--keep-weights", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 finished runs without weights" in done.stderr
    assert "2 runs, 0 done, 2 to do" in done.stdout
    place = tmp_path / "results" / "num_1x1" / "smoke"
    assert f"weights: {Path('results/num_1x1/smoke/weights')}" in done.stdout
    kept = {path.stem: path for path in (place / "weights").iterdir()}
    records = {path.stem: json.loads(path.read_text()) for path in (place / "runs").iterdir()}
    assert kept.keys() == {run_id for run_id, record in records.items() if record["run"]["seed"] == 0}
    earlier = json.loads((ran[0] / "results/num_1x1/smoke/runs" / f"{next(iter(kept))}.json").read_text())
    assert records[earlier["run_id"]]["test_correct"] == earlier["test_correct"]
    for run_id, path in kept.items():
        trained, record = load(path), records[run_id]
        card = trained.card
        assert card.name == f"num_1x1/smoke/{record['run']['variant']}:{record['run']['seed']}"
        assert (card.test_accuracy, card.test_examples) == (record["test_accuracy"], 200)
        assert card.test_interval[0] < card.test_accuracy <= card.test_interval[1]
        test = load_data(card).test
        right = trained.classifier()(test.images).argmax(dim=1) == test.labels
        # One image may lie between two classes: preprocessing inside of the classifier rounds otherwise.
        assert abs(int(right.sum()) - record["test_accuracy"] * 200) <= 1
    again = call("num_1x1", *TINY, "--seeds", "1", "--keep-weights", "--dry-run", cwd=tmp_path)
    assert "0 runs to do" in again.stdout
    assert "trained again" not in again.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_several_studies_share_a_budget_and_go_on_from_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executed: list[Run] = []

    class Toy:
        workers = 1
        device = "cpu"

        def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
            for each in runs:
                yield Started(each)
                time.sleep(0.1 if len(executed) < 5 else 3600)
                executed.append(each)
                yield Ended(each, record_of(each))

    monkeypatch.setattr("ablations.session.make_engine", lambda *_, **__: Toy())
    monkeypatch.setattr("ablations.session.handle_signals", lambda: None)
    monkeypatch.setattr("ablations.session.open_tracker", lambda *_: Tracker())
    studies = ["class_block,label_noise", "--protocol", "smoke", "--results", str(tmp_path)]
    assert run.main([*studies, "--budget", "5s"]) == 0
    assert "time budget used up, 27 of 32 runs remaining; re-run to continue" in capsys.readouterr().out
    assert len(contents(tmp_path)) == 5
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert run.main(studies) == 0
    assert "32 runs, 5 done, 27 to do" in capsys.readouterr().out
    assert len(contents(tmp_path)) == 32
    assert [each.seed for each in executed] == [0] * 16 + [1] * 16
    assert {each.study for each in executed[:16]} == {"class_block", "label_noise"}


@pytest.mark.usefixtures("undrawn")
def test_what_came_of_a_study_is_shown_before_mlflow_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    class Slow(Tracker):
        def close(self, status: str) -> None:
            shown.append(capsys.readouterr().out)

    store = Store(tmp_path, "num_1x1", "smoke")
    for each in smoke_runs(seeds=1, variants=["0x"]):
        store.write(record_of(each))
    monkeypatch.setattr("ablations.session.handle_signals", lambda: None)
    monkeypatch.setattr("ablations.session.open_tracker", lambda *_: Slow())
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--seeds", "1", "--results", str(tmp_path)]
    assert run.main(arguments) == 0
    assert "report:" in shown[0]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, unbuffered: str) -> None:
    """Python writes each line at once, or all of them as it ends; the reader is gone at either time."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes) as closed:
        done = subprocess.run(
            command("--list"),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("where", "status", "lines"), [(">/dev/full", 1, 1), (">&-", 0, 0)])
def test_output_that_goes_nowhere_is_a_line_at_most(
    tmp_path: Path, where: str, status: int, lines: int, unbuffered: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *command("--list")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (status, lines)


def test_a_report_on_nothing_says_how_to_make_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"make them with python -m ablations\.run num_1x1 --protocol quick --results elsewhere$"
    ):
        report.main(["num_1x1", "--results", "elsewhere"])


def test_list_shows_every_study_with_its_question(tmp_path: Path) -> None:
    done = call("--list", cwd=tmp_path)
    for name in ("num_1x1", "heads", "pooling"):
        assert any(line.startswith(name) and line.endswith("?") for line in done.stdout.splitlines())


def test_list_is_broken_between_words_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--list"]) == 0
    words = capsys.readouterr().out.split()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert run.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split() == words


@pytest.mark.slow
def test_an_interrupted_study_keeps_what_is_finished_and_goes_on(tmp_path: Path) -> None:
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--seeds", "3"]
    driver = subprocess.Popen(
        command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if "finished" in line or "collapsed" in line:
            driver.send_signal(signal.SIGINT)
            break
    _, errors = driver.communicate()
    assert driver.returncode == 130
    assert "of 6 runs finished and kept" in errors
    assert "; re-run to continue" in errors
    assert "Traceback" not in errors
    kept = contents(tmp_path)
    assert 1 <= len(kept) < 6
    done = call(*arguments, cwd=tmp_path)
    assert f"6 runs, {len(kept)} done" in done.stdout
    assert kept.items() <= contents(tmp_path).items()
    assert len(contents(tmp_path)) == 6


@pytest.mark.slow
def test_mlflow_out_of_reach_costs_one_line_and_no_result(tmp_path: Path) -> None:
    done = call("num_1x1", *TINY, "--seeds", "1", cwd=tmp_path, MLFLOW_TRACKING_URI="http://user:secret@127.0.0.1:9")
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: MLflow")]
    assert len(warnings) == 1
    assert "secret" not in done.stderr + done.stdout
    assert len(contents(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_line_and_what_was_finished_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine does not let root mount a small disk")
    try:
        done = call("num_1x1", *TINY, "--results", str(disk), cwd=tmp_path)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "No space left on device" in errors[0]
        for record in contents(disk):
            assert json.loads(record.read_text())["status"] in ("finished", "collapsed")
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        kept = contents(disk)
        done = call("num_1x1", *TINY, "--results", str(disk), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert kept.items() <= contents(disk).items()
        assert len(contents(disk)) == 4
    finally:
        subprocess.run(["umount", disk], check=True)
