"""Studies that a test tracks, MLflow as seen from outside, and a server for it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as LoggedRun

from ablations.records import RunRecord
from ablations.runs import Run
from ablations.study import Study, Variant
from ablations.tracking.mlflow_tree import open_tracker
from ablations.tracking.tracker import Tracker

STUDY = Study(
    "average", {name: Variant(model={"pooling": name}) for name in ("average", "max")}, question="Which?", name="a"
)


LEVELS = ("study", "variant", "seed")


CURVES = ["train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/dead_classes"]


FINALS = {
    *("test/accuracy", "test/loss", "generalization_gap", "dead_classes", "gflops", "train_seconds", "peak_memory_mb"),
    *("params/total", "params/trunk", "params/head", "convergence/examples_to_target", "convergence/reached"),
}


@dataclass
class Tracked:
    """One study, what it is asked to run, and MLflow as seen from outside."""

    results: Path
    study: Study
    client: MlflowClient
    warnings: list[str]

    def runs(self, seeds: int = 2, overrides: Iterable[str] = ()) -> list[Run]:
        return list(self.study.expand("smoke", seeds, overrides=overrides))

    def open(self, overrides: Iterable[str] = ()) -> Tracker:
        return open_tracker(self.results, self.study, "smoke", self.warnings.append, tuple(overrides))

    def track(self, records: Iterable[RunRecord], folder: Path | None = None, overrides: Iterable[str] = ()) -> None:
        """A whole session, as the driver has it."""
        records = list(records)
        tracker = self.open(overrides)
        for record in records:
            follow(tracker, record)
        tracker.sync(records)
        if folder:
            tracker.add_files(folder)
        tracker.close("FINISHED")

    def logged(self, level: str, **tags: str) -> list[LoggedRun]:
        """Runs of a level that are not deleted, oldest first."""
        experiment = self.client.get_experiment_by_name(f"nin-ablations/{self.study.name}")
        if experiment is None:
            return []
        wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in {"level": level, **tags}.items())
        return list(self.client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time ASC"]))

    def one(self, level: str, **tags: str) -> LoggedRun:
        (run,) = self.logged(level, **tags)
        return run

    def curve(self, run: LoggedRun, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key)]

    def everything(self) -> object:
        """All that is logged, for comparing before and after."""
        return [
            (run.to_dictionary(), {key: self.curve(run, key) for key in run.data.metrics})
            for level in LEVELS
            for run in self.logged(level)
        ]


def follow(tracker: Tracker, record: RunRecord) -> None:
    """Tell of a run as it comes from a worker."""
    tracker.run_started(record.run)
    for point in record.curve:
        tracker.run_progressed(record.run, point)
    tracker.run_ended(record)


def study_of(results: Path, name: str) -> Tracked:
    """The database is there before the test looks into it."""
    study = replace(STUDY, name=name)
    warnings: list[str] = []
    open_tracker(results, study, "smoke", warnings.append).close("FINISHED")
    return Tracked(results, study, MlflowClient(f"sqlite:///{results}/mlflow.db"), warnings)


@contextmanager
def server(folder: Path, port: int, database: str = "") -> Iterator[None]:
    """A tracking server on that database, by default one in that folder, killed at the end."""
    listening = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    kept = (
        "--backend-store-uri",
        database or f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *listening, *kept],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=folder,
    )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, seconds=180)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the server and its workers
        process.wait()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
