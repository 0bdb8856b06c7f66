"""Where runs are executed. An engine takes runs and yields what happens to them; it writes nothing itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ablations.records import Executed, RunRecord
from ablations.study import Run
from nin.history import Evaluation


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
    """A run has come to an end that is a result; weights is empty unless the task hands them back."""

    run: Run
    record: RunRecord
    weights: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Failed:
    """A run raised, or its worker died; error is one line, detail the traceback or the worker's last words."""

    run: Run
    error: str
    detail: str


Event = Started | Progressed | Ended | Failed
Task = Callable[[Run, Callable[[Evaluation], None]], Executed]  # executes one run, telling of each evaluation


class Engine(Protocol):
    """Executes runs, several at a time, in any order of completion."""

    def execute(self, runs: Sequence[Run]) -> Iterator[Event]:
        """Every run ends in exactly one `Ended` or `Failed`. Closing the iterator stops the workers."""
        ...
