"""Sections of a report on what others have published: runs of the same settings, and numbers on the same question."""

import math
from collections.abc import Sequence

import pandas as pd

from ablations.analysis import stats
from ablations.analysis.summary import each_row
from ablations.reporting.formatting import figure_line, markdown_table, p_text
from ablations.study import Study


def published_sections(study: Study, table: pd.DataFrame, figures: Sequence[tuple[str, str]]) -> list[str]:
    """Our runs beside those of the same settings that others have published; none where there are no such runs."""
    if not len(table):
        return []
    return [
        "## Beside published runs",
        _published_text(study),
        _published_table(table),
        figure_line("beside_published", figures),
    ]


def _published_text(study: Study) -> str:
    limits = study.published.failed_loss if study.published else {}
    failed = "; ".join(
        f"{name}: a training loss of {limit:g} or more, or none that is finite" for name, limit in limits.items()
    )
    return (
        "Others have published runs of the same settings. Accuracy is in % on the test set after the last epoch; the loss is the mean "
        "over the last epoch in training mode. The three p of accuracy and of loss are from Mann and Whitney's test of location, Brown "
        "and Forsythe's of spread and Kolmogorov and Smirnov's of any difference. Shares of failed runs have Wilson's intervals and "
        "Fisher's exact p." + (f" Failed means, for {failed}." if failed else "")
    )


def _published_table(table: pd.DataFrame) -> str:
    rows = []
    for row in each_row(table):
        cells: dict[str, object] = {"variant": row.variant}
        for side in ("ours", "theirs"):
            n, median, mean, sd = (getattr(row, f"{name}_{side}") for name in ("n", "median", "mean", "sd"))
            cells[f"{side}: n"] = n
            spread = "–" if math.isnan(sd) else f"{100 * sd:.1f}"
            cells[f"{side}: median, mean ± sd"] = f"{100 * median:.1f}, {100 * mean:.1f} ± {spread}"
        for measure, name in (("accuracy", "p"), ("loss", "p_loss")):
            tests = (getattr(row, f"{name}_{test}") for test in ("location", "spread", "distribution"))
            cells[f"p {measure}"] = ", ".join(map(p_text, tests))
        for side in ("ours", "theirs"):
            count = getattr(row, f"failed_{side}", math.nan)
            n = getattr(row, f"n_{side}")
            share = None if math.isnan(count) else stats.wilson(int(count), n)
            text = "" if share is None else f"{count:.0f}/{n} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
            cells[f"{side}: failed"] = text
        cells["p failed"] = p_text(getattr(row, "p_failed", math.nan))
        rows.append(cells)
    return markdown_table(rows)


def anchor_sections(table: pd.DataFrame) -> list[str]:
    """Numbers of others on the study's question, from other networks and data; none where none are known."""
    if not len(table):
        return []
    return [
        "## What others have published",
        "Others have published these numbers on the question, with other networks and other data, mostly from single runs. "
        "Compare their differences with those above, not their accuracies.",
        _anchors_table(table),
    ]


def _anchors_table(table: pd.DataFrame) -> str:
    rows = []
    for (group, measure, data, source, note), settings in table.groupby(
        ["group", "measure", "data", "source", "note"], sort=False
    ):
        values = "; ".join(f"{row.setting}: {row.value}" for row in each_row(settings))
        rows.append(
            {
                "what was compared": group,
                "setting: value in %": values,
                "measure": measure,
                "data": data,
                "source": f"{source} ({note})" if note else source,
            }
        )
    return markdown_table(rows)
