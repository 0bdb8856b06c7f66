"""Answer a study's question in one plain line. The words come from `CLAIMS`, the numbers and verdicts from the summary.

A study without an entry is answered in the same form, with the names of its variants for words.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from ablations.analysis import stats
from ablations.analysis.moderated import ALPHA, ROUNDING
from ablations.analysis.summary import Summary, each_row, failure_tests
from ablations.reporting.formatting import (
    difference_text,
    few,
    interval_text,
    listed,
    megabytes_text,
    p_is,
    signed_text,
)
from ablations.reporting.verdicts import failures
from ablations.study import MEMORY, Study
from nin.text import counted

LINEAR = 0.99  # R squared from which a line is said to describe memory
NOT_ANSWERED = "not answered yet"
RELATIONS = {
    stats.BETTER: "{subject} is more accurate than {object}",
    stats.WORSE: "{subject} is less accurate than {object}",
    stats.EQUIVALENT: "{subject} is as accurate as {object}",
}
UNDECIDED = "it is undecided whether {subject} or {object} is more accurate"  # any other verdict
BY_LITTLE = ", but by less than the margin"  # of a difference that was found
SHORT_VERDICTS = (  # of variants beside the one that answers, in the order in which they are listed
    *(f"{verdict}{by}" for verdict in (stats.BETTER, stats.WORSE) for by in ("", BY_LITTLE)),
    stats.EQUIVALENT,
    "undecided",
)


@dataclass(frozen=True)
class Claim:
    """The words of a study's row.

    variant     whose comparison with the baseline answers the question; by default the one with the smallest p
    subject     what a sentence calls that variant; by default its name
    object      what a sentence calls the baseline
    effect      the row of `Summary.factors` that answers the question, in place of a variant
    positive, negative  the answer where that effect on accuracy is above or below zero
    neither     the answer where it is not shown
    gap_positive, gap_negative, gap_neither  the same of its effect on the gap between training and test accuracy
    gap_first   whether the question is about the gap, which then comes first
    interaction  the row of `Summary.factors` that says how the effect on the gap depends on the other factor
    depends     what that row's number is, after "points": "more without dropout than with it"
    question    a shorter form of the study's question
    note        explains the variants' names
    relations   sentences by verdict, in place of those in RELATIONS and UNDECIDED
    also        adds a measurement to the effect, from the variant's row and the baseline's
    """

    variant: str = ""
    subject: str = ""
    object: str = ""
    effect: str = ""
    positive: str = ""
    negative: str = ""
    neither: str = ""
    gap_positive: str = ""
    gap_negative: str = ""
    gap_neither: str = ""
    gap_first: bool = False
    interaction: str = ""
    depends: str = ""
    question: str = ""
    note: str = ""
    relations: Mapping[str, str] = field(default_factory=dict)
    also: Callable[[Any, Any], str] | None = None

    @property
    def explained(self) -> str:
        """The note in brackets, to stand after a variant's name."""
        return f" ({self.note})" if self.note else ""


def _where(place: str) -> dict[str, str]:
    """Sentences that say where the comparison was made, by verdict."""
    relations = {**RELATIONS, stats.INCONCLUSIVE: UNDECIDED}
    return {verdict: f"{place}, {relation}" for verdict, relation in relations.items()}


def _overfitting(row: Any, base: Any, train: str = "train") -> str:
    """Gap and test loss of both, as far as they are finite. `train` says what training accuracy is measured on."""
    gaps = [100 * each.generalization_gap_mean for each in (row, base)]
    parts = {
        f"{train} minus test accuracy {gaps[0]:.1f} against {gaps[1]:.1f} points": gaps,
        f"test loss {row.test_loss_mean:.2f} against {base.test_loss_mean:.2f}": (
            row.test_loss_mean,
            base.test_loss_mean,
        ),
    }
    return "; ".join(text for text, values in parts.items() if all(map(math.isfinite, values)))


def _memory_and_overfitting(row: Any, base: Any) -> str:
    """Memory as well, where it was measured."""
    memory = [each.peak_memory_mb for each in (row, base)]
    text = f"memory {megabytes_text(memory[0])} against {megabytes_text(memory[1])}"
    return "; ".join(filter(None, [text if all(map(math.isfinite, memory)) else "", _overfitting(row, base)]))


def _level(row: Any, base: Any) -> str:
    accuracy = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
    return f"{accuracy} with {row.params:,} parameters"


