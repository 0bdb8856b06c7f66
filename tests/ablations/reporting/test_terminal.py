"""A terminal of 80 columns shortens no name and no verdict, and breaks prose between words."""

import math
from io import StringIO
from types import SimpleNamespace

import pytest
from builders import smoke_runs
from rich.console import Console

from ablations.analysis.interval import Interval
from ablations.execution.engines import Started
from ablations.execution.progress import Display
from ablations.reporting.terminal import DROPPED_FIRST, fitting_table, print_text
from ablations.reporting.verdicts import verdict_text, verdict_words

NAMES = ["0x@2x-params", "0x@2x-gflops", "2x"]
HEADER = ["variant", "n", "parameters", "GFLOP", "test accuracy, %", "difference, points", "verdict", "reached target"]
ROWS = [
    [name, "3", "1,234,567", "0.0123", "80.1 (78.0 to 82.2)", "+33.25 (-100.00 to +100.00)", "inconclusive", "3/3"]
    for name in NAMES
]


def shown(width: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(fitting_table(HEADER, ROWS, width, DROPPED_FIRST))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [62, 80, 100, 200])
def test_a_table_drops_columns_rather_than_letters(width: int) -> None:
    text = shown(width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for whole in (*NAMES, "+33.25 (-100.00 to +100.00)", "inconclusive"):
        assert whole in text
    assert ("reached target" in text) == (width == 200)


def test_a_wide_terminal_has_every_column() -> None:
    assert all(name in shown(200) for name in HEADER)


def test_prose_is_broken_between_words_in_a_terminal_and_not_at_all_elsewhere() -> None:
    text = "How many convolutions should follow each spatial one, and why? " * 4
    for is_terminal in (True, False):
        console = Console(file=StringIO(), force_terminal=is_terminal, width=40)
        print_text(console, text)
        assert isinstance(console.file, StringIO)
        lines = console.file.getvalue().splitlines()
        assert (len(lines) > 1) == is_terminal
        assert " ".join(" ".join(lines).split()) == text.strip()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bars_show_whole_names(width: int) -> None:
    runs = smoke_runs(study="heads", seeds=1)
    terminal = Console(file=StringIO(), force_terminal=True, width=width)
    with Display(dict.fromkeys(runs, 1.0), terminal) as display:
        for run in runs:
            display.show(Started(run))
        display._bars.refresh()
    assert isinstance(terminal.file, StringIO)
    assert all(f"{run.label} " in terminal.file.getvalue() for run in runs)


def row(low: float, high: float, **changes: object) -> SimpleNamespace:
    fields = {"verdict": "inconclusive", "role": "confirmatory", "n": 3, "p_holm": 0.08}
    return SimpleNamespace(**{**fields, "difference_low": low, "difference_high": high, **changes})


def test_an_interval_without_0_names_the_correction_that_made_it_inconclusive() -> None:
    assert verdict_words(row(-1.0, 2.0)) == "inconclusive"
    assert verdict_words(row(0.1, 2.0)) == verdict_words(row(-2.0, -0.1)) == "inconclusive (Holm)"
    assert verdict_words(row(0.1, 2.0, p_holm=math.nan)) == "inconclusive (looks)"
    assert verdict_text(row(0.1, 2.0, role="exploratory", p_holm=math.nan)) == "[inconclusive]"  # nothing is corrected


def test_one_seed_gives_no_verdict() -> None:
    assert verdict_words(row(math.nan, math.nan, n=1)) == "no verdict: 1 seed"
    assert verdict_words(row(math.nan, math.nan, n=1, verdict="")) == ""


def test_no_interval_is_wider_than_100_points_on_either_side() -> None:
    ends = Interval(0.3325, -3.9375, 4.6025).in_points()
    assert ends == {"difference": 33.25, "difference_low": -100.0, "difference_high": 100.0}
    assert Interval(1.5, 1.2, 3.0).in_points(bound=2.0) == pytest.approx(
        {"difference": 150, "difference_low": 120, "difference_high": 200}
    )
    unknown = Interval(0.3325, math.nan, math.nan).in_points()
    assert math.isnan(unknown["difference_low"])
