"""The driver keeps what has ended before anything else, whatever an engine tells it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from builders import record_of, smoke_runs
from rich.console import Console

from ablations.execution import driver
from ablations.execution.claims import Claims
from ablations.execution.engines import Ended, Event, Failed, Progressed, Started
from ablations.records import RunRecord, Store
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from nin.history import Evaluation


class Script:
    """An engine that tells the events of a script about each run."""

    workers = 1
    device = "cpu"

    def __init__(self, *script: type[Event]) -> None:
        self.script, self.is_closed = script, False

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        try:
            for run in runs:
                record = record_of(run)
                events = {
                    Started: Started(run),
                    Progressed: Progressed(run, record.curve[0]),
                    Ended: Ended(run, record, b"weights"),
                    Failed: Failed(run, "RuntimeError: no route to postgresql://me:secret@host", "a traceback"),
                }
                yield from (events[kind] for kind in self.script)
        finally:
            self.is_closed = True


class Told(Tracker):
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def run_started(self, run: Run) -> None:
        self.told.append("tracker: started")

    def run_progressed(self, run: Run, point: Evaluation) -> None:
        self.told.append("tracker: progressed")


def follow(engine: Script, told: list[str]) -> list[RunRecord]:
    kept: list[RunRecord] = []

    def keep(record: RunRecord, weights: bytes) -> None:
        told.append(f"kept: {record.status}, {weights!r}")
        kept.append(record)

    def show(event: Event) -> None:
        told.append(f"shown: {type(event).__name__}")

    driver.follow(smoke_runs(seeds=1)[:1], engine, lambda run: Told(told), keep, show)
    return kept


def test_each_event_is_tracked_or_kept_before_it_is_shown() -> None:
    told: list[str] = []
    follow(Script(Started, Progressed, Ended), told)
    assert told == [
        "tracker: started",
        "shown: Started",
        "tracker: progressed",
        "shown: Progressed",
        "kept: finished, b'weights'",
        "shown: Ended",
    ]


def test_the_record_of_a_failure_says_where_and_how_large_and_no_password() -> None:
    (record,) = follow(Script(Started, Failed), [])
    assert (record.status, record.error) == ("failed", "RuntimeError: no route to postgresql://***@host")
    assert record.environment["device"].startswith("cpu")
    assert record.environment["torch"]
    assert record.params > 0
    assert record.gflops > 0


def test_what_is_raised_while_an_event_is_shown_ends_the_runs() -> None:
    engine = Script(Started, Ended)

    def show(event: Event) -> None:
        raise driver.CommonFailureError

    with pytest.raises(driver.CommonFailureError):
        driver.follow(smoke_runs(), engine, lambda run: Tracker(), lambda record, weights: None, show)
    assert engine.is_closed


def test_a_run_that_fails_when_trained_again_keeps_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = smoke_runs(seeds=1, variants=["0x"])[0]
    store = Store(tmp_path, "num_1x1", "smoke", keep_weights=True)
    store.write(record_of(run))
    driver.drive([run], Script(Started, Failed), {run.study: (store, Tracker())}, Console())
    kept = store.read(run.run_id)
    assert kept is not None
    assert kept.is_result
    assert "2x seed 0: failed" in capsys.readouterr().out


def test_a_result_that_another_driver_made_without_weights_is_not_done(tmp_path: Path) -> None:
    run = smoke_runs(seeds=1, variants=["0x"])[0]
    store = Store(tmp_path, "num_1x1", "smoke", keep_weights=True)

    class Elsewhere(Script):
        def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
            Store(tmp_path, "num_1x1", "smoke").write(record_of(run))
            for each in runs:
                yield Started(each)
                yield Ended(each, record_of(each), b"weights")

    driver.drive([run], Elsewhere(), {"num_1x1": (store, Tracker())}, Console())
    assert store.is_done(run)


def test_a_result_keeps_its_own_weights_when_another_driver_comes_late(tmp_path: Path) -> None:
    run = smoke_runs(seeds=1, variants=["0x"])[0]
    store = Store(tmp_path, "num_1x1", "smoke", keep_weights=True)
    with Claims(store.runs_folder) as claims:
        session = driver.StudySession(store, Tracker(), claims)
        for accuracy, weights in ((0.8, b"theirs"), (0.7, b"ours")):
            claims.take(run)
            session.keep(record_of(run, test_accuracy=accuracy), weights)
    kept = store.read(run.run_id)
    assert kept is not None
    assert (kept.test_accuracy, next(store.weights_folder.iterdir()).read_bytes()) == (0.8, b"theirs")
