"""Coordinate runs: claim, execute, persist, track, display.

Workers train, the driver writes. Several drivers on one folder share the work; any of them may be killed at any moment.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

from rich.console import Console

from ablations.execution.claims import Claims
from ablations.execution.engines import Ended, Engine, Event, Failed, Progressed, Started, Warned
from ablations.execution.progress import Display, warn
from ablations.execution.worker import PROBED_STEPS, code_commit, environment_of
from ablations.records import RunRecord, Store
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from nin.data import shape
from nin.sizes import NetworkSize, size
from nin.spec import DataSpec, Shape

POLL = 1.0  # seconds between two looks at what other drivers are doing
TYPICAL_IMAGES = 50_000  # of a data set that is used whole, for the time left
PROBED_GFLOP = 100.0  # of a probe: under a second on most machines


class CommonFailureError(Exception):
    """Every variant failed with the same error, which the message names."""


@dataclass(frozen=True)
class StudySession:
    """A study's session: the store, tracker and claims of its runs."""

    store: Store
    tracker: Tracker
    claims: Claims

    def keep(self, record: RunRecord, weights: bytes = b"") -> None:
        """Write the record and release the run.

        A result that is already there is kept, with its weights: another driver may have written them after it took this one for
        dead, or the run was trained again for its weights and failed.
        """
        if not self.store.is_done(record.run) and (weights or not self.store.has_result(record.run)):
            self.store.write(record, weights)
        self.claims.release(record.run_id)
        self.tracker.run_ended(record)


def drive(
    runs: Iterable[Run],
    engine: Engine,
    outputs: Mapping[str, tuple[Store, Tracker]],
    console: Console,
    probe: Callable[[Run], float] | None = None,
    may_all_fail: bool = False,
) -> None:
    """Execute the runs, here or in another driver that shares them; persist, track and show their events.

    outputs       each study's store and tracker
    probe         seconds that a run takes by itself, for the time left before anything has progressed
    may_all_fail  that all variants fail alike does not end the study: some have results, or these runs are retried

    Raises CommonFailureError if the first run of every variant fails with the same error, unless they may.
    """
    costs = costs_of(runs)
    failures, seen_warnings = _Failures([] if may_all_fail else costs), set[str]()
    seconds = probed_seconds(costs, probe) if probe else 0.0
    with Display(costs, console, engine.workers, seconds) as display, ExitStack() as entered:
        sessions = {
            study: StudySession(store, tracker, entered.enter_context(Claims(store.runs_folder)))
            for study, (store, tracker) in outputs.items()
        }

        def show(event: Event) -> None:
            if isinstance(event, Warned) and event.line not in seen_warnings:
                seen_warnings.add(event.line)
                warn(event.line)
            display.show(event)
            failures.watch(event)

        shared = _Shared(costs, sessions, display)
        while shared.left:
            follow(
                shared.claimed(),
                engine,
                tracker_of=lambda run: sessions[run.study].tracker,
                keep=lambda record, weights: sessions[record.run.study].keep(record, weights),
                show=show,
            )
            shared.wait_for_others()


def follow(
    runs: Iterable[Run],
    engine: Engine,
    tracker_of: Callable[[Run], Tracker],
    keep: Callable[[RunRecord, bytes], None],
    show: Callable[[Event], None],
) -> None:
    """Execute runs of studies or trials, and handle their events.

    keep  receives the record of each run that ended or failed, with its weights if any, before anything else handles the event, so
          that no finished run is lost
    show  receives every event; an exception from it ends the runs
    """
    events = engine.execute(runs)
    try:
        for event in events:
            match event:
                case Started():
                    tracker_of(event.run).run_started(event.run)
                case Progressed():
                    tracker_of(event.run).run_progressed(event.run, event.point)
                case Ended():
                    keep(event.record, event.weights)
                case Failed():
                    keep(failed_record(event, engine.device), b"")
            show(event)
    finally:
        events.close()  # type: ignore[attr-defined]


