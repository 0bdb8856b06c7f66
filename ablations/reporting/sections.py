"""The words and tables of a report, in Markdown: what is claimed, how sure it is, and what it rests on."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ablations.analysis import stats
from ablations.analysis.planning import MOST_SEEDS
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
from ablations.reporting.provenance import what_was_run
from ablations.runs import length_name
from ablations.study import MEMORY, Study
from nin.shift import SHIFT

COUNTED = {"training": "weights, gradients and optimiser", "prediction": "weights"}
MEMORY_TEXT = {
    "training": (
        "Least squares of the peak of two training steps on the batch. The fixed part holds weights, gradients, the optimiser's state, "
        "copies of weights in a lower precision and workspace; the slope holds an image's activations and what the backward pass "
        "keeps of them besides, such as the positions of maxima. Counting takes float32 for the first and the precision of training "
        "for the second, and neither copies nor workspace."
    ),
    "prediction": (
        "Least squares of the peak of predicting one batch, in evaluation mode without gradients. The fixed part holds weights, their "
        "copies in a lower precision and workspace; the slope holds the activations of an image that are alive at the same time. "
        "Counting takes all activations of an image, of which prediction frees most before the last is made."
    ),
}


def sections(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    summary: Summary,
    figures: Sequence[tuple[str, str]],
    answer: str,
    overrides: Sequence[str],
    damaged: Sequence[str],
) -> list[str]:
    """The report's parts in order, each a heading, a paragraph, a table or a figure; `figures` are names and captions."""
    if study.answers in MEMORY:
        return [
            f"# {study.name}: {study.question}",
            answer,
            *_memory_sections(MEMORY[study.answers], summary, figures),
            "## What was run",
            what_was_run(study, protocol, records, overrides, damaged),
        ]
    target = study.target(protocol)
    sections = [f"# {study.name}: {study.question}", answer]
    table = summary.variants
    if len(table):
        if len(summary.tuned):
            sections += ["## Fixed and tuned settings side by side", *_tuned_sections(study, summary.tuned)]
        sections += [
            _figure_line("difference_against_images", figures),
            _figure_line("differences", figures),
            *_length_sections(study, summary),
            "## Accuracy on the test set",
            _accuracy_table(study, table),
            _accuracy_notes(study, table),
            _figure_line("accuracy_against_params", figures),
            _figure_line("accuracy_against_flops", figures),
            "## Convergence",
            f"The target is {target:.0%} validation accuracy, declared before the runs. A run that missed it counts as censored at "
            "its budget: the median is infinite when fewer than half hit, the restricted mean takes min(time, budget). The log-rank "
            "test is too ready to find differences between groups of fewer than about 10 runs: a hint there, not a claim.",
            _convergence_table(table),
            _ladder_table(summary),
            _figure_line("learning_curves", figures),
            _figure_line("examples_to_target", figures),
            _figure_line("reached_target", figures),
            "## Runs that failed to learn",
            _failure_table(table),
            "## Generalisation and size",
            _figure_line("generalization_gap", figures),
            *_shift_lines(table),
            _figure_line("params_by_part", figures),
            _figure_line("memory_against_params", figures),
        ]
        if len(summary.controls):
            sections += [
                "## At equal size",
                "Is it the kind of network, or only its size? Each variant against a network of the other kind, widened or narrowed "
                f"to the variant's parameters or FLOPs within {max(1, math.ceil(100 * summary.controls['size_off'].max()))} % "
                "(Welch, 95 %, not corrected; exploratory).",
                _difference_table(summary.controls, "comparison"),
            ]
        if len(summary.contrasts):
            sections += [
                "## Other comparisons",
                "Pairs of variants that the study compares beside the declared comparisons (Welch, 95 %, not corrected; exploratory).",
                _difference_table(summary.contrasts, "comparison"),
            ]
        if len(summary.factors):
            sections += [
                "## Main effects and interactions",
                f"Factors: {' and '.join(study.factors)}. Contrasts of cell means (Welch, Satterthwaite), points of test "
                "accuracy, over the whole table of levels or, where it has holes, each 2 x 2 table around the baseline of which "
                "all four cells were run; exploratory, not corrected.",
                _difference_table(summary.factors, "effect"),
            ]
        if len(summary.published):
            sections += [
                "## Beside published runs",
                _published_text(study),
                _published_table(summary.published),
                _figure_line("beside_published", figures),
            ]
        if len(summary.anchors):
            sections += [
                "## What others have published",
                "Numbers of others on this question, with other networks and other data, mostly single runs: to be set beside the "
                "direction and size of the differences above, not beside the accuracies.",
                _anchors_table(summary.anchors),
            ]
    return [*sections, "## What was run", what_was_run(study, protocol, records, overrides, damaged)]


