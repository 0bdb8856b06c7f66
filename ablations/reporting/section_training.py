"""Sections of a report on training: how soon networks reach the target, which runs failed to learn, how well they generalise."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ablations.analysis.summary import Summary, each_row
from ablations.reporting.formatting import (
    count_text,
    figure_line,
    interval_text,
    markdown_table,
    number_text,
    p_text,
    range_text,
    signed_text,
)
from ablations.runs import length_name
from nin.shift import SHIFT


def convergence_sections(summary: Summary, target: float, figures: Sequence[tuple[str, str]]) -> list[str]:
    """Training images until a validation accuracy of `target` (a fraction), and other measures of speed."""
    table = summary.variants
    shortest = (
        f" Counts are from trainings of {length_name(summary.length)} images; with a shorter schedule, networks may reach the target "
        "after fewer images, or not at all."
        if len(summary.by_length)
        else ""
    )
    fewest, most = summary.examples
    restriction = (
        "For the restricted mean, a run that missed the target counts as if it had needed all its training images."
        if fewest == most
        else f"The restricted mean is over the first {fewest:,} training images, which all variants were given; a run that missed the "
        "target in them counts as if it had needed all of them."
    )
    return [
        "## Convergence",
        f"How many training images does a network need to reach a validation accuracy of {100 * target:.0f} %? The target was declared "
        "before the runs. *Hits* counts the runs that reached it. The median is infinite where fewer than half did. The log-rank test "
        "compares the times with the baseline's; with fewer than about 10 runs a group it finds differences too readily, so it is a "
        f"hint and not a claim.{shortest}",
        _convergence_table(table),
        _convergence_detail_table(table, summary),
        f"{restriction} The mean height of "
        "the curve is the mean validation accuracy over the training. *Images to 99 % of own final* is infinite for a run that did not "
        "learn.",
        figure_line("learning_curves", figures),
        figure_line("examples_to_target", figures),
        figure_line("reached_target", figures),
    ]


def _convergence_table(table: pd.DataFrame) -> str:
    rows = [
        {
            "variant": row.variant,
            "hits": f"{row.hits}/{row.n}",
            "images to target, median": count_text(row.examples_to_target_median),
            "p (log-rank, Holm)": p_text(row.p_logrank_holm),
            "images to 99 % of own final": count_text(row.examples_to_99_percent_of_final_median),
        }
        for row in each_row(table)
    ]
    return markdown_table(rows)


def _convergence_detail_table(table: pd.DataFrame, summary: Summary) -> str:
    """Other measures of speed, and hits at targets around the declared one."""
    wide = summary.target_sweep.pivot_table(
        index="variant", columns="target", values="hits", aggfunc="first", sort=False
    )
    rows = [
        {
            "variant": row.variant,
            "images, restricted mean": count_text(row.examples_to_target_restricted_mean),
            "TFLOP to target, median": number_text(row.tflops_to_target_median),
            "seconds to target, median": number_text(row.seconds_to_target_median),
            "mean height of curve, %": f"{100 * row.area_under_curve_mean:.1f}",
        }
        | {f"hits at {float(str(target)):.0%}": hits for target, hits in wide.loc[row.variant].items()}
        for row in each_row(table)
    ]
    return markdown_table(rows)


def failure_sections(table: pd.DataFrame, length: int = 0) -> list[str]:
    """Runs that collapsed, diverged or lost classes; of that length of training where there are several."""
    return [
        "## Runs that failed to learn",
        _failure_table(table, f" of {length_name(length)} images" if length else ""),
    ]


def _failure_table(table: pd.DataFrame, of_length: str) -> str:
    if not table["impaired"].any():
        return (
            f"All {table['n'].sum()} runs{of_length} learned: none collapsed to chance, none diverged, and none stopped "
            f"predicting a class. With {range_text(table['n'], str)} runs a variant, rare failures go unseen."
        )
    rows = []
    baseline_failed = bool(table.loc[table["role"] == "baseline", "impaired"].any())
    shown = table if baseline_failed else table[(table["impaired"] > 0) | (table["role"] == "baseline")]
    others = table[~table["variant"].isin(shown["variant"])]
    for row in each_row(shown):
        rows.append(
            {
                "variant": row.variant,
                "runs": row.n,
                "collapsed": row.collapsed,
                "diverged": row.diverged,
                "learned, % (Wilson 95 %)": interval_text(
                    row.share_trained, row.share_trained_low, row.share_trained_high, 100
                ),
                "test accuracy of those, %": ""
                if row.mean_is_reliable
                else interval_text(row.trained_accuracy_mean, row.trained_accuracy_low, row.trained_accuracy_high, 100),
                "p against baseline": p_text(row.p_failed_to_learn),
                "runs with dead classes": row.runs_with_dead_classes,
                "dead classes, mean": f"{row.dead_classes_mean:.1f}",
            }
        )
    rest = "the other variant" if len(others) == 1 else f"the other {len(others)} variants"
    return (
        markdown_table(rows)
        + (f"\n\nAll {others['n'].sum()} runs{of_length} of {rest} learned." if len(others) else "")
        + "\n\n*Collapsed*: validation accuracy was never shown to be above chance. *Diverged*: a loss was not finite. A class is "
        "*dead* if the network never predicts it on the test set. *Learned*: none of these. The means above include all runs. p is "
        "from Fisher's exact test and not corrected."
    )


def generalization_sections(
    table: pd.DataFrame, figures: Sequence[tuple[str, str]], has_label_noise: bool = False, passes: float = math.inf
) -> list[str]:
    """Train minus test accuracy, and accuracy on shifted test images where it was measured.

    has_label_noise  whether some variant's training labels were redrawn
    passes           over the training images that differ, at most, of the runs that finished
    """
    is_shifted = bool(table["shifted_accuracy_mean"].notna().any())
    rows = []
    for row in each_row(table):
        cells: dict[str, object] = {
            "variant": row.variant,
            "gap, points": interval_text(
                row.generalization_gap_mean, row.generalization_gap_low, row.generalization_gap_high, 100
            )
            + ("" if row.mean_is_reliable else ", unreliable"),
            "gap minus the baseline's": _points(row, "generalization_gap"),
            "test loss": interval_text(row.test_loss_mean, row.test_loss_low, row.test_loss_high),
        }
        if is_shifted:
            mean, low, high = row.shifted_accuracy_mean, row.shifted_accuracy_low, row.shifted_accuracy_high
            cells["shifted images, %"] = interval_text(mean, low, high, 100)
            cells["shifted images, minus the baseline's"] = _points(row, "shifted_accuracy")
        rows.append(cells)
    shifted = (
        f" Is a network invariant to translation? *Shifted images* gives the accuracy on test images that are each shifted by {SHIFT} "
        "pixels in one of eight directions."
        if is_shifted
        else ""
    )
    noise = (
        " Training accuracy is measured on the labels that were trained on. Where a share of them was redrawn, the gap can be "
        "negative: compare gaps only between variants with the same noise."
        if has_label_noise
        else ""
    )
    num_unseen = round(100 * (1 - min(passes, 1)))  # in a hundred
    unseen = (
        f" Training ended within its first pass: about {num_unseen} % of these training images were never trained on. "
        "Nothing of them can be memorised, so gaps differ less between variants than on images trained on."
        if num_unseen
        else ""
    )
    return [
        "## Generalisation",
        "The *gap* is accuracy on training images minus that on test images, both in evaluation mode after the last step: it says how "
        f"much a network overfits.{noise}{unseen} *Test loss* is cross-entropy in nats.{shifted} Means over seeds have 95 % intervals. "
        "Differences from the baseline, in points, are exploratory (Welch's test).",
        markdown_table(rows),
        figure_line("generalization_gap", figures),
    ]


def _points(row: Any, measure: str) -> str:
    """The difference from the baseline in a measure, in points."""
    difference, low, high = (getattr(row, f"{measure}_difference{end}") for end in ("", "_low", "_high"))
    return "" if math.isnan(difference) else signed_text(difference, low, high)
