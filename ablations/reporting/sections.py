"""The words and tables of a report, in Markdown: what is claimed, how sure it is, and what it rests on."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.analysis import stats
from ablations.analysis.planning import MAX_PLANNED_SEEDS
from ablations.analysis.summary import Summary, each_row, verdict_text
from ablations.records import RunRecord
from ablations.reporting.formatting import (
    accuracy_text,
    count_text,
    difference_text,
    ends_text,
    interval_text,
    listed,
    markdown_table,
    number_text,
    p_is,
    p_text,
)
from ablations.reporting.plain import ALPHA
from ablations.reporting.provenance import what_was_run
from ablations.runs import length_name, settings_text
from ablations.study import MEMORY, Study
from nin.cli import counted
from nin.shift import SHIFT

if TYPE_CHECKING:
    from ablations.reporting.files import Report

COUNTED = {"training": "weights, gradients and optimiser", "prediction": "weights"}
EXPLORATORY = "Welch's test, 95 % intervals, exploratory: p is not corrected for the number of comparisons."
BRACKETS = {  # after verdicts, in words of `verdict_text`
    "(Holm)": "the interval excludes 0, but p, corrected for the number of comparisons, is above 0.05.",
    "(looks)": "the interval excludes 0, but the tests at the declared numbers of seeds have not decided.",
}
MEMORY_TEXT = {
    "training": (
        "Each line is fitted by least squares to the peak memory of two training steps, against the batch. The fixed part holds "
        "weights, gradients, the optimiser's state, copies of weights in a lower precision, and workspace. The part per image holds "
        "activations and what the backward pass keeps besides, such as the positions of maxima. The columns *by counting* are computed "
        "from shapes, in float32 for weights and in the training precision for activations, without copies and workspace."
    ),
    "prediction": (
        "Each line is fitted by least squares to the peak memory of predicting one batch, in evaluation mode without gradients. The "
        "fixed part holds weights, their copies in a lower precision, and workspace. The part per image holds the activations that are "
        "alive at the same time. The column *activations by counting* adds up all of them, of which prediction frees most before it "
        "makes the last. Where copying the weights takes the most memory, the peak stays flat until the batch is large enough for its "
        "activations to take more, and one line describes it badly."
    ),
}


def sections(
    study: Study,
    protocol: str,
    report: "Report",
    figures: Sequence[tuple[str, str]],
    overrides: Sequence[str],
    damaged: Sequence[str],
) -> list[str]:
    """The report's parts in order, each a heading, a paragraph, a table or a figure; `figures` are names and captions."""
    summary, records = report.summary, report.records
    opening = [f"# {study.name}: {study.question}", report.answer, report.grounds]
    if study.answers in MEMORY:
        return [
            *opening,
            *_memory_sections(MEMORY[study.answers], summary, figures),
            "## What was run",
            what_was_run(study, protocol, records, overrides, damaged),
        ]
    return [
        *opening,
        *(_result_sections(study, protocol, summary, figures) if len(summary.variants) else []),
        "## Variants",
        *_variants(study, protocol, records),
        "## What was run",
        what_was_run(study, protocol, records, overrides, damaged),
    ]


def _result_sections(study: Study, protocol: str, summary: Summary, figures: Sequence[tuple[str, str]]) -> list[str]:
    """Sections on the results, in order; each function returns none where its data are missing."""
    table = summary.variants
    return [
        *_tuned_sections(study, summary.tuned),
        _figure_line("difference_against_images", figures),
        _figure_line("differences", figures),
        *_length_sections(study, summary),
        "## Accuracy on the test set",
        _accuracy_table(table),
        _accuracy_notes(study, table),
        _figure_line("accuracy_against_params", figures),
        _figure_line("accuracy_against_flops", figures),
        "## Each comparison in detail",
        _detail_table(table),
        _detail_notes(table),
        *_convergence_sections(summary, study.target(protocol), figures),
        "## Runs that failed to learn",
        _failure_table(table),
        "## Generalisation and size",
        _figure_line("generalization_gap", figures),
        *_shift_lines(table),
        _figure_line("params_by_part", figures),
        _figure_line("memory_against_params", figures),
        *_control_sections(summary.controls),
        *_contrast_sections(summary.contrasts),
        *_factor_sections(study, summary.factors),
        *_published_sections(study, summary.published, figures),
        *_anchor_sections(summary.anchors),
    ]