CLAIMS: Mapping[str, Claim] = {
    "num_1x1": Claim("0x", "NiN without 1x1 convolutions", "NiN with two", note="two 1x1 convolutions"),
    "num_1x1-tuned": Claim(
        "0x",
        "tuned NiN without 1x1 convolutions",
        "tuned NiN with two",
        question="How many, if each variant is tuned?",
    ),
    "nonlinearity": Claim(
        "mixing",
        "NiN without ReLUs between a block's convolutions",
        "NiN with a ReLU after every convolution",
        question="Do 1x1 convolutions help by adding non-linearity, or only by mixing channels?",
    ),
    "num_1x1_head": Claim(
        effect="interaction of num_1x1 0 and head alexnet",
        positive="yes: without 1x1 convolutions it falls behind a fully connected head",
        negative="no: without 1x1 convolutions it gains on a fully connected head",
        neither="undecided: 1x1 convolutions are not shown to matter more with one head than with the other",
        gap_positive="without them, a fully connected head overfits more",
        gap_negative="without them, a fully connected head overfits less",
    ),
    "heads": Claim(
        "nin+alexnet",
        "AlexNet's fully connected head",
        "NiN's",
        question="Is NiN's head as accurate as fully connected ones?",
        note="trunk and head",
        relations=_where("on NiN's trunk"),
    ),
    "dropout": Claim(
        effect="head alexnet instead of head nin, over dropout 0.5 and dropout 0.0",
        positive="the fully connected head is more accurate",
        negative="NiN's head is more accurate",
        neither="neither is shown to be more accurate",
        gap_positive="a hint that it is: with all images, a fully connected head overfits more, averaged over networks with and "
        "without dropout",
        gap_negative="a hint that it is not: with all images, a fully connected head overfits less, averaged over networks with and "
        "without dropout",
        gap_neither="undecided: neither head is shown to overfit more than the other",
        gap_first=True,
        interaction="interaction of head alexnet and dropout 0.0",
        depends="more without dropout than with it",
    ),
    "pooling": Claim("max", "maximum pooling", "average pooling"),
    "wide_mlp": Claim(
        "65536",
        "a layer of 65,536 units",
        "one of 1,024",
        note="units",
        relations={
            stats.BETTER: "memory grows with the width, accuracy does not fall: {subject} is more accurate than {object}",
            stats.EQUIVALENT: "memory grows with the width, accuracy does not fall: {subject} is as accurate as {object}",
            stats.WORSE: "memory grows with the width, accuracy falls: {subject} is less accurate than {object}",
            stats.INCONCLUSIVE: "memory grows with the width; whether {subject} is less accurate than {object} is undecided",
        },
        also=_memory_and_overfitting,
    ),
    "label_noise": Claim(
        "65536 noisy",
        "a layer of 65,536 units",
        "one of 1,024",
        relations=_where("with noisy labels"),
        also=partial(_overfitting, train="accuracy on the noisy training labels"),
    ),
    "batch_memory": Claim(),
    "prediction_memory": Claim(),
    "init_lr": Claim(note="initialisation, learning rate, momentum"),
    "class_block": Claim(
        question="Why does the textbook's NiN lose classes in so many runs?",
        note="class block, class maps, factor on the last layer's learning rate",
    ),
    "receptive_field": Claim(
        "3x3/4",
        "a first kernel of 3x3",
        "one of 11x11",
        question="Does the first convolution need its large kernel, and its stride?",
        note="kernel and stride",
    ),
    "precision": Claim("bf16", "NiN without 1x1 convolutions trained in bf16", "in float32"),
    "textbook": Claim("lenet", "LeNet", question="Do the textbook's networks come out as published?"),
    "best": Claim("found", "the network found by tuning", "the protocol's own", also=_level),
}


class PlainAnswer(NamedTuple):
    """An answer in words without its full stop, and the numbers it rests on; these are empty where nothing is answered yet."""

    answer: str
    effect: str


def plain_answer(study: Study, summary: Summary) -> PlainAnswer:
    """Answer a study's question from its results, in one line."""
    claim = CLAIMS.get(study.name, Claim())
    if study.answers in MEMORY:
        return _of_memory(summary)
    if not len(summary.variants):
        return PlainAnswer(NOT_ANSWERED, "")
    if study.answers == "failures":
        return _of_failures(study, claim, summary)
    if len(summary.published):
        return _of_published(claim, summary)
    if claim.effect:
        return _of_factors(claim, summary)
    return _of_variant(study, claim, summary)


def capitalised(text: str) -> str:
    """Write the first letter large, and leave all others."""
    return text[:1].upper() + text[1:]


