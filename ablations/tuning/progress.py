"""Progress display of tuning: one bar over all trials with the time left, and the work that halving will take."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ablations.execution.driver import costs_of, probed_seconds
from ablations.execution.engines import Ended, Event, Failed, Postponed, Progressed, Started
from ablations.execution.progress import TimeLeftColumn, fraction_done, left_text
from ablations.execution.time_left import TimeLeft
from ablations.runs import Run
from ablations.tuning.halving import BATCH
from ablations.tuning.task import Rung, Task
from nin.history import Evaluation


class Stretch(NamedTuple):
    """A training of one seed of a trial from one rung to the next. How many trials go on is known beforehand; which ones is not.

    last  number of the last trial in its batch
    """

    variant: str
    last: int
    step: int
    number: int


def stretches(
    variant: str, rungs: Sequence[Rung], first: int, num_trials: int, is_paired: bool
) -> Iterator[tuple[Stretch, float]]:
    """Yield the stretches left after the first trials, each with its share of a whole training.

    Where seeds are pruned one by one, this is an upper bound: it counts all of them.
    """
    for start in range(first, num_trials, BATCH):
        alive = min(BATCH, num_trials - start)
        last, own, before = start + alive - 1, int(start == 0), 0.0
        for rung in rungs:
            share = rung.share if is_paired else rung.share - before
            yield from ((Stretch(variant, last, rung.step, k), share) for k in range(alive * len(rung.seeds)))
            before = rung.share
            if not is_paired and rung != rungs[-1]:
                alive = own + math.ceil((alive - own) / 2)  # the protocol's own setting always goes on


def rung_of(stretch: Stretch) -> tuple[int, int]:
    """Return batch and rung of the stretch: all runs of one reach it before any goes on to the next."""
    return stretch.last, stretch.step


class TuningDisplay:
    """Progress over the trials of all tasks: a bar in a terminal; elsewhere text that ends a line.

    workers  runs at a time
    probe    seconds that a run takes by itself, for the time left before any progress
    """

    def __init__(
        self, tasks: Sequence[Task], console: Console, workers: int, probe: Callable[[Run], float] | None = None
    ) -> None:
        self._tasks = tasks
        self._is_terminal = console.is_terminal
        costs = costs_of(task.run for task in tasks)
        self._work = {
            stretch: share * costs[task.run]
            for task in tasks
            for stretch, share in stretches(
                task.run.variant, task.rungs, task.num_ended(), task.num_trials, task.is_paired
            )
        }
        total = sum(self._work.values())
        seconds = probed_seconds(costs, probe) * total / sum(costs.values()) if probe and total else 0.0
        self._left = TimeLeft(self._work, workers, seconds, time.monotonic(), rung_of)
        self._waiting = dict.fromkeys(self._work)
        self._running: dict[Run, Stretch] = {}
        self._done = 0.0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(lambda bar, now: self._left.seconds(now)),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._bars.add_task(self._description(), total=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def left(self) -> str:
        """ "; about 3 min left", where there is no bar to show it."""
        seconds = (
            None if self._is_terminal or not (self._waiting or self._running) else self._left.seconds(time.monotonic())
        )
        return left_text(seconds)

    def watch(self, event: Event, rung: Rung) -> None:
        """Update the display with an event of a run that trains until the rung."""
        run, now = event.run, time.monotonic()
        match event:
            case Started():
                self._drop_before(run, now)
                wanted = (s for s in self._waiting if (s.variant, s.step) == (run.variant, rung.step))
                if (stretch := next(wanted, None)) is not None:
                    del self._waiting[stretch]
                    self._running[run] = stretch
                    self._left.started(stretch, now)
            case Progressed(point=point) if run in self._running:
                self._left.progressed(self._running[run], self._fraction(run, point, rung), point.seconds, now)
            case Ended() if run in self._running:
                stretch = self._running.pop(run)
                self._done += self._work[stretch]
                self._left.ended(stretch, now)
                self._bars.update(self._bar, completed=self._done, description=self._description())
            case Failed() | Postponed() if run in self._running:
                stretch = self._running.pop(run)
                self._waiting[stretch] = None
                self._left.postponed(stretch, None, now)

    def _drop_before(self, run: Run, now: float) -> None:
        """Drop what is left of the variant's earlier batches, because trials failed or another driver ran them."""
        trial = run.trial or 0
        for stretch in [s for s in self._waiting if s.variant == run.variant and s.last < trial]:
            del self._waiting[stretch]
            self._done += self._work[stretch]
            self._left.ended(stretch, now)

    def _fraction(self, run: Run, point: Evaluation, rung: Rung) -> float:
        before = max((share for share in self._shares(run) if share < rung.share), default=0.0)
        return min(1.0, max(0.0, (fraction_done(run, point) - before) / (rung.share - before)))

    def _shares(self, run: Run) -> list[float]:
        task = next(task for task in self._tasks if task.run.variant == run.variant)
        return [] if task.is_paired else [rung.share for rung in task.rungs]

    def _description(self) -> str:
        ended = sum(task.num_ended() for task in self._tasks)
        return f"{ended} of {sum(task.num_trials for task in self._tasks)} trials"
