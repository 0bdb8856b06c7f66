"""What an error says."""

import pytest


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    """The message, which must be a single line without a nested traceback."""
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message