def _of_variant(study: Study, claim: Claim, summary: Summary) -> PlainAnswer:
    """The variant that answers against the baseline, and the verdicts on all other confirmatory variants."""
    table = summary.variants
    base, others = table[table["role"] == "baseline"], table[table["role"] == "confirmatory"]
    if study.pairs:
        if not len(summary.tuned):
            return PlainAnswer(NOT_ANSWERED, "")
        tuned = summary.tuned.rename(columns=lambda name: name.removesuffix("_tuned"))
        others = tuned[tuned["variant"] != study.baseline]
    if not len(base) or not len(others):
        return PlainAnswer(NOT_ANSWERED, "")
    by_name = {each.variant: each for each in each_row(table)}
    named = others[others["variant"] == claim.variant]
    row = next(each_row(named if len(named) else _most_certain_first(others)))
    words = claim if len(named) else Claim()  # the claim's are about its own variant
    measured, baseline = (by_name[study.pairs.get(name, name)] for name in (row.variant, study.baseline))
    also = claim.also(measured, baseline) if claim.also else ""
    # There is no difference before the first of several looks.
    points = "" if math.isnan(row.difference) else f"{difference_text(row)} points"
    effect = "; ".join(part for part in (points, also) if part)
    if {baseline.n, *others["n"]} == {1}:
        return PlainAnswer("no verdict: each variant has one seed", effect)
    decided_as = row.verdict if row.verdict in RELATIONS else stats.INCONCLUSIVE  # what is pending is undecided as well
    relation = {**RELATIONS, stats.INCONCLUSIVE: UNDECIDED, **words.relations}[decided_as]
    answer = relation.format(subject=words.subject or f"`{row.variant}`", object=words.object or f"`{study.baseline}`")
    if differs_by_little(row, study.margin):
        answer += BY_LITTLE
    failed = [f"{failures(each)} with `{each.variant}`" for each in (measured, baseline) if failures(each)]
    if failed:
        is_own = study.pairs or study.variants[row.variant].train or study.variants[study.baseline].train
        setting = "with these settings" if is_own else "at this learning rate"
        answer += f", but {listed(failed)}: this measures training {setting}, not the best accuracy that can be reached"
    rest = [other for other in each_row(others) if other.variant != row.variant]
    if rest:
        counts = {other.variant: failures(by_name[study.pairs.get(other.variant, other.variant)]) for other in rest}
        verdicts = _listed_verdicts(rest, counts, study.margin)
        answer += f"; compared with `{study.baseline}`{claim.explained}: {verdicts}"
    return PlainAnswer(answer, effect)


