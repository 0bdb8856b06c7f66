"""Progress display: live bars with the time left in a terminal, plain lines elsewhere; and warnings."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ablations.execution.engines import Ended, Event, Failed, Postponed, Progressed, Started
from ablations.runs import Run

PLAIN_WIDTH = 140  # characters; of tables where there is no terminal to ask
QUIET = 30.0  # seconds without a line, where lines stand for bars, after which the next evaluation is one


def console_for_output() -> Console:
    """Standard output, as wide as the terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def say(console: Console, line: str) -> None:
    """Print a line unchanged: without markup and line breaks."""
    console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print a warning on stderr."""
    sys.stderr.write(f"warning: {line}\n")  # in one piece, because two threads may have something to say at once


class Display:
    """Progress over runs, each with its cost in any unit of work, such as FLOPs, which weighs it for the time left."""

    def __init__(self, costs: Mapping[Run, float], console: Console) -> None:
        self._costs = costs
        self._has_many_studies = len({run.study for run in costs}) > 1
        self._num_ended = 0
        self._done: dict[Run, float] = {}  # fraction of each run
        self._started = time.monotonic()
        self._last_line = self._started
        self._console = console
        self._tasks: dict[Run, TaskID] = {}
        self._waited_for = set[str]()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=3600,
        )
        self._total = self._bars.add_task(f"all {len(costs)} runs", total=sum(costs.values()), note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, event: Event) -> None:
        """Update the display with an event."""
        run, label = event.run, self._label(event.run)
        match event:
            case Started():
                self._tasks[run] = self._bars.add_task(label, total=self._costs[run], note="")
                if not self._console.is_terminal:
                    self._line(f"{label}: started")
            case Progressed(point=point):
                self._done[run] = min(1.0, point.examples / run.train.images(round(point.examples / point.epoch)))
                note = f"val {point.val_accuracy:.3f}" + (f", {point.dead_classes} dead" if point.dead_classes else "")
                self._bars.update(self._tasks[run], completed=self._done[run] * self._costs[run], note=note)
                if not self._console.is_terminal and time.monotonic() > self._last_line + QUIET:
                    self._line(f"{label}: {self._done[run]:.0%} trained{self._time_left()}")
            case Ended(record=record):
                self._end(run)
                accuracy = f"test accuracy {record.test_accuracy:.4f}"
                self._line(f"{label}: {record.status}, {accuracy}, {record.wall_seconds:.0f} s{self._time_left()}")
            case Failed(error=error):
                self._end(run)
                self._line(f"{label}: failed, {error}{self._time_left()}")
            case Postponed(side_by_side=number):
                self._done[run] = 0.0
                self._bars.remove_task(self._tasks.pop(run))
                self._line(f"{label}: out of memory; again later, with {number} side by side")
        self._bars.update(self._total, completed=self._work_done())

    def show_done_elsewhere(self, run: Run) -> None:
        """Show that another driver has finished the run."""
        self._end(run)
        self._line(f"{self._label(run)}: done by another driver")
        self._bars.update(self._total, completed=self._work_done())

    def show_waiting(self, num_runs: int, owners: set[str]) -> None:
        """Show, once for each driver, that other drivers have all remaining runs."""
        if owners - self._waited_for:
            self._line(f"waiting for {num_runs} runs of {', '.join(sorted(owners))}")
            self._waited_for |= owners

    def _label(self, run: Run) -> str:
        return f"{run.study} {run.label}" if self._has_many_studies else run.label

    def _end(self, run: Run) -> None:
        self._num_ended += 1
        self._done[run] = 1.0
        if run in self._tasks:
            self._bars.remove_task(self._tasks.pop(run))

    def _work_done(self) -> float:
        return sum(fraction * self._costs[run] for run, fraction in self._done.items())

    def _time_left(self) -> str:
        fraction = self._work_done() / max(sum(self._costs.values()), 1e-12)
        seconds = (time.monotonic() - self._started) * (1 - fraction) / max(fraction, 1e-12)
        left = f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
        return f"; about {left} left" if fraction < 1 else ""

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._bars.console.print(
            f"[{self._num_ended}/{len(self._costs)}] {text}", markup=False, highlight=False, soft_wrap=True
        )
