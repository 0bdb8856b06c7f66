"""What a driver does while runs train: it claims them, keeps their records, tells MLflow, and shows how far they are.

Workers train, the driver writes. Several drivers on one folder share the work; any of them may be killed at any moment.
"""

import argparse
import importlib.util
import math
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from ablations.cli import warn
from ablations.execution.claims import Claims
from ablations.execution.engines import Ended, Engine, Event, Failed, Progressed, Started, Warned
from ablations.execution.progress import Display
from ablations.execution.worker import code_commit, environment, execute
from ablations.records import RunRecord, Store
from ablations.study import Run
from ablations.tracking.background import stop_all
from ablations.tracking.tracker import Tracker
from nin.cli import INTERRUPTED, redacted
from nin.machine import choose_device
from nin.measure import NetworkSize

POLL = 1.0  # seconds between two looks at what other drivers are doing
ECHO = 0.5  # seconds in which a signal that comes again is the same one: `timeout` and `make` send theirs twice
GRACE = 2.0  # seconds that MLflow has to close what is open when a command is stopped at once
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class CommonFailureError(Exception):
    """Nothing that is tried works, so there is no point in going on; the message says why."""


class OutOfTimeError(KeyboardInterrupt):
    """The time for training is up: a kind of interruption, so that nothing on its way takes it for a failure."""


@dataclass(frozen=True)
class Book:
    """Where what happens to one study's runs is kept."""

    store: Store
    tracker: Tracker
    claims: Claims

    def keep(self, record: RunRecord, weights: bytes = b"") -> None:
        """Write the record, unless there is a result already: another driver, which held this one for dead, may have it, or the
        run was trained again for its weights and failed. Give the run free.
        """
        if weights and not self.store.is_done(record.run):
            self.store.write_weights(record.run_id, weights)
        if weights or not self.store.has_result(record.run):
            self.store.write(record)
        self.claims.release(record.run_id)
        self.tracker.run_ended(record)


def drive(
    runs: Iterable[Run],
    engine: Engine,
    places: Mapping[str, tuple[Store, Tracker]],
    sizes: Mapping[str, NetworkSize],
    device: str,
    console: Console,
) -> None:
    """Have each of the runs executed, here or by another driver that works on them now; keep, track and show what happens.

    places  where each study's records and curves go
    sizes   of the runs' networks, by run_id

    Raises CommonFailureError if the first runs of all variants fail alike.
    """
    costs = {run: _cost(run, sizes[run.run_id]) for run in runs}
    failures, said = _Failures(costs), set[str]()
    with Display(costs, console) as display, ExitStack() as entered:
        books = {
            study: Book(store, tracker, entered.enter_context(Claims(store.runs_folder)))
            for study, (store, tracker) in places.items()
        }
        shared = _Shared(costs, books, display)
        while shared.left:
            events = engine.execute(shared.claimed())
            try:
                for event in events:
                    book = books[event.run.study]
                    match event:  # what has ended is on disk before anything else is done about it
                        case Started():
                            book.tracker.run_started(event.run)
                        case Progressed():
                            book.tracker.run_progressed(event.run, event.point)
                        case Ended():
                            book.keep(event.record, event.weights)
                        case Failed():
                            book.keep(_failed_record(event, sizes[event.run.run_id], device))
                        case Warned() if event.line not in said:
                            said.add(event.line)
                            warn(event.line)
                    display.show(event)
                    failures.watch(event)
            finally:
                events.close()  # type: ignore[attr-defined]
            shared.wait_for_others()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTimeError in what is inside when that time is up; never if it is infinite."""
    if seconds == math.inf:
        yield
        return

    def out_of_time(signum: int, frame: object) -> NoReturn:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def make_engine(arguments: argparse.Namespace, **options: object) -> tuple[Engine, str]:
    """What executes runs, by the options of `add_engine_options`, and on which device; `options` are `execute`'s."""
    results = arguments.results.resolve()
    task = partial(execute, threads=arguments.threads, results=results, commit=code_commit(), **options)  # type: ignore[arg-type]
    if arguments.engine == "local":
        from ablations.execution.engines.local import LocalEngine

        device = choose_device(arguments.device).type
        workers = arguments.workers or default_workers(device)
        return LocalEngine(partial(task, device=device), workers, arguments.time_limit), device
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray: Ray is not installed; pip install '.[ray]'")
    from ablations.execution.engines.ray import RayEngine, connect

    has_gpus = connect(arguments.address or os.environ.get("RAY_ADDRESS"), (arguments.workers or 1) * arguments.threads)
    device = ("cuda" if has_gpus else "cpu") if arguments.device == "auto" else arguments.device
    gpus = 0.0 if device == "cpu" else arguments.gpu_share
    task = partial(task, device=device)
    return RayEngine(task, arguments.workers or 0, arguments.time_limit, cpus=arguments.threads, gpus=gpus), device


