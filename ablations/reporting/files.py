"""Write a study's report: report.md, report.html, tables and figures, from the records on disk and nothing else."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ablations.looks import Looks
from ablations.records import RunRecord, Store, curves_frame, runs_frame
from ablations.reproduce import command, results_option
from ablations.runs import Run
from ablations.study import Study
from nin.files import write_atomically
from nin.spec import DataSpec

if TYPE_CHECKING:
    from ablations.analysis.summary import Summary
    from ablations.reporting.axes import Tables
    from ablations.reporting.caveats import Caveat

SEED_GAP = 100  # seeds are counted from 0; so many in a row without a record end the search for more


@dataclass(frozen=True)
class Report:
    """The content of a report: its folder, words, tables, records, and a line for each record left out.

    answer      to the study's question, in one sentence
    grounds     numbers and certainty of the answer, in a paragraph
    caveats     what could still change it
    num_others  records in the same folder that are not the study's own runs
    overrides   what `--set` changed in all runs
    """

    folder: Path
    answer: str
    grounds: str
    caveats: Sequence["Caveat"]
    summary: "Summary"
    records: Sequence[RunRecord]
    damaged: Sequence[str]
    num_others: int = 0
    overrides: Sequence[str] = ()

    @property
    def passes(self) -> float:
        """Passes over the training images, at most, of the runs that the verdicts are of; infinite where none has finished.

        Where a part of the images stands for all of them, each is there several times in a pass of the record.
        """
        finished = [r for r in self.records if r.status == "finished" and r.run.length == self.summary.length]
        return max((r.curve[-1].epoch / r.run.data.train_fraction for r in finished if r.curve), default=math.inf)


class CoveredRecords(NamedTuple):
    """Records that a report covers, a line for each that is damaged and on those of older data, and the number of all others.

    distinct  the study's variants under the protocol, without controls that would be identical to another variant
    """

    records: list[RunRecord]
    notes: list[str]
    num_others: int
    distinct: tuple[str, ...] = ()


class NoRecordsError(ValueError):
    """A study has no record to report on."""


def load_covered_records(study: Study, protocol: str, store: Store, overrides: Sequence[str] = ()) -> CoveredRecords:
    """Find the records of the study's own runs, every variant and seed on disk.

    Runs made with other settings (`--set`) have other identities and are not among them. Nor are results that
    used older images or labels of a data set: means would be taken over two data sets.
    """
    on_disk = set(store.run_ids())
    if not on_disk:
        return CoveredRecords([], [], 0)  # before controls are solved, which takes seconds
    unique = {run.run_id: run for run in study.expand(protocol, 1, overrides=overrides)}
    distinct = tuple(dict.fromkeys(run.variant for run in unique.values()))
    for name in study.left_out.get(protocol, ()):  # which may have been asked for by name
        with suppress(ValueError):  # a control without a solution, or a variant that repeats another
            unique = {run.run_id: run for run in study.expand(protocol, 1, [name], overrides)} | unique
    names = list(study.variants)
    # The baseline in its own place
    first = sorted(unique.values(), key=lambda run: (run.length, names.index(run.variant)))
    runs: list[Run] = []
    last_seen = 0
    for seed in count():
        found = [run for run in (replace(run, seed=seed) for run in first) if run.run_id in on_disk]
        runs += found
        last_seen = seed if found else last_seen
        if seed - last_seen >= SEED_GAP:
            break
    read, notes = store.read_all(runs)
    records = list(read.values())
    older = _of_older_data(records)
    for name in sorted({record.run.data.name for record in older}):
        num_older = sum(record.run.data.name == name for record in older)
        notes.append(
            f"{num_older} runs in {store.runs_folder} used older images or labels of {name} and are not covered; the command that "
            "made them trains them again"
        )
    left_out = {record.run_id for record in older}
    covered = [record for record in records if record.run_id not in left_out]
    return CoveredRecords(covered, notes, len(on_disk) - len(runs), distinct)


def _of_older_data(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Results whose data had another checksum than the newest result of the same specification of data."""
    newest: dict[DataSpec, str] = {}
    results = [record for record in records if record.is_result and record.data_checksum]
    for record in sorted(results, key=lambda record: record.started_at):
        newest[record.run.data.for_seed(record.run.seed)] = record.data_checksum
    return [record for record in results if record.data_checksum != newest[record.run.data.for_seed(record.run.seed)]]


