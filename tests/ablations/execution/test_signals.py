"""The first signal interrupts a command, a later one stops it at once."""

import signal

import pytest

from ablations.execution import signals


def test_a_signal_that_comes_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` signals its command and then its command's group."""
    monkeypatch.setattr(signals, "_stop_at_once", lambda: stopped.append(True))
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    stopped: list[bool] = []
    try:
        signals.handle_signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert not stopped
        monkeypatch.setattr(signals, "ECHO_SEC", 0.0)
        signal.raise_signal(signal.SIGINT)
        assert stopped
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