def _tuned_sections(study: Study, table: pd.DataFrame) -> list[str]:
    if not len(table):
        return []

    def against(row: Any, kind: str) -> str:
        difference = getattr(row, f"difference_{kind}", math.nan)  # there is none if only the baseline was tuned
        if row.variant == study.baseline or math.isnan(difference):
            return "baseline"
        low, high = getattr(row, f"difference_low_{kind}"), getattr(row, f"difference_high_{kind}")
        return f"{difference:+.2f} ({low:+.2f} to {high:+.2f}), {getattr(row, f'verdict_{kind}')}"

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
        "settings by validation accuracy, with other seeds, and with the same number of trials and training images for every variant. "
        "Where several variants have the same draw, tuning has not yet found what suits each: that takes more trials. All other "
        "tables and figures compare with the baseline at its fixed setting.",
    ]


def _memory_sections(task: str, summary: Summary, figures: Sequence[tuple[str, str]]) -> list[str]:
    if not len(summary.memory):
        return []
    rows = [
        {
            "network": row.network,
            "parameters": f"{row.params:,}",
            "batches": row.batches,
            "fixed, MB": number_text(row.fixed_mb),
            f"{COUNTED[task]} by counting, MB": number_text(row.state_mb),
            "per image, MB": number_text(row.per_image_mb),
            "activations by counting, MB": number_text(row.activations_mb),
            "R squared": f"{row.r_squared:.5f}",
        }
        for row in each_row(summary.memory)
    ]
    return [
        "## Memory against the batch",
        MEMORY_TEXT[task],
        markdown_table(rows),
        _figure_line("memory_against_batch", figures),
    ]


def _accuracy_table(table: pd.DataFrame) -> str:
    rows = [
        {
            "variant": row.variant,
            "n": row.n,
            "parameters": f"{row.params:,}",
            "test accuracy, %": accuracy_text(row),
            "difference, points": "" if row.role == "baseline" else difference_text(row),
            "p": p_text(row.p_holm) if row.role == "confirmatory" else _raw_p(row.p, row.role),
            "verdict": "baseline" if row.role == "baseline" else verdict_text(row),
        }
        for row in each_row(table)
    ]
    return markdown_table(rows)


def _accuracy_notes(study: Study, table: pd.DataFrame) -> str:
    confirmatory, others = (
        table[table["role"] == "confirmatory"],
        table[~table["role"].isin(["baseline", "confirmatory"])],
    )
    margin = 100 * study.margin
    method = (
        ", and estimates each variance with the help of the other comparisons'. p is corrected for the number of comparisons by Holm's "
        "method; the interval is not."
        if len(confirmatory) > 1
        else "."
    )
    lines = [
        "Intervals are 95 %. A *difference* is a variant's mean test accuracy minus the baseline's. The test pairs runs of equal seed, "
        f"which share their first weights and the order of images{method} *Equivalent*: two one-sided "
        f"tests place the difference within {margin:g} points. *Inconclusive*: neither a difference nor equivalence is "
        f"shown.{_bracket_note(table)}",
    ]
    undecided = confirmatory[confirmatory["verdict"] == stats.INCONCLUSIVE]
    nearly = undecided[(undecided["difference_low"] > -margin) & (undecided["difference_high"] < margin)]
    if len(nearly):
        each = listed(f"{row.variant} ({p_is(row.p_equivalent)})" for row in each_row(nearly))
        lines.append(f"Within the margin, but not shown to be equivalent once p is corrected: {each}.")
    lines += _unconfirmed(confirmatory)
    if len(others):
        lines.append(
            "Square brackets mark exploratory results, of variants that the study did not declare as its comparisons. They are "
            "compared by Welch's test, their p is not corrected, and no claim rests on them."
        )
    if not table["mean_is_reliable"].all():
        lines.append(
            "*Unreliable*: some runs did not learn. Where a tenth of runs collapse, Student's interval of the mean covers 27, 41 and "
            "65 % at 3, 5 and 10 runs, not 95 %. *Runs that failed to learn* gives the share that learned and their mean."
        )
    detectable = confirmatory["detectable"].dropna()
    if len(detectable):
        lines.append(
            f"Minimum detectable difference at 80 % power, given the spread between seeds: {ends_text(detectable, 2)} points"
            f"{', by variant' if detectable.nunique() > 1 else ''}. A smaller difference that was not found is undecided, not absent."
        )
    return "\n\n".join(lines)


