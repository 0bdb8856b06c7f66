"""Run studies: execute the runs that are missing, keep their records, write the reports.

`run_studies` does the work of `python -m ablations.run`, with Python values in place of command-line arguments. Re-running skips
finished runs. Calls that run at the same time, here or on machines that share the results folder, share the runs. With several
studies, all first seeds run before any second seed.
"""

import math
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from ablations.analysis.memory import MEASURES
from ablations.execution.data import of_other_data, prepare, require_effects
from ablations.execution.driver import CommonFailureError, drive
from ablations.execution.engines import Engine
from ablations.execution.launch import (
    EngineOptions,
    make_engine,
    make_probe,
    require_count,
    require_folder,
    require_guard,
    require_time,
    require_writable,
)
from ablations.execution.progress import fraction_done, say, warn
from ablations.execution.signals import OutOfTimeError, handle_signals, time_limit
from ablations.looks import NO_LOOKS, Declaration, Looks
from ablations.records import RunRecord, Store
from ablations.reporting.files import NoRecordsError, Report, write_report
from ablations.reporting.formatting import listed
from ablations.reporting.terminal import print_summary, print_text
from ablations.runs import Run
from ablations.study import MEMORY, Study
from ablations.tracking.mlflow_tree import open_tracker
from ablations.tracking.tracker import Tracker, finish
from ablations.tuning.task import FIRST_SEED
from ablations.tuning.winners import both_settings, load_tuned
from nin.checkpoint import last_point
from nin.data import shape
from nin.text import counted


@dataclass(frozen=True)
class Request:
    """A request to run studies: which runs, how to execute them, and where to keep them.

    seeds         runs per variant; None: the protocol's own number
    variants      only these, and the baseline; of one study alone
    lengths       those of the protocol's training lengths, in images, that are asked for; None: all
    overrides     changes to every run, such as "train.lr=0.05"
    max_seeds     add seeds in looks up to this number until every declared comparison is decided (`run_until_decided`); 0: do not
    budget        seconds of training, after which it stops; re-run to continue
    retries       of a run that failed
    keep_weights  keep each run's trained network; a run that lacks it is trained again
    tuned         train each tuned variant with its default and its tuned settings
    """

    protocol: str = "quick"
    seeds: int | None = None
    variants: Sequence[str] | None = None
    lengths: Sequence[int] | None = None
    overrides: Sequence[str] = ()
    results: Path = Path("results")
    engine: EngineOptions = field(default_factory=EngineOptions)
    max_seeds: int = 0
    budget: float = math.inf
    retries: int = 0
    keep_weights: bool = False
    tuned: bool = False

    def __post_init__(self) -> None:
        require_time("budget", self.budget)
        require_count("retries", self.retries, 0)
        if self.budget < math.inf and threading.current_thread() is not threading.main_thread():
            raise ValueError("budget: needs the main thread, to which the system sends its alarms")


@dataclass(frozen=True)
class Part:
    """One study's part in a call: its runs, those of them that are to be executed, and where all are kept.

    adopted   what other studies in the same folder of results have of these runs
    outdated  results of these runs that rest on other data than is there now; they are among the missing
    shared    runs that an earlier study of the same command lacks too, and executes; they are not among the missing
    """

    study: Study
    runs: Sequence[Run]
    missing: Sequence[Run]
    store: Store
    adopted: Sequence[RunRecord] = ()
    outdated: Sequence[RunRecord] = ()
    shared: Sequence[Run] = ()


@dataclass(frozen=True)
class Outcome:
    """Outcome of a command.

    parts      as they were before anything was executed; a tuned study has a name of its own
    reports    by the study's name; a study without records has none
    remaining  runs for which the time did not suffice
    failed     the records of runs that are no result, or lack their weights
    stopped    why no more was tried, if every variant failed alike
    """

    parts: Sequence[Part]
    reports: dict[str, Report] = field(default_factory=dict)
    remaining: int = 0
    failed: Sequence[RunRecord] = ()
    stopped: str = ""

    @property
    def num_runs(self) -> int:
        """Number of runs requested, finished ones included; those of several looks count once."""
        return len({(part.study.name, run.run_id) for part in self.parts for run in part.runs})


