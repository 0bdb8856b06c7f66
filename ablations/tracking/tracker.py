"""The interface of trackers, and a tracker that tracks nothing."""

from collections.abc import Callable, Iterable
from pathlib import Path

from ablations.records import RunRecord
from ablations.runs import Run
from nin.history import Evaluation


class Tracker:
    """Track nothing; base of `ablations.tracking.mlflow_tree.MlflowTracker`."""

    def run_started(self, run: Run) -> None:
        """A worker has begun the run."""

    def run_progressed(self, run: Run, point: Evaluation) -> None:
        """The run has reached its next evaluation."""

    def run_ended(self, record: RunRecord) -> None:
        """The run has ended, as a result or not."""

    def sync(self, records: Iterable[RunRecord]) -> None:
        """Log every record that is not logged yet, and the means over seeds of variants that have changed."""

    def add_files(self, folder: Path) -> None:
        """Keep the study's report, tables and figures as artifacts."""

    def close(self, status: str) -> None:
        """End what is still open, as "FINISHED" or "KILLED", and wait until all is logged."""

    def links(self) -> list[str]:
        """Lines with links to the tracked runs, after closing."""
        return []


def finish(tracker: Tracker, records: Iterable[RunRecord], folder: Path, say: Callable[[str], None]) -> None:
    """Close a session: log missing records, keep the folder's files, wait until all is logged, print links."""
    tracker.sync(records)
    tracker.add_files(folder)
    tracker.close("FINISHED")  # which may have to wait for MLflow
    for line in tracker.links():
        say(line)
