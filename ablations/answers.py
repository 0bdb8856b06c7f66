"""Generate the answers in README.md and results/reference/README.md from the published records.

Words come from `CLAIMS`, one entry a study. Numbers and verdicts come from the records, so an answer changes when its results do. A
study without an entry gets a row in the same form, and one without published results reads "not run yet".
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.analysis import stats
from ablations.analysis.summary import Summary, each_row, failures
from ablations.protocols import PROTOCOLS
from ablations.records import PROVENANCE, Store
from ablations.reporting.files import Report, read_report
from ablations.reporting.formatting import interval_text, listed, megabytes_text, p_is
from ablations.runs import length_name
from ablations.study import MEMORY, Study, load_study, study_names
from ablations.tuning.winners import load_tuned

COMMAND = "python -m ablations.publish --answers"
HEADLINE = "num_1x1"  # the study of `make run`
PREFERRED = ("full", "standard", "quick")  # protocols that answer first, where several are published; then all others
NOT_RUN = "not run yet"
MOST_NAMES = 4  # variants named in a row; more are counted
ALPHA = 0.05
RELATIONS = {
    stats.BETTER: "{subject} is more accurate than {object}",
    stats.WORSE: "{subject} is less accurate than {object}",
    stats.EQUIVALENT: "{subject} is as accurate as {object}",
}
UNDECIDED = "undecided between {subject} and {object}"  # any other verdict


@dataclass(frozen=True)
class Claim:
    """The words of a study's row.

    variant     whose comparison with the baseline answers the question; by default the one with the smallest p
    subject     what a sentence calls that variant; by default its name
    object      what a sentence calls the baseline
    effect      the row of `Summary.factors` that answers the question, in place of a variant
    positive, negative  the answer where that effect is above or below zero
    question    a shorter form of the study's question
    note        explains the variants' names
    also        adds a measurement to the effect, from the variant's row and the baseline's
    """

    variant: str = ""
    subject: str = ""
    object: str = ""
    effect: str = ""
    positive: str = ""
    negative: str = ""
    question: str = ""
    note: str = ""
    also: Callable[[Any, Any], str] | None = None


def _memory(row: Any, base: Any) -> str:
    return f"memory {megabytes_text(row.peak_memory_mb)} against {megabytes_text(base.peak_memory_mb)}"


def _level(row: Any, base: Any) -> str:
    accuracy = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
    return f"{accuracy} with {row.params:,} parameters"


CLAIMS: Mapping[str, Claim] = {
    "num_1x1": Claim("0x", "NiN without 1x1 convolutions", "with two"),
    "num_1x1-tuned": Claim(
        "0x",
        "NiN without 1x1 convolutions",
        "with two, each tuned",
        question="... and if each number of them is tuned?",
    ),
    "nonlinearity": Claim(
        "mixing",
        "mixing channels without a ReLU between",
        "a ReLU after every convolution",
        question="Do 1x1 convolutions help by adding non-linearity, or only by mixing channels?",
    ),
    "num_1x1_head": Claim(
        effect="interaction of num_1x1 0 and head alexnet",
        positive="yes: without 1x1 convolutions it falls behind a fully connected head",
        negative="no: without 1x1 convolutions it gains on a fully connected head",
    ),
    "heads": Claim(
        "nin+alexnet",
        "AlexNet's fully connected head",
        "NiN's",
        question="Is NiN's head as accurate as fully connected ones?",
    ),
    "dropout": Claim(
        effect="interaction of head alexnet and dropout 0.0",
        positive="no: dropout does more for NiN's head than for a fully connected one",
        negative="yes: a fully connected head needs dropout more than NiN's",
    ),
    "pooling": Claim("max", "maximum pooling", "average pooling"),
    "wide_mlp": Claim("65536", "a layer of 65,536 units", "one of 1,024", also=_memory),
    "label_noise": Claim("65536 noisy", "a layer of 65,536 units on noisy labels", "one of 1,024 units"),
    "batch_memory": Claim(),
    "prediction_memory": Claim(),
    "init_lr": Claim(note="initialisation, learning rate, momentum"),
    "class_block": Claim(
        question="Why does the textbook's NiN lose classes in so many runs?",
        note="class block, class maps, learning rate of the last layer",
    ),
    "receptive_field": Claim(
        "3x3/4",
        "a first kernel of 3x3",
        "one of 11x11",
        question="Does the first convolution need its large kernel, and its stride?",
    ),
    "precision": Claim("bf16", "training in bf16", "in float32"),
    "textbook": Claim("lenet", "LeNet", question="Do the textbook's networks come out as published?"),
    "best": Claim("found", "the network found by tuning", "the protocol's own", also=_level),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: words, numbers, and the report's folder below the published results ("" without one)."""

    question: str
    answer: str
    effect: str = ""
    n: str = ""
    length: str = ""
    folder: str = ""