def run_studies(
    studies: Sequence[Study],
    request: Request,
    console: Console,
    ends_with_signals: bool = False,
    looks: Declaration = NO_LOOKS,
) -> Outcome:
    """Train the missing runs and keep their records; then write, print and track the reports.

    ends_with_signals  handle those that end a command (`ablations.execution.signals.handle_signals`)
    looks              written down before the first run (`run_until_decided`)

    Raises ValueError, in one line and before anything is written, for what cannot be run; KeyboardInterrupt, after a line that
    says how much is done, if it is interrupted.
    """
    require_guard()
    parts = find_parts(studies, request)
    missing = sorted((run for part in parts for run in part.missing), key=lambda run: run.seed)
    prepare(missing, console)
    _warn_of_targets(parts, request.protocol)
    engine = make_engine(request.engine, request.results, keep_weights=request.keep_weights) if missing else None
    require_writable(request.results)
    _write_prepared(parts, looks, request.overrides)
    if ends_with_signals:
        handle_signals()
    _announce(parts, missing, engine, request, console)
    with ExitStack() as at_the_end:
        trackers: dict[str, Tracker] = {}
        for part in parts:
            tracker = open_tracker(request.results, part.study, request.protocol, warn, request.overrides)
            at_the_end.callback(tracker.close, "KILLED")  # changes nothing if it is closed
            trackers[part.study.name] = tracker
        try:
            stopped, is_out_of_time = "", False
            try:
                if engine:
                    _execute(parts, missing, engine, trackers, request, console)
            except CommonFailureError as reason:
                stopped = f"stopped early: {reason}; re-run to try again"
            except OutOfTimeError:
                is_out_of_time = True
            reports = _conclude_all(parts, trackers, request, console)
        except KeyboardInterrupt:
            print(f"interrupted: {_kept(parts)}; re-run to continue", file=sys.stderr)
            raise
    failed = [record for part in parts for record in _failed(part, reports.get(part.study.name))]
    if not is_out_of_time:
        return Outcome(parts, reports, 0, failed, stopped)
    failed = [record for record in failed if not record.is_result]  # whose weights there was no time for
    ended = {record.run_id for record in failed}
    left = [run for part in parts for run in part.runs if run.run_id not in ended and not part.store.is_done(run)]
    return Outcome(parts, reports, len(left), failed, stopped)


def find_parts(studies: Sequence[Study], request: Request) -> list[Part]:
    """Find each study's finished and missing runs, as `find_part` does. A run that several lack is missing in the first alone.

    With weights to keep, each study has its own. So has one that names a precision, since "auto" of another may be a different one.
    """
    require_folder(request.results)
    parts: list[Part] = []
    precisions = defaultdict[str, set[str]](set)  # by run_id, of the runs that are missing so far
    for study in studies:
        part = find_part(study, request)
        if not request.keep_weights:
            shared = dict.fromkeys(run for run in part.missing if any(map(run.takes, precisions[run.run_id])))
            part = replace(part, shared=list(shared), missing=[run for run in part.missing if run not in shared])
        for run in part.missing:
            precisions[run.run_id].add(run.train.precision)
        parts.append(part)
    require_effects((run for part in parts for run in part.runs), request.overrides)
    return parts


def find_part(study: Study, request: Request) -> Part:
    """Find the study's finished and missing runs. Writes nothing.

    Raises ValueError for runs that cannot be, or that declared looks do not allow, or a folder of published results.
    """
    variants = None if request.variants is None else study.named(request.variants, request.protocol)
    if request.tuned:
        tuned = load_tuned(study, request.protocol, request.results, request.overrides)
        variants = (
            None
            if variants is None
            else both_settings(study, tuned, request.protocol, variants, request.results, request.overrides)
        )
        study = tuned
        if (request.seeds or 0) > FIRST_SEED:
            raise ValueError(
                f"--seeds {request.seeds}: must be at most {FIRST_SEED:,} with --tuned, which chose by later seeds"
            )
    if variants:  # the report will expand all variants, some of which may be on disk
        study.expand(request.protocol, 1, overrides=request.overrides)
    runs = study.expand(request.protocol, request.seeds, variants, request.overrides, request.lengths)
    store = Store(request.results, study.name, request.protocol, request.keep_weights)
    store.require_unpublished()
    Looks(store.folder, study, request.overrides).require_no_more(runs)
    records, damaged = store.read_all(runs)
    for line in [*_other_question(study, store), *damaged]:
        warn(line)
    unmeasured = [record for record in records.values() if record.is_result and not _is_measured(study, record)]
    if unmeasured:
        warn(
            f"{counted(len(unmeasured), 'finished run')} of {study.name} lack the memory that the study is about: trained again "
            f"(old records: {store.superseded_folder})"
        )
    outdated = of_other_data(records.values())
    for name in {record.run.data.name for record in outdated}:
        num_runs = sum(record.run.data.name == name for record in outdated)
        warn(
            f"{counted(num_runs, 'finished run')} of {study.name} used older images or labels of {name}: trained again "
            f"(old records: {store.superseded_folder})"
        )
    outdated += [record for record in unmeasured if record not in outdated]
    old = {record.run_id for record in outdated}
    finished = {run_id for run_id, record in records.items() if record.is_result and run_id not in old}
    adopted = _results_of_other_studies(study, [run for run in runs if run.run_id not in finished], store)
    finished |= {record.run_id for record in adopted}
    done = {run_id for run_id in finished if store.has_wanted_weights(run_id)}
    if finished != done:
        warn(f"{counted(len(finished - done), 'finished run')} without weights: trained again to keep them")
    return Part(study, runs, [run for run in runs if run.run_id not in done], store, adopted, outdated)


