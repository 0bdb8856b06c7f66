"""Worker processes: every run ends exactly once, and a worker that dies takes only its own run along."""

import multiprocessing
import time
from collections import Counter

import fake_tasks
import pytest
from builders import smoke_runs

from ablations.engines import Ended, Failed, Progressed, Started, Task
from ablations.engines.local import LocalEngine

RUNS = smoke_runs(seeds=2)


def test_every_run_starts_progresses_and_ends_once() -> None:
    events = list(LocalEngine(fake_tasks.succeed, workers=2).execute(RUNS))
    for kind, times in ((Started, 1), (Progressed, 4), (Ended, 1)):
        assert Counter(event.run for event in events if isinstance(event, kind)) == dict.fromkeys(RUNS, times)


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (fake_tasks.raise_once, "RuntimeError: the first run fails"),
        (fake_tasks.exit_once, "exited with status 7"),
        (fake_tasks.kill_once, "ended by SIGKILL"),
    ],
)
def test_a_run_that_goes_wrong_fails_alone(task: Task, error: str) -> None:
    events = list(LocalEngine(task, workers=2).execute(RUNS))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.run for event in failed] == [RUNS[0]]
    assert error in failed[0].error
    assert "\n" not in failed[0].error
    assert {event.run for event in events if isinstance(event, Ended)} == set(RUNS[1:])


def test_an_exception_brings_its_traceback() -> None:
    events = LocalEngine(fake_tasks.raise_once, workers=1).execute(RUNS[:1])
    failed = next(event for event in events if isinstance(event, Failed))
    assert "in raise_once" in failed.detail


def test_closing_stops_the_workers_at_once() -> None:
    events = LocalEngine(fake_tasks.dawdle, workers=2).execute(RUNS)
    while not isinstance(next(events), Progressed):
        pass
    started = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    assert multiprocessing.active_children() == []


def test_no_runs_need_no_workers() -> None:
    assert list(LocalEngine(fake_tasks.succeed, workers=2).execute([])) == []