def published_reports(published: Path) -> Iterator[tuple[Study, str, Report]]:
    """Read the report of every published study and protocol."""
    for page in sorted(published.glob(f"*/*/{PROVENANCE}")):
        name, protocol = page.parent.parts[-2:]
        study = load_study(name.removesuffix("-tuned"))
        if name.endswith("-tuned"):
            study = load_tuned(study, protocol, published)
        yield study, protocol, read_report(study, protocol, Store(published, name, protocol))


def answer_rows(reports: Sequence[tuple[Study, str, Report]]) -> list[Row]:
    """One row a study, from the preferred of its protocols: those of CLAIMS in its order, then all others."""
    by_name: dict[str, tuple[Study, str, Report]] = {}
    for found in sorted(reports, key=lambda found: _preference(found[1])):
        by_name.setdefault(found[0].name, found)
    there = {*by_name, *study_names()}
    names = [name for name in CLAIMS if name in there] + sorted(there - CLAIMS.keys())
    return [
        answer_row(*by_name[name])
        if name in by_name
        else Row(CLAIMS.get(name, Claim()).question or load_study(name).question, f"*{NOT_RUN}*")
        for name in names
    ]


def _preference(protocol: str) -> int:
    ranked = [*PREFERRED, *(name for name in PROTOCOLS if name not in PREFERRED)]
    return ranked.index(protocol)


def answer_row(study: Study, protocol: str, report: Report) -> Row:
    """The answer of a study under a protocol, in one line."""
    claim, summary = CLAIMS.get(study.name, Claim()), report.summary
    if study.answers in MEMORY:
        answer, effect = _of_memory(summary)
    elif study.answers == "failures":
        answer, effect = _of_failures(claim, summary)
    elif len(summary.published):
        answer, effect = _of_published(claim, summary)
    elif claim.effect:
        answer, effect = _of_factors(claim, summary)
    else:
        answer, effect = _of_variant(study, claim, summary)
    sizes = sorted({row.n for row in each_row(summary.variants)})
    most = summary.examples[1]
    return Row(
        question=claim.question or study.question,
        answer=answer[:1].upper() + answer[1:],
        effect=effect,
        n=str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        length="–" if study.answers in MEMORY else length_name(most),
        folder=f"{study.name}/{protocol}",
    )


def _of_variant(study: Study, claim: Claim, summary: Summary) -> tuple[str, str]:
    """The variant that answers against the baseline, and the verdicts on all other confirmatory variants."""
    table = summary.variants
    base, others = table[table["role"] == "baseline"], table[table["role"] == "confirmatory"]
    if study.pairs and len(summary.tuned):
        tuned = summary.tuned.rename(columns=lambda name: name.removesuffix("_tuned"))
        others = tuned[tuned["variant"] != study.baseline]
    if not len(base) or not len(others):
        return "not compared yet: only one variant was trained", ""
    named = others[others["variant"] == claim.variant]
    row = next(each_row(named if len(named) else others.sort_values("p_holm")))
    subject = (claim.subject if len(named) else "") or f"`{row.variant}`"
    answer = RELATIONS.get(row.verdict, UNDECIDED).format(subject=subject, object=claim.object or f"`{study.baseline}`")
    for verdict in (*RELATIONS, "undecided"):
        names = [
            other.variant
            for other in each_row(others)
            if (other.verdict if other.verdict in RELATIONS else "undecided") == verdict
            and other.variant != row.variant
        ]
        if names:
            answer += f"; {verdict}: {_few(names)}"
    measured = next(each_row(table[table["variant"] == row.variant]))
    also = [failures(measured), claim.also(measured, next(each_row(base))) if claim.also else ""]
    return answer, "; ".join(part for part in (_points(row), *also) if part)


def _of_factors(claim: Claim, summary: Summary) -> tuple[str, str]:
    """An interaction of two factors, which is exploratory: its p is not corrected."""
    table = summary.factors
    found = table[table["effect"] == claim.effect] if len(table) else table
    if not len(found):
        return "not compared yet: some combinations are missing", ""
    row = next(each_row(found))
    if not row.p <= ALPHA:
        return "undecided", _points(row)
    return f"[{claim.positive if row.difference > 0 else claim.negative}]", _points(row)


def _of_failures(claim: Claim, summary: Summary) -> tuple[str, str]:
    table = summary.variants.assign(share=lambda table: table["impaired"] / table["n"])
    (most, least), num = (table["share"].max(), table["share"].min()), len(table)
    worst, best = (table[table["share"] == share] for share in (most, least))
    if most == least:
        return f"all {num} settings fail equally often", _rate(next(each_row(worst)))
    note = f" ({claim.note})" if claim.note else ""
    fewest = "never" if least == 0 else "least often"
    answer = (
        f"runs fail most often with {_few(list(worst['variant']))}{note}, {fewest} with {len(best)} of {num} settings"
    )
    return answer, f"{_rate(next(each_row(worst)))} against {_rate(next(each_row(best)))}"