def _other_question(study: Study, store: Store) -> Iterator[str]:
    """Yield a line if the report of a study's file would replace one on another question: two files may have one name."""
    report = store.folder / "report.md"
    if study.file and report.is_file():
        question = report.read_text().partition("\n")[0].removeprefix(f"# {study.name}: ")
        if question != study.question:
            yield (
                f"{report} is on another question, {question!r}, and will be replaced: if another file of this name wrote it, rename "
                "one of them"
            )


def _is_measured(study: Study, record: RunRecord) -> bool:
    """Return whether the record has what a study of memory is about; one of an older version may not."""
    return study.answers not in MEMORY or bool(getattr(record, MEASURES[MEMORY[study.answers]]))


def _results_of_other_studies(study: Study, runs: Sequence[Run], store: Store) -> list[RunRecord]:
    """Find results of these runs in other studies of the same protocol; a run's identity does not depend on its study.

    Where several have a run, the newest counts, since data may have changed since an older one. Results on other data than there
    are now do not count, nor those without the memory that the study is about.
    """
    found: dict[str, RunRecord] = {}
    if not runs:
        return []
    for folder in sorted(store.folder.parent.parent.glob(f"*/{store.folder.name}")):
        other = Store(folder.parent.parent, folder.parent.name, folder.name)
        if other.folder == store.folder or other.is_published:
            continue
        there = set(other.run_ids())
        for record in other.read_all(run for run in runs if run.run_id in there)[0].values():
            if record.is_result and (record.run_id not in found or record.started_at > found[record.run_id].started_at):
                found[record.run_id] = record
    old = {record.run_id for record in of_other_data(found.values())}
    return [record for record in found.values() if record.run_id not in old and _is_measured(study, record)]


def _write_prepared(parts: Sequence[Part], looks: Declaration, overrides: Sequence[str]) -> None:
    """Write what is known before the first run: declared looks, adopted results and folders; set outdated results aside."""
    for part in parts:
        if looks.seeds:
            Looks(part.store.folder, part.study, overrides).declare(looks)
        for record in part.outdated:
            part.store.set_aside(record)
        for record in part.adopted:
            part.store.write(record)
        part.store.checkpoints_folder.mkdir(parents=True, exist_ok=True)


def _warn_of_targets(parts: Sequence[Part], protocol: str) -> None:
    """Warn where guessing reaches the accuracy that counts as trained: it was chosen for data of more classes."""
    for part in parts:
        target = part.study.target(protocol)
        for name, data in {run.data.name: run.data for run in part.missing}.items():
            _, num_classes = shape(data)  # which takes a look into every file of a folder
            if target <= 1 / num_classes:
                warn(
                    f"guessing reaches the target of {target:.0%} validation accuracy with the {num_classes} classes of {name}, so "
                    "images to target say nothing: set targets in the study's file"
                )


