"""Show results in a terminal: a study's summary, two folders of results side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ablations.analysis.compare import compare_folders
from ablations.analysis.summary import each_row
from ablations.records import Store
from ablations.reporting.caveats import TITLE, in_short
from ablations.reporting.formatting import difference_text, interval_text, unmarked
from ablations.reporting.verdicts import failures, verdict_text, verdict_words

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.reporting.files import Report


def summary_rows(report: "Report") -> tuple[list[str], list[list[str]]]:
    """The header and a row per variant of the table at the end of a run."""
    header = [
        "variant",
        "n",
        "parameters",
        "GFLOP",
        "test accuracy, %",
        "difference, points",
        "verdict",
        "reached target",
    ]
    rows = []
    for row in each_row(report.summary.variants):
        accuracy = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, "", 1)
        difference = "" if row.role == "baseline" else difference_text(row)
        verdict = verdict_words(row) or verdict_text(row)
        if row.verdict and row.role != "confirmatory":
            verdict += f" ({row.role})"
        hits = ", ".join(filter(None, [f"{row.hits}/{row.n}", failures(row)]))
        sizes = (f"{row.params:,}", f"{row.gflops:.4f}")
        rows.append([row.variant, str(row.n), *sizes, accuracy, difference, verdict, hits])
    return header, rows


DROPPED_FIRST = ("n", "GFLOP", "reached target", "parameters", "test accuracy, %")  # of the table at the end of a run


def fitting_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, dropped_first: Sequence[str] = ()
) -> Table:
    """A table of so many characters, in which no text is shortened: the first column to the left, others to the right.

    dropped_first  columns that are left out, one after the other, until the rest fits
    """
    kept = list(header)
    widths = {name: max(len(text) for text in (name, *(row[k] for row in rows))) for k, name in enumerate(header)}
    for name in dropped_first:
        if sum(widths[other] + 3 for other in kept) + 1 <= width:
            break
        kept.remove(name)
    table = Table()
    for k, name in enumerate(kept):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[header.index(name)]) for name in kept))
    return table


def print_text(console: "Console", text: str) -> None:
    """Print prose, which is broken between words in a terminal, and not at all elsewhere."""
    console.print(text, soft_wrap=not console.is_terminal, markup=False, highlight=False, emoji=False)


def print_summary(report: "Report", console: "Console") -> None:
    """The table at the end of a run."""
    header, rows = summary_rows(report)
    console.print(fitting_table(header, rows, console.width, DROPPED_FIRST))
    print_text(console, unmarked(f"{report.answer} {report.grounds}"))
    if report.caveats:
        print_text(console, unmarked(f"{TITLE}: {in_short(report.caveats)}."))


def print_comparison(store: Store, other: Store, console: "Console") -> None:
    """A table of runs that two folders have in common, or that only one has. Raises ValueError if one has none."""
    for side in (store, other):
        if not side.run_ids():
            raise ValueError(f"there are no runs to compare in {side.folder}")
    rows, lines = compare_folders(store, other)
    texts = [[str(value) for value in row.values()] for row in rows]
    console.print(fitting_table(list(rows[0]), texts, console.width))
    for line in lines:
        print_text(console, line)