def _most_certain_first(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Order by corrected p; after looks, which have none, those with a verdict come first."""
    undecided = ~comparisons["verdict"].isin(list(RELATIONS))
    return comparisons.assign(undecided=undecided).sort_values(["p_holm", "undecided"])


def _listed_verdicts(rows: Sequence[Any], failed: Mapping[str, str], margin: float) -> str:
    """Such as "`1x` and `4x` worse (3 of 3 collapsed with `4x`); `3x` undecided".

    failed  by variant, how many of its runs did not learn; empty where all did
    """
    by_verdict = defaultdict[str, list[str]](list)
    for row in rows:
        by_verdict[_short_verdict(row, margin)].append(row.variant)
    parts = []
    for verdict in sorted(by_verdict, key=SHORT_VERDICTS.index):
        names = by_verdict[verdict]
        counts = [failed[name] + (f" with `{name}`" if len(names) > 1 else "") for name in names if failed[name]]
        note = f" ({listed(counts)})" if counts and verdict != "undecided" else ""
        parts.append(f"{few(names)} {verdict}{note}")
    return "; ".join(parts)


def differs_by_little(row: Any, margin: float) -> bool:
    """Tell whether a difference was found that is smaller than the margin (a fraction)."""
    return row.verdict in (stats.BETTER, stats.WORSE) and abs(row.difference) < 100 * margin - ROUNDING


def _short_verdict(row: Any, margin: float) -> str:
    """One of SHORT_VERDICTS."""
    if differs_by_little(row, margin):
        return f"{row.verdict}{BY_LITTLE}"
    return row.verdict if row.verdict in RELATIONS else "undecided"


def _of_factors(claim: Claim, summary: Summary) -> PlainAnswer:
    """An effect of two factors on accuracy and on the generalisation gap, which is exploratory: its p is not corrected."""
    table = summary.factors
    found = table[table["effect"] == claim.effect] if len(table) else table
    if not len(found):
        return PlainAnswer(NOT_ANSWERED, "")
    row = next(each_row(found))
    gap = signed_text(row.gap_difference, row.gap_difference_low, row.gap_difference_high)
    accuracy, overfitting = claim.neither, claim.gap_neither
    if row.p <= ALPHA:
        accuracy = claim.positive if row.difference > 0 else claim.negative
    if row.gap_p <= ALPHA:
        overfitting = claim.gap_positive if row.gap_difference > 0 else claim.gap_negative
    parts = [
        (accuracy, f"{difference_text(row)} points of accuracy"),
        (overfitting, f"{gap} points of train minus test accuracy{_dependence(claim, table)}"),
    ]
    if claim.gap_first:
        parts.reverse()
    answer, effect = ("; ".join(filter(None, texts)) for texts in zip(*parts, strict=True))
    is_shown = row.p <= ALPHA or row.gap_p <= ALPHA
    return PlainAnswer(f"{answer} (exploratory)" if is_shown else answer, effect)


def _dependence(claim: Claim, table: pd.DataFrame) -> str:
    """The words for how the effect on the gap depends on the other factor, where a study asks and it is shown."""
    shown = table[(table["effect"] == claim.interaction) & (table["gap_p"] <= ALPHA)]
    return "".join(
        f", {signed_text(row.gap_difference, row.gap_difference_low, row.gap_difference_high)} {claim.depends}"
        for row in each_row(shown)
    )


def _of_failures(study: Study, claim: Claim, summary: Summary) -> PlainAnswer:
    table = summary.variants.assign(share=lambda table: table["impaired"] / table["n"])
    (most, least), num = (table["share"].max(), table["share"].min()), len(table)
    worst, best = (table[table["share"] == share] for share in (most, least))
    if num == 1:
        (row,) = each_row(table)
        return PlainAnswer(
            f"{row.impaired} of {counted(row.n, 'run')} failed; nothing is compared with `{row.variant}` yet",
            _rate(row),
        )
    if most == least:
        return PlainAnswer(f"all {num} settings fail equally often", _rate(next(each_row(worst))))
    fewest = "never" if least == 0 else "least often"
    answer = f"runs fail most often with {few(list(worst['variant']))}{claim.explained}, {fewest} with {len(best)} of {num} settings"
    if not any(p <= ALPHA for _, p in failure_tests(study, summary.variants).values()):
        answer += f"; that any setting fails more or less often than `{study.baseline}` is not shown"
    return PlainAnswer(answer, f"{_rate(next(each_row(worst)))} against {_rate(next(each_row(best)))}")


def _of_published(claim: Claim, summary: Summary) -> PlainAnswer:
    rows = list(each_row(summary.published))
    row = next((row for row in rows if row.variant == claim.variant), rows[0])
    subject = claim.subject if row.variant == claim.variant else f"`{row.variant}`"
    relation = "differs" if row.p_location <= ALPHA else "does not differ significantly"
    answer = f"the median accuracy of {subject} {relation} from that of {row.n_theirs} published runs"
    spreads = 100 * row.sd_ours, 100 * row.sd_theirs
    if row.p_spread <= ALPHA:
        answer += f", but ours spread {'more' if spreads[0] > spreads[1] else 'less'}"
    if math.isnan(row.p_location):
        answer = f"{counted(row.n_ours, 'run')} of {subject} cannot tell whether it differs from {row.n_theirs} published ones"
    others = [other.variant for other in rows if other.variant != row.variant]
    effect = f"median {100 * row.median_ours:.1f} % against {100 * row.median_theirs:.1f} %, {p_is(row.p_location)}"
    if not math.isnan(row.p_spread):
        effect += f"; standard deviation {spreads[0]:.1f} against {spreads[1]:.1f} points, {p_is(row.p_spread)}"
    return PlainAnswer(f"{answer}; also compared: {listed(others)}" if others else answer, effect)


def _of_memory(summary: Summary) -> PlainAnswer:
    lines = list(each_row(summary.memory))
    if not lines:
        return PlainAnswer(NOT_ANSWERED, "")
    straight = [row.network for row in lines if row.r_squared >= LINEAR]
    bent = [row.network for row in lines if not row.r_squared >= LINEAR]
    parts = [*([f"yes, for {listed(straight)}"] if straight else []), *([f"not for {listed(bent)}"] if bent else [])]
    answer = ", but ".join(parts)
    last = lines[-1]
    line = f"{last.network}: {megabytes_text(last.fixed_mb)} + {megabytes_text(last.per_image_mb)} per image"
    worst = min(lines, key=lambda row: row.r_squared)
    lowest = f"; lowest: {worst.network}, {worst.r_squared:.4f}" if worst.network != last.network else ""
    return PlainAnswer(answer, f"{line}, R squared {last.r_squared:.4f}{lowest}")


def _rate(row: Any) -> str:
    share = stats.wilson(row.impaired, row.n)
    return f"{row.impaired} of {row.n} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
