"""A PostgreSQL that stops answering, as one on a machine that sleeps: the end of a study says so, and Ctrl-C ends the wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from processes import PASSWORD

from nin.cli import WAIT_NOTICE_SEC

DRIVER = """
import sys
from pathlib import Path
from builders import record_of
from ablations.execution.signals import handle_signals
from ablations.study import Study, Variant
from ablations.tracking.mlflow_tree import open_tracker
from nin.cli import exit_with

STUDY = Study("a", {"a": Variant(), "b": Variant(model={"pooling": "max"})}, question="Which?", name="a")

def main():
    handle_signals()
    tracker = open_tracker(Path(sys.argv[1]), STUDY, "smoke", lambda line: print("warning:", line, flush=True))
    record = record_of(STUDY.expand("smoke", 1)[0])
    tracker.run_started(record.run)
    tracker._later(lambda tracker: print("tracked", flush=True))
    input()
    tracker.run_ended(record)
    tracker.sync([record])
    tracker.close("FINISHED")
    print("ended")
    return 0

exit_with(main)
"""


@pytest.mark.slow
def test_a_database_that_stops_answering_is_waited_for_with_a_word_and_ctrl_c_ends_the_wait(
    database: str, tmp_path: Path
) -> None:
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MLFLOW_TRACKING_URI": database},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin
    assert driver.stdout
    assert driver.stderr
    stopped: list[psutil.Process] = []
    try:
        assert driver.stdout.readline() == "tracked\n"
        stopped = server(urlsplit(database).port or 0)
        for process in stopped:
            process.suspend()
        started = time.monotonic()
        print(file=driver.stdin, flush=True)
        line = driver.stderr.readline()
        assert WAIT_NOTICE_SEC <= time.monotonic() - started < 6 * WAIT_NOTICE_SEC
        assert line.startswith("waiting for MLflow at postgresql://***@127.0.0.1")
        assert line.endswith("to take what is left, at most 300 s; Ctrl-C ends the wait\n")
        driver.send_signal(signal.SIGINT)
        printed, errors = driver.communicate(timeout=60)
    finally:
        driver.kill()
        for process in stopped:
            process.resume()
    assert driver.returncode == 0
    assert errors == ""
    warning, ended = printed.splitlines()
    assert "still busy when the wait was ended): no result is lost" in warning
    assert warning.endswith("once it can, the same command brings MLflow up to date")
    assert ended == "ended"
    assert PASSWORD not in line + printed


def server(port: int) -> list[psutil.Process]:
    """The processes of the PostgreSQL that listens there."""
    ours = psutil.Process().children(recursive=True)
    (parent,) = (process for process in ours if ["-p", str(port)] == process.cmdline()[-4:-2])
    return [parent, *parent.children(recursive=True)]
