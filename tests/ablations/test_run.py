"""`python -m ablations.run` as a user types it, on the smoke protocol."""

import json
import math
import os
import re
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

from ablations import run
from ablations.cli import seconds
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


def test_a_record_says_where_it_comes_from(ran: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    record = json.loads(next((ran[0] / "results/num_1x1/smoke/runs").glob("*.json")).read_text())
    assert record["run"]["train"]["epochs"] == 2
    assert record["environment"]["torch"]
    assert record["environment"]["device"].startswith("cpu")
    assert len(record["environment"]["commit"].rstrip("+")) in (0, 40)
    assert len(record["data_checksum"]) == 64
    assert record["test_examples"] == 200


def test_a_second_call_trains_nothing_and_is_quick(ran: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    before = contents(ran[0])
    started = time.monotonic()
    done = call("num_1x1", *TINY, cwd=ran[0])
    assert done.returncode == 0
    assert "4 runs, 4 done, 0 to do" in done.stdout
    assert "verdict" in done.stdout
    assert contents(ran[0]) == before
    assert time.monotonic() - started < 60  # not a benchmark: a training would not show here, a hang would


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_1x1", "--all"], "name studies or give --all, not both"),
        ([], "name a study, or give --all"),
        (["num_1x1", "--protocol", "smoke", "--results", "what?"], "choose another folder"),
        (["num_1x1,heads", "--variants", "2x"], "several studies takes roles alone"),
        (["num_1x1-tuned"], "it is num_1x1 with the option --tuned"),
        (["num_1x1", "--budget", "25"], "must be a time such as"),
        (["num_1x1", "--protocol", "smok"], "nearest is 'smoke'"),
        (["num_1x1", "--protocol", "smoke", "--variants", "5x"], "choose one of 0x, 1x"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.lr=fast"], "must be float"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.momentun=1"], "nearest is 'train.momentum'"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.name=syntetic"], "nearest is 'synthetic'"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.head=nni"], "nearest is 'nin'"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.pooling=maxx"], "nearest is 'max'"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.optimizer=sdg"], "nearest is 'sgd'"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.augment=flop"], "nearest is 'flip'"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.layout=d2l"], "too small"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.train_examples=5000"], "the data set has 1,200"),
        (["num_1x1", "--protocol", "smoke", "--seeds", "0"], "must be 1 or more"),
        (["num_1x1", "--protocol", "smoke", "--seeds", "99999999999"], "at most 10000"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.image_size=99999999999"], "at most 4096"),
        (["num_1x1", "--protocol", "smoke", "--variants", ","], "names no variant"),
        ([",", "--protocol", "smoke"], "names no study"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.width=1e30"], "at most 64"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.lr=1e999"], "finite"),
        (["num_1x1", "--protocol", "smoke", "--workers", "none"], "must be 1 or more, and a whole number"),
        (["num_1x1", "--protocol", "smoke", "--retries", "some"], "some: must be 0 or more, and a whole number"),
        (["num_1x1", "--protocol", "smoke", "--gpu-share", "half"], "half: must be above 0 and at most 1"),
        (["num_1x1", "--protocol", "smoke", "--gpu-share", "0.5"], "gpu_share=0.5: is Ray's"),
        (["num_1x1", "--protocol", "smoke", "--results", "/proc/nowhere"], "cannot write there"),
    ],
)
def test_a_wrong_request_is_one_line_and_nothing_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        run.main(arguments)
        raise AssertionError("nothing was refused")
    except ValueError as error:
        said = str(error)
    except SystemExit:  # argparse's
        said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_1x"], "nearest is 'num_1x1'"),
        (["num_1x1", "--protocol", "smoke", "--device", "cuda"], "sees no CUDA device"),
    ],
)
def test_a_wrong_request_is_one_line_on_stderr_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = call(*arguments, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not any(tmp_path.iterdir())


MINE = """
\"\"\"Does dropout help?\"\"\"

from ablations.study import Study, Variant

STUDY = Study("0.5", {str(p): Variant(model={"dropout": p}) for p in (0.0, 0.5)})
"""

REFUSED = {
    "train.lr=nan": "lr=",
    "train.lr=-0.1": "lr=-0.1 must be greater than 0",
    "train.lr=1e400": "finite",
    "train.epochs=0": "epochs=0 must be 1 or more",
    "train.epochs=10000000000000": "20,000,000,000,000 evaluations: at most 100,000 can be kept",
    "train.examples=99999999999999999999": "evaluations: at most 100,000 can be kept",
    "data.image_size=1": "1x1 px are too small",
    "data.image_size=-1": "image_size=-1 must be",
    "data.name=folder:nowhere": "there is no folder",
    "model.num_1x1=3": "--set model.num_1x1: is what the study is about; variants '0x' and '1x' are the same run",
}


def test_two_files_of_one_name_are_refused_and_a_name_given_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINE)
    files = [str(tmp_path / folder / "mine.py") for folder in ("a", "b")]
    with pytest.raises(ValueError, match="2 of these studies are called 'mine'"):
        run.main([",".join(files), "--protocol", "smoke", "--results", str(tmp_path / "r"), "--dry-run"])
    asked = ["--protocol", "smoke", "--variants", "baseline", "--results", str(tmp_path / "r"), "--dry-run"]
    assert run.main(["num_1x1,num_1x1", *asked]) == 0
    assert capsys.readouterr().out.count("How many 1x1 convolutions") == 1


