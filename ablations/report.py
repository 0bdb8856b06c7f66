"""What a study says: report.md, report.html, tables and figures, from the records on disk and nothing else.

`python -m ablations.report STUDY` writes them again at any time; `--against DIR` compares two folders of results run by run.
"""

import base64
import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.cli import add_study_options, names
from ablations.protocols import PROTOCOLS
from ablations.records import RunRecord, Store, curves_frame, runs_frame, write_atomically
from ablations.study import Run, Study, load_study
from nin.cli import SUCCESS, OneLineParser, exit_with

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ablations.summary import Summary

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:.82rem;margin:1rem 0}th,td{padding:.2rem .6rem;border-bottom:1px solid #ddd}"
    "td:not(:first-child),th:not(:first-child){text-align:right}img{max-width:100%}code{background:#f4f4f4}"
)


@dataclass(frozen=True)
class Report:
    """A written report: where it is, its first sentence, and its tables."""

    folder: Path
    answer: str
    summary: "Summary"


def covered(
    study: Study, protocol: str, store: Store, overrides: Sequence[str] = ()
) -> tuple[list[RunRecord], list[str]]:
    """Records of the study's own runs, every variant and seed on disk, and a line for each record that is damaged.

    Runs made with other settings (`--set`) have other identities and are not among them.
    """
    on_disk = set(store.run_ids())
    records: list[RunRecord] = []
    damaged: list[str] = []
    seeds = 0
    while True:
        # Seeds are counted from 0, so the first one with no record of any variant ends the search.
        runs = [run for run in study.expand(protocol, seeds + 1, overrides=overrides) if run.seed == seeds]
        found, lines = store.read_all(run for run in runs if run.run_id in on_disk)
        if not found and not lines:
            return records, damaged
        records += found.values()
        damaged += lines
        seeds += 1


def write_report(study: Study, protocol: str, store: Store, overrides: Sequence[str] = (), command: str = "") -> Report:
    """Write everything into the store's folder. Raises ValueError if there is no record to report on."""
    records, damaged = covered(study, protocol, store, overrides)
    if not records:
        raise ValueError(
            f"no runs of study {study.name!r} under {protocol!r} in {store.folder}: "
            f"make them with python -m ablations.run {study.name} --protocol {protocol}"
        )
    from ablations.plots import FIGURES, Tables, save
    from ablations.summary import summarise

    target = study.target(protocol)
    results = [record for record in records if record.is_result]
    summary = summarise(study, protocol, records)
    runs, curves = runs_frame(records, target), curves_frame(results)
    for name, table in (("runs", runs), ("curves", curves), ("summary", summary.variants)):
        write_atomically(store.folder / f"{name}.csv", table.to_csv(index=False))
    figures = []
    if results:
        tables = Tables(study, protocol, runs[runs["status"] != "failed"], curves, summary.variants)
        for name, draw in FIGURES.items():
            save(draw(tables), store.folder / "figures" / name)
            figures.append((name, (draw.__doc__ or "").strip()))
    answer = first_sentence(study, protocol, summary)
    text = "\n\n".join(_sections(study, protocol, records, summary, figures, answer, overrides, damaged, command))
    write_atomically(store.folder / "report.md", text + "\n")
    write_atomically(store.folder / "report.html", _html(study, text, store.folder))
    write_atomically(store.folder / ".inputs", fingerprint(study, protocol, records))
    return Report(store.folder, answer, summary)


def fingerprint(study: Study, protocol: str, records: Iterable[RunRecord]) -> str:
    """A hash over what a report is made from, by which an up-to-date one is known."""
    lines = sorted(f"{record.run_id} {record.status} {record.started_at}" for record in records)
    return hashlib.sha256("\n".join([repr(study), protocol, *lines]).encode()).hexdigest()


