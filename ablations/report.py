"""What a study says: report.md, report.html, tables and figures, from the records on disk and nothing else.

`python -m ablations.report STUDY` writes them again at any time; `--against DIR` compares two folders of results run by run.
"""

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.cli import add_study_options, warn
from ablations.protocols import PROTOCOLS
from ablations.records import RunRecord, Store, curves_frame, runs_frame, write_atomically
from ablations.study import Run, Study, load_study
from ablations.tuning.winners import load_tuned
from nin.cli import SUCCESS, OneLineParser, exit_with

if TYPE_CHECKING:
    from rich.console import Console

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
            f"make them with python -m ablations.run {study.name} --protocol {protocol}"
        )
    others = len(store.run_ids()) - len(records) - len(damaged)
    notes = [*damaged]
    if others:
        notes.append(
            f"Not covered: {others} records in the same folder, of other settings, variants or trainer versions."
        )

    from ablations.analysis.summary import summarise
    from ablations.reporting.sections import first_sentence, sections

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
        finished = runs[runs["status"] != "failed"]
        tables = Tables(
            study, protocol, finished, curves, summary.variants, summary.memory, published_runs(study, protocol)
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


def detectable_line(study: Study, runs: Sequence[Run], store: Store) -> str:
    """What the design can find before it is run: from the spread of the records there are, else from the protocol's assumption.

    The spread is that of the baseline and of confirmatory variants whose runs all learned: a single one that collapsed in some
    seeds, or a control that nothing is claimed of, would stand for all.
    """
    from ablations.analysis import stats

    protocol = PROTOCOLS[runs[0].protocol]
    num_seeds = len({run.seed for run in runs})
    num_comparisons = len({run.variant for run in runs if run.role == "confirmatory"})
    records, _ = covered(study, protocol.name, store)
    groups = {name: [r for r in records if r.is_result and r.run.variant == name] for name in study.variants}
    kept = [
        [r.test_accuracy for r in group]
        for name, group in groups.items()
        if study.role(name) == "baseline"
        or (study.role(name) == "confirmatory" and all(r.status == "finished" and not r.dead_classes for r in group))
    ]
    sd = stats.pooled_sd(kept)
    source = "measured in the runs there are" if sd > 0 else "assumed"
    sd = sd if sd > 0 else protocol.assumed_sd
    found = stats.detectable_difference(sd, num_seeds, max(1, num_comparisons))
    if math.isnan(found):
        return "with one seed no difference can be told from chance"
    size = f"differences of {100 * found:.2f} points or more" if found <= 1 else "no difference that there can be"
    return (
        f"{num_seeds} seeds and {num_comparisons} comparisons find {size} "
        f"(power 80 %, Holm; standard deviation between seeds {100 * sd:.2f} points, {source})"
    )


def print_summary(report: Report, console: "Console") -> None:
    """The table at the end of a run."""
    from rich.table import Table

    from ablations.analysis.summary import each_row, failures, verdict_text
    from ablations.reporting.sections import difference_text, interval_text

    table = Table(
        "variant", "n", "parameters", "GFLOP", "test accuracy, %", "difference, points", "verdict", "reached target"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in each_row(report.summary.variants):
        accuracy = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, "", 1)
        difference = "" if row.role == "baseline" else difference_text(row)
        verdict = row.verdict or verdict_text(row)
        if row.verdict and row.role != "confirmatory":
            verdict += f" ({row.role})"
        hits = ", ".join(filter(None, [f"{row.hits}/{row.n}", failures(row)]))
        table.add_row(
            row.variant, str(row.n), f"{row.params:,}", f"{row.gflops:.4f}", accuracy, difference, verdict, hits
        )
    console.print(table)
    console.print(report.answer.replace("**", "").replace("`", ""), soft_wrap=True, markup=False)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    parser = OneLineParser(prog="python -m ablations.report", description=__doc__)
    add_study_options(parser)
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with the results in another folder, run by run"
    )
    parser.add_argument("--tuned", action="store_true", help="of the variants as they are and as tuned, side by side")
    parser.add_argument("--sync", action="store_true", help="bring MLflow up to date with the records")
    arguments = parser.parse_args(argv)
    if arguments.study is None:
        raise ValueError("name a study to report on; python -m ablations.run --list shows them")
    if arguments.seeds is not None or arguments.variants is not None:
        raise ValueError("a report covers every variant and seed on disk: --seeds and --variants are for ablations.run")
    study = load_study(arguments.study)
    if arguments.tuned:
        study = load_tuned(study, arguments.protocol, arguments.results, arguments.overrides)
    study.expand(arguments.protocol, 1, [study.baseline], arguments.overrides)  # what is wrong is said at once
    store = Store(arguments.results, study.name, arguments.protocol)

    from ablations.execution.progress import console_for_output

    console = console_for_output()
    if arguments.against:
        return _print_comparison(store, Store(arguments.against, study.name, arguments.protocol), console)
    report = write_report(study, arguments.protocol, store, arguments.overrides)
    for line in report.damaged:
        warn(line)
    print_summary(report, console)
    print(f"report:  {store.folder / 'report.md'}")
    if arguments.sync:
        from ablations.tracking.mlflow_tree import open_tracker

        tracker = open_tracker(arguments.results, study, arguments.protocol, warn, arguments.overrides)
        tracker.sync(report.records)
        tracker.add_files(store.folder)
        tracker.close("FINISHED")
        for line in tracker.links():
            print(line)
    return SUCCESS


def _print_comparison(store: Store, other: Store, console: "Console") -> int:
    from rich.markup import escape
    from rich.table import Table

    from ablations.analysis.compare import compare_folders

    for side in (store, other):
        if not side.run_ids():
            raise ValueError(f"there are no runs to compare in {side.folder}")
    rows = compare_folders(store, other)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console.print(table)
    return SUCCESS


if __name__ == "__main__":
    exit_with(main)