class _Shared:
    """Runs that several drivers may share. A run is done when its record was written after this object was made."""

    def __init__(self, runs: Iterable[Run], sessions: Mapping[str, StudySession], display: Display) -> None:
        self.left = dict.fromkeys(runs)
        self._sessions, self._display = sessions, display
        self._stamps = {run: sessions[run.study].store.stamp(run) for run in self.left}

    def claimed(self) -> Iterator[Run]:
        """Yield the remaining runs that no other driver has claimed; claims each one when it is requested."""
        for run in list(self.left):
            claims = self._sessions[run.study].claims
            if not claims.take(run):
                continue
            if self._is_done(run):
                claims.release(run.run_id)
                self._mark_done(run)
            else:
                del self.left[run]
                yield run

    def wait_for_others(self) -> None:
        """Wait a moment if other drivers have all remaining runs."""
        for run in list(self.left):
            if self._is_done(run):
                self._mark_done(run)
        if self.left:
            owners = (
                session.claims.owners(run for run in self.left if run.study == name)
                for name, session in self._sessions.items()
            )
            self._display.show_waiting(len(self.left), set[str]().union(*owners))
            time.sleep(POLL)

    def _is_done(self, run: Run) -> bool:
        store = self._sessions[run.study].store
        if store.has_result(run):
            return store.has_wanted_weights(run.run_id)  # another driver may keep no weights
        return store.stamp(run) != self._stamps[run]

    def _mark_done(self, run: Run) -> None:
        del self.left[run]
        self._display.show_done_elsewhere(run)


class _Failures:
    """Detect failures common to all variants."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._variants = {(run.study, run.variant) for run in runs}
        self._errors: dict[tuple[str, str], str] = {}  # the first of each variant
        self._has_result = False

    def watch(self, event: Event) -> None:
        """Raise CommonFailureError if all of two or more variants have failed with the same message and none has a result."""
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
    """Replace numbers in the message, so that the same failure in another process or at another address compares equal."""
    return re.sub(r"\d+(\.\d+)?", "0", error)


def failed_record(event: Failed, device: str) -> RunRecord:
    """The record of a run that failed on a device of that kind."""
    network = _size(event.run)
    return RunRecord(
        run=event.run,
        run_id=event.run.run_id,
        status="failed",
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment=environment_of(event.run, device, code_commit()),
        error=event.error,
        error_detail=event.detail,
    )


def _size(run: Run, shape_of: Callable[[DataSpec], tuple[Shape, int]] = shape) -> NetworkSize:
    try:
        return size(run.model, *shape_of(run.data))
    except ValueError:  # a trial whose network cannot be built, or data that only workers have
        return NetworkSize(0, 0, 0.0)


def costs_of(runs: Iterable[Run]) -> dict[Run, float]:
    """Work of each run, for the time left: images x (their FLOPs + what any image costs however small the network)."""
    shape_of = cache(shape)  # of a folder it takes a look into every file
    return {
        run: run.train.images(run.data.train_examples or TYPICAL_IMAGES) * (_size(run, shape_of).gflops + 0.01)
        for run in runs
    }


def probed_seconds(costs: Mapping[Run, float], probe: Callable[[Run], float]) -> float:
    """Seconds for all runs one after the other, by a probe of the cheapest; 0 if the probe fails, as its run then will too.

    Only code of this package is probed: other code might take this process along.
    """
    own = [run for run in costs if not run.code]
    if not own:
        return 0.0
    cheapest = min(own, key=costs.__getitem__)
    # Fewer images a step, where they are large, take about as long each, and less time and memory here.
    most = max(1, int(PROBED_GFLOP / (PROBED_STEPS * 3 * (_size(cheapest).gflops + 0.001))))
    batch_size = min(cheapest.train.batch_size, most)
    try:
        seconds = probe(replace(cheapest, train=replace(cheapest.train, batch_size=batch_size)))
    except Exception:
        return 0.0
    return seconds * sum(costs.values()) / costs[cheapest]
