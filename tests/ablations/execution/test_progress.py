"""What is shown while runs train."""

from types import SimpleNamespace

import pytest
from builders import record_of, smoke_runs
from rich.console import Console

from ablations.execution.engines import Ended, Progressed, Started
from ablations.execution.progress import Display, say


def test_the_time_left_is_in_minutes_and_then_in_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ablations.execution.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    runs = smoke_runs(seeds=1, variants=["0x", "1x"])
    with Display(dict.fromkeys(runs, 1.0), Console()) as display:
        for each, clock.now in zip(runs, (90.0, 100.0, 110.0), strict=True):
            display.show(Started(each))
            display.show(Ended(each, record_of(each)))
    ended = [line for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert [line.partition("; ")[2] for line in ended] == ["about 3 min left", "about 50 s left", ""]


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"MLflow: [bold] :smile: http://host/#/experiments/1?a=%60b%60 {'x' * 200}"
    say(Console(width=40), line)
    assert capsys.readouterr().out == f"{line}\n"


def test_where_there_are_no_bars_a_line_within_the_first_minute_tells_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ablations.execution.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    runs = smoke_runs(seeds=1, variants=["0x", "1x"])
    with Display(dict.fromkeys(runs, 1.0), Console()) as display:
        display.show(Started(runs[0]))
        for point in record_of(runs[0]).curve[:3]:  # a sixth of one of three runs each
            clock.now += 20
            display.show(Progressed(runs[0], point))
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["2x seed 0: started", "2x seed 0: 33% trained; about 5 min left"]  # after 40 s, a ninth of all
