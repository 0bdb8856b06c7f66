"""Worker processes: every run ends exactly once, and a worker that dies takes only its own run along."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing import util
from pathlib import Path

import fake_tasks
import psutil
import pytest
import torch
from builders import smoke_runs

from ablations.execution.engines import Ended, Failed, Postponed, Progressed, Started, Task, Warned, attempt
from ablations.execution.engines.local import LocalEngine
from ablations.records import Executed
from ablations.runs import Run

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
        (fake_tasks.segfault_once, "ended by SIGSEGV"),
        (fake_tasks.signal_once, "ended by signal 40"),
        pytest.param(fake_tasks.hang_once, "took longer than its time limit of 6 s", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_goes_wrong_fails_alone(task: Task, error: str) -> None:
    events = list(LocalEngine(task, workers=2, time_limit=6).execute(RUNS))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.run for event in failed] == [RUNS[0]]
    assert error in failed[0].error
    assert "\n" not in failed[0].error
    assert {event.run for event in events if isinstance(event, Ended)} == set(RUNS[1:])


def test_an_exception_brings_its_traceback() -> None:
    events = LocalEngine(fake_tasks.raise_once, workers=1).execute(RUNS[:1])
    failed = next(event for event in events if isinstance(event, Failed))
    assert "in raise_once" in failed.detail


@pytest.mark.parametrize("task", [fake_tasks.segfault_once, fake_tasks.hang_once])
@pytest.mark.slow
def test_a_worker_that_says_nothing_any_more_leaves_its_log(task: Task) -> None:
    events = LocalEngine(task, workers=1, time_limit=6).execute(RUNS[:1])
    failed = next(event for event in events if isinstance(event, Failed))
    assert "last words" in failed.detail
    assert ("fake_tasks.py" in failed.detail) == (task is fake_tasks.segfault_once)  # where it crashed


def test_a_warning_is_told_in_one_line() -> None:
    events = list(LocalEngine(fake_tasks.warn, workers=1).execute(RUNS[:2]))
    warned = [event for event in events if isinstance(event, Warned)]
    assert warned == [Warned(run, "something is odd") for run in RUNS[:2]]


@pytest.mark.slow
def test_out_of_memory_lowers_the_number_side_by_side_before_a_run_fails(tmp_path: Path) -> None:
    events = list(LocalEngine(partial(fake_tasks.need_room, room=tmp_path), workers=4).execute(RUNS))
    postponed = [event for event in events if isinstance(event, Postponed)]
    assert min(event.side_by_side for event in postponed) >= 1
    failed = [event.run for event in events if isinstance(event, Failed)]
    assert failed == [run for run in RUNS if run.variant == "4x"]
    assert Counter(event.run for event in events if isinstance(event, Ended | Failed)) == dict.fromkeys(RUNS, 1)


@pytest.mark.slow
def test_runs_that_are_out_of_memory_together_are_both_tried_again(tmp_path: Path) -> None:
    events = list(LocalEngine(partial(fake_tasks.need_room_together, room=tmp_path), workers=2).execute(RUNS[:2]))
    kinds = Counter(type(event) for event in events)
    assert (kinds[Started], kinds[Postponed], kinds[Ended]) == (4, 2, 2)
    assert [event.side_by_side for event in events if isinstance(event, Postponed)] == [1, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_run_is_asked_for_when_it_can_start_and_what_ended_was_told(workers: int) -> None:
    ended, asked = set[Run](), list[int]()

    def runs() -> Iterator[Run]:
        for run in RUNS[:5]:
            asked.append(len(ended))
            yield run

    for event in LocalEngine(fake_tasks.succeed, workers=workers).execute(runs()):
        if isinstance(event, Ended):
            ended.add(event.run)
    assert len(asked) == 5
    if workers == 1:
        assert asked == [0, 1, 2, 3, 4]
    # Two may end at the same moment, but never is one asked for while two are at work.
    assert all(started - workers < told <= started for started, told in enumerate(asked))


def test_closing_stops_the_workers_at_once() -> None:
    events = LocalEngine(fake_tasks.dawdle, workers=2).execute(RUNS)
    while not isinstance(next(events), Progressed):
        pass
    started = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    assert multiprocessing.active_children() == []


def test_a_worker_never_hears_of_ctrl_c() -> None:
    """Not while it imports what it needs either: it would end in a traceback, which is the driver's to leave out."""
    events = list(LocalEngine(fake_tasks.say_whether_ctrl_c_is_blocked, workers=1).execute(RUNS[:1]))
    assert [event.error for event in events if isinstance(event, Failed)] == ["RuntimeError: blocked: True"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("expected a tensor"), False),
    ],
)
def test_too_little_memory_is_told_from_other_failures(error: Exception, is_it: bool) -> None:
    def task(run: Run, tell: object) -> Executed:
        raise error

    failed = attempt(task, RUNS[0], lambda event: None)
    assert isinstance(failed, Failed)
    assert failed.out_of_memory == is_it


def test_no_runs_need_no_workers() -> None:
    assert list(LocalEngine(fake_tasks.succeed, workers=2).execute([])) == []


def test_ctrl_c_while_a_worker_starts_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spawn, workers = util.spawnv_passfds, []

    def spawn_and_interrupt(path: bytes, arguments: list[str], descriptors: list[int]) -> int:
        child: int = spawn(path, arguments, descriptors)
        if any("spawn_main" in str(argument) for argument in arguments):
            workers.append(psutil.Process(child))
            for process in (child, os.getpid()):  # as a terminal does
                os.kill(process, signal.SIGINT)
        return child

    monkeypatch.setattr(util, "spawnv_passfds", spawn_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(LocalEngine(fake_tasks.succeed, workers=1).execute(RUNS))
    ended, alive = psutil.wait_procs(workers, timeout=30)
    assert ended
    assert not alive
    assert "Traceback" not in capfd.readouterr().err