def _tuned_sections(study: Study, table: pd.DataFrame) -> list[str]:
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
        f"Order by accuracy, fixed: {' > '.join(orders[0])}; tuned: {' > '.join(orders[1])}.",
        markdown_table(rows),
        "Both columns of differences are by the same tests, each corrected by Holm over its own comparisons. Tuned settings were "
        "chosen by validation accuracy with other seeds, with the same number of trials and training images for every variant. Where "
        "several variants have the same draw, tuning has not yet found what suits each: that takes more trials. All other "
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


def _accuracy_table(study: Study, table: pd.DataFrame) -> str:
    rows = [
        {
            "variant": row.variant,
            "role": row.role,
            "n": row.n,
            "parameters": f"{row.params:,}",
            "GFLOP": f"{row.gflops:.4f}",
            "memory, MB": number_text(row.peak_memory_mb),
            "test accuracy, %": accuracy_text(row),
            "difference, points": "" if row.role == "baseline" else difference_text(row),
            "over test images too": ""
            if math.isnan(row.difference_both_low)
            else f"{row.difference_both_low:+.2f} to {row.difference_both_high:+.2f}",
            "p (Holm)": p_text(row.p_holm) if row.role == "confirmatory" else _raw_p(row.p, row.role),
            "P(better)": "" if math.isnan(row.prob_better) else f"{row.prob_better:.2f}",
            "verdict": "" if row.role == "baseline" else verdict_text(row),
        }
        for row in each_row(table)
    ]
    return markdown_table(rows)


def _accuracy_notes(study: Study, table: pd.DataFrame) -> str:
    lines = [
        "Intervals are 95 %. The declared comparisons are each confirmatory variant with the baseline. Their test pairs runs of equal "
        "seed, which share the order of images and their first weights, and draws the variances of all declared comparisons towards "
        "a common one; p is corrected by Holm. Other variants are compared by Welch's test: their raw p and verdicts stand in "
        "brackets, and no claim rests on them. *Equivalent* means that two one-sided tests place the difference within "
        f"{100 * study.margin:g} points.",
    ]
    both = table[table["difference_both_low"].notna()]
    if len(both):
        claimed = both[both["verdict"].isin([stats.BETTER, stats.WORSE]) & (both["role"] == "confirmatory")]
        holds_0 = claimed["variant"][(claimed["difference_both_low"] < 0) & (claimed["difference_both_high"] > 0)]
        parts = both["error_images"] ** 2 / (both["error_seeds"] ** 2 + both["error_images"] ** 2)
        lines.append(
            "*Over test images too*: the difference's interval for other seeds and other test images at once (crossed random effects, "
            "Owen 2007); verdicts are about other seeds on these test images. Images are "
            f"{_percent_text(parts)} % of its variance."
            + (
                f" It includes 0 for {listed(holds_0)}, whose verdict another test set might undo."
                if len(holds_0)
                else ""
            )
        )
    if not table["mean_is_reliable"].all():
        lines.append(
            "*Unreliable*: some runs did not train. Where a tenth of runs collapse, Student's interval of the mean covers 27, 41 and "
            "65 % at 3, 5 and 10 runs, not 95 %. The share that trained and the mean of those that did are under *Runs that failed to "
            "learn*."
        )
    if table["peak_memory_mb"].notna().any():
        lines.append(
            "Memory is the peak of two training steps: weights, gradients, the optimiser's state, activations."
        )
    confirmatory = table[table["role"] == "confirmatory"]
    checks = []
    for row in each_row(confirmatory):
        tests = (("Welch", row.p_welch), ("Dunnett, corrected", row.p_dunnett), ("sign-flip", row.p_sign_flip))
        known = [f"{name} {p_is(p)}" for name, p in tests if not math.isnan(p)]
        if known:
            checks.append(f"{row.variant}: {', '.join(known)}")
    if checks:
        lines.append(f"Checks by other tests (Dunnett's assumes equal variances): {'; '.join(checks)}.")
    detectable = confirmatory["detectable"].dropna()
    if len(detectable):
        lines.append(
            f"Minimum detectable difference at 80 % power, at the spread seen: {ends_text(detectable, 2)} points, by variant. A "
            "smaller difference that was not found is undecided, not absent."
        )
    needs = [
        f"{row.variant} {_seeds_text(row.seeds_if_seen)} if the true difference is the one seen, {_seeds_text(row.seeds_if_margin)} if "
        "it is the margin"
        for row in each_row(confirmatory[confirmatory["verdict"] == "inconclusive"])
        if not math.isnan(row.seeds_if_seen)
    ]
    if needs:
        lines.append(f"Seeds in all that would decide an inconclusive comparison with 80 % power: {'; '.join(needs)}.")
    return "\n\n".join(lines)


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
        f"Is a network invariant to translation? Test images are shifted by {SHIFT} pixels, each in one of eight directions; means "
        "over seeds.",
        markdown_table(rows),
    ]


