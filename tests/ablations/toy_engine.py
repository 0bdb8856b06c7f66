"""An engine that trains nothing, for tests of what is done with its runs."""

from collections.abc import Iterable, Iterator

from builders import plain

from ablations.execution.engines import Ended, Event, Failed, Started
from ablations.records import RunRecord
from ablations.runs import Run


class Toy:
    """An engine that trains nothing; runs of `fails` fail."""

    workers = 1
    device = "cpu"

    def __init__(self, *fails: str) -> None:
        self.fails, self.executed = fails, list[Run]()

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        for run in runs:
            self.executed.append(run)
            yield Started(run)
            yield Failed(run, "RuntimeError: no", "") if run.variant in self.fails else Ended(run, self.record(run))

    def record(self, run: Run) -> RunRecord:
        """The record of a run that ends."""
        return plain(run)