def first_sentence(study: Study, protocol: str, summary: "Summary") -> str:
    """The answer: which confirmatory variants are better, worse, equivalent, and which the data cannot tell apart."""
    table = summary.variants
    base = table[table["variant"] == study.baseline] if len(table) else table
    others = table[table["role"] == "confirmatory"] if len(table) else table
    if not len(base) or not len(others):
        return f"Not answered yet: under `{protocol}` there are no results of both the baseline {study.baseline} and a variant."
    row = base.iloc[0]
    interval = _interval(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
    start = f"Under `{protocol}`, compared with {study.baseline} (test accuracy {interval}, n = {row.n}): "
    parts = []
    for verdict in ("better", "worse", "equivalent"):
        for other in others[others["verdict"] == verdict].itertuples():
            ends = (-other.difference_high, -other.difference_low) if verdict == "worse" else _ends(other)
            size = other.difference if verdict == "equivalent" else abs(other.difference)
            gap = _interval(size, *ends, 1, " points")
            corrected = f"corrected p = {_p(other.p_equivalent if verdict == 'equivalent' else other.p_holm)}"
            relation = "is equivalent, differing" if verdict == "equivalent" else f"is {verdict}"
            parts.append(f"**{other.variant} {relation} by {gap}, {corrected}**")
    undecided = others[others["verdict"] == "inconclusive"]
    if len(undecided):
        finds = undecided["detectable"].max()
        could = (
            ""
            if math.isnan(finds)
            else f" (only differences of about {finds:.1f} points or more would have been found)"
        )
        parts.append(f"{_listed(undecided['variant'])} {'is' if len(undecided) == 1 else 'are'} inconclusive{could}")
    return start + "; ".join(parts) + "."


def detectable_line(study: Study, runs: Sequence[Run], store: Store) -> str:
    """What the design can find before it is run: from the spread of the records there are, else from the protocol's assumption."""
    from ablations import stats

    protocol = PROTOCOLS[runs[0].protocol]
    num_seeds = len({run.seed for run in runs})
    num_comparisons = len({run.variant for run in runs if run.role == "confirmatory"})
    records, _ = covered(study, protocol.name, store)
    groups = [[r.test_accuracy for r in records if r.is_result and r.run.variant == name] for name in study.variants]
    sd = stats.pooled_sd([group for group in groups if len(group) > 1])
    source = "measured in the runs there are" if sd > 0 else "assumed"
    sd = sd if sd > 0 else protocol.assumed_sd
    found = stats.detectable_difference(sd, num_seeds, max(1, num_comparisons))
    if math.isnan(found):
        return "with one seed no difference can be told from chance"
    return (
        f"{num_seeds} seeds and {num_comparisons} comparisons find differences of {100 * found:.2f} points or more "
        f"(power 80 %, Holm; standard deviation between seeds {100 * sd:.2f} points, {source})"
    )


def print_summary(report: Report, console: "Console") -> None:
    """The table at the end of a run."""
    from rich.table import Table

    table = Table(
        "variant", "n", "parameters", "GFLOP", "test accuracy, %", "difference, points", "verdict", "reached target"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.summary.variants.itertuples():
        accuracy = _interval(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, "", 1)
        difference = "" if row.role == "baseline" else _signed_interval(row.difference, *_ends(row))
        verdict = row.verdict or "baseline"
        if row.role not in ("baseline", "confirmatory"):
            verdict += f" ({row.role})"
        failed = f", {row.collapsed + row.diverged} collapsed" if row.collapsed + row.diverged else ""
        hits = f"{row.hits}/{row.n}{failed}"
        table.add_row(
            row.variant, str(row.n), f"{row.params:,}", f"{row.gflops:.4f}", accuracy, difference, verdict, hits
        )
    console.print(table)
    console.print(report.answer.replace("**", "").replace("`", ""), soft_wrap=True, markup=False)


def _sections(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    summary: "Summary",
    figures: Sequence[tuple[str, str]],
    answer: str,
    overrides: Sequence[str],
    damaged: Sequence[str],
    command: str,
) -> list[str]:
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
            "its budget: the median is infinite when fewer than half hit, the restricted mean takes min(time, budget).",
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
        ]
        if len(summary.factors):
            sections += [
                "## Main effects and interactions",
                f"Factors: {' and '.join(study.factors)}. Contrasts of cell means (Welch, Satterthwaite), points of test "
                "accuracy, over those 2 x 2 tables around the baseline of which all four cells were run; exploratory, not corrected.",
                _difference_table(summary.factors, "effect"),
            ]
        if len(summary.over_images):
            sections += [
                "## Would another test set change this?",
                "The same networks, compared over the test images in place of the seeds (seeds averaged). An interval that is as "
                "wide as the difference says that other images might reverse it.",
                _difference_table(summary.over_images, "variant"),
            ]
    return [*sections, "## What was run", _statement(study, protocol, records, overrides, damaged, command)]


def _accuracy_table(study: Study, table: "pd.DataFrame") -> str:
    rows = [
        {
            "variant": row.variant,
            "role": row.role,
            "n": row.n,
            "parameters": f"{row.params:,}",
            "GFLOP": f"{row.gflops:.4f}",
            "test accuracy, %": _interval(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100),
            "difference, points": "" if row.role == "baseline" else _signed_interval(row.difference, *_ends(row)),
            "p (Holm)": _p(row.p_holm) if row.role == "confirmatory" else _raw_p(row.p, row.role),
            "P(better)": "" if math.isnan(row.prob_better) else f"{row.prob_better:.2f}",
            "verdict": row.verdict,
        }
        for row in table.itertuples()
    ]
    return _markdown(rows)


def _accuracy_notes(study: Study, table: "pd.DataFrame") -> str:
    lines = [
        "Intervals are 95 % (Student's t for means, Welch's t for differences). The pre-declared comparisons are each confirmatory "
        "variant with the baseline, Welch's test corrected by Holm; controls and exploratory variants show their raw p in brackets, "
        f"and no claim rests on them. *Equivalent* means that two one-sided tests place the difference within {100 * study.margin:g} "
        "points.",
    ]
    checks = []
    for row in table[table["role"] == "confirmatory"].itertuples():
        known = [
            f"{name} p = {_p(p)}"
            for name, p in (("Dunnett", row.p_dunnett), ("sign-flip", row.p_sign_flip))
            if not math.isnan(p)
        ]
        if known:
            checks.append(f"{row.variant}: {', '.join(known)}")
    if checks:
        lines.append("Checks by other tests: " + "; ".join(checks) + ".")
    detectable = table[table["role"] == "confirmatory"]["detectable"].dropna()
    if len(detectable):
        lines.append(
            f"At the spread seen, differences of {detectable.min():.2f} to {detectable.max():.2f} points, depending on the variant, "
            "would have been found with a power of 80 %. A smaller one that was not found is undecided, not absent."
        )
    return "\n\n".join(lines)


def _convergence_table(table: "pd.DataFrame") -> str:
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
        for row in table.itertuples()
    ]
    return _markdown(rows)