def _unconfirmed(confirmatory: pd.DataFrame) -> list[str]:
    """Name verdicts that rest on the pairing and the shared variances of the primary test: Welch's test does not confirm them."""
    verdicts = (([stats.BETTER, stats.WORSE], "p_welch"), ([stats.EQUIVALENT], "p_welch_equivalent"))
    each = [
        f"{row.variant} {row.verdict} ({p_is(getattr(row, column))})"
        for names, column in verdicts
        for row in each_row(confirmatory[confirmatory["verdict"].isin(names)])
        if not getattr(row, column) < ALPHA
    ]
    if not each:
        return []
    return [
        "Welch's test, which neither pairs runs nor shares variances between comparisons and so finds less with few seeds, does not "
        f"confirm: {listed(each)}, corrected. More seeds would make these verdicts safer."
    ]


def _detail_table(table: pd.DataFrame) -> str:
    """Columns that few readers need at first sight; those that are empty in every row are left out."""
    rows: list[dict[str, object]] = []
    for row in each_row(table):
        needs_seeds = (
            row.role == "confirmatory" and row.verdict == stats.INCONCLUSIVE and not math.isnan(row.seeds_if_seen)
        )
        rows.append(
            {
                "variant": row.variant,
                "role": row.role,
                "GFLOP": f"{row.gflops:.4f}",
                "memory, MB": _known(row.peak_memory_mb, number_text),
                "difference over test images too": ""
                if math.isnan(row.difference_both_low)
                else f"{row.difference_both_low:+.2f} to {row.difference_both_high:+.2f}",
                "P(better)": _known(row.prob_better, "{:.2f}".format),
                "Welch's p": _known(row.p_welch, p_text),
                "Dunnett's p": _known(row.p_dunnett, p_text),
                "sign-flip p": _known(row.p_sign_flip, p_text),
                "seeds to decide": f"{_seeds_text(row.seeds_if_seen)}; {_seeds_text(row.seeds_if_margin)}"
                if needs_seeds
                else "",
            }
        )
    filled = [name for name in rows[0] if any(row[name] for row in rows)]
    return markdown_table([{name: row[name] for name in filled} for row in rows])


def _detail_notes(table: pd.DataFrame) -> str:
    """Explain the columns of `_detail_table` that are there."""
    lines = ["GFLOP is the cost of one image's forward pass."]
    if table["peak_memory_mb"].notna().any():
        lines.append(
            "Memory is the peak of two training steps: weights, gradients, the optimiser's state, activations."
        )
    both = table[table["difference_both_low"].notna()]
    if len(both):
        claimed = both[both["verdict"].isin([stats.BETTER, stats.WORSE]) & (both["role"] == "confirmatory")]
        holds_0 = claimed["variant"][(claimed["difference_both_low"] < 0) & (claimed["difference_both_high"] > 0)]
        parts = both["error_images"] ** 2 / (both["error_seeds"] ** 2 + both["error_images"] ** 2)
        lines.append(
            "*Difference over test images too*: the interval for other seeds and other test images at once (crossed random effects, "
            f"Owen 2007). Images add {_percent_text(parts)} % of its variance. Verdicts are about other seeds on these test images."
            + (
                f" The interval includes 0 for {listed(holds_0)}: another test set might undo the verdict."
                if len(holds_0)
                else ""
            )
        )
    if table["prob_better"].notna().any():
        lines.append(
            "*P(better)*: the estimated probability that a run of the variant beats one of the baseline. The other p-values are "
            "checks of the declared comparisons by other tests. Welch's and the sign-flip p are corrected by Holm's method. Dunnett's "
            "is corrected by construction and assumes equal variances."
        )
    if table["seeds_if_seen"].notna().any():
        lines.append(
            "*Seeds to decide*: how many seeds in all would decide an inconclusive comparison with 80 % power, as a difference or as "
            "equivalent, first if the true difference is the one seen, then if it is the margin of equivalence."
        )
    return " ".join(lines)


