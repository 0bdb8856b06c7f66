"""One owner per run: of several drivers on one folder, on one machine or on many."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from builders import smoke_runs

from ablations.execution import claims as claims_module
from ablations.execution.claims import LEASE, Claims, Lease, Owner, _started

RUN, OTHER_RUN = smoke_runs(seeds=1)[:2]
WRONG_TYPES = json.dumps({**asdict(Owner.this()), "pid": "x"})


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[Claims]:
    with Claims(tmp_path) as entered:
        yield entered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves this process's clock forward."""
    shift = 0.0

    def advance(seconds: float) -> None:
        nonlocal shift
        shift += seconds

    now = time.monotonic
    monkeypatch.setattr(claims_module.time, "monotonic", lambda: now() + shift)
    return advance


def claim_of(owner: Owner, folder: Path, number: int = 0) -> Path:
    path = folder / f"{RUN.run_id}.claim-{number}"
    path.write_text(json.dumps(asdict(owner)))
    return path


def elsewhere() -> Owner:
    return replace(Owner.this(), host="elsewhere", machine="another")


def ended_process() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = replace(Owner.this(), pid=process.pid, since=_started(psutil.Process(process.pid)))
    process.wait()
    return owner


def test_a_run_has_one_owner(claims: Claims, tmp_path: Path) -> None:
    assert claims.take(RUN)
    with Claims(tmp_path) as second:
        assert not second.take(RUN)
        assert second.take(OTHER_RUN)
        assert second.owners([RUN]) == {f"{Owner.this().host} (process {os.getpid()})"}


def test_a_run_given_free_can_be_taken(claims: Claims, tmp_path: Path) -> None:
    claims.take(RUN)
    claims.release(RUN.run_id)
    assert not any(tmp_path.iterdir())
    with Claims(tmp_path) as second:
        assert second.take(RUN)


def test_leaving_gives_everything_free(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        claims.take(RUN)
        claims.take(OTHER_RUN)
    assert not any(tmp_path.iterdir())


def test_a_claim_of_a_process_that_ended_has_expired(claims: Claims, tmp_path: Path) -> None:
    claim_of(ended_process(), tmp_path)
    assert claims.take(RUN)
    claims.release(RUN.run_id)
    assert not any(tmp_path.iterdir())  # the old claim too


def test_a_process_that_has_got_the_number_of_another_is_not_its_owner(claims: Claims, tmp_path: Path) -> None:
    claim_of(replace(Owner.this(), since=1.0), tmp_path)
    assert claims.take(RUN)


def test_a_clock_that_is_set_makes_no_owner_dead(
    claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux counts from the boot, whose time of day moves with the clock."""
    claims.take(RUN)
    if psutil.LINUX:
        booted = psutil._psplatform.boot_time()
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted + 3600)
    with Claims(tmp_path) as second:
        assert not second.take(RUN)


def test_a_claim_whose_process_number_is_none_has_expired(claims: Claims, tmp_path: Path) -> None:
    claim_of(replace(Owner.this(), pid=-1), tmp_path)
    assert claims.take(RUN)


@pytest.mark.parametrize("content", [None, "", '{"host": "h', "null", "[" * 100_000, WRONG_TYPES])
def test_a_claim_of_another_machine_expires_when_it_stands_still(
    claims: Claims, tmp_path: Path, clock: Callable[[float], None], content: str | None
) -> None:
    path = claim_of(elsewhere(), tmp_path)
    os.utime(path, (1, 1))  # however old it seems to be: clocks differ
    if content is not None:
        path.write_text(content)  # its driver died while it wrote
    assert not claims.take(RUN)
    clock(0.9 * LEASE)
    assert not claims.take(RUN)
    clock(0.2 * LEASE)
    assert claims.take(RUN)


def test_a_claim_whose_heart_beats_never_expires(
    claims: Claims, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    path = claim_of(elsewhere(), tmp_path)
    for beat in range(10):
        os.utime(path, (beat, beat))
        assert not claims.take(RUN)
        clock(0.9 * LEASE)


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "BEAT", 0.05)
    with Claims(tmp_path) as claims:
        claims.take(RUN)
        (path,) = tmp_path.iterdir()
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_expired_claim_goes_to_one_of_those_who_want_it(claims: Claims, tmp_path: Path) -> None:
    claim_of(ended_process(), tmp_path)
    with Claims(tmp_path) as second:
        assert [claims.take(RUN), second.take(RUN)] == [True, False]


def test_an_owner_that_wakes_up_leaves_the_claim_of_its_heir_alone(claims: Claims, tmp_path: Path) -> None:
    claims.take(RUN)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(asdict(elsewhere())))
    claims.release(RUN.run_id)
    assert path.exists()


def _take_all(
    folder: Path, barrier: "multiprocessing.synchronize.Barrier", taken: "multiprocessing.Queue[str]"
) -> None:
    with Claims(folder) as claims:
        barrier.wait()
        for run in smoke_runs(seeds=8):
            if claims.take(run):
                taken.put(run.run_id)
        barrier.wait()


def test_of_processes_that_claim_at_once_each_run_goes_to_one(tmp_path: Path) -> None:
    """Over claims left behind by a process that has ended, so that they are taken over, not made."""
    dead = ended_process()
    runs = smoke_runs(seeds=8)
    for run in runs[::2]:
        (tmp_path / f"{run.run_id}.claim-0").write_text(json.dumps(asdict(dead)))
    context = multiprocessing.get_context("fork")
    barrier, taken = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_take_all, args=(tmp_path, barrier, taken)) for _ in range(4)]
    for process in processes:
        process.start()
    owned = sorted(taken.get(timeout=30) for _ in runs)
    for process in processes:
        process.join()
    assert owned == sorted(run.run_id for run in runs)
    assert taken.empty()


def test_leaving_does_not_wait_for_what_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "BEAT", 0.01)
    monkeypatch.setattr(claims_module, "PATIENCE", 0.01)
    is_asked, answers = threading.Event(), threading.Event()

    class Stuck(Lease):
        def beat(self, count: int) -> None:
            is_asked.set()
            answers.wait(60)

        def release_all(self) -> None:
            raise AssertionError("would wait as well")

    with Stuck():
        assert is_asked.wait(60)
    answers.set()
