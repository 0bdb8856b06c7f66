"""Write a study's report: report.md, report.html, tables and figures, from the records on disk and nothing else."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.records import RunRecord, Store, curves_frame, runs_frame, write_atomically
from ablations.runs import Run
from ablations.study import Study

if TYPE_CHECKING:
    from ablations.analysis.summary import Summary

SEED_GAP = 100  # seeds are counted from 0; so many in a row without a record end the search for more
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:.82rem;margin:1rem 0}th,td{padding:.2rem .6rem;border-bottom:1px solid #ddd}"
    "td:not(:first-child),th:not(:first-child){text-align:right}img{max-width:100%}code{background:#f4f4f4}"
)


@dataclass(frozen=True)
class Report:
    """A written report: where it is, its first sentence, its tables, the records it is made from, a line for each damaged one."""

    folder: Path
    answer: str
    summary: "Summary"
    records: Sequence[RunRecord]
    damaged: Sequence[str]


def covered(
    study: Study, protocol: str, store: Store, overrides: Sequence[str] = ()
) -> tuple[list[RunRecord], list[str]]:
    """Records of the study's own runs, every variant and seed on disk, and a line for each record that is damaged.

    Runs made with other settings (`--set`) have other identities and are not among them.
    """
    on_disk = set(store.run_ids())
    if not on_disk:
        return [], []  # before controls are solved, which takes seconds
    first = study.expand(protocol, 1, overrides=overrides)
    runs: list[Run] = []
    last_seen = 0
    for seed in count():
        found = [run for run in (replace(run, seed=seed) for run in first) if run.run_id in on_disk]
        runs += found
        last_seen = seed if found else last_seen
        if seed - last_seen >= SEED_GAP:
            break
    records, damaged = store.read_all(runs)
    return list(records.values()), damaged


def write_report(study: Study, protocol: str, store: Store, overrides: Sequence[str] = (), anew: bool = True) -> Report:
    """Write everything into the store's folder; with `anew=False` only if the records are not those it was made from.

    Raises ValueError if there is no record to report on.
    """
    records, damaged = covered(study, protocol, store, overrides)
    if not records:
        raise ValueError(
            f"no runs of study {study.name!r} under {protocol!r} in {store.folder}: "
            f"make them with python -m ablations.run {study.asked_by} --protocol {protocol}"
        )
    others = len(store.run_ids()) - len(records) - len(damaged)
    notes = [*damaged]
    if others:
        notes.append(
            f"Not covered: {others} records in the same folder, of other settings, variants or trainer versions."
        )

    from ablations.analysis.summary import summarise
    from ablations.reporting.answer import first_sentence
    from ablations.reporting.sections import sections

    summary = summarise(study, protocol, records)
    answer = first_sentence(study, protocol, summary)
    made_from, inputs = fingerprint(study, protocol, records, notes), store.folder / ".inputs"
    page = store.folder / "report.html"
    if not anew and page.exists() and inputs.exists() and inputs.read_text() == made_from:
        return Report(store.folder, answer, summary, records, damaged)

    from ablations.analysis.summary import published_runs
    from ablations.reporting.figures import Tables, figures_of, save

    target = study.target(protocol)
    results = [record for record in records if record.is_result]
    runs, curves = runs_frame(records, target), curves_frame(results)
    for name, table in (("runs", runs), ("curves", curves), ("summary", summary.variants)):
        write_atomically(store.folder / f"{name}.csv", table.to_csv(index=False))
    figures = []
    if results:
        tables = Tables(
            study,
            protocol,
            runs[(runs["status"] != "failed") & (runs["length"] == summary.length)],
            curves[curves["length"] == summary.length],
            summary.variants,
            summary.memory,
            published_runs(study, protocol),
            summary.by_length,
        )
        for name, draw in figures_of(tables).items():
            save(draw(tables), store.folder / "figures" / name)
            figures.append((name, " ".join((draw.__doc__ or "").split())))
    parts = sections(study, protocol, records, summary, figures, answer, overrides, notes)
    text = "\n\n".join(part for part in parts if part)
    write_atomically(store.folder / "report.md", text + "\n")
    write_atomically(page, _html(study, text, store.folder))
    write_atomically(inputs, made_from)
    return Report(store.folder, answer, summary, records, damaged)


def fingerprint(study: Study, protocol: str, records: Iterable[RunRecord], notes: Iterable[str] = ()) -> str:
    """A hash over what a report is made from, by which an up-to-date one is known."""
    lines = sorted(f"{record.run_id} {record.status} {record.started_at}" for record in records)
    return hashlib.sha256("\n".join([repr(study), protocol, *lines, *notes]).encode()).hexdigest()


def _html(study: Study, text: str, folder: Path) -> str:
    """The report as one file: figures inside, nothing fetched from anywhere, nothing in its text taken for tags."""
    import markdown

    def embedded(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = markdown.markdown(text.replace("<", "&lt;"), extensions=["tables"])
    body = re.sub(r'src="(figures/[\w.]+)"', embedded, body)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{study.name}</title><style>{STYLE}</style>'
        f"<body>{body}</body></html>"
    )
