"""What is shown while runs train."""

from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from builders import record_of, smoke_runs
from rich.console import Console

from ablations.execution.engines import Ended, Failed, Progressed, Started
from ablations.execution.progress import Display, say


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time stands still unless a test moves it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ablations.execution.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_the_time_left_is_in_minutes_and_then_in_seconds(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = smoke_runs(seeds=1, variants=["0x", "1x"])
    with Display(dict.fromkeys(runs, 1.0), Console()) as display:
        for each in runs:
            display.show(Started(each))
            clock.now += 50
            display.show(Progressed(each, replace(record_of(each).curve[0], examples=1536, epoch=3.0)))
            display.show(Ended(each, record_of(each)))
    ended = [line for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert [line.partition("; ")[2] for line in ended] == ["about 2 min left", "about 50 s left", ""]


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"MLflow: [bold] :smile: http://host/#/experiments/1?a=%60b%60 {'x' * 200}"
    say(Console(width=40), line)
    assert capsys.readouterr().out == f"{line}\n"


def test_an_error_is_printed_as_it_is(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = smoke_runs(seeds=1, variants=["2x"])
    with Display({run: 1.0}, Console()) as display:
        display.show(Failed(run, "ValueError: got a:x:b [bold]", ""))
    assert "ValueError: got a:x:b [bold]" in capsys.readouterr().out


def test_where_there_are_no_bars_a_line_within_the_first_minute_tells_the_time_left(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = smoke_runs(seeds=1, variants=["0x", "1x"])
    with Display(dict.fromkeys(runs, 1.0), Console()) as display:
        display.show(Started(runs[0]))
        for point in record_of(runs[0]).curve[:3]:  # a sixth of one of three runs each
            clock.now += 20
            display.show(Progressed(runs[0], point))
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["2x seed 0: started", "2x seed 0: 33% trained; about 5 min left"]  # after 40 s, a ninth of all


def test_a_probe_is_the_first_estimate_before_anything_has_begun(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.now = 1e6  # a clock begins anywhere
    runs = smoke_runs(seeds=1, variants=["0x", "1x"])
    with Display(dict.fromkeys(runs, 1.0), Console(), workers=2, seconds=450.0):
        pass
    assert capsys.readouterr().out == "[0/3] about 5 min left\n"  # two rounds of 150 s


def test_lines_and_bars_show_one_estimate(clock: SimpleNamespace) -> None:
    """In a terminal, where the time is counted down between two estimates."""
    runs = smoke_runs(seeds=1, variants=["0x", "1x"])
    terminal = Console(file=StringIO(), force_terminal=True, width=120)
    with Display(dict.fromkeys(runs, 1.0), terminal, workers=1, seconds=600.0) as display:
        display.show(Started(runs[0]))
        clock.now = 13.0
        display._bars.refresh()
    assert isinstance(terminal.file, StringIO)
    assert "0:09:47" in terminal.file.getvalue()