def _shift_lines(table: pd.DataFrame) -> list[str]:
    """Accuracy on shifted test images, of the variants that it was measured of."""
    known = table[table["shifted_accuracy_mean"].notna()]
    if not len(known):
        return []
    rows = [
        {
            "variant": row.variant,
            "test accuracy, %": f"{100 * row.test_accuracy_mean:.2f}",
            "on shifted images, %": f"{100 * row.shifted_accuracy_mean:.2f}",
            "lost, points": f"{100 * (row.test_accuracy_mean - row.shifted_accuracy_mean):.2f}",
        }
        for row in each_row(known)
    ]
    return [
        f"Is a network invariant to translation? Each test image is shifted by {SHIFT} pixels in one of eight directions. The table "
        "has means over seeds.",
        markdown_table(rows),
    ]


def _percent_text(parts: pd.Series) -> str:
    """ "12 to 40", or "12" if that is all."""
    low, high = (f"{100 * part:.0f}" for part in (parts.min(), parts.max()))
    return low if low == high else f"{low} to {high}"


def _seeds_text(num: float) -> str:
    return f"{num:.0f}" if math.isfinite(num) else f"more than {MAX_PLANNED_SEEDS:,}"


def _bracket_note(table: pd.DataFrame) -> str:
    """Explain the verdicts whose interval excludes 0 but whose corrected p decides nothing, where there are any."""
    verdicts = " ".join(verdict_text(row) for row in each_row(table))
    return "".join(f" *{mark}*: {why}" for mark, why in BRACKETS.items() if mark in verdicts)


def _length_sections(study: Study, summary: Summary) -> list[str]:
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
        return f"{difference_text(row)}{size}, {verdict_text(row)}"

    rows = []
    for name in dict.fromkeys(table["variant"]):
        ours = {row.length: cell(row) for row in each_row(table[table["variant"] == name])}
        row: dict[str, object] = {"variant": name}
        row |= {f"after {length_name(length)}": ours.get(length, "") for length in sorted(set(table["length"]))}
        if name in changes:
            p = changes[name].p_holm if changes[name].role == "confirmatory" else changes[name].p
            row["change from shortest to longest"] = f"{difference_text(changes[name])}, {p_is(p)}"
        rows.append(row)
    return [
        "## With the length of training",
        f"Does the difference to {study.baseline} depend on how long networks train? Each length, in training images, is a training "
        "of its own with a complete schedule. The table has differences in points of test accuracy with 95 % intervals, and the "
        f"baseline's accuracy{each}. Verdicts are corrected by Holm's method within each length; the study's answer is that of the "
        "longest. "
        "The last column is the difference after the longest minus that after the shortest, paired by seed, by the same test. All "
        "lengths and variants share one learning rate, tuned for none of them: a variant that trains slowly may be behind for that."
        f"{_bracket_note(table)}",
        markdown_table(rows),
    ]


