"""Show results in a terminal: a study's summary, two folders of results side by side."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ablations.analysis.compare import compare_folders
from ablations.analysis.summary import each_row, failures, verdict_text
from ablations.records import Store
from ablations.reporting.formatting import difference_text, interval_text

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
        verdict = row.verdict or verdict_text(row)
        if row.verdict and row.role != "confirmatory":
            verdict += f" ({row.role})"
        hits = ", ".join(filter(None, [f"{row.hits}/{row.n}", failures(row)]))
        sizes = (f"{row.params:,}", f"{row.gflops:.4f}")
        rows.append([row.variant, str(row.n), *sizes, accuracy, difference, verdict, hits])
    return header, rows


def print_summary(report: "Report", console: "Console") -> None:
    """The table at the end of a run."""
    header, rows = summary_rows(report)
    table = Table(*header)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(report.answer.replace("**", "").replace("`", ""), soft_wrap=True, markup=False)


def print_comparison(store: Store, other: Store, console: "Console") -> None:
    """A table of runs that two folders have in common, or that only one has. Raises ValueError if one has none."""
    for side in (store, other):
        if not side.run_ids():
            raise ValueError(f"there are no runs to compare in {side.folder}")
    rows = compare_folders(store, other)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console.print(table)