def _percent_text(parts: pd.Series) -> str:
    """ "12 to 40", or "12" if that is all."""
    low, high = (f"{100 * part:.0f}" for part in (parts.min(), parts.max()))
    return low if low == high else f"{low} to {high}"


def _seeds_text(num: float) -> str:
    return f"{num:.0f}" if math.isfinite(num) else f"more than {MOST_SEEDS:,}"


def _length_sections(study: Study, summary: Summary) -> list[str]:
    """Sections on the length of training; none where there is one length."""
    table = summary.by_length
    if not len(table):
        return []
    changes = {row.variant: row for row in each_row(summary.change)}

    def cell(row: Any) -> str:
        if row.role == "baseline":
            return interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
        return f"{difference_text(row)}, n = {row.n}, {verdict_text(row)}"

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
        f"Difference to {study.baseline} in points of test accuracy (of the baseline its accuracy), n seeds and 95 % intervals, after "
        "each length of training in images. Each length is a training of its own with a whole schedule. p is corrected by Holm "
        "within each. The study's verdict is that of the longest. A change is the difference at the longest minus that at the "
        "shortest, paired by seed, by the same test.",
        markdown_table(rows),
    ]


def _convergence_table(table: pd.DataFrame) -> str:
    rows = [
        {
            "variant": row.variant,
            "hits": f"{row.hits}/{row.n}",
            "images, median": count_text(row.examples_to_target_median),
            "images, restricted mean": count_text(row.examples_to_target_restricted_mean),
            "training TFLOP, median": number_text(row.tflops_to_target_median),
            "seconds, median": number_text(row.seconds_to_target_median),
            "p (log-rank, Holm)": p_text(row.p_logrank_holm),
            "mean height of curve, %": f"{100 * row.area_under_curve_mean:.1f}",
            "images to 99 % of own final": count_text(row.examples_to_99_percent_of_final_median),
        }
        for row in each_row(table)
    ]
    return markdown_table(rows)


def _ladder_table(summary: Summary) -> str:
    wide = summary.ladder.pivot_table(index="variant", columns="target", values="hits", aggfunc="first", sort=False)
    rows = [
        {"variant": str(name)} | {f"hits at {float(str(target)):.0%}": hits for target, hits in row.items()}
        for name, row in wide.iterrows()
    ]
    return markdown_table(rows)


def _failure_table(table: pd.DataFrame) -> str:
    rows = []
    for row in each_row(table):
        rows.append(
            {
                "variant": row.variant,
                "runs": row.n,
                "collapsed": row.collapsed,
                "diverged": row.diverged,
                "trained, % (Wilson 95 %)": interval_text(
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
        + "\n\n*Collapsed*: validation accuracy never left chance. *Diverged*: a loss was not finite. "
        "*Trained*: neither. *Dead*: never predicted on the test set. All of these runs are in the means above; p is Fisher's exact, "
        "not corrected."
    )


def _published_text(study: Study) -> str:
    limits = study.published.failed_loss if study.published else {}
    failed = "; ".join(
        f"{name}: a training loss of {limit:g} or more, or none that is finite" for name, limit in limits.items()
    )
    return (
        "Our runs beside those that others have published for the same settings. Accuracy is in % on the test set after the last "
        "epoch, the loss is the mean over the last epoch in training mode. p: Mann-Whitney's test of location and "
        "Kolmogorov-Smirnov's of any difference; Fisher's for the share of failed runs, with Wilson's intervals"
        + (f". Failed means, for {failed}." if failed else ".")
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


def _raw_p(p: float, role: str) -> str:
    return "" if role == "baseline" else f"[{p_text(p)}]"
