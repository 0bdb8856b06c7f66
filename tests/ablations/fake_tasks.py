"""What a worker may be told to do in place of training. Importable by name, so that a spawned process finds it."""

import faulthandler
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from builders import record_of

from ablations.records import Executed
from ablations.runs import Run
from nin.history import Evaluation

OnEval = Callable[[Evaluation], None]


def succeed(run: Run, on_eval: OnEval) -> Executed:
    record = record_of(run)
    for point in record.curve:
        on_eval(point)
    return Executed(record)


def _first(run: Run) -> bool:
    return (run.variant, run.seed) == ("0x", 0)


def raise_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        raise RuntimeError("the first\nrun fails")
    return succeed(run, on_eval)


def say_whether_ctrl_c_is_blocked(run: Run, on_eval: OnEval) -> Executed:
    raise RuntimeError(f"blocked: {signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])}")


def exit_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        os._exit(7)
    return succeed(run, on_eval)


def kill_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        on_eval(record_of(run).curve[0])
        os.kill(os.getpid(), signal.SIGKILL)
    return succeed(run, on_eval)


def signal_once(run: Run, on_eval: OnEval) -> Executed:
    """By one of those that have no name."""
    if _first(run):
        os.kill(os.getpid(), 40)
    return succeed(run, on_eval)


def dawdle(run: Run, on_eval: OnEval) -> Executed:
    on_eval(record_of(run).curve[0])
    time.sleep(60)
    return succeed(run, on_eval)


def segfault_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        print("last words", file=sys.stderr, flush=True)
        faulthandler._sigsegv()  # type: ignore[attr-defined]
    return succeed(run, on_eval)


def hang_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        print("last words", file=sys.stderr, flush=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(600)
    return succeed(run, on_eval)


def warn(run: Run, on_eval: OnEval) -> Executed:
    warnings.warn("something\nis odd", stacklevel=1)
    return succeed(run, on_eval)


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


def need_room_together(run: Run, on_eval: OnEval, *, room: Path) -> Executed:
    """There is memory for one at a time; two that meet both find too little."""
    mine = room / f"{run.run_id}-{run.seed}"
    if not mine.exists():
        mine.touch()
        while len(list(room.iterdir())) < 2:
            time.sleep(0.01)
        raise OutOfMemoryError("too large beside others")
    return succeed(run, on_eval)


def need_room(run: Run, on_eval: OnEval, *, room: Path) -> Executed:
    """There is memory for two at a time, and for variant 4x never."""
    if run.variant == "4x":
        raise OutOfMemoryError("always too large")
    mine = room / str(os.getpid())
    mine.touch()
    try:
        time.sleep(0.5)
        if len(list(room.iterdir())) > 2:
            raise OutOfMemoryError("too large beside others")
        return succeed(run, on_eval)
    finally:
        mine.unlink()
