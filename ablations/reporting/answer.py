"""The opening of a report: the answer in one sentence, then how sure it is, in terms of what the study is about."""

from collections.abc import Sequence

import pandas as pd

from ablations.analysis import sequential, stats
from ablations.analysis.memory import MIN_BATCHES
from ablations.analysis.moderated import ALPHA
from ablations.analysis.summary import Summary, each_row, failure_tests
from ablations.reporting.formatting import (
    accuracy_text,
    agreeing,
    detectable_text,
    draws_text,
    interval_text,
    listed,
    megabytes_text,
    named,
    p_is,
    p_text,
    with_changes,
)
from ablations.reporting.plain import (
    LINEAR,
    NOT_ANSWERED,
    capitalised,
    differs_by_little,
    plain_answer,
)
from ablations.reporting.verdicts import failures
from ablations.study import MEMORY, Study
from nin.text import counted


def answer(study: Study, summary: Summary, overrides: Sequence[str] = ()) -> str:
    """Answer the question in one sentence, with the settings changed by `--set` and the training length that it holds for.

    A verdict without these misleads.
    """
    plain = plain_answer(study, summary).answer
    holds_for = [with_changes(overrides)] if overrides else []
    if plain != NOT_ANSWERED and study.answers not in MEMORY:
        holds_for.append(f"after {_images(summary)} training images")
    text = f"{', '.join(holds_for)}: {plain}" if holds_for else plain
    return f"**{capitalised(text)}.**"


def grounds(study: Study, protocol: str, summary: Summary) -> str:
    """State what the answer rests on: numbers, and how certain they are."""
    if study.answers in MEMORY:
        return _memory_sentence(MEMORY[study.answers], protocol, summary)
    if study.answers == "failures" and len(summary.variants):
        return _failure_sentence(study, protocol, summary)
    compared = summary.variants
    if study.pairs and len(compared):
        compared = compared[compared["variant"].isin(study.pairs.values())]
    failed = [f"`{row.variant}` ({failures(row)})" for row in each_row(compared) if failures(row)]
    note = f"These numbers include runs that did not learn: {listed(failed)}." if failed else ""
    if study.pairs:
        parts = [_tuned_sentence(study, protocol, summary), note]
    else:
        published = _published_sentence(protocol, summary) if len(summary.published) else ""
        parts = [published, _accuracy_sentence(study, protocol, summary), note]
    return " ".join(part for part in parts if part)


def _tuned_sentence(study: Study, protocol: str, summary: Summary) -> str:
    """Verdicts among the variants as tuned, if they differ from those at fixed settings, and how many winners are distinct."""
    table = summary.tuned
    others = table[table["variant"] != study.baseline] if len(table) else table
    if not len(others):
        return f"Under `{protocol}` there are no results of both `{study.baseline}` and a variant as tuned."
    verdicts = _verdicts(
        others.rename(columns=lambda name: name.removesuffix("_tuned")).assign(compared_seeds=0), study.margin
    )
    own = summary.variants["variant"] == study.pairs[study.baseline]
    (base,) = each_row(summary.variants[own])
    changed = others["variant"][others["verdict_fixed"] != others["verdict_tuned"]]
    changes = f"Tuning changes the verdict on {named(changed)}" if len(changed) else "Tuning changes no verdict"
    draws = draws_text(dict(zip(table["variant"], table["draw"], strict=True)))
    baseline = _baseline(f"tuned baseline `{study.baseline}`", protocol, accuracy_text(base, " %"), base.n)
    if all(study.pairs[name] == name for name in table["variant"]):
        return (
            f"For no variant did tuning find a better setting than its own, so no result changes. {baseline} {verdicts}"
        )
    return f"Each variant has the hyperparameters that tuning found for it. {baseline} {verdicts} {changes}. {capitalised(draws)}."


def _published_sentence(protocol: str, summary: Summary) -> str:
    parts = [
        f"**`{row.variant}` {100 * row.median_ours:.1f} % (n = {row.n_ours}) against {100 * row.median_theirs:.1f} % "
        f"(n = {row.n_theirs}), {p_is(row.p_location)}**"
        for row in each_row(summary.published)
    ]
    return f"Median test accuracy under `{protocol}` and in published runs (Mann-Whitney's test): {'; '.join(parts)}."


def _images(summary: Summary) -> str:
    """Count training images after which the verdicts hold, such as "40,000"."""
    fewest, most = summary.examples
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _baseline(name: str, protocol: str, accuracy: str, n: int) -> str:
    return f"Under `{protocol}` the {name} reaches a test accuracy of {accuracy}, n = {counted(n, 'seed')}."


def _memory_sentence(task: str, protocol: str, summary: Summary) -> str:
    lines = summary.memory
    if not len(lines):
        return f"Under `{protocol}` no network was measured with {MIN_BATCHES} batches or more."
    is_linear = lines["r_squared"] >= LINEAR
    bent = listed(lines["network"][~is_linear])
    verdict = (
        "grows linearly with the batch"
        if is_linear.all()
        else f"does not grow linearly with the batch for {bent} (R squared below {LINEAR:g})"
    )
    parts = [
        f"{row.network} {megabytes_text(row.fixed_mb)} + {megabytes_text(row.per_image_mb)} per image (R squared {row.r_squared:.4f})"
        for row in each_row(lines)
    ]
    return f"Under `{protocol}`, peak memory of {task} **{verdict}**: {'; '.join(parts)}."