def test_a_dry_run_refuses_other_looks_than_were_declared(tmp_path: Path) -> None:
    Store(tmp_path, "num_1x1", "smoke").declare_looks((2, 3))
    asked = ["num_1x1", "--protocol", "smoke", "--results", str(tmp_path), "--until-decided", "--max-seeds", "6"]
    with pytest.raises(ValueError, match="looks at 2, 3 seeds were declared"):
        run.main([*asked, "--dry-run"])


def test_times_beyond_the_systems_timers_are_without_end() -> None:
    assert seconds("600h") == 600 * 3600
    assert seconds("1e9h") == math.inf


@pytest.mark.parametrize("override", REFUSED)
@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_what_cannot_be_is_refused_before_the_first_run_and_by_a_dry_run_too(
    override: str, also: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIN_DATA", str(tmp_path / "data"))
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "2x", "--seeds", "1", "--results", str(tmp_path / "r")]
    with pytest.raises(ValueError, match=re.escape(REFUSED[override])) as caught:
        run.main([*arguments, "--set", override, *also])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "asked",
    [
        ["--workers", "1000000"],
        ["--threads", "1000000"],
        ["--threads", str(10**30)],
        ["--until-decided", "--seeds", "2", "--max-seeds", "1000000"],
    ],
    ids=" ".join,
)
def test_more_than_there_can_be_is_refused_and_not_tried(asked: list[str], also: list[str], tmp_path: Path) -> None:
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "2x", "--results", str(tmp_path / "r")]
    with pytest.raises(ValueError, match=rf"{asked[-2]} {asked[-1]}: must be .*at most \d+"):
        run.main([*arguments, *asked, *also])
    assert not (tmp_path / "r").exists()


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


def test_a_report_on_nothing_says_how_to_make_something(tmp_path: Path) -> None:
    done = call("num_1x1", "--results", "elsewhere", cwd=tmp_path, module="ablations.report")
    assert done.returncode == 2
    assert "make them with python -m ablations.run num_1x1 --protocol quick --results elsewhere" in done.stderr
    assert done.stderr.count("\n") == 1


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


def test_dry_run_says_what_later_looks_may_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--results", str(tmp_path), "--dry-run"]
    assert run.main([*asked, "--until-decided", "--max-seeds", "6"]) == 0
    line = " ".join(capsys.readouterr().out.split()).rpartition("what is undecided after 2 seeds ")[2]
    assert line.endswith("at most 8 runs more"), "two networks, seeds 2 to 5"
    assert run.main([*asked, "--until-decided", "--max-seeds", "2"]) == 0
    assert "looked at again" not in capsys.readouterr().out, "a single look"
    assert run.main(["num_1x1,heads", *asked[1:3], "--variants", "baseline", *asked[5:]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 more runs shared with a study above" in shown
    assert "2 runs to do, less than a minute with" in shown
    assert shown.count("These variants have no declared comparison.") == 2


def test_dry_run_shows_sizes_and_time_and_writes_nothing(tmp_path: Path) -> None:
    done = call("num_1x1", *TINY, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for wanted in (
        "0x",
        "baseline",
        "GFLOP/image",
        "4 runs to do, less than a minute",
        "With 2 seeds and 1 comparison, ",
    ):
        assert wanted in done.stdout
    assert not any(tmp_path.iterdir())


def test_dry_run_says_in_one_line_what_is_too_large_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> float:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("ablations.execution.worker.probe", out_of_memory)
    with pytest.raises(ValueError, match="variant '2x' cannot be trained here: can't allocate memory"):
        run.main(["num_1x1", *TINY, "--dry-run", "--results", str(tmp_path)])


def test_dry_run_of_a_forced_precision_says_that_it_is_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nin.precision.native_formats", lambda device: frozenset())
    monkeypatch.setattr("ablations.execution.worker.probe", lambda *_: 1.0)
    arguments = ["num_1x1", *TINY, "--dry-run", "--results", str(tmp_path), "--set"]
    for precision, said in (("bf16", "no instructions for bf16"), ("float32", "precision float32, as asked for")):
        assert run.main([*arguments, f"train.precision={precision}"]) == 0
        out = capsys.readouterr().out
        assert said in out
        assert "auto is" not in out


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