def _ladder_table(summary: "Summary") -> str:
    wide = summary.ladder.pivot_table(index="variant", columns="target", values="hits", aggfunc="first", sort=False)
    rows = [
        {"variant": str(name)} | {f"hits at {float(str(target)):.0%}": hits for target, hits in row.items()}
        for name, row in wide.iterrows()
    ]
    return _markdown(rows)


def _failure_table(table: "pd.DataFrame") -> str:
    from ablations import stats

    rows = []
    for row in table.itertuples():
        failed = stats.wilson(row.collapsed + row.diverged, row.n)
        rows.append(
            {
                "variant": row.variant,
                "runs": row.n,
                "collapsed": row.collapsed,
                "diverged": row.diverged,
                "share of both, % (Wilson 95 %)": _interval(failed.estimate, failed.low, failed.high, 100),
                "runs with dead classes": row.runs_with_dead_classes,
                "dead classes, mean": f"{row.dead_classes_mean:.1f}",
            }
        )
    return (
        _markdown(rows) + "\n\n*Collapsed*: validation accuracy never left chance. *Diverged*: a loss was not finite. "
        "*Dead*: never predicted on the test set. All of these runs are in the means above."
    )


def _difference_table(table: "pd.DataFrame", label: str) -> str:
    rows = [
        {
            label: getattr(row, label),
            "difference, points": _signed_interval(row.difference, *_ends(row)),
            "p": _p(row.p),
        }
        for row in table.itertuples()
    ]
    return _markdown(rows)


def _statement(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    overrides: Sequence[str],
    damaged: Sequence[str],
    command: str,
) -> str:
    """The facts under which the numbers hold."""
    settings = PROTOCOLS[protocol]
    run = next((r.run for r in records if r.run.variant == study.baseline), records[0].run)
    train, data = run.train, run.data
    seeds = sorted({record.run.seed for record in records})
    validation = (
        f"the test set, watched {train.evals_per_epoch} times an epoch"
        if data.val_examples == 0
        else f"{data.val_examples:,} images set aside from the training set (split {data.split!r})"
    )
    facts = [
        f"Protocol `{protocol}`: {settings.purpose}. {settings.note}".strip(),
        f"Seeds {_listed(seeds)}, the same for every variant. Variants: {len({r.run.variant for r in records})} of "
        f"{len(study.variants)}.",
        f"Budget: {train.epochs} epochs, {max(r.examples_seen for r in records):,} training images; batch {train.batch_size}; "
        f"{train.optimizer}, lr {train.lr:g}, momentum {train.momentum:g}, weight decay {train.weight_decay:g}, schedule "
        f"{train.schedule}, {train.precision}; weights {run.model.init}.",
        "Parameters of training are fixed, the same for all variants; none was tuned for any of them"
        + (f"; changed from the protocol by {', '.join(f'`--set {o}`' for o in overrides)}." if overrides else "."),
        f"Data: {data.name}, checksum {_listed({r.data_checksum[:12] for r in records if r.data_checksum})}. Train accuracy is on "
        f"training images, in evaluation mode after the last step. Validation accuracy (targets, curves) is on {validation}. Test "
        "accuracy is on the test set, read once after the last step.",
        f"Device: {_listed({r.environment.get('device', '') for r in records})}. Versions: "
        f"{_listed({_versions(r) for r in records})}.",
        f"Commit: {_listed({r.environment.get('commit') or 'unknown' for r in records})}.",
        f"Wall time: {sum(r.wall_seconds for r in records if r.is_result) / 60:.1f} minutes summed over runs, "
        f"{sum(r.train_seconds for r in records if r.is_result) / 60:.1f} of them training.",
    ]
    if command:
        facts.append(f"Command: `{command}`")
    facts += [f"Failed: {record.run.label}: {record.error}" for record in records if not record.is_result]
    lacking = [
        name
        for name in study.variants
        if len({r.run.seed for r in records if r.is_result and r.run.variant == name}) < len(seeds)
    ]
    if lacking:
        facts.append(f"Incomplete: {_listed(lacking)} lack results for some seeds.")
    return "\n".join(f"- {fact}" for fact in [*facts, *damaged])


