"""Add seeds to undecided comparisons in looks that are declared beforehand (`--until-decided`)."""

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from ablations.analysis import sequential
from ablations.execution.progress import say, warn
from ablations.looks import Declaration, Looks
from ablations.protocols import PROTOCOLS
from ablations.records import RunRecord, Store
from ablations.reporting.files import Report, load_covered_records
from ablations.reporting.formatting import listed
from ablations.runs import length_name, parse_overrides
from ablations.session import Outcome, Request, run_studies
from ablations.study import MAX_SEEDS, Study

LEAST_BUDGET = 1.0  # seconds of a look for which no time is left: it trains nothing, and counts what remains


def run_until_decided(study: Study, request: Request, console: Console, ends_with_signals: bool = False) -> Outcome:
    """Execute the study in looks that are declared beforehand, with more seeds for what is not decided, as `run_studies` does.

    The first look has the seeds of the request or the protocol, every variant and every length; later ones have the baseline and
    the comparisons that are still undecided, at the longest length alone. The looks are written down before the first run, and
    another call must have the same.

    Raises ValueError for looks that cannot be, or that differ from those declared, or for results in the folder that would be
    compared as well but are not asked for.
    """
    looks = wanted_looks(study, request)
    _warn_of_verdicts(study, request, looks, require_whole(study, request))
    deadline = time.monotonic() + request.budget
    outcome = run_studies([study], replace(request, seeds=looks.seeds[0]), console, ends_with_signals, looks)
    parts, failed = list(outcome.parts), list(outcome.failed)
    for num_seeds in looks.seeds[1:]:
        report = outcome.reports.get(study.name)
        if report is None or outcome.remaining or outcome.stopped:
            break
        # A control that fails holds up nothing; a comparison that lacks a seed cannot be looked at.
        if lacking := {record.run.variant for record in failed} & {study.baseline, *study.confirmatory}:
            say(console, f"no look at {num_seeds} seeds: runs of {listed(sorted(lacking))} failed")
            break
        undecided = pending(report)
        if not undecided:
            break
        say(console, f"look at {num_seeds} seeds: {', '.join(undecided)} not decided yet")
        more = request_of_later_look(request, looks, num_seeds, undecided)
        left = max(LEAST_BUDGET, deadline - time.monotonic())
        outcome = run_studies([study], replace(more, budget=left), console, ends_with_signals)
        parts += outcome.parts
        failed += outcome.failed
    return replace(outcome, parts=parts, failed=failed)


def pending(report: Report) -> tuple[str, ...]:
    """List the comparisons that wait for the next look."""
    table = report.summary.variants
    return tuple(table["variant"][table["verdict"] == sequential.PENDING])


def request_of_later_look(request: Request, looks: Declaration, num_seeds: int, variants: Sequence[str]) -> Request:
    """Return the request of a look after the first: more seeds of these comparisons, at the longest length alone."""
    # A change of train.examples has left one length.
    has_lengths = PROTOCOLS[request.protocol].lengths and "train.examples" not in parse_overrides(request.overrides)
    return replace(request, seeds=num_seeds, variants=variants, lengths=[looks.length] if has_lengths else None)


def _warn_of_verdicts(study: Study, request: Request, looks: Declaration, results: Sequence[RunRecord]) -> None:
    """Warn where looks are about to be declared over results, whose verdicts they replace by stricter ones."""
    store = Store(request.results, study.name, request.protocol)
    if not Looks(store.folder, study, request.overrides).declaration().seeds and any(
        r.run.seed > 0 and r.run.variant in study.confirmatory for r in results
    ):
        warn(
            f"{store.folder} has results already: their verdicts give way to those of the looks, which are much stricter at first. "
            f"Some may be pending until a later look (at {listed(looks.seeds)} seeds)"
        )


def require_whole(study: Study, request: Request) -> list[RunRecord]:
    """Return the folder's results.

    Raises ValueError if the request names no comparison to decide on, or leaves out comparisons or lengths that the report decides on.
    """
    store = Store(request.results, study.name, request.protocol)
    results = [
        r for r in load_covered_records(study, request.protocol, store, request.overrides).records if r.is_result
    ]
    wanted = ("confirmatory",) if request.variants is None else request.variants
    requested = study.named(wanted, request.protocol)
    if not set(study.confirmatory) & {*requested}:
        raise ValueError(
            "--until-decided: --variants names no comparison that the study declares, so there is nothing to decide; choose --seeds "
            "instead"
        )
    others = [name for name in study.confirmatory if name in {r.run.variant for r in results} and name not in requested]
    if others:
        raise ValueError(
            f"--until-decided: {listed(others)} in {store.folder} would be decided on as well, but --variants leaves "
            f"{'it' if len(others) == 1 else 'them'} out: name all, or choose another --results"
        )
    longest = max((r.run.length for r in results if r.run.variant in study.confirmatory), default=0)
    if request.lengths and longest > max(request.lengths):
        raise ValueError(
            f"--until-decided decides at the longest length in {store.folder}, {length_name(longest)}, which --lengths leaves out: "
            "add it, or choose another --results"
        )
    return results


def wanted_looks(study: Study, request: Request) -> Declaration:
    """The looks that the request asks for. Raises ValueError for looks that cannot be."""
    if study.answers != "accuracy":
        raise ValueError(
            f"--until-decided decides by accuracy, which is not what {study.cli_name} asks about; choose --seeds instead"
        )
    if request.max_seeds > MAX_SEEDS:
        raise ValueError(f"--max-seeds {request.max_seeds}: must be at most {MAX_SEEDS}")
    first = study.declared_seeds(request.protocol) if request.seeds is None else request.seeds
    seeds = sequential.looks(first, request.max_seeds)
    runs = study.expand(request.protocol, 1, request.variants, request.overrides, request.lengths)
    trained = {run.variant for run in runs}
    variants = tuple(name for name in study.confirmatory if name in trained)
    return Declaration(seeds, variants, max(run.length for run in runs))