def _announce(
    parts: Sequence[Part], missing: Sequence[Run], engine: Engine | None, request: Request, console: Console
) -> None:
    """Print each study's question, how many runs are done and to do, and where unfinished ones go on."""
    for part in parts:
        print_text(console, f"{part.study.name} under {request.protocol}: {part.study.question}")
    num_runs, num_shared = sum(len(part.runs) for part in parts), sum(len(part.shared) for part in parts)
    num_done = num_runs - num_shared - len(missing)
    shared = f" ({num_shared} more are the same as one of these)" if num_shared else ""
    side_by_side = f"; {min(engine.workers, len(missing))} at a time on {engine.device}" if engine else ""
    shares = _shares_kept((part.store, run) for part in parts for run in part.missing)
    resumed = f", {len(shares)} of them from {listed(shares)} on" if shares else ""
    say(console, f"{counted(num_runs, 'run')}, {num_done} done, {len(missing)} to do{shared}{resumed}{side_by_side}")


def _execute(
    parts: Sequence[Part],
    missing: Sequence[Run],
    engine: Engine,
    trackers: dict[str, Tracker],
    request: Request,
    console: Console,
) -> None:
    """Train the missing runs. Raise CommonFailureError or OutOfTimeError if some were not tried."""
    stores = {part.study.name: part.store for part in parts}
    for part in parts:  # a driver that is killed leaves checkpoints of runs that are done
        unfinished = {run.run_id for run in (*part.missing, *part.shared)}
        part.store.drop_checkpoints({run.run_id for run in part.runs} - unfinished)
        part.store.drop_leftovers()
    outputs = {name: (store, trackers[name]) for name, store in stores.items()}
    probe = make_probe(engine, request.engine.threads)
    has_results = any(part.store.has_result(run) for part in parts for run in part.runs)
    with time_limit(request.budget):
        for attempt in range(request.retries + 1):
            if missing:
                drive(missing, engine, outputs, console, probe, may_all_fail=attempt > 0 or has_results)
            missing = [run for run in missing if not stores[run.study].is_done(run)]


def _kept(parts: Sequence[Part]) -> str:
    """Summarise what an interruption left: "1 of 3 runs finished and kept, 2 unfinished ones kept at 75 % and 92 %"."""
    runs = [(part.store, run) for part in parts for run in part.runs]
    done = sum(store.has_result(run) for store, run in runs)
    text = f"{done} of {len(runs)} runs finished and kept"
    shares = _shares_kept(runs)
    if not shares:
        return text
    ones = "one" if len(shares) == 1 else "ones"
    return f"{text}, {len(shares)} unfinished {ones} kept at {listed(shares)}"


def _shares_kept(runs: Iterable[tuple[Store, Run]]) -> list[str]:
    """The share of its training that the checkpoint of each unfinished run holds: "44 %"; nothing for a run without one."""
    points = {run: last_point(store.checkpoint(run.run_id)) for store, run in runs if not store.has_result(run)}
    return [f"{fraction_done(run, point):.0%}".replace("%", " %") for run, point in points.items() if point]


def _conclude_all(
    parts: Sequence[Part], trackers: dict[str, Tracker], request: Request, console: Console
) -> dict[str, Report]:
    """Copy the results that studies share, and conclude each study that has records; return reports by the study's name."""
    reports: dict[str, Report] = {}
    for part in parts:
        lacking = [run for run in part.shared if not part.store.has_result(run)]
        for record in _results_of_other_studies(part.study, lacking, part.store):
            part.store.write(record)
        try:
            reports[part.study.name] = _conclude(part, trackers[part.study.name], request, console)
        except NoRecordsError:
            say(console, f"{part.study.name}: no run has ended yet")
    return reports


def _conclude(part: Part, tracker: Tracker, request: Request, console: Console) -> Report:
    """Write, print and track the report of one study."""
    report = write_report(part.study, request.protocol, part.store, request.overrides, force=False)
    print_summary(report, console)
    say(console, f"report:  {part.store.folder / 'report.md'}")
    say(console, f"page:    {part.store.folder / 'report.html'}")
    say(console, f"figures: {part.store.folder / 'figures'}")
    if part.store.weights_folder.exists():
        say(console, f"weights: {part.store.weights_folder}")
    finish(tracker, report.records, part.store.folder, lambda line: say(console, line))
    return report


def _failed(part: Part, report: Report | None) -> list[RunRecord]:
    """The records of the part's runs that are no result, or lack their weights."""
    ours = {run.run_id for run in part.runs}
    return [
        record
        for record in (report.records if report else ())
        if record.run_id in ours and not (record.is_result and part.store.has_wanted_weights(record.run_id))
    ]
