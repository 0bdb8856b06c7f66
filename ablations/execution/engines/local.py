"""Execute runs on this machine: one process and pipe per worker, so that a dying worker loses only its own run.

A crash, an exit or a kill of a worker is seen as the end of its pipe, a hang by the clock; a new worker takes the next run.
Workers die with their driver.
"""

import faulthandler
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ablations.execution.engines import Ended, Event, Failed, Postponed, Started, Task, attempt
from ablations.runs import Run

SPAWN = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, and inherits torch's threads half dead
PATIENCE = 10.0  # seconds a dismissed worker may take before it is killed
MAX_WAIT_SEC = 86_400.0  # longer ones overflow the system's call
LOG_TAIL = 4000  # bytes of a worker's output that are kept where its run has failed


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    log: Path
    run: Run
    deadline: float
    had_company: bool = False  # whether another run was at work at any time of this one's try


class LocalEngine:
    """A pool of `workers` processes, each calling `task` on one run at a time. `task` must be importable by its name.

    time_limit  seconds that one try of a run may take, its worker's start included
    device      that the task uses
    """

    def __init__(self, task: Task, workers: int, time_limit: float = math.inf, device: str = "cpu") -> None:
        self.task = task
        self.workers = workers
        self.time_limit = time_limit
        self.device = device

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        """Events of all runs. A run whose worker dies or hangs ends in `Failed`; another worker takes the next run.

        A run that is out of memory beside others is tried again with fewer, down to one, before it fails.
        """
        waiting, postponed = iter(runs), deque[Run]()
        working: dict[Connection, _Worker] = {}
        idle: list[_Worker] = []
        limit = self.workers
        with tempfile.TemporaryDirectory(prefix="nin-ablations-") as logs:
            try:
                while True:
                    while len(working) < limit:
                        run = postponed.popleft() if postponed else next(waiting, None)
                        if run is None:
                            break
                        worker = idle.pop() if idle else self._start(run, Path(logs))
                        self._give(worker, run)
                        working[worker.pipe] = worker
                        for each in working.values():
                            each.had_company |= len(working) > 1
                        yield Started(run)
                    while idle:
                        self._dismiss(idle.pop())
                    if not working:
                        return
                    for worker, event in self._listen(list(working.values())):
                        if isinstance(event, Ended | Failed):
                            del working[worker.pipe]
                        if isinstance(event, Ended):
                            idle.append(worker)
                        if isinstance(event, Failed):
                            self._dismiss(worker)
                            if event.out_of_memory and worker.had_company:
                                limit = max(1, len(working))
                                postponed.append(event.run)
                                event = Postponed(event.run, limit)
                        yield event
            finally:
                for worker in working.values():
                    worker.process.kill()  # what is lost is what came after its last checkpoint
                for worker in [*working.values(), *idle]:
                    self._dismiss(worker)

    def _listen(self, workers: list[_Worker]) -> Iterator[tuple[_Worker, Event]]:
        """Wait for the next events of workers, or for a worker's time limit."""
        nearest = min(worker.deadline for worker in workers)
        timeout = min(MAX_WAIT_SEC, max(0.0, nearest - time.monotonic()))
        ready = wait([worker.pipe for worker in workers], timeout)
        for worker in workers:
            if worker.pipe in ready:
                try:
                    event: Event = worker.pipe.recv()
                except (EOFError, OSError):
                    event = Failed(worker.run, self._cause_of_death(worker), "")
            elif time.monotonic() > worker.deadline:
                worker.process.kill()
                event = Failed(worker.run, f"took longer than its time limit of {self.time_limit:g} s", "")
            else:
                continue
            if isinstance(event, Failed):
                event = replace(event, detail=f"{event.detail}{_tail(worker.log)}")
            yield worker, event

    def _start(self, run: Run, logs: Path) -> _Worker:
        ours, theirs = SPAWN.Pipe()
        handle, log = tempfile.mkstemp(dir=logs)
        os.close(handle)
        process = SPAWN.Process(target=_work, args=(theirs, self.task, log), daemon=True)
        # Ctrl-C waits for it: a worker half started would end in a traceback.
        with ThreadPoolExecutor(1, initializer=_block_interrupts) as starter:
            starter.submit(process.start).result()
        theirs.close()
        return _Worker(process, ours, Path(log), run, math.inf)

    def _give(self, worker: _Worker, run: Run) -> None:
        worker.run, worker.deadline, worker.had_company = run, time.monotonic() + self.time_limit, False
        with suppress(OSError):  # if it has died since, the next read of its pipe says so
            worker.pipe.send(run)

    def _dismiss(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()

    def _cause_of_death(self, worker: _Worker) -> str:
        worker.process.join(PATIENCE)
        code = worker.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"its worker was ended by {name}{hint}"
        return f"its worker exited with status {code}"


def _tail(log: Path) -> str:
    """The end of what a worker has printed during its run."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
        return file.read().decode(errors="replace")
    return ""


def _block_interrupts() -> None:
    """Let processes that this thread starts ignore Ctrl-C, also while they import what `_work` needs."""
    resource_tracker.ensure_running()  # whose start would undo it
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _work(pipe: Connection, task: Task, log: str) -> None:
    """Main loop of a worker: receive runs through the pipe and send events, until the driver closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    with suppress(EOFError, OSError):  # the driver has gone
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):  # also what libraries and the interpreter itself print
            os.dup2(output, stream)
        faulthandler.enable(file=2)  # a crash says where
        while True:
            run: Run = pipe.recv()
            os.ftruncate(output, 0)
            pipe.send(attempt(task, run, pipe.send))


def _die_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    wait([driver.sentinel])
    os._exit(1)
