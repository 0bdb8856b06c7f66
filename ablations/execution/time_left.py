"""Estimate how long runs still take: from a probe at first, then from what this call itself has done."""

import heapq
from collections.abc import Callable, Hashable, Mapping
from itertools import groupby
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)  # such as a run

PROBE_WEIGHT = 0.05  # of all work: so much work of this call counts as much as the probe does
SHARE = 0.5  # of the training time that a point of a curve adds, which must have passed for the point to be this call's


class TimeLeft(Generic[K]):
    """Runs, each with its work in any unit, such as FLOPs, that so many workers share.

    seconds   that all of it takes one worker, by a probe; 0 if there is none: then nothing is known before the first progress
    now       time on the clock that later times are read from
    stage_of  of a run: those of one stage begin when all of the stage before have ended

    Work that a checkpoint brought along is no measure of speed: its points arrive faster than they can have been trained. Nor is
    the first stretch of a new worker, which has to start, unless there is no other.
    """

    def __init__(
        self,
        work: Mapping[K, float],
        workers: int,
        seconds: float = 0.0,
        now: float = 0.0,
        stage_of: Callable[[K], Any] = lambda _: 0,
    ) -> None:
        total = sum(work.values())
        self._workers = max(1, workers)
        self._stage_of = stage_of
        self._waiting = dict(work)
        self._running: dict[K, float] = {}  # work of each
        self._last: dict[K, tuple[float, float, float]] = {}  # of each running one: time, fraction, training seconds
        self._cold = set[K]()  # whose worker has to start
        self._num_started = 0
        self._busy, self._done = (PROBE_WEIGHT * seconds, PROBE_WEIGHT * total) if seconds else (0.0, 0.0)
        self._cold_busy = self._cold_done = 0.0
        self._left: float | None = None
        self._at = 0.0
        self._estimate(now)

    def started(self, run: K, now: float) -> None:
        """A worker has begun a run."""
        self._running[run] = self._waiting.pop(run)
        self._last[run] = (now, 0.0, 0.0)
        self._num_started += 1
        if self._num_started <= self._workers:
            self._cold.add(run)
        self._estimate(now)

    def progressed(self, run: K, fraction: float, training_seconds: float, now: float) -> None:
        """A run has reached that fraction of its training, after so many seconds of training since its start."""
        then, before, trained = self._last[run]
        if now - then >= SHARE * (training_seconds - trained):
            done = (fraction - before) * self._running[run]
            if run in self._cold:
                self._cold_busy, self._cold_done = self._cold_busy + now - then, self._cold_done + done
            else:
                self._busy, self._done = self._busy + now - then, self._done + done
        self._cold.discard(run)
        self._last[run] = (now, fraction, training_seconds)
        self._estimate(now)

    def ended(self, run: K, now: float) -> None:
        """A run needs no more time, here or because another driver has done it."""
        self._waiting.pop(run, None)
        if self._running.pop(run, None) is not None:
            then, fraction, _ = self._last.pop(run)
            if fraction >= 1:  # the test set has been read since
                self._busy += now - then
            self._cold.discard(run)
        self._estimate(now)

    def postponed(self, run: K, side_by_side: int | None, now: float) -> None:
        """A run will begin again; with a number, only when at most that many run side by side."""
        self._waiting[run] = self._running.pop(run)
        del self._last[run]
        self._cold.discard(run)
        self._workers = side_by_side or self._workers
        self._estimate(now)

    def seconds(self, now: float) -> float | None:
        """Seconds until all runs have ended; None while nothing is known."""
        return None if self._left is None else max(0.0, self._left - (now - self._at))

    def seconds_of(self, run: K, now: float) -> float | None:
        """Seconds until a run that has begun has ended."""
        pace = self._pace()
        if pace is None or run not in self._running:
            return None
        then, fraction, _ = self._last[run]
        return max(0.0, (1 - fraction) * self._running[run] * pace - (now - then))

    def _pace(self) -> float | None:
        """Seconds that a worker takes for one unit of work."""
        if self._done > 0:
            return self._busy / self._done
        return self._cold_busy / self._cold_done if self._cold_done > 0 else None

    def _estimate(self, now: float) -> None:
        """Give each run that waits to the worker that is free first; the last to end counts."""
        pace, self._at = self._pace(), now
        if pace is None:
            self._left = None
            return
        free_at = [self.seconds_of(run, now) or 0.0 for run in self._running]
        free_at += [0.0] * (self._workers - len(free_at))
        heapq.heapify(free_at)
        reached = min(map(self._stage_of, self._running), default=None)
        for stage, runs in groupby(sorted(self._waiting, key=self._stage_of), key=self._stage_of):
            if reached is not None and stage > reached:
                free_at = [max(free_at)] * len(free_at)
            reached = stage
            for run in runs:
                heapq.heappush(free_at, heapq.heappop(free_at) + self._waiting[run] * pace)
        self._left = max(free_at)
