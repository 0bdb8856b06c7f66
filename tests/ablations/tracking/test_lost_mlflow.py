"""MLflow away, slow, locked or shared, and drivers that die: a line, nothing left running, and all made up for once."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from builders import record_of
from mlflow import MlflowClient
from tracked_studies import CURVES, FINALS, LEVELS, STUDY, Tracked, follow, server, until

from ablations.records import RunRecord
from ablations.tracking import background
from ablations.tracking.mlflow_tree import open_tracker
from ablations.tracking.tracker import Tracker


@pytest.mark.parametrize(("num_answered", "lasting"), [(0, False), (0, True), (4, True)])
@pytest.mark.parametrize("request_name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
def test_an_outage_is_one_line_and_is_made_up_for_once(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, request_name: str, num_answered: int, lasting: bool
) -> None:
    records = [record_of(run) for run in tracked.runs()]
    answer = getattr(MlflowClient, request_name)
    requests: list[str] = []

    def down(*args: object, **kwargs: object) -> object:
        requests.append(request_name)
        if len(requests) == num_answered + 1 or (lasting and len(requests) > num_answered):
            raise OSError("no route to host")
        return answer(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, request_name, down)
    tracked.track(records)
    monkeypatch.setattr(MlflowClient, request_name, answer)
    if lasting:
        tracked.track(records)
    (line,) = tracked.warnings
    assert "no route to host" in line
    tracked.warnings.clear()
    seeds = tracked.logged("seed")
    assert sorted(run.data.tags["run_id"] for run in seeds) == sorted(record.run_id for record in records)
    for run in seeds:
        assert run.info.status == "FINISHED"
        assert run.data.metrics.keys() == {*CURVES, *FINALS}
        assert [step for step, _ in tracked.curve(run, "val/loss")] == [256, 512, 768, 1024]
    for run in tracked.logged("variant"):
        assert run.info.status == "FINISHED"
        assert [step for step, _ in tracked.curve(run, "val/loss")] == [256, 512, 768, 1024]


def test_a_server_out_of_reach_is_one_line_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    study, lines = STUDY, []
    record = record_of(study.expand("smoke")[0])
    tracker = open_tracker(tmp_path, study, "smoke", lines.append)
    follow(tracker, record)
    tracker.sync([record])
    tracker.add_files(tmp_path)
    tracker.close("FINISHED")
    (line,) = lines
    assert line.startswith("MLflow at http://***@127.0.0.1:9 cannot be used")
    assert "secret" not in line
    assert tracker.links() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("uri", ["postgresql://me:secret@127.0.0.1:9/mlflow", "sqlite:///{folder}"])
def test_a_database_that_is_not_there_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], uri: str
) -> None:
    if uri.startswith("postgresql"):
        pytest.importorskip("psycopg")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    lines: list[str] = []
    tracker = open_tracker(tmp_path, STUDY, "smoke", lines.append)
    started = time.monotonic()
    tracker.sync([])
    tracker.close("FINISHED")
    assert time.monotonic() - started < 30
    (line,) = lines
    assert "cannot be used (OperationalError" in line
    assert "secret" not in line
    assert capfd.readouterr() == ("", "")


def test_a_server_that_never_answers_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        lines: list[str] = []
        tracker = open_tracker(tmp_path, STUDY, "smoke", lines.append)
        started = time.monotonic()
        tracker.close("FINISHED")
        tracker.close("KILLED")
    assert time.monotonic() - started < 2 * background.PATIENCE
    (line,) = lines
    assert "still busy" in line


class Stuck(Tracker):
    """As a database does that was stopped: it takes the connection and never answers."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def sync(self, records: Iterable[RunRecord]) -> None:
        self.answers.wait()