def _convergence_sections(summary: Summary, target: float, figures: Sequence[tuple[str, str]]) -> list[str]:
    table = summary.variants
    shortest = (
        " These are times within the longest training; a shorter schedule reaches it sooner." if summary.length else ""
    )
    return [
        "## Convergence",
        f"How many training images until a validation accuracy of {target:.0%}? The target was declared before the runs. *Hits* "
        "counts the runs that reached it. The median is infinite where fewer than half did. The log-rank test compares the times "
        "with the baseline's; with fewer than about 10 runs a group it finds differences too readily, so it is a hint and not a "
        f"claim.{shortest}",
        _convergence_table(table),
        _convergence_detail_table(table, summary),
        "The restricted mean counts a run that missed the target with all of its images. The mean height of the curve is the mean "
        "validation accuracy over the training.",
        _figure_line("learning_curves", figures),
        _figure_line("examples_to_target", figures),
        _figure_line("reached_target", figures),
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


def _failure_table(table: pd.DataFrame) -> str:
    if not table["impaired"].any():
        return (
            f"All {table['n'].sum()} runs learned: none collapsed to chance, none diverged, and none stopped predicting a class. With "
            f"{ends_text(table['n'], 0)} runs a variant, rare failures go unseen."
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
    return (
        markdown_table(rows)
        + (f"\n\nAll {others['n'].sum()} runs of the other {len(others)} variants learned." if len(others) else "")
        + "\n\n*Collapsed*: validation accuracy never left chance. *Diverged*: a loss was not finite. A class is *dead* if the "
        "network never predicts it on the test set. *Learned*: none of these. The means above include all runs. p is from Fisher's "
        "exact test and not corrected."
    )


def _control_sections(table: pd.DataFrame) -> list[str]:
    if not len(table):
        return []
    return [
        "## At equal size",
        "Is it the kind of network, or only its size? Each variant is compared with a network of the other kind, whose width "
        "is chosen so that it has the variant's parameters or FLOPs within "
        f"{max(1, math.ceil(100 * table['size_off'].max()))} %. {EXPLORATORY}",
        _difference_table(table, "comparison"),
    ]


def _contrast_sections(table: pd.DataFrame) -> list[str]:
    if not len(table):
        return []
    return [
        "## Other comparisons",
        f"The study also compares these pairs of variants. {EXPLORATORY}",
        _difference_table(table, "comparison"),
    ]


def _factor_sections(study: Study, table: pd.DataFrame) -> list[str]:
    if not len(table):
        return []
    return [
        "## Main effects and interactions",
        f"The study varies {' and '.join(study.factors)} together. A main effect is a factor's mean effect on "
        "test accuracy; an interaction is how much one factor changes the effect of another. They are contrasts of cell "
        "means over the whole table of levels or, where runs are missing, over each complete 2 x 2 table around the baseline "
        f"(Welch-Satterthwaite). {EXPLORATORY}",
        _difference_table(table, "effect"),
    ]


def _published_sections(study: Study, table: pd.DataFrame, figures: Sequence[tuple[str, str]]) -> list[str]:
    if not len(table):
        return []
    return [
        "## Beside published runs",
        _published_text(study),
        _published_table(table),
        _figure_line("beside_published", figures),
    ]


def _published_text(study: Study) -> str:
    limits = study.published.failed_loss if study.published else {}
    failed = "; ".join(
        f"{name}: a training loss of {limit:g} or more, or none that is finite" for name, limit in limits.items()
    )
    return (
        "Others have published runs of the same settings. Accuracy is in % on the test set after the last epoch; the loss is the mean "
        "over the last epoch in training mode. The two p of accuracy and of loss are from Mann-Whitney's test of location and "
        "Kolmogorov-Smirnov's test of any difference. Shares of failed runs have Wilson's intervals and Fisher's exact p."
        + (f" Failed means, for {failed}." if failed else "")
    )


def _published_table(table: pd.DataFrame) -> str:
    rows = []
    for row in each_row(table):
        cells: dict[str, object] = {"variant": row.variant}
        for side in ("ours", "theirs"):
            n, median, mean, sd = (getattr(row, f"{name}_{side}") for name in ("n", "median", "mean", "sd"))
            cells[f"{side}: n"] = n
            cells[f"{side}: median, mean ± sd"] = f"{100 * median:.1f}, {100 * mean:.1f} ± {100 * sd:.1f}"
        cells["p accuracy"] = f"{p_text(row.p_location)}, {p_text(row.p_distribution)}"
        cells["p loss"] = f"{p_text(row.p_loss_location)}, {p_text(row.p_loss_distribution)}"
        for side in ("ours", "theirs"):
            count = getattr(row, f"failed_{side}", math.nan)
            n = getattr(row, f"n_{side}")
            share = None if math.isnan(count) else stats.wilson(int(count), n)
            text = "" if share is None else f"{count:.0f}/{n} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
            cells[f"{side}: failed"] = text
        cells["p failed"] = p_text(getattr(row, "p_failed", math.nan))
        rows.append(cells)
    return markdown_table(rows)


def _anchor_sections(table: pd.DataFrame) -> list[str]:
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


def _variants(study: Study, protocol: str, records: Sequence[RunRecord]) -> list[str]:
    there = {record.run.variant for record in records}
    rows: list[dict[str, object]] = []
    for name, variant in study.variants.items():
        if name in there:
            match = variant.match
            size = f"{match.field} such that {match.by} are those of {match.variant}" if match else ""
            changes = ", ".join(part for part in (settings_text(variant.settings), size) if part)
            rows.append({"variant": name, "role": study.role(name), "settings": changes or "the protocol's own"})
    text = f"A variant is the network, data and training of protocol `{protocol}` with these settings changed."
    return [text, markdown_table(rows)]


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


def _figure_line(name: str, figures: Sequence[tuple[str, str]]) -> str:
    caption = dict(figures).get(name)
    return f"![{name}](figures/{name}.png)\n\n*{caption}*" if caption else ""


def _known(value: float, text: Callable[[float], str]) -> str:
    return "" if math.isnan(value) else text(value)


def _raw_p(p: float, role: str) -> str:
    return "" if role == "baseline" else f"[{p_text(p)}]"
