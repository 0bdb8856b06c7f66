"""Live bars in a pseudo-terminal: no line is wider than it, and no name or verdict is shortened."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from processes import command

ROWS = 40
LONGEST = "0x@2x-params"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
MOVE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]")  # after which text stands elsewhere


def in_a_terminal(columns: int, words: list[str], folder: Path) -> str:
    """What a command writes to a terminal of so many columns; it must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "CI"):
        env.pop(name, None)
    with subprocess.Popen(words, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux's end of a pseudo-terminal
                break
            if not chunk:
                break
            written += chunk
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_bars_and_table_fit_a_terminal_and_shorten_nothing(columns: int, tmp_path: Path) -> None:
    variants = ["0x", "2x", LONGEST]
    options = ["--protocol", "smoke", "--variants", ",".join(variants), "--seeds", "2", "--results", str(tmp_path)]
    written = in_a_terminal(columns, command("num_1x1", *options), tmp_path)
    assert "\x1b[" in written  # bars are drawn over each other
    lines = [line for line in MOVE.split(STYLE.sub("", written)) if line.strip()]
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= columns  # paths to copy are not broken
    assert "…" not in written
    bars = [line for line in lines if re.search(r"\d+%.*\d:\d\d:\d\d", line)]
    assert any(LONGEST in line for line in bars)
    header = next(k for k, line in enumerate(lines) if "variant" in line and "verdict" in line)
    cells = [re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in lines[header:] if line.startswith("│")]
    assert [row[0] for row in cells] == variants
    assert ("test accuracy, %" in lines[header]) == (
        columns == 160
    )  # narrow tables have fewer columns, not shorter words