def read_report(study: Study, protocol: str, store: Store, overrides: Sequence[str] = ()) -> Report:
    """Summarise the records; writes nothing. Raises NoRecordsError if there is none."""
    from ablations.analysis.summary import summarise
    from ablations.reporting.answer import answer, grounds
    from ablations.reporting.caveats import caveats

    records, damaged, others, distinct = load_covered_records(study, protocol, store, overrides)
    if not records:
        place = results_option(store.folder.parents[1])
        raise NoRecordsError(
            f"no runs of study {study.name!r} under {protocol!r} in {store.folder}: "
            f"make them with {command(study, protocol, overrides, place)}"
        )
    if overrides:
        study = replace(study, published=None)  # whose runs have other settings
    summary = summarise(study, protocol, records, Looks(store.folder, study, overrides).declaration(), distinct)
    words = answer(study, summary, overrides), grounds(study, protocol, summary), caveats(study, protocol, summary)
    return Report(store.folder, *words, summary, records, damaged, others, overrides)


def figure_tables(study: Study, protocol: str, report: Report) -> "Tables":
    """Collect the data of a report's figures."""
    import pandas as pd

    from ablations.analysis.memory import state_copies
    from ablations.analysis.published import published_runs
    from ablations.reporting.axes import Tables

    first = next((r for r in report.records if r.run.variant == study.baseline), report.records[0])
    runs = runs_frame(report.records, study.target(protocol))
    curves = curves_frame(record for record in report.records if record.is_result)
    summary = report.summary
    return Tables(
        study,
        protocol,
        runs[(runs["status"] != "failed") & (runs["length"] == summary.length)],
        curves[curves["length"] == summary.length],
        summary.variants,
        state_copies(first.run.train),
        summary.memory,
        published_runs(study, protocol) if len(summary.published) else pd.DataFrame(),
        summary.by_length,
        summary.length,
        report.overrides,
    )


def write_report(
    study: Study, protocol: str, store: Store, overrides: Sequence[str] = (), force: bool = True
) -> Report:
    """Write the report into the store's folder; with `force=False` only if the records have changed since.

    Of two drivers that end together, the second waits and reads what the first has read, or more. Raises NoRecordsError if there is
    no record to report on.
    """
    from filelock import FileLock

    with FileLock(store.folder / ".report.lock") if store.folder.is_dir() else nullcontext():
        return _write_report(study, protocol, store, overrides, force)


def _write_report(study: Study, protocol: str, store: Store, overrides: Sequence[str], force: bool) -> Report:
    report = read_report(study, protocol, store, overrides)
    records = report.records
    notes = [*report.damaged]
    if report.num_others:
        notes.append(
            f"Not covered: {report.num_others} records in the same folder, of other settings, variants or trainer versions."
        )

    made_from = fingerprint(
        study, protocol, records, [*notes, f"looks {report.summary.looks}", f"changed {list(overrides)}"]
    )
    inputs = store.folder / ".inputs"
    text, page = store.folder / "report.md", store.folder / "report.html"
    if not force and text.exists() and page.exists() and inputs.exists() and inputs.read_text() == made_from:
        return report

    from ablations.reporting.charts import charts_of, styles_of
    from ablations.reporting.figures import figures_of, save
    from ablations.reporting.html import report_page, write_index
    from ablations.reporting.sections import sections

    inputs.unlink(missing_ok=True)  # else an interruption would leave tables of these records under the mark of others
    results = [record for record in records if record.is_result]
    runs, curves = runs_frame(records, study.target(protocol)), curves_frame(results)
    for name, table in (("runs", runs), ("curves", curves), ("summary", report.summary.variants)):
        write_atomically(store.folder / f"{name}.csv", table.to_csv(index=False))
    figures, charts, styles = [], {}, {}
    if results:
        tables = figure_tables(study, protocol, report)
        for name, draw in figures_of(tables).items():
            save(draw(tables), store.folder / "figures" / name)
            figures.append((name, " ".join((draw.__doc__ or "").split())))
        charts, styles = charts_of(tables), styles_of(tables)
    parts = sections(study, protocol, report, figures, overrides, notes)
    write_atomically(text, "\n\n".join(part for part in parts if part) + "\n")
    write_atomically(page, report_page(parts, store.folder, charts, styles))
    write_atomically(inputs, made_from)
    write_index(store.folder.parent.parent)
    return report


def fingerprint(study: Study, protocol: str, records: Iterable[RunRecord], notes: Iterable[str] = ()) -> str:
    """A hash over what a report is made from, by which an up-to-date one is known."""
    lines = sorted(f"{record.run_id} {record.status} {record.started_at}" for record in records)
    return hashlib.sha256("\n".join([repr(study), protocol, *lines, *notes]).encode()).hexdigest()
