"""Progress display: live bars with the time left in a terminal, plain lines elsewhere; and warnings."""

import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from ablations.execution.engines import Ended, Event, Failed, Postponed, Progressed, Started
from ablations.execution.time_left import TimeLeft
from ablations.runs import Run
from nin.history import Evaluation

MIN_BAR, MAX_BAR = 4, 24  # characters
NUMBERS, NOTE = 28, 20  # of a bar's share and times; of how accurate its run is
QUIET_SEC = 30.0  # seconds without a line, where lines stand for bars, after which the next evaluation is one


def say(console: Console, line: str) -> None:
    """Print a line unchanged: without markup and line breaks."""
    console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print a warning on stderr."""
    sys.stderr.write(f"warning: {line}\n")  # in one piece, because two threads may have something to say at once


def fraction_done(run: Run, point: Evaluation) -> float:
    """Fraction of a run that is done at a point of its curve."""
    return min(1.0, point.examples / run.train.images(point.images_per_epoch))


class TimeLeftColumn(ProgressColumn):
    """Time left of each bar, by a function of the bar and the time now, so that it is counted down between two estimates."""

    def __init__(self, seconds: Callable[[Task, float], float | None]) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        """Render the time left, such as 0:01:23; dashes while nothing is known."""
        seconds = self._seconds(task, time.monotonic())
        text = "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
        return Text(text, style="progress.remaining")


def left_text(seconds: float | None) -> str:
    """ "; about 3 min left"; empty while nothing is known."""
    if seconds is None:
        return ""
    return f"; about {seconds / 60:.0f} min left" if seconds >= 60 else f"; about {seconds:.0f} s left"


class Display:
    """Progress over runs, each with its cost in any unit of work, such as FLOPs, which weighs it for the time left.

    workers  runs at a time
    seconds  that all of them take one worker, by a probe; 0 if there was none
    """

    def __init__(self, costs: Mapping[Run, float], console: Console, workers: int = 1, seconds: float = 0.0) -> None:
        self._costs = costs
        self._left = TimeLeft(costs, workers, seconds, time.monotonic())
        self._has_many_studies = len({run.study for run in costs}) > 1
        self._num_ended = 0
        self._done: dict[Run, float] = {}  # fraction of each run
        self._last_line = time.monotonic()
        self._console = console
        self._tasks: dict[Run, TaskID] = {}
        self._waited_for = set[str]()
        all_runs = f"all {len(costs)} runs"
        longest = max(len(label) for label in (all_runs, *map(self._label, costs)))
        room = console.width - longest - NUMBERS
        notes = [TextColumn("{task.fields[note]}")] if room >= MIN_BAR + NOTE else []
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=longest, no_wrap=True)),
            BarColumn(bar_width=min(MAX_BAR, max(MIN_BAR, room - (NOTE if notes else 0)))),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(self._seconds_of),
            *notes,
            console=console,
            disable=not console.is_terminal,
        )
        self._total = self._bars.add_task(all_runs, total=sum(costs.values()), note="", run=None)

    def __enter__(self) -> Self:
        self._bars.start()
        if not self._console.is_terminal and (left := self._time_left(time.monotonic())):
            self._line(left.removeprefix("; "))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, event: Event) -> None:
        """Update the display with an event."""
        run, label, now = event.run, self._label(event.run), time.monotonic()
        match event:
            case Started():
                self._left.started(run, now)
                self._tasks[run] = self._bars.add_task(label, total=self._costs[run], note="", run=run)
                if not self._console.is_terminal:
                    self._line(f"{label}: started")
            case Progressed(point=point):
                self._done[run] = fraction_done(run, point)
                self._left.progressed(run, self._done[run], point.seconds, now)
                note = f"val {point.val_accuracy:.3f}" + (f", {point.dead_classes} dead" if point.dead_classes else "")
                self._bars.update(self._tasks[run], completed=self._done[run] * self._costs[run], note=note)
                if not self._console.is_terminal and now > self._last_line + QUIET_SEC:
                    self._line(f"{label}: {self._done[run]:.0%} trained{self._time_left(now)}")
            case Ended(record=record):
                self._end(run, now)
                accuracy = f"test accuracy {record.test_accuracy:.4f}"
                self._line(f"{label}: {record.status}, {accuracy}, {record.wall_seconds:.0f} s{self._time_left(now)}")
            case Failed(error=error):
                self._end(run, now)
                self._line(f"{label}: failed, {error}{self._time_left(now)}")
            case Postponed(side_by_side=number):
                self._done[run] = 0.0
                self._left.postponed(run, number, now)
                self._bars.remove_task(self._tasks.pop(run))
                self._line(f"{label}: out of memory; again later, with {number} side by side")
        self._bars.update(self._total, completed=self._work_done())

    def show_done_elsewhere(self, run: Run) -> None:
        """Show that another driver has finished the run."""
        self._end(run, time.monotonic())
        self._line(f"{self._label(run)}: done by another driver")
        self._bars.update(self._total, completed=self._work_done())

    def show_waiting(self, num_runs: int, owners: set[str]) -> None:
        """Show, once for each driver, that other drivers have all remaining runs."""
        if owners - self._waited_for:
            self._line(f"waiting for {num_runs} runs of {', '.join(sorted(owners))}")
            self._waited_for |= owners

    def _label(self, run: Run) -> str:
        return f"{run.study} {run.label}" if self._has_many_studies else run.label

    def _end(self, run: Run, now: float) -> None:
        self._num_ended += 1
        self._left.ended(run, now)
        self._done[run] = 1.0
        if run in self._tasks:
            self._bars.remove_task(self._tasks.pop(run))

    def _work_done(self) -> float:
        return sum(fraction * self._costs[run] for run, fraction in self._done.items())

    def _time_left(self, now: float) -> str:
        return left_text(self._left.seconds(now) if self._num_ended < len(self._costs) else None)

    def _seconds_of(self, bar: Task, now: float) -> float | None:
        run = bar.fields["run"]  # None: the bar of all
        return self._left.seconds(now) if run is None else self._left.seconds_of(run, now)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        say(self._bars.console, f"[{self._num_ended}/{len(self._costs)}] {text}")
