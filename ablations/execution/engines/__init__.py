"""Engines execute runs and yield events; an engine writes nothing itself."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ablations.records import Executed, RunRecord
from ablations.runs import Run
from nin.history import Evaluation
from nin.out_of_memory import is_out_of_memory
from nin.text import one_line, redacted


@dataclass(frozen=True)
class Started:
    """A worker has begun a run."""

    run: Run


@dataclass(frozen=True)
class Progressed:
    """A run has reached its next evaluation."""

    run: Run
    point: Evaluation


@dataclass(frozen=True)
class Ended:
    """A run has ended with a result; weights is empty unless the task returns them."""

    run: Run
    record: RunRecord
    weights: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Failed:
    """A run raised, its worker died, or its time was up; error is one line, detail the traceback and the end of its log.

    Neither has credentials, which a record or a log would show to others.
    """

    run: Run
    error: str
    detail: str
    out_of_memory: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", redacted(self.error))
        object.__setattr__(self, "detail", redacted(self.detail))


@dataclass(frozen=True)
class Postponed:
    """Memory was too small for as many runs at a time: the run starts again when fewer train, `side_by_side` in all."""

    run: Run
    side_by_side: int


@dataclass(frozen=True)
class Warned:
    """A worker's warning on a run, in one line, without credentials."""

    run: Run
    line: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", redacted(self.line))


Event = Started | Progressed | Ended | Failed | Postponed | Warned
Task = Callable[[Run, Callable[[Evaluation], None]], Executed]  # executes one run, telling of each evaluation


class Engine(Protocol):
    """Execute runs, `workers` at a time on a device of one kind ("cpu", "cuda"), in any order of completion."""

    workers: int
    device: str

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        """Every run ends in exactly one `Ended` or `Failed`. Closing the iterator stops the workers.

        The next of `runs` is requested when it can start, after the events of those that ended.
        """
        ...


def attempt(task: Task, run: Run, tell: Callable[[Event], None]) -> Ended | Failed:
    """Execute one run in a worker of any engine; exceptions become a `Failed`, warnings become events."""

    def warned(message: Warning | str, *_: Any, **__: Any) -> None:
        tell(Warned(run, one_line(message)))

    with warnings.catch_warnings():
        warnings.showwarning = warned
        try:
            return Ended(run, *task(run, lambda point: tell(Progressed(run, point))))
        except Exception as error:
            line = one_line(f"{type(error).__name__}: {error}")
            return Failed(run, line, traceback.format_exc(), is_out_of_memory(error))