def test_a_wait_is_said_and_ctrl_c_ends_it_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nin.cli.WAIT_NOTICE_SEC", 0.1)
    stuck, lost = Stuck(), list[str]()
    tracker = background.BackgroundTracker(lambda: stuck, lambda error: lost.append(str(error)), "MLflow at somewhere")
    tracker.sync([])
    ctrl_c = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    ctrl_c.start()
    started = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - started < background.PATIENCE / 10
    assert capsys.readouterr().err == (
        "waiting for MLflow at somewhere to take what is left, at most 300 s; Ctrl-C ends the wait\n"
    )
    assert lost == ["still busy when the wait was ended"]
    stuck.answers.set()


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "#1 it's 100%"])
def test_a_folder_of_results_may_be_called_anything(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    results = tmp_path / name
    tracker = open_tracker(results, STUDY, "smoke", lines.append)
    tracker.close("FINISHED")
    assert lines == []
    assert (results / "mlflow.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_mlflow_nothing_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines: list[str] = []
    tracker = open_tracker(tmp_path, STUDY, "smoke", lines.append)
    tracker.close("FINISHED")
    assert lines == ["MLflow is not installed: runs are recorded on disk only"]
    assert list(tmp_path.iterdir()) == []


DRIVER = """
import sys
from pathlib import Path
from builders import record_of
from tracked_studies import STUDY
from ablations.tracking.mlflow_tree import open_tracker

run, *_, last = STUDY.expand("smoke")
tracker = open_tracker(Path(sys.argv[1]), STUDY, "smoke", print)
tracker.run_started(run)
tracker.run_ended(record_of(run))
tracker.run_started(last)
"""


CTRL_C_TWICE = """
import signal, time
from ablations.execution.signals import ECHO_SEC, handle_signals
while tracker._tracker is None or last.run_id not in tracker._tracker._open:
    time.sleep(0.1)
handle_signals()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    time.sleep(1.1 * ECHO_SEC)
    signal.raise_signal(signal.SIGINT)
"""


def start_driver(results: Path, end: str = "raise SystemExit(3)") -> "subprocess.Popen[str]":
    paths = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    )
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER + end, str(results)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(driver: "subprocess.Popen[str]") -> str:
    """What a driver printed until its end, but for the word that it waits for MLflow, which a busy machine may bring."""
    lines = driver.communicate()[0].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("waiting for MLflow"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "says", "status"), [("raise SystemExit(3)", "", 3), (CTRL_C_TWICE, "stopped at once\n", 130)]
)
def test_a_driver_that_ends_early_leaves_nothing_running(tmp_path: Path, end: str, says: str, status: int) -> None:
    driver = start_driver(tmp_path, end)
    assert said(driver) == says
    assert driver.returncode == status
    tracked = Tracked(tmp_path, STUDY, MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), [])
    assert sorted(run.info.status for run in tracked.logged("seed")) == ["FINISHED", "KILLED"]
    assert tracked.one("study").info.status == "KILLED"


@pytest.mark.slow
def test_a_driver_killed_while_it_makes_the_database_leaves_none_that_is_half_made(tmp_path: Path) -> None:
    driver = start_driver(tmp_path)
    until(lambda: any(".db" in path.name for path in tmp_path.iterdir()))
    driver.kill()
    driver.communicate()
    tracked = Tracked(tmp_path, STUDY, MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), [])
    tracked.track(record_of(run) for run in tracked.runs())
    assert tracked.warnings == []
    assert [run.info.status for run in tracked.logged("seed")] == ["FINISHED"] * 4


@pytest.mark.slow
def test_drivers_that_make_a_new_database_at_once_make_one_tree(tmp_path: Path) -> None:
    drivers = [start_driver(tmp_path) for _ in range(3)]
    assert [said(driver) for driver in drivers] == [""] * 3
    tracked = Tracked(tmp_path, STUDY, MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), [])
    tracked.track(record_of(run) for run in tracked.runs())
    assert [len(tracked.logged(level)) for level in LEVELS] == [1, 2, 4]


@pytest.mark.slow
def test_drivers_of_other_folders_that_make_one_new_database_at_once_make_one(tmp_path: Path) -> None:
    make = "from nin.mlflow_database import *; load_mlflow(); open_client(sys.argv[1]).search_experiments()"
    command = [sys.executable, "-c", f"import sys; {make}", f"sqlite:///{tmp_path}/mlflow.db"]
    makers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(maker.communicate()[1], maker.returncode) for maker in makers] == [("", 0)] * 3


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back_has_each_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "report.md").write_text("# Title\n\nThe answer.")
    tracked = Tracked(tmp_path, STUDY, MlflowClient(uri), [])
    records = [record_of(run) for run in tracked.runs()]
    with server(tmp_path, port):
        tracker = tracked.open()
        follow(tracker, records[0])
        tracker.run_started(records[1].run)
        until(lambda: len(tracked.logged("seed")) == 2)
    tracker.run_progressed(records[1].run, records[1].curve[0])
    until(lambda: tracked.warnings)
    for record in records[1:]:
        follow(tracker, record)
    with server(tmp_path, port):
        tracker.sync(records)
        tracker.add_files(tmp_path)
        tracker.close("FINISHED")
        (link,) = tracker.links()
        assert link.startswith(f"MLflow:  {uri}/#/experiments/")
        assert [run.info.status for run in tracked.logged("seed")] == ["FINISHED"] * 4
        assert [len(tracked.curve(run, "val/loss")) for run in tracked.logged("seed")] == [4] * 4
        assert [file.path for file in tracked.client.list_artifacts(tracked.one("study").info.run_id)] == ["report.md"]
    assert len(tracked.warnings) == 1


@pytest.mark.slow
def test_a_locked_database_is_one_line_and_no_more(tracked: Tracked, capfd: pytest.CaptureFixture[str]) -> None:
    records = [record_of(run) for run in tracked.runs()]
    with closing(sqlite3.connect(tracked.results / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tracked.track(records)
    (line,) = tracked.warnings
    assert "database is locked" in line
    assert "INSERT" not in line
    out, errors = capfd.readouterr()
    assert out == ""
    assert [line for line in errors.splitlines() if not line.startswith("waiting for MLflow")] == []
    tracked.warnings.clear()
    tracked.track(records)
    assert [run.info.status for run in tracked.logged("seed")] == ["FINISHED"] * 4
