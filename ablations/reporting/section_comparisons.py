"""Sections of a report on its other comparisons: each length of training, tuned settings, controls, contrasts, factors."""

import math
from typing import Any

import pandas as pd

from ablations.analysis.summary import Summary, each_row
from ablations.reporting.formatting import (
    difference_text,
    interval_text,
    markdown_table,
    marked,
    p_is,
    p_text,
    signed_text,
)
from ablations.reporting.section_accuracy import bracket_note
from ablations.reporting.verdicts import verdict_text
from ablations.runs import length_name
from ablations.study import Study
from nin.text import counted

EXPLORATORY = "Welch's test, 95 % intervals, exploratory: p is not corrected for the number of comparisons."


def length_sections(study: Study, summary: Summary) -> list[str]:
    """Sections on the length of training; none where there is one length."""
    table = summary.by_length
    if not len(table):
        return []
    changes = {row.variant: row for row in each_row(summary.change)}
    same_n = table["n"].nunique() == 1
    each = f", each of {counted(int(table['n'].iloc[0]), 'seed')}" if same_n else ""

    def cell(row: Any) -> str:
        if row.role == "baseline":
            return interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
        size = "" if same_n else f", n = {row.n}"
        failed = f" ({row.impaired} of {row.n} did not learn)" if row.impaired else ""
        return f"{difference_text(row)}{size}, {verdict_text(row)}{failed}"

    rows = []
    for name in dict.fromkeys(table["variant"]):
        ours = {row.length: cell(row) for row in each_row(table[table["variant"] == name])}
        row: dict[str, object] = {"variant": name}
        row |= {f"after {length_name(length)}": ours.get(length, "") for length in sorted(set(table["length"]))}
        if name in changes:
            change = changes[name]
            p = marked(p_is(change.p_holm if change.role == "confirmatory" else change.p), change.role)
            row[f"change from {length_name(change.shortest)} to {length_name(change.longest)}"] = (
                f"{difference_text(change)}, {p}"
            )
        rows.append(row)
    return [
        "## Effect of training length",
        f"Does the difference from `{study.baseline}` depend on how long networks train? Each length, in training images, is a "
        "training of its own with a complete schedule. The table has differences in points of test accuracy with 95 % intervals, and "
        f"the baseline's accuracy{each}. Verdicts are corrected by Holm's method within each length; the study's answer is that after "
        f"{length_name(summary.length)}{', whose declared comparisons are those after looks' if summary.looks else ''}. "
        "The last column is how the difference changes from the shortest training to that one, paired by seed, by the same test; "
        f"p of exploratory variants, in square brackets, is Welch's and not corrected.{bracket_note(table)}",
        markdown_table(rows),
    ]


def tuned_sections(study: Study, table: pd.DataFrame) -> list[str]:
    """Fixed and tuned settings side by side (`Summary.tuned`); none where nothing was tuned."""
    if not len(table):
        return []

    def against(row: Any, kind: str) -> str:
        difference = getattr(row, f"difference_{kind}", math.nan)  # there is none if only the baseline was tuned
        if row.variant == study.baseline or math.isnan(difference):
            return "baseline"
        low, high = getattr(row, f"difference_low_{kind}"), getattr(row, f"difference_high_{kind}")
        return f"{signed_text(difference, low, high)}, {getattr(row, f'verdict_{kind}')}"

    rows = [
        {
            "variant": row.variant,
            "fixed, %": f"{100 * row.accuracy_mean_fixed:.2f}",
            "tuned, %": f"{100 * row.accuracy_mean_tuned:.2f}",
            "tuned setting": row.setting or "its own",
            "gain by tuning, points": "its own setting won"
            if study.pairs[row.variant] == row.variant
            else interval_text(row.difference_gain, row.difference_low_gain, row.difference_high_gain),
            "fixed: minus the baseline": against(row, "fixed"),
            "tuned: minus the tuned baseline": against(row, "tuned"),
        }
        for row in each_row(table)
    ]
    orders = [
        list(table.sort_values(f"accuracy_mean_{kind}", ascending=False)["variant"]) for kind in ("fixed", "tuned")
    ]
    return [
        "## Fixed and tuned settings side by side",
        f"Order by accuracy, fixed: {' > '.join(orders[0])}; tuned: {' > '.join(orders[1])}.",
        markdown_table(rows),
        "Both columns of differences come from the same tests, each corrected by Holm's method over its own comparisons. Tuning chose "
        "settings by validation accuracy, with other seeds; its own report gives the trials and training images of each variant. "
        "All other tables and figures compare with the baseline at its fixed setting.",
    ]


def control_sections(table: pd.DataFrame) -> list[str]:
    """Variants against networks of equal size (`Summary.controls`); none without controls."""
    if not len(table):
        return []
    return [
        "## At equal size",
        "Is it the kind of network, or only its size? Each variant is compared with a control of the other kind, whose width or "
        "hidden units are chosen so that it has the variant's parameters or FLOPs within "
        f"{max(1, math.ceil(100 * table['size_off'].max()))} %. {EXPLORATORY}",
        _difference_table(table, "comparison"),
    ]


def contrast_sections(table: pd.DataFrame) -> list[str]:
    """Other pairs of variants that the study compares (`Summary.contrasts`); none without any."""
    if not len(table):
        return []
    return [
        "## Other comparisons",
        f"The study also compares these pairs of variants. {EXPLORATORY}",
        _difference_table(table, "comparison"),
    ]


def factor_sections(study: Study, table: pd.DataFrame) -> list[str]:
    """Main effects and interactions of two factors (`Summary.factors`); none for studies of one."""
    if not len(table):
        return []
    return [
        "## Main effects and interactions",
        f"The study varies {' and '.join(study.factors)} together. A main effect is a factor's mean effect on "
        "test accuracy, or on the gap, which is train minus test accuracy; an interaction is how much one factor changes the effect of "
        "another. They are contrasts of cell "
        "means over the whole table of levels or, where runs are missing, over each complete 2 x 2 table around the baseline "
        f"(Welch-Satterthwaite). {EXPLORATORY}",
        markdown_table(
            [
                {
                    "effect": row.effect,
                    "test accuracy, points": difference_text(row),
                    "p": p_text(row.p),
                    "gap, points": signed_text(row.gap_difference, row.gap_difference_low, row.gap_difference_high),
                    "p of the gap": p_text(row.gap_p),
                }
                for row in each_row(table)
            ]
        ),
    ]


def _difference_table(table: pd.DataFrame, label: str) -> str:
    rows = [
        {
            label: getattr(row, label),
            "difference, points": difference_text(row),
            "p": p_text(row.p),
        }
        for row in each_row(table)
    ]
    return markdown_table(rows)