def _failure_sentence(study: Study, protocol: str, summary: Summary) -> str:
    variants_by_count: dict[tuple[int, int], list[str]] = {}
    for row in each_row(summary.variants.sort_values("impaired", ascending=False, kind="stable")):
        variants_by_count.setdefault((row.impaired, row.n), []).append(row.variant)
    parts = []
    for (count, num), variants in variants_by_count.items():
        share = stats.wilson(count, num)
        parts.append(f"**{count} of {num}** ({100 * share.low:.0f} to {100 * share.high:.0f} %) with {named(variants)}")
    counts = f"Under `{protocol}`, share of runs that collapsed, diverged or never predict some class at the end: {'; '.join(parts)}."
    return " ".join([counts, *_failure_comparisons(study, summary.variants)])


def _failure_comparisons(study: Study, table: pd.DataFrame) -> list[str]:
    """The rates of the confirmatory variants against the baseline's: Fisher's exact test, corrected by Holm."""
    tests = failure_tests(study, table)
    if not tests:
        return []
    by_outcome: dict[str, list[str]] = {"fewer": [], "more": [], "undecided": []}
    for name, (difference, p) in tests.items():
        outcome = "undecided" if not p <= ALPHA else "fewer" if difference < 0 else "more"
        by_outcome[outcome].append(f"`{name}`" if outcome == "undecided" else f"`{name}` ({p_text(p)})")
    results = [
        f"**{outcome} with {listed(names)}**"
        for outcome, names in by_outcome.items()
        if names and outcome != "undecided"
    ]
    if by_outcome["undecided"]:
        results.append(f"undecided with {listed(by_outcome['undecided'])}")
    return [f"Compared with `{study.baseline}` (Fisher's exact test, corrected p): {'; '.join(results)}."]


def _accuracy_sentence(study: Study, protocol: str, summary: Summary) -> str:
    """Name the confirmatory variants that are better, worse or equivalent, and those the data cannot tell apart."""
    table = summary.variants
    base = table[table["variant"] == study.baseline] if len(table) else table
    others = table[table["role"] == "confirmatory"] if len(table) else table
    if not len(base):
        return f"Under `{protocol}` the baseline `{study.baseline}` has no results yet."
    if not len(others):
        more = (
            "train another variant with `--variants`" if study.confirmatory else "the study declares no other variant"
        )
        return f"Under `{protocol}` nothing is compared with `{study.baseline}` yet: {more}."
    row = base.iloc[0]
    baseline = _baseline(f"baseline `{study.baseline}`", protocol, accuracy_text(row, " %"), row.n)
    return f"{baseline} {_verdicts(others, study.margin)}"


def _verdicts(others: pd.DataFrame, margin: float) -> str:
    """Such as "**0x is better by ...**. 3x is inconclusive (...)." of rows with differences and verdicts."""
    sentences = []
    for verdict in ("better", "worse", "equivalent"):
        parts = []
        for other in each_row(others[others["verdict"] == verdict]):
            size, low, high = other.difference, other.difference_low, other.difference_high
            if verdict == "worse":
                size, low, high = -size, -high, -low
            gap = interval_text(size, low, high, unit=" points")
            p = other.p_equivalent if verdict == "equivalent" else other.p_holm
            corrected = f"decided at {other.compared_seeds} seeds" if other.compared_seeds else f"corrected {p_is(p)}"
            relation = "is equivalent, differing" if verdict == "equivalent" else f"is {verdict}"
            small = f", less than the margin of {100 * margin:g}" if differs_by_little(other, margin) else ""
            parts.append(f"**`{other.variant}` {relation} by {gap}{small}, {corrected}**")
        if parts:
            sentences.append("; ".join(parts))
    futile = list(others[others["verdict"] == sequential.FUTILE]["variant"])
    if futile:
        sentences.append(
            f"{named(futile)} {agreeing(futile, 'is', 'are')} not decided, and the looks that are left would hardly decide it"
        )
    pending = list(others[others["verdict"] == sequential.PENDING]["variant"])
    if pending:
        sentences.append(f"{named(pending)} {agreeing(pending, 'is', 'are')} pending: the next look waits for seeds")
    decided = ["better", "worse", "equivalent", sequential.FUTILE, sequential.PENDING]
    undecided = others[~others["verdict"].isin(decided)]
    names = list(undecided["variant"])
    finds = undecided["detectable"][undecided["detectable"] < 100]
    single = list(undecided["variant"][undecided["n"] == 1])
    names = [name for name in names if name not in single]
    if single:
        sentences.append(f"One seed gives no verdict on {named(single)}")
    if names:
        least = f" (minimum detectable difference at 80 % power: {detectable_text(finds, 1)})" if len(finds) else ""
        sentences.append(f"{named(names)} {agreeing(names, 'is', 'are')} inconclusive{least}")
    return ". ".join(sentences) + "."
