"""Track in a thread of its own, so that neither a new database nor a slow server holds up a study.

Tracking never stops a study: the records on disk are the truth. Whatever the tracker raises is one warning, after which nothing
is sent until `sync` tries afresh.
"""

import atexit
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

from ablations.records import RunRecord
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from nin.cli import notice_if_slow
from nin.history import Evaluation

Call = Callable[[Tracker], None]

PATIENCE = 300.0  # seconds that the end of a study waits for the tracker


def stop_all(patience: float) -> None:
    """Close all runs before the process ends, as far as MLflow answers within that many seconds."""
    until = time.monotonic() + patience
    for tracker in BACKGROUND:
        tracker.stop(max(0.0, until - time.monotonic()))


BACKGROUND: "list[BackgroundTracker]" = []  # those of this process whose threads may still work


class BackgroundTracker(Tracker):
    """A tracker that logs in a thread, in order, so that neither a new database nor a slow server delays a study.

    An exception there becomes one warning, and nothing more is sent until `sync` or `close` tries once again.
    """

    def __init__(self, connect: Callable[[], Tracker], lost: Callable[[Exception], None], name: str = "MLflow") -> None:
        self._connect, self._say_lost, self._name = connect, lost, name
        self._tracker: Tracker | None = None
        self._is_lost = self._has_said = self._has_tried_again = self._is_closed = False
        self._calls: SimpleQueue[tuple[Call, bool] | None] = SimpleQueue()
        self._later(lambda tracker: None)  # to connect at once
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        BACKGROUND.append(self)
        atexit.register(self.close, "KILLED")  # should the driver raise

    def run_started(self, run: Run) -> None:
        """Show the run in MLflow at once."""
        self._later(lambda tracker: tracker.run_started(run))

    def run_progressed(self, run: Run, point: Evaluation) -> None:
        """Log the evaluation, in one batch of metrics."""
        self._later(lambda tracker: tracker.run_progressed(run, point))

    def run_ended(self, record: RunRecord) -> None:
        """Log the final metrics and the status."""
        self._later(lambda tracker: tracker.run_ended(record))

    def sync(self, records: Iterable[RunRecord]) -> None:
        """Log every record, connecting again if MLflow was lost."""
        all_records = list(records)
        self._later(lambda tracker: tracker.sync(all_records), again=True)

    def add_files(self, folder: Path) -> None:
        """Keep the files as they are when their turn comes."""
        self._later(lambda tracker: tracker.add_files(folder))

    def close(self, status: str) -> None:
        """Wait for MLflow, at most PATIENCE seconds or until interrupted. Does nothing the second time."""
        if self._is_closed:
            return
        self._end_with(status)
        try:
            with notice_if_slow(f"{self._name} to take what is left, at most {PATIENCE:.0f} s"):
                self._thread.join(PATIENCE)
            if self._thread.is_alive():
                self._lose(TimeoutError(f"still busy after {PATIENCE:.0f} s"))
            else:
                BACKGROUND.remove(self)
        except KeyboardInterrupt:  # of the wait alone: the results are on disk
            self._lose(TimeoutError("still busy when the wait was ended"))

    def stop(self, patience: float) -> None:
        """Close as "KILLED", and wait so many seconds at most."""
        if not self._is_closed:
            self._end_with("KILLED")
        self._thread.join(patience)

    def links(self) -> list[str]:
        """Lines with links to the tracked runs; none if MLflow was lost."""
        return self._tracker.links() if self._tracker else []

    def _end_with(self, status: str) -> None:
        self._is_closed = True
        atexit.unregister(self.close)
        self._later(lambda tracker: tracker.close(status), again=True)
        self._calls.put(None)

    def _later(self, call: Call, again: bool = False) -> None:
        self._calls.put((call, again))

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, again = item
            if self._is_lost and (self._has_tried_again or not again):
                continue
            self._has_tried_again = self._is_lost
            try:
                self._tracker = self._tracker or self._connect()
                call(self._tracker)
                self._is_lost = False
            except Exception as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Discard the tracker, whose knowledge may be outdated; the next one reads the tree again."""
        self._tracker, self._is_lost = None, True
        if not self._has_said:
            self._say_lost(error)
        self._has_said = True