def default_workers(device: str) -> int:
    """Runs at a time: one per core that this process may use, or 1 on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_writable(results: Path) -> None:
    """Raises ValueError if nothing can be written there, or the databases there would have no address."""
    if "?" in str(results.resolve()):
        raise ValueError(f"--results {results}: a '?' ends the name of a database's file; choose another folder")
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise ValueError(
            f"--results {results}: cannot write there ({error.strerror}); choose another folder"
        ) from error


def handle_signals() -> None:
    """Of those that end a command the first does so cleanly, by KeyboardInterrupt, the second at once."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants
            signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: object) -> NoReturn:
    interrupted = time.monotonic()

    def again(signum: int, frame: object) -> None:
        if time.monotonic() > interrupted + ECHO:
            _stop_at_once()

    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, again)
    raise KeyboardInterrupt


def _stop_at_once() -> NoReturn:
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # which live bars hide
    os.write(2, show_cursor + b"stopped at once\n")
    for number in SIGNALS:  # a third one does not wait either
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    stop_all(GRACE)
    os._exit(INTERRUPTED)  # workers see that and end, too


class _Shared:
    """Runs that several drivers may work on at once. One is settled when its record was written after this began."""

    def __init__(self, runs: Iterable[Run], books: Mapping[str, Book], display: Display) -> None:
        self.left = dict.fromkeys(runs)
        self._books, self._display = books, display
        self._stamps = {run: books[run.study].store.stamp(run) for run in self.left}

    def claimed(self) -> Iterator[Run]:
        """Of the runs that are left those that are nobody else's, each claimed when it is asked for."""
        for run in list(self.left):
            claims = self._books[run.study].claims
            if not claims.take(run):
                continue
            if self._is_settled(run):
                claims.release(run.run_id)
                self._settle(run)
            else:
                del self.left[run]
                yield run

    def wait_for_others(self) -> None:
        """Let a while pass if runs are left, all of which are others'."""
        for run in list(self.left):
            if self._is_settled(run):
                self._settle(run)
        if self.left:
            owners = (
                book.claims.owners(run for run in self.left if run.study == name) for name, book in self._books.items()
            )
            self._display.show_waiting(len(self.left), set[str]().union(*owners))
            time.sleep(POLL)

    def _is_settled(self, run: Run) -> bool:
        store = self._books[run.study].store
        return store.stamp(run) != self._stamps[run] or store.is_done(run)

    def _settle(self, run: Run) -> None:
        del self.left[run]
        self._display.show_settled_elsewhere(run)


class _Failures:
    """Watches for a failure that has nothing to do with what a variant is."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._variants = {(run.study, run.variant) for run in runs}
        self._errors: dict[tuple[str, str], str] = {}  # the first of each variant
        self._has_result = False

    def watch(self, event: Event) -> None:
        """Raises CommonFailureError when every variant, of two or more, has failed with the same message and none has a result."""
        if isinstance(event, Ended):
            self._has_result = True
        if not isinstance(event, Failed) or self._has_result:
            return
        self._errors.setdefault((event.run.study, event.run.variant), event.error)
        alike = {without_numbers(error) for error in self._errors.values()}
        if self._errors.keys() == self._variants and len(self._variants) > 1 and len(alike) == 1:
            raise CommonFailureError(
                f"the first run of each of the {len(self._variants)} variants failed: {event.error}"
            )


def without_numbers(error: str) -> str:
    """The message by which failures are told apart: another process, address or amount of memory is no other failure."""
    return re.sub(r"\d+(\.\d+)?", "0", error)


def _failed_record(event: Failed, network: NetworkSize, device: str) -> RunRecord:
    return RunRecord(
        run=event.run,
        run_id=event.run.run_id,
        status="failed",
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment=environment(device, code_commit()),
        error=redacted(event.error),
        error_detail=redacted(event.detail),
    )


def _cost(run: Run, network: NetworkSize) -> float:
    """Work of a run, for the time left: images x (their FLOPs + what any image costs however small the network)."""
    return float(run.train.epochs) * (network.gflops + 0.01)
