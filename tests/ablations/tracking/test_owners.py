"""Runs in MLflow belong to a folder of results, and while they are logged to a driver; others leave them alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from builders import record_of
from tracked_studies import LEVELS, Tracked

from ablations.records import RunRecord
from ablations.tracking import mlflow_tree as tracking


def leave_running(tracked: Tracked, *records: RunRecord, driver: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver of that process number has in MLflow when it is killed, or looked at, midway."""
    with monkeypatch.context() as patched:
        patched.setattr(tracking, "driver_name", lambda: f"{socket.gethostname()}:{driver}")
        uri = f"sqlite:///{tracked.results}/mlflow.db"
        tracker = tracking.MlflowTracker(uri, tracked.results, tracked.study, "smoke")
        for record in records:
            tracker.run_started(record.run)
            tracker.run_progressed(record.run, record.curve[0])


def dead_process() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_driver_left_running_is_closed_and_done_again(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [record_of(run) for run in tracked.runs(seeds=1)]
    leave_running(tracked, first, second, driver=dead_process(), monkeypatch=monkeypatch)
    tracked.track([first])
    assert (tracked.one("seed", variant="average").info.status, tracked.one("seed", variant="max").info.status) == (
        "FINISHED",
        "KILLED",
    )
    assert tracked.one("study").info.status == "FINISHED"
    tracked.track([first, second])
    assert [run.info.status for run in tracked.logged("seed")] == ["FINISHED"] * 2


def test_what_another_driver_is_busy_with_is_left_to_it(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(tracked.runs()[0])
    leave_running(tracked, record, driver=os.getppid(), monkeypatch=monkeypatch)
    before = tracked.one("seed").to_dictionary()
    tracked.track([record])
    assert tracked.one("seed").to_dictionary() == before


def test_of_runs_that_are_there_twice_one_is_kept(tracked: Tracked) -> None:
    records = [record_of(run) for run in tracked.runs()]
    tracked.track(records)
    for level in LEVELS:
        for run in tracked.logged(level):
            tracked.client.create_run(run.info.experiment_id, tags=run.data.tags, run_name=run.info.run_name)
    tracked.track(records)
    assert [len(tracked.logged(level)) for level in LEVELS] == [1, 2, 4]
    assert len(tracked.curve(tracked.logged("seed")[0], "val/loss")) == 4


def test_runs_from_before_folders_were_told_apart_belong_to_the_first_that_comes(
    tracked: Tracked, tmp_path: Path
) -> None:
    tracked.track(record_of(run) for run in tracked.runs())
    for level in LEVELS:
        for run in tracked.logged(level):
            tracked.client.delete_tag(run.info.run_id, "folder")
    tracked.track(record_of(run) for run in tracked.runs())
    other = tracking.MlflowTracker(f"sqlite:///{tracked.results}/mlflow.db", tmp_path, tracked.study, "smoke")
    other.close("FINISHED")
    assert len(tracked.logged("study")) == 2
    assert len(tracked.logged("seed")) == len(tracked.runs())


def test_results_in_another_folder_leave_these_runs_alone(tracked: Tracked, tmp_path: Path) -> None:
    """As on a server that two people share: neither deletes the other's, finished or running."""
    tracked.track(record_of(run) for run in tracked.runs())
    uri = f"sqlite:///{tracked.results}/mlflow.db"
    before = {run.info.run_id for run in tracked.logged("seed")}
    for _ in range(2):
        other = tracking.MlflowTracker(uri, tmp_path, tracked.study, "smoke")
        other.run_started(tracked.runs()[0])
        other.sync(record_of(run, started_at="2026-02-02T00:00:00+00:00") for run in tracked.runs())
        other.close("FINISHED")
        assert before < {run.info.run_id for run in tracked.logged("seed")}
    assert len(tracked.logged("seed")) == 2 * len(before)
    assert len(tracked.logged("study")) == 2
