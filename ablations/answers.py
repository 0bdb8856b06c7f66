"""Generate the answers in README.md and results/reference/README.md from the published records.

The words are those of `ablations.reporting.plain`. Numbers and verdicts come from the records, so an answer changes when its results
do. A study without published results reads "not run yet".
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.analysis.moderated import ALPHA
from ablations.analysis.summary import Summary, each_row
from ablations.catalog import load_study, study_names
from ablations.execution.progress import warn
from ablations.protocols import PROTOCOLS
from ablations.records import OVERRIDES, PROVENANCE, Store
from ablations.reporting.caveats import TITLE, in_short
from ablations.reporting.files import Report, read_report
from ablations.reporting.formatting import listed, p_is, seeds_compared, with_changes
from ablations.reporting.plain import CLAIMS, Claim, capitalised, plain_answer
from ablations.runs import length_name
from ablations.study import MEMORY, Study
from ablations.tuning.winners import load_tuned
from nin.text import counted, one_line

COMMAND = "python -m ablations.publish --answers"
HEADLINE = "num_1x1"  # the study of `make run`
CONTROLS_NOTE = (  # beside its figure
    "*`3x` has three 1x1 convolutions. `0x@2x-params` has none and as many parameters as `2x`; hollow symbols are such controls. A "
    "symbol without a bar is a single run.{precision}*"
)
IN_OTHER_PRECISION = (
    " After {lengths} images controls ran in another precision than `{baseline}`, which can shift accuracy: see [the claims in "
    "detail](docs/claims.md)."
)
PREFERRED = ("full", "standard", "quick")  # protocols that answer first, where several are published; then all others
FEWEST_SEEDS = 3  # of a protocol that answers before one with more
NOT_RUN = "not run yet"


@dataclass(frozen=True)
class Row:
    """One line of the table: words, numbers, and the report's folder below the published results ("" without one)."""

    question: str
    answer: str
    effect: str = ""
    n: str = ""
    length: str = ""
    caveats: str = ""
    folder: str = ""


def published_reports(published: Path) -> Iterator[tuple[Study, str, Report]]:
    """Read the report of every published study and protocol; a warning names those of studies that this package does not have."""
    for page in sorted(published.glob(f"*/*/{PROVENANCE}")):
        name, protocol = page.parent.parts[-2:]
        own = name.removesuffix("-tuned")
        if own not in study_names():
            warn(f"{page.parent} is left out: {own} is no study of this package")
            continue
        overrides = _overrides(page.with_name(OVERRIDES))
        study = load_study(own)
        if name.endswith("-tuned"):
            study = load_tuned(study, protocol, published, overrides)
        yield study, protocol, read_report(study, protocol, Store(published, name, protocol), overrides)


def _overrides(file: Path) -> list[str]:
    """Changes by `--set` in published runs. Raises ValueError if the file that says so is damaged."""
    if not file.exists():
        return []
    try:
        return [str(change) for change in json.loads(file.read_bytes())]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({one_line(error)}): publish its study again") from error


def answer_rows(reports: Sequence[tuple[Study, str, Report]]) -> list[Row]:
    """One row a study, from the preferred of its protocols: those of CLAIMS in its order, then all others."""
    by_name: dict[str, tuple[Study, str, Report]] = {}
    for found in sorted(reports, key=lambda found: (_is_thin(found[0], found[2]), _preference(found[1]))):
        by_name.setdefault(found[0].name, found)
    there = {*by_name, *study_names()}
    names = [name for name in CLAIMS if name in there] + sorted(there - CLAIMS.keys())
    return [
        answer_row(*by_name[name])
        if name in by_name
        else Row(CLAIMS.get(name, Claim()).question or load_study(name).question, f"*{NOT_RUN}*")
        for name in names
    ]


def _is_thin(study: Study, report: Report) -> bool:
    """Tell whether all that is compared with the baseline has too few seeds to answer before another protocol."""
    table = report.summary.variants
    compared = table[table["variant"].isin(study.compared)] if len(table) else table
    if study.answers in MEMORY or not len(compared):
        return False
    return bool(compared["n"].max() < FEWEST_SEEDS)


def _preference(protocol: str) -> int:
    ranked = [*PREFERRED, *(name for name in PROTOCOLS if name not in PREFERRED)]
    return ranked.index(protocol)


def answer_row(study: Study, protocol: str, report: Report) -> Row:
    """The answer of a study under a protocol, in one line."""
    summary = report.summary
    answer, effect = plain_answer(study, summary)
    answer = _with_changes(report, answer)
    declared = [seeds_compared(row) for row in each_row(summary.variants) if row.variant in study.answering]
    sizes = sorted(set(declared or [row.n for row in each_row(summary.variants)]))  # controls may have fewer
    most = summary.examples[1]
    return Row(
        question=CLAIMS.get(study.name, Claim()).question or study.question,
        answer=capitalised(answer),
        effect=effect,
        n=str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        length="–" if study.answers in MEMORY else length_name(most),
        caveats=in_short(report.caveats),
        folder=f"{study.name}/{protocol}",
    )


def _with_changes(report: Report, answer: str) -> str:
    """The answer behind what `--set` changed in all runs."""
    return f"{with_changes(report.overrides)}: {answer}" if report.overrides else answer


