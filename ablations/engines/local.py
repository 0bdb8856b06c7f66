"""Runs on this machine: one process per worker, each with its own pipe, so that one that dies takes only its run along.

A crash, an exit or a kill of a worker is seen as the end of its pipe; a new worker takes the next run.
"""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ablations.engines import Ended, Event, Failed, Progressed, Started, Task
from ablations.study import Run

SPAWN = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, and inherits torch's threads half dead
PATIENCE = 10.0  # seconds a dismissed worker may take before it is killed


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    run: Run


class LocalEngine:
    """A pool of `workers` processes, each calling `task` on one run at a time. `task` must be importable by its name."""

    def __init__(self, task: Task, workers: int) -> None:
        self.task = task
        self.workers = workers

    def execute(self, runs: Sequence[Run]) -> Iterator[Event]:
        """Events of all runs. A run whose worker dies ends in `Failed`; another worker takes the next run."""
        waiting = deque(runs)
        working: dict[Connection, _Worker] = {}
        try:
            for _ in range(min(self.workers, len(waiting))):
                worker = self._start(waiting.popleft())
                working[worker.pipe] = worker
                yield Started(worker.run)
            while working:
                for pipe in wait(list(working)):
                    assert isinstance(pipe, Connection)
                    worker = working[pipe]
                    try:
                        event: Event = pipe.recv()
                    except (EOFError, OSError):
                        event = Failed(worker.run, *self._cause_of_death(worker))
                    yield event
                    if isinstance(event, Progressed):
                        continue
                    died = not worker.process.is_alive() or isinstance(event, Failed)
                    if died or not waiting:
                        del working[pipe]
                        self._dismiss(worker)
                    if not waiting:
                        continue
                    if died:
                        worker = self._start(waiting.popleft())
                        working[worker.pipe] = worker
                    else:
                        worker.run = waiting.popleft()
                        with suppress(OSError):  # if it has died since, the next read of its pipe says so
                            pipe.send(worker.run)
                    yield Started(worker.run)
        finally:
            for worker in working.values():
                worker.process.terminate()
            for worker in working.values():
                self._dismiss(worker)

    def _start(self, run: Run) -> _Worker:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_work, args=(theirs, self.task), daemon=True)
        process.start()
        theirs.close()
        with suppress(OSError):
            ours.send(run)
        return _Worker(process, ours, run)

    def _dismiss(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()

    def _cause_of_death(self, worker: _Worker) -> tuple[str, str]:
        worker.process.join(PATIENCE)
        code = worker.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"its worker was ended by {name}{hint}", ""
        return f"its worker exited with status {code}", ""


def _work(pipe: Connection, task: Task) -> None:
    """A worker's whole life: runs come in through the pipe, events go out, until the driver hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver has gone
        while True:
            run: Run = pipe.recv()
            try:
                event: Event = Ended(run, *task(run, lambda point, run=run: pipe.send(Progressed(run, point))))  # type: ignore[misc]
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                event = Failed(run, " ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc())
            pipe.send(event)
