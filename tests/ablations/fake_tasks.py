"""What a worker may be told to do in place of training. Importable by name, so that a spawned process finds it."""

import os
import signal
import time
from collections.abc import Callable

from builders import record_of

from ablations.records import Executed
from ablations.study import Run
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


def exit_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        os._exit(7)
    return succeed(run, on_eval)


def kill_once(run: Run, on_eval: OnEval) -> Executed:
    if _first(run):
        on_eval(record_of(run).curve[0])
        os.kill(os.getpid(), signal.SIGKILL)
    return succeed(run, on_eval)


def dawdle(run: Run, on_eval: OnEval) -> Executed:
    on_eval(record_of(run).curve[0])
    time.sleep(60)
    return succeed(run, on_eval)
