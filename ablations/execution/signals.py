"""Handle a command's signals: interrupt it cleanly, stop it at once, end its training when the budget is used up."""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ablations.tracking.background import stop_all
from nin.cli import INTERRUPTED

ECHO_SEC = 0.5  # seconds in which a signal that comes again is the same one: `timeout` and `make` send theirs twice
GRACE = 2.0  # seconds that MLflow has to close what is open when a command is stopped at once
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class OutOfTimeError(KeyboardInterrupt):
    """The time for training is up: a kind of interruption, so that nothing on its way takes it for a failure."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the body when the time is up; never if it is infinite."""
    if seconds == math.inf:
        yield
        return

    def out_of_time(signum: int, frame: object) -> NoReturn:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def handle_signals() -> None:
    """Handle signals that end a command: the first ends it cleanly, by KeyboardInterrupt, the second at once."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants
            signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: object) -> NoReturn:
    interrupted = time.monotonic()

    def again(signum: int, frame: object) -> None:
        if time.monotonic() > interrupted + ECHO_SEC:
            _stop_at_once()

    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, again)
    raise KeyboardInterrupt


def _stop_at_once() -> NoReturn:
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # which live bars hide
    os.write(2, show_cursor + b"stopped at once\n")
    for number in SIGNALS:  # a third one does not wait either
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    stop_all(GRACE)
    os._exit(INTERRUPTED)  # workers see that and end, too