def _of_published(claim: Claim, summary: Summary) -> tuple[str, str]:
    rows = list(each_row(summary.published))
    row = next((row for row in rows if row.variant == claim.variant), rows[0])
    differs = row.p_location <= ALPHA
    subject = claim.subject or row.variant
    answer = f"{subject} {'differs' if differs else 'does not differ visibly'} from {row.n_theirs} published runs"
    missing = [other.variant for other in rows if other.variant != row.variant]
    return f"{answer}; also compared: {listed(missing)}" if missing else answer, (
        f"median {100 * row.median_ours:.1f} % against {100 * row.median_theirs:.1f} %, {p_is(row.p_location)}"
    )


def _of_memory(summary: Summary) -> tuple[str, str]:
    lines = list(each_row(summary.memory))
    bent = [row.network for row in lines if row.r_squared < 0.99]
    answer = f"not for {listed(bent)}" if bent else "yes, for " + listed(row.network for row in lines)
    last = lines[-1]
    line = f"{last.network}: {megabytes_text(last.fixed_mb)} + {megabytes_text(last.per_image_mb)} per image"
    return answer, f"{line}, R squared {min(row.r_squared for row in lines):.4f} or more"


def _few(names: Sequence[str]) -> str:
    return listed(f"`{name}`" for name in names) if len(names) <= MOST_NAMES else f"{len(names)} variants"


def _rate(row: Any) -> str:
    share = stats.wilson(row.impaired, row.n)
    return f"{row.impaired} of {row.n} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"


def _points(row: Any) -> str:
    """ "+3.14 (+1.51 to +4.78)"."""
    ends = "" if math.isnan(row.difference_low) else f" ({row.difference_low:+.2f} to {row.difference_high:+.2f})"
    return f"{row.difference:+.2f}{ends} points"


def answers_table(rows: Sequence[Row], link: str) -> str:
    """The README's table; `link` is the path of the published results from the README."""
    lines = [
        "| question | answer | effect, 95 % interval | n | training images | report |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        report = f"[{row.folder.partition('/')[2]}]({link}/{row.folder}/report.md)" if row.folder else ""
        cells = (row.question, row.answer, row.effect, row.n, row.length, report)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline(rows: Sequence[Row], link: str) -> str:
    """The answer of the main study as a sentence, how far it goes, and its forest plot."""
    (row,) = (row for row in rows if row.folder.partition("/")[0] == HEADLINE)
    protocol = row.folder.partition("/")[2]
    answer = f"**{row.answer.partition(';')[0]}**: {row.effect} of test accuracy (95 % interval, n = {row.n} seeds)."
    return "\n".join(
        [
            f"{answer} {caution(protocol, row.length)}",
            "",
            f"![Differences of test accuracy to two 1x1 convolutions]({link}/{row.folder}/figures/differences.png)",
        ]
    )


def caution(protocol: str, length: str) -> str:
    """State how much training an answer rests on."""
    if protocol == "quick":
        return (
            f"This is an early look after {length} training images; most of a difference there can be training speed."
        )
    return f"This holds after {length} training images (protocol `{protocol}`)."


def reach(rows: Sequence[Row]) -> str:
    """State what the table's answers rest on: how many on the early look, how many on the long trainings."""
    counts = Counter(row.folder.partition("/")[2] for row in rows)
    counts.pop("", None)
    parts = ", ".join(
        f"{count} under `{protocol}`"
        for protocol, count in sorted(counts.items(), key=lambda item: _preference(item[0]))
    )
    standard = "" if counts["standard"] else " No study under `standard` is published yet."
    return f"Answers by protocol: {parts}.{standard}"


def reference_answers(reports: Sequence[tuple[Study, str, Report]]) -> str:
    """Every published answer in full, with a link to its report."""
    lines = []
    for study, protocol, report in reports:
        tuned = f" Tuned: {answer_row(study, protocol, report).answer}." if study.pairs else ""
        lines.append(
            f"- [{study.name}, `{protocol}`]({study.name}/{protocol}/report.md). {study.question} {report.answer}{tuned}"
        )
    return "\n".join(lines)


def protocol_table() -> str:
    """Every protocol with its purpose and its number of seeds."""
    lines = ["| protocol | seeds | purpose |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| `{name}` | {each.seeds} | {each.purpose} |" for name, each in PROTOCOLS.items()])


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between the markers of each block. Raises ValueError for a block without markers."""
    for name, block in blocks.items():
        begin, end = f"<!-- begin {name}: generated by {COMMAND} -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
        if not pattern.search(text):
            raise ValueError(f"there is no line {begin!r} followed by {end!r} to write the {name} between")
        text = pattern.sub(lambda _, new=f"{begin}\n{block}\n{end}": new, text)  # type: ignore[misc]
    return text


def update_pages(readme: Path, published: Path) -> list[Path]:
    """Write the generated blocks of the README and of the published results' page; returns both."""
    reports = list(published_reports(published))
    rows = answer_rows(reports)
    link = published.as_posix()
    pages = {
        readme: {
            "headline": headline(rows, link),
            "answers": f"{answers_table(rows, link)}\n\n{reach(rows)}",
            "protocols": protocol_table(),
        },
        published / "README.md": {"answers": reference_answers(reports)},
    }
    for page, blocks in pages.items():
        page.write_text(filled(page.read_text(), blocks))
    return list(pages)
