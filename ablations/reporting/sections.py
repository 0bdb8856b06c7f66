"""The words and tables of a report, in Markdown: what is claimed, how sure it is, and what it rests on."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from ablations.analysis import stats
from ablations.analysis.summary import Summary, each_row, failures, verdict_text
from ablations.protocols import PROTOCOLS
from ablations.records import RunRecord
from ablations.study import Study, command_of

LINEAR = 0.99  # R squared from which a line is said to describe memory


def first_sentence(study: Study, protocol: str, summary: Summary) -> str:
    """The answer, in terms of what the study is about."""
    if study.answers == "memory":
        return _memory_sentence(protocol, summary)
    if study.answers == "failures" and len(summary.variants):
        return _failure_sentence(study, protocol, summary) + " " + _accuracy_sentence(study, protocol, summary)
    failed = [f"{row.variant} ({failures(row)})" for row in each_row(summary.variants) if failures(row)]
    note = f" Runs that did not learn are in these numbers: {_listed(failed)}." if failed else ""
    beside = _published_sentence(protocol, summary) + " " if len(summary.published) else ""
    return beside + _accuracy_sentence(study, protocol, summary) + note


def _published_sentence(protocol: str, summary: Summary) -> str:
    parts = [
        f"**{row.variant} {100 * row.median_ours:.1f} % (n = {row.n_ours}) against {100 * row.median_theirs:.1f} % "
        f"(n = {row.n_theirs}), {_p_is(row.p_location)}**"
        for row in each_row(summary.published)
    ]
    return f"Under `{protocol}`, median test accuracy beside that of published runs: {'; '.join(parts)} (Mann-Whitney's test)."


def _memory_sentence(protocol: str, summary: Summary) -> str:
    lines = summary.memory
    if not len(lines):
        return f"Not answered yet: under `{protocol}` no network was measured with two batches or more."
    is_linear = lines["r_squared"] >= LINEAR
    bent = _listed(lines["network"][~is_linear])
    verdict = (
        "grows linearly with the batch"
        if is_linear.all()
        else f"does not grow linearly with the batch for {bent} (R squared below {LINEAR:g})"
    )
    parts = [
        f"{row.network} {_megabytes(row.fixed_mb)} + {_megabytes(row.per_image_mb)} per image (R squared {row.r_squared:.4f})"
        for row in each_row(lines)
    ]
    return f"Under `{protocol}`, peak memory of training **{verdict}**: {'; '.join(parts)}."


def _failure_sentence(study: Study, protocol: str, summary: Summary) -> str:
    variants_by_count: dict[tuple[int, int], list[str]] = {}
    for row in each_row(summary.variants.sort_values("impaired", ascending=False, kind="stable")):
        variants_by_count.setdefault((row.impaired, row.n), []).append(row.variant)
    parts = []
    for (count, num), variants in variants_by_count.items():
        share = stats.wilson(count, num)
        parts.append(
            f"**{count} of {num}** ({100 * share.low:.0f} to {100 * share.high:.0f} %) with {_listed(variants)}"
        )
    counts = f"Under `{protocol}`, runs that collapsed, diverged or lost classes for good: {'; '.join(parts)}."
    return " ".join([counts, *_failure_comparisons(study, summary.variants)])


def _failure_comparisons(study: Study, table: pd.DataFrame) -> list[str]:
    """The rates of the confirmatory variants against the baseline's: Fisher's exact test, corrected by Holm."""
    base, others = table[table["variant"] == study.baseline], table[table["role"] == "confirmatory"]
    if not len(base) or not len(others):
        return []
    (row,) = each_row(base)
    tests = [stats.compare_rates(other.impaired, other.n, row.impaired, row.n) for other in each_row(others)]
    by_outcome: dict[str, list[str]] = {"fewer": [], "more": [], "undecided": []}
    for name, (difference, _), p in zip(others["variant"], tests, stats.holm([p for _, p in tests]), strict=True):
        outcome = "undecided" if not p <= 0.05 else "fewer" if difference.estimate < 0 else "more"
        by_outcome[outcome].append(name if outcome == "undecided" else f"{name} ({_p(p)})")
    said = [
        f"**{outcome} with {_listed(names)}**"
        for outcome, names in by_outcome.items()
        if names and outcome != "undecided"
    ]
    if by_outcome["undecided"]:
        said.append(f"undecided with {_listed(by_outcome['undecided'])}")
    return [f"Compared with {study.baseline} (Fisher's exact test, corrected p): {'; '.join(said)}."]


def _accuracy_sentence(study: Study, protocol: str, summary: Summary) -> str:
    """Which confirmatory variants are better, worse, equivalent, and which the data cannot tell apart."""
    table = summary.variants
    base = table[table["variant"] == study.baseline] if len(table) else table
    others = table[table["role"] == "confirmatory"] if len(table) else table
    if not len(base) or not len(others):
        return f"Not answered yet: under `{protocol}` there are no results of both the baseline {study.baseline} and a variant."
    row = base.iloc[0]
    interval = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
    start = f"Under `{protocol}`, compared with {study.baseline} (test accuracy {interval}, n = {row.n}): "
    parts = []
    for verdict in ("better", "worse", "equivalent"):
        for other in each_row(others[others["verdict"] == verdict]):
            size, low, high = other.difference, other.difference_low, other.difference_high
            if verdict == "worse":
                size, low, high = -size, -high, -low
            gap = interval_text(size, low, high, unit=" points")
            corrected = f"corrected {_p_is(other.p_equivalent if verdict == 'equivalent' else other.p_holm)}"
            relation = "is equivalent, differing" if verdict == "equivalent" else f"is {verdict}"
            parts.append(f"**{other.variant} {relation} by {gap}, {corrected}**")
    undecided = others[others["verdict"] == "inconclusive"]
    if len(undecided):
        finds = undecided["detectable"].dropna()
        could = (
            f" (with a power of 80 % only differences of {_ends(finds, 1)} points or more would have been found)"
            if len(finds)
            else ""
        )
        parts.append(f"{_listed(undecided['variant'])} {'is' if len(undecided) == 1 else 'are'} inconclusive{could}")
    return start + "; ".join(parts) + "."


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
    if study.answers == "memory":
        return [
            f"# {study.name}: {study.question}",
            answer,
            *_memory_sections(summary, figures),
            "## What was run",
            _statement(study, protocol, records, overrides, damaged),
        ]
    target = study.target(protocol)
    sections = [f"# {study.name}: {study.question}", answer]
    table = summary.variants
    if len(table):
        sections += [
            _figure_line("differences", figures),
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
        if len(summary.tuned):
            sections += ["## Fixed and tuned settings side by side", *_tuned_sections(study, summary.tuned)]
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
        if len(summary.over_images):
            sections += [
                "## Would another test set change this?",
                "The same networks, compared over the test images in place of the seeds (seeds averaged). An interval that "
                "holds 0 says that other images might reverse the difference; what other seeds would do is in the first table.",
                _difference_table(summary.over_images, "variant"),
            ]
    return [*sections, "## What was run", _statement(study, protocol, records, overrides, damaged)]


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
            "fixed, %": f"{100 * row.accuracy_fixed:.2f}",
            "tuned, %": f"{100 * row.accuracy_tuned:.2f}",
            "gain by tuning, points": "its own setting won"
            if study.pairs[row.variant] == row.variant
            else interval_text(row.difference_gain, row.difference_low_gain, row.difference_high_gain),
            "fixed: minus the baseline": against(row, "fixed"),
            "tuned: minus the tuned baseline": against(row, "tuned"),
        }
        for row in each_row(table)
    ]
    others = table[table["variant"] != study.baseline]
    changed = (
        others[others["verdict_fixed"] != others["verdict_tuned"]]["variant"] if len(others) else others["variant"]
    )
    orders = [list(table.sort_values(f"accuracy_{kind}", ascending=False)["variant"]) for kind in ("fixed", "tuned")]
    answer = "no verdict changes" if not len(changed) else f"the verdicts on {_listed(changed)} change"
    return [
        f"Does the answer change when each variant is tuned? **{answer[0].upper()}{answer[1:]}.** Order by accuracy, fixed: "
        f"{' > '.join(orders[0])}; tuned: {' > '.join(orders[1])}.",
        _markdown(rows),
        "Both columns of differences are by the same tests, each corrected by Holm over its own comparisons. Tuned settings were "
        "chosen by validation accuracy with other seeds, with the same number of trials and training images for every variant.",
    ]


def _memory_sections(summary: Summary, figures: Sequence[tuple[str, str]]) -> list[str]:
    if not len(summary.memory):
        return []
    rows = [
        {
            "network": row.network,
            "parameters": f"{row.params:,}",
            "batches": row.batches,
            "fixed, MB": _number(row.fixed_mb),
            "weights, gradients and optimiser by counting, MB": _number(row.state_mb),
            "per image, MB": _number(row.per_image_mb),
            "activations by counting, MB": _number(row.activations_mb),
            "R squared": f"{row.r_squared:.5f}",
        }
        for row in each_row(summary.memory)
    ]
    return [
        "## Memory against the batch",
        "Least squares of the peak of two training steps on the batch. The fixed part holds weights, gradients, the optimiser's "
        "state, copies of weights in a lower precision and workspace; the slope holds an image's activations and what the backward "
        "pass keeps of them besides, such as the positions of maxima. Counting takes float32 for the first and the precision of "
        "training for the second, and neither copies nor workspace.",
        _markdown(rows),
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
            "memory, MB": _number(row.peak_memory_mb),
            "test accuracy, %": interval_text(
                row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100
            ),
            "difference, points": "" if row.role == "baseline" else difference_text(row),
            "p (Holm)": _p(row.p_holm) if row.role == "confirmatory" else _raw_p(row.p, row.role),
            "P(better)": "" if math.isnan(row.prob_better) else f"{row.prob_better:.2f}",
            "verdict": "" if row.role == "baseline" else verdict_text(row),
        }
        for row in each_row(table)
    ]
    return _markdown(rows)


def _accuracy_notes(study: Study, table: pd.DataFrame) -> str:
    lines = [
        "Intervals are 95 % (Student's t for means, Welch's t for differences). The pre-declared comparisons are each confirmatory "
        "variant with the baseline, Welch's test corrected by Holm; controls and exploratory variants show in brackets their raw p and "
        "what follows from it, and no claim rests on them. *Equivalent* means that two one-sided tests place the difference within "
        f"{100 * study.margin:g} points.",
    ]
    if table["peak_memory_mb"].notna().any():
        lines.append(
            "Memory is the peak of two training steps: weights, gradients, the optimiser's state, activations."
        )
    checks = []
    for row in each_row(table[table["role"] == "confirmatory"]):
        known = [
            f"{name} {_p_is(p)}"
            for name, p in (("Dunnett", row.p_dunnett), ("sign-flip", row.p_sign_flip))
            if not math.isnan(p)
        ]
        if known:
            checks.append(f"{row.variant}: {', '.join(known)}")
    if checks:
        lines.append(f"Checks by other tests (Dunnett's takes all variances for alike): {'; '.join(checks)}.")
    detectable = table[table["role"] == "confirmatory"]["detectable"].dropna()
    if len(detectable):
        lines.append(
            f"At the spread seen, differences of {_ends(detectable, 2)} points or more, depending on the variant, would have been "
            "found with a power of 80 %. A smaller one that was not found is undecided, not absent."
        )
    return "\n\n".join(lines)


def _convergence_table(table: pd.DataFrame) -> str:
    rows = [
        {
            "variant": row.variant,
            "hits": f"{row.hits}/{row.n}",
            "images, median": _count(row.examples_to_target_median),
            "images, restricted mean": _count(row.examples_to_target_restricted_mean),
            "training TFLOP, median": _number(row.tflops_to_target_median),
            "seconds, median": _number(row.seconds_to_target_median),
            "p (log-rank, Holm)": _p(row.p_logrank_holm),
            "mean height of curve, %": f"{100 * row.area_under_curve_mean:.1f}",
            "images to 99 % of own final": _count(row.examples_to_99_percent_of_final_median),
        }
        for row in each_row(table)
    ]
    return _markdown(rows)


def _ladder_table(summary: Summary) -> str:
    wide = summary.ladder.pivot_table(index="variant", columns="target", values="hits", aggfunc="first", sort=False)
    rows = [
        {"variant": str(name)} | {f"hits at {float(str(target)):.0%}": hits for target, hits in row.items()}
        for name, row in wide.iterrows()
    ]
    return _markdown(rows)


def _failure_table(table: pd.DataFrame) -> str:
    rows = []
    for row in each_row(table):
        failed = stats.wilson(row.collapsed + row.diverged, row.n)
        rows.append(
            {
                "variant": row.variant,
                "runs": row.n,
                "collapsed": row.collapsed,
                "diverged": row.diverged,
                "share of both, % (Wilson 95 %)": interval_text(failed.estimate, failed.low, failed.high, 100),
                "p against baseline": _p(row.p_failed_to_learn),
                "runs with dead classes": row.runs_with_dead_classes,
                "dead classes, mean": f"{row.dead_classes_mean:.1f}",
            }
        )
    return (
        _markdown(rows) + "\n\n*Collapsed*: validation accuracy never left chance. *Diverged*: a loss was not finite. "
        "*Dead*: never predicted on the test set. All of these runs are in the means above; p is Fisher's exact, not corrected."
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
        cells["p accuracy"] = f"{_p(row.p_location)}, {_p(row.p_distribution)}"
        cells["p loss"] = f"{_p(row.p_loss_location)}, {_p(row.p_loss_distribution)}"
        for side in ("ours", "theirs"):
            count = getattr(row, f"failed_{side}", math.nan)
            n = getattr(row, f"n_{side}")
            share = None if math.isnan(count) else stats.wilson(int(count), n)
            text = "" if share is None else f"{count:.0f}/{n} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
            cells[f"{side}: failed"] = text
        cells["p failed"] = _p(getattr(row, "p_failed", math.nan))
        rows.append(cells)
    return _markdown(rows)


def _difference_table(table: pd.DataFrame, label: str) -> str:
    rows = [
        {
            label: getattr(row, label),
            "difference, points": difference_text(row),
            "p": _p(row.p),
        }
        for row in each_row(table)
    ]
    return _markdown(rows)


def _statement(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    overrides: Sequence[str],
    damaged: Sequence[str],
) -> str:
    """The facts under which the numbers hold."""
    settings = PROTOCOLS[protocol]
    run = next((r.run for r in records if r.run.variant == study.baseline), records[0].run)
    train, data = run.train, run.data
    settings_of_runs = [record.run.settings for record in records]

    def given(setting: str) -> str:
        return _range_text({settings[setting] for settings in settings_of_runs})

    seeds = sorted({record.run.seed for record in records})
    num_seeds = {
        name: len({r.run.seed for r in records if r.is_result and r.run.variant == name}) for name in study.variants
    }
    lacking = [name for name, num in num_seeds.items() if num < len(seeds)]
    same = "but not all of them of" if any(num_seeds[name] for name in lacking) else "the same for"
    validation = (
        f"the test set, watched {train.evals_per_epoch} times an epoch"
        if data.val_examples == 0
        else f"{data.val_examples:,} images set aside from the training set (split {data.split!r})"
    )
    devices = {r.environment.get("device", "") for r in records}
    facts = [
        f"Protocol `{protocol}`: {settings.purpose}. {settings.note}".strip(),
        f"Seeds {_seeds_text(seeds)}, {same} every variant. Variants: {len({r.run.variant for r in records})} of "
        f"{len(study.variants)}.",
        f"Budget: {given('train.epochs')} epochs, {max(r.examples_seen for r in records):,} training images; "
        f"batch {given('train.batch_size')}; {given('train.optimizer')}, lr {given('train.lr')}, momentum {given('train.momentum')}, "
        f"weight decay {given('train.weight_decay')}, schedule {given('train.schedule')}, {_precisions_text(records)}; "
        f"weights {given('model.init')}.",
        _tuning_fact(study)
        + (f"; changed from the protocol by {', '.join(f'`--set {o}`' for o in overrides)}." if overrides else "."),
        f"Data: {data.name}, checksum {_listed({r.data_checksum[:12] for r in records if r.data_checksum})}. Train accuracy is on "
        f"training images, in evaluation mode after the last step. Validation accuracy (targets, curves) is on {validation}. Test "
        f"accuracy is on the test set after the last step{', read once' if data.val_examples else ''}.",
        f"Device: {_listed(devices)}{'; seconds of one are not those of another' if len(devices) > 1 else ''}. Versions: "
        f"{_listed({_versions(r) for r in records})}.",
        f"Commit: {_listed({r.environment.get('commit') or 'unknown' for r in records})}.",
        f"Wall time: {sum(r.wall_seconds for r in records if r.is_result) / 60:.1f} minutes summed over runs, "
        f"{sum(r.train_seconds for r in records if r.is_result) / 60:.1f} of them training.",
    ]
    facts.append(f"Command: `{command_of(study, [record.run for record in records], overrides)}`")
    facts += [f"Failed: {record.run.label}: {record.error}" for record in records if not record.is_result]
    if lacking:
        left_out = " (a control that comes out as a network that is there already is left out)"
        is_control = all(study.variants[name].match and not num_seeds[name] for name in lacking)
        facts.append(f"Without results for some seeds: {_listed(lacking)}{left_out if is_control else ''}.")
    return "\n".join(f"- {fact}" for fact in [*facts, *damaged])


def _precisions_text(records: Sequence[RunRecord]) -> str:
    """ "bf16", or that runs which ask for one precision were computed in several, as on machines of different kinds."""
    runs = Counter(record.precision for record in records)
    asked = {(record.run.settings["train.precision"], record.precision) for record in records}
    if len(asked) == len({question for question, _ in asked}):
        return _listed(sorted(runs))
    return f"**computed in different precisions ({_listed([f'{name}: {runs[name]} runs' for name in sorted(runs)])})**"


def _tuning_fact(study: Study) -> str:
    if study.pairs:
        return "Variants marked as tuned have parameters of training found by tuning, the rest the protocol's, the same for all"
    if study.searches:
        return "Variant found has what tuning has found, the rest the protocol's parameters of training"
    studied = sorted(set[str]().union(*(variant.train for variant in study.variants.values())))
    besides = f" but for what is studied ({_listed(studied)})" if studied else ""
    return f"Parameters of training are fixed, the same for all variants{besides}; none was tuned for any of them"


def _seeds_text(seeds: Sequence[int]) -> str:
    """ "0, 1 and 2", or "0 to 9" of many without a gap."""
    whole = len(seeds) > 3 and seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{seeds[0]} to {seeds[-1]}" if whole else _listed(seeds)


def _range_text(values: Iterable[object]) -> str:
    """ "0.1", "0.01, 0.05 and 0.1" or, of many numbers, "1 to 512"."""
    numbers = sorted(value for value in values if isinstance(value, int | float))
    if len(numbers) > 3:
        return f"{numbers[0]:g} to {numbers[-1]:g}"
    return _listed([f"{number:g}" for number in numbers] or sorted(map(str, values)))


def _versions(record: RunRecord) -> str:
    kept = ("python", "torch", "cuda", "threads")
    return ", ".join(f"{key} {record.environment[key]}" for key in kept if record.environment.get(key))


def _figure_line(name: str, figures: Sequence[tuple[str, str]]) -> str:
    caption = dict(figures).get(name)
    return f"![{name}](figures/{name}.png)\n\n*{caption}*" if caption else ""


def _markdown(rows: Sequence[dict[str, object]]) -> str:
    return str(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))


def interval_text(estimate: float, low: float, high: float, scale: float = 1, unit: str = "", digits: int = 2) -> str:
    """For example "80.12 % (78.00 to 82.24)"; without ends where there are none."""
    if math.isnan(estimate):
        return "–"
    if math.isnan(low):
        return f"{scale * estimate:.{digits}f}{unit}"
    return f"{scale * estimate:.{digits}f}{unit} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def difference_text(row: Any) -> str:
    """A row's difference in points with its interval, such as "+4.62 (+2.43 to +6.80)"."""
    if math.isnan(row.difference):
        return "–"
    ends = "" if math.isnan(row.difference_low) else f" ({row.difference_low:+.2f} to {row.difference_high:+.2f})"
    return f"{row.difference:+.2f}{ends}"


def _p(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _p_is(p: float) -> str:
    """ "p = 0.0123", or "p < 0.0001"."""
    return f"p {text}" if (text := _p(p)).startswith("<") else f"p = {text}"


def _ends(values: pd.Series, digits: int) -> str:
    """ "3.5 to 10.6", or "3.5" if that is all; in points, of which there are a hundred."""
    low, high = (f"{min(value, 100):.{digits}f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _raw_p(p: float, role: str) -> str:
    return "" if role == "baseline" else f"[{_p(p)}]"


def _count(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:,.0f}"


def _megabytes(value: float) -> str:
    return f"{value:,.0f} MB" if value >= 100 else f"{value:.3g} MB"


def _number(value: float) -> str:
    return _count(value) if not math.isfinite(value) else f"{value:.3g}"


def _listed(items: Iterable[object]) -> str:
    words = [str(item) for item in (sorted(items, key=str) if isinstance(items, set) else items)]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "none"