def answers_table(rows: Sequence[Row], link: str) -> str:
    """The README's table; `link` is the path of the published results from the README."""
    lines = [
        "| question | answer | effect, 95 % interval | n | training images | what could change it | report |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        report = f"[{row.folder.replace('/', ', ')}]({link}/{row.folder}/report.md)" if row.folder else ""
        cells = (row.question, row.answer, row.effect, row.n, row.length, row.caveats, report)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline(rows: Sequence[Row], reports: Sequence[tuple[Study, str, Report]], link: str) -> str:
    """The answer of the main study as a sentence, how far it goes, and its figure: differences against lengths, or a forest plot."""
    row = next((row for row in rows if row.folder.partition("/")[0] == HEADLINE), None)
    if row is None:
        return f"The main study, `{HEADLINE}`, is {NOT_RUN}."
    protocol = row.folder.partition("/")[2]
    study, report = next(
        (study, report) for study, name, report in reports if (study.name, name) == (HEADLINE, protocol)
    )
    claim, summary = CLAIMS[HEADLINE], report.summary
    # Without the verdicts on other variants, which the table has
    answer, _, _ = plain_answer(study, summary).answer.partition("; ")
    has_answered = claim.variant in set(summary.variants["variant"]) and row.effect
    compared = summary.variants[summary.variants["variant"] == claim.variant]
    n = str(next(map(seeds_compared, each_row(compared)), row.n))
    seeds = f"{n} {'seed' if n == '1' else 'seeds'}"
    has_interval = " to " in row.effect
    passes = f" ({report.passes:.1f} passes over the data)" if math.isfinite(report.passes) else ""
    words = [
        f"**After {row.length} training images{passes}: {_with_changes(report, answer)}**",
        f"(protocol `{protocol}`, n = {seeds}).",
        f"{claim.subject} minus {claim.object}: {row.effect} of test accuracy{' (95 % interval)' if has_interval else ''}."
        if has_answered
        else "",
        change_with_length(summary, claim),
        f"This could still change with {listed(row.caveats.split('; '))}." if row.caveats else "",
    ]
    figure = "difference_against_images" if len(summary.by_length) else "differences"
    return "\n".join(
        [
            " ".join(word for word in words if word),
            "",
            f"![Differences in test accuracy from {claim.object}]({link}/{row.folder}/figures/{figure}.png)",
            *(
                ["", CONTROLS_NOTE.format(precision=_controls_precision(study, summary))]
                if len(summary.controls)
                else []
            ),
        ]
    )


def _controls_precision(study: Study, summary: Summary) -> str:
    """State after which lengths of training controls had another precision than the baseline, if after any."""
    table = summary.by_length
    odd = table.query("role == 'control' and other_precision")["length"].unique() if len(table) else ()
    lengths = listed(map(length_name, odd))
    return IN_OTHER_PRECISION.format(baseline=study.baseline, lengths=lengths) if lengths else ""


def change_with_length(summary: Summary, claim: Claim) -> str:
    """State the difference after each length of training, up to that of the verdict, if it changes from the shortest on."""
    change = summary.change[summary.change["variant"] == claim.variant] if len(summary.change) else summary.change
    if not len(change) or not change["p_holm"].iloc[0] <= ALPHA:
        return ""
    rows = summary.by_length[summary.by_length["variant"] == claim.variant].sort_values("length")
    rows = rows[(rows["length"] <= summary.length) & rows["difference"].notna()]
    if not (rows["length"] == summary.length).any():  # as before the first of several looks
        return ""
    points = listed(f"{row.difference:+.2f} points after {length_name(row.length)} images" for row in each_row(rows))
    return f"This difference changes with training ({p_is(change['p_holm'].iloc[0])}): it is {points}."


def reach(rows: Sequence[Row], protocols: Collection[str]) -> str:
    """Count the table's answers by protocol, the preferred one first.

    protocols  those under which anything is published
    """
    counts = Counter(row.folder.partition("/")[2] for row in rows)
    counts.pop("", None)
    ranked = sorted(counts, key=_preference)
    parts = [f"{counts[protocol]} on `{protocol}`" for protocol in ranked]
    if ranked:
        most = counts[ranked[0]]
        parts[0] = f"{counted(most, 'answer')} {'rests' if most == 1 else 'rest'} on `{ranked[0]}`"
    standard = "" if "standard" in protocols else " No study under `standard` is published yet."
    return f"So far {listed(parts)}.{standard}"


def reference_answers(reports: Sequence[tuple[Study, str, Report]]) -> str:
    """Every published answer in full, with a link to its report."""
    lines = []
    for study, protocol, report in reports:
        parts = [
            f"- [{study.name}, `{protocol}`]({study.name}/{protocol}/report.md).",
            *(study.question, report.answer, report.grounds),
            f"{TITLE}: {in_short(report.caveats)}." if report.caveats else "",
            _shared_runs(study, protocol, reports),
        ]
        lines.append(" ".join(part for part in parts if part))
    return "\n".join(lines)


def _shared_runs(study: Study, protocol: str, reports: Sequence[tuple[Study, str, Report]]) -> str:
    """Name the other studies that contain some of a study's results: their answers are not independent of its own.

    The same run on another kind of machine has another result, and counts as another.
    """
    if study.answers in MEMORY:
        return ""
    results = {
        other.name: {(record.run_id, record.test_accuracy) for record in report.records}
        for other, name, report in reports
        if name == protocol
    }
    ours = results.pop(study.name)
    shared = [f"{len(ours & theirs)} with {name}" for name, theirs in results.items() if ours & theirs]
    return f"Of its {len(ours)} results it shares {listed(shared)}." if shared else ""


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
            "headline": headline(rows, reports, link),
            "answers": f"{answers_table(rows, link)}\n\n{reach(rows, {name for _, name, _ in reports})}",
            "protocols": protocol_table(),
        },
        published / "README.md": {"answers": reference_answers(reports)},
    }
    for page, blocks in pages.items():
        page.write_text(filled(page.read_text(), blocks))
    return list(pages)