def _versions(record: RunRecord) -> str:
    kept = ("python", "torch", "cuda", "threads")
    return ", ".join(f"{key} {record.environment[key]}" for key in kept if record.environment.get(key))


def _figure_line(name: str, figures: Sequence[tuple[str, str]]) -> str:
    caption = dict(figures)[name]
    return f"![{caption}](figures/{name}.png)\n\n*{caption}*"


def _html(study: Study, text: str, folder: Path) -> str:
    """The report as one file: figures inside, nothing fetched from anywhere."""
    import markdown

    def embedded(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = markdown.markdown(text, extensions=["tables"])
    body = re.sub(r'src="(figures/[\w.]+)"', embedded, body)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{study.name}</title><style>{STYLE}</style>'
        f"<body>{body}</body></html>"
    )


def _markdown(rows: Sequence[dict[str, object]]) -> str:
    from tabulate import tabulate

    return str(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))


def _ends(row: object) -> tuple[float, float]:
    return getattr(row, "difference_low"), getattr(row, "difference_high")  # noqa: B009


def _interval(estimate: float, low: float, high: float, scale: float = 1, unit: str = "", digits: int = 2) -> str:
    """For example "80.12 % (78.00 to 82.24)"; without ends where there are none."""
    if math.isnan(estimate):
        return "–"
    if math.isnan(low):
        return f"{scale * estimate:.{digits}f}{unit}"
    return f"{scale * estimate:.{digits}f}{unit} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def _signed_interval(estimate: float, low: float, high: float) -> str:
    if math.isnan(estimate):
        return "–"
    return f"{estimate:+.2f}" + ("" if math.isnan(low) else f" ({low:+.2f} to {high:+.2f})")


def _p(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _raw_p(p: float, role: str) -> str:
    return "" if role == "baseline" else f"[{_p(p)}]"


def _count(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:,.0f}"


def _number(value: float) -> str:
    return _count(value) if not math.isfinite(value) else f"{value:.3g}"


def _listed(items: Iterable[object]) -> str:
    words = [str(item) for item in (sorted(items, key=str) if isinstance(items, set) else items)]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "none"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    parser = OneLineParser(prog="python -m ablations.report", description=__doc__)
    add_study_options(parser)
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with the results in another folder, run by run"
    )
    parser.add_argument("--sync", action="store_true", help="bring MLflow up to date with the records")
    arguments = parser.parse_args(argv)
    if arguments.study is None:
        raise ValueError("name a study to report on; python -m ablations.run --list shows them")
    study = load_study(arguments.study)
    study.expand(arguments.protocol, arguments.seeds, names(arguments.variants), arguments.overrides)
    store = Store(arguments.results, study.name, arguments.protocol)

    from ablations.display import console_for_output

    console = console_for_output()
    if arguments.against:
        return _print_comparison(store, Store(arguments.against, study.name, arguments.protocol), console)
    report = write_report(study, arguments.protocol, store, arguments.overrides)
    print_summary(report, console)
    print(f"report:  {store.folder / 'report.md'}")
    if arguments.sync:
        _sync(
            study,
            arguments.protocol,
            arguments.results,
            covered(study, arguments.protocol, store, arguments.overrides)[0],
        )
    return SUCCESS


def _print_comparison(store: Store, other: Store, console: "Console") -> int:
    from rich.table import Table

    from ablations.compare import compare_folders

    rows = compare_folders(store, other)
    if not rows:
        raise ValueError(f"there are no runs to compare in {store.folder} and {other.folder}")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    return SUCCESS


def _sync(study: Study, protocol: str, results: Path, records: Sequence[RunRecord]) -> None:
    from ablations.tracking import open_tracker

    warn: Callable[[str], None] = lambda line: print(f"warning: {line}", file=sys.stderr)  # noqa: E731
    tracker = open_tracker(results, study, protocol, warn)
    tracker.sync(records)
    tracker.add_files(results / study.name / protocol)
    tracker.close("FINISHED")
    print("\n".join(tracker.links()))


if __name__ == "__main__":
    exit_with(main)
