"""Tune a study: the body of `python -m ablations.tune`, with plain values in place of CLI arguments."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from ablations.execution.data import prepare, require_effects
from ablations.execution.engines import Engine, Event
from ablations.execution.launch import (
    EngineOptions,
    make_engine,
    make_probe,
    require_folder,
    require_guard,
    require_room,
    require_time,
    require_writable,
)
from ablations.execution.progress import say, warn
from ablations.execution.signals import OutOfTimeError, handle_signals
from ablations.execution.worker import load_cached
from ablations.records import Store
from ablations.reporting.terminal import fitting_table
from ablations.reproduce import command as command_of
from ablations.reproduce import results_option
from ablations.runs import Run, parse_overrides, settings_text
from ablations.servers import DASHBOARD_PORT, HOST, server_command
from ablations.study import DECLARED, MAX_SEEDS, Study
from ablations.tracking.mlflow_tree import open_tracker
from ablations.tracking.tracker import finish
from ablations.tuning.halving import tune
from ablations.tuning.progress import TuningDisplay
from ablations.tuning.report import TuningReport, write_tuning_report
from ablations.tuning.spaces import NUISANCE, SIZES, space_of
from ablations.tuning.storage import StorageClaims, one_line_errors, open_storage, require_url
from ablations.tuning.task import OBJECTIVES, Rung, Task, find_or_create_task
from ablations.tuning.winners import Winner, earlier_winners, require_tunable, tuned_name, tuned_path, tuning_name
from nin.cli import notice_if_slow
from nin.files import sqlite_url, write_atomically
from nin.sizes import unread_fields
from nin.sources import can_change, shape
from nin.text import counted, redacted

# Where `make dashboard` listens, and the storage that it opens unless told otherwise
DASHBOARD, DASHBOARD_STORAGE = f"http://{HOST}:{DASHBOARD_PORT}", "sqlite:///results/optuna.db"


@dataclass(frozen=True)
class TuningRequest:
    """A request to tune a study: which variants, how, and where to keep the trials.

    variants         None: the baseline and all confirmatory ones
    overrides        changes to every run, such as "train.epochs=2"
    trials           number of trials of each variant
    objective        one of `OBJECTIVES`
    seeds_per_trial  seeds whose mean scores a trial
    storage          a database's URL, journal:FILE or grpc://HOST:PORT; empty: optuna.db in `results`
    budget           seconds, after which it stops at the next evaluation; re-run to continue
    """

    protocol: str = "quick"
    variants: Sequence[str] | None = None
    overrides: Sequence[str] = ()
    results: Path = Path("results")
    engine: EngineOptions = field(default_factory=EngineOptions)
    trials: int = 20
    objective: str = OBJECTIVES[0]
    seeds_per_trial: int = 1
    storage: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        require_time("budget", self.budget)


def tune_study(
    study: Study, request: TuningRequest, command: str, console: Console, ends_with_signals: bool = False
) -> list[str]:
    """Run the trials of every variant, then write and track the report; returns the variants without a winner.

    When the budget is used up before, it says so and returns no variant: a search that is not whole has no winners.

    command            the command line, for the report
    ends_with_signals  handle those that end a command (`ablations.execution.signals.handle_signals`)

    Raises ValueError, in one line, for what cannot be tuned; CommonFailureError if all trials fail alike; KeyboardInterrupt,
    after a line that says how much is done, if it is interrupted.
    """
    import optuna

    require_guard()
    runs = runs_to_tune(study, request)
    require_possible(study, request)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    prepare(runs, console)  # here, so that no trial is spent on a name that does not exist, and workers find the data
    require_writable(request.results)
    tuning = replace(study, name=tuning_name(study.name), question=f"Tuning of: {study.question}")
    runs = tuple(replace(run, study=tuning.name) for run in runs)  # whose checkpoints are kept there
    store = Store(request.results, tuning.name, request.protocol)
    url = request.storage or sqlite_url(request.results / "optuna.db")
    tasks, claims = _open_tasks(study, runs, request, url)
    store.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    if ends_with_signals:
        handle_signals()

    def engine_that_pauses(at: float) -> Engine:
        return make_engine(request.engine, request.results, pause_at=at)

    deadline = time.monotonic() + request.budget
    engine = engine_that_pauses(1.0)
    probe = make_probe(engine, request.engine.threads)
    tracker = open_tracker(request.results, tuning, request.protocol, warn, request.overrides)
    are_done = [trial.state.is_finished() for task in tasks for trial in task.trials.get_trials(deepcopy=False)]
    begun = f", {are_done.count(False)} begun" if False in are_done else ""
    say(
        console,
        f"{study.name} under {request.protocol}: {counted(len(tasks), 'variant')}, {counted(request.trials, 'trial')} each, "
        f"{are_done.count(True)} done{begun}",
    )
    try:
        with one_line_errors(url, "finished trials are kept; re-run to continue"):
            with TuningDisplay(tasks, console, engine.workers, probe) as display:
                search = _Search(console, display, deadline)
                tune(tasks, engine_that_pauses, claims, store, tracker, search.say, search.watch, search.wait)
            earlier = partial(earlier_winners, study, request.protocol, request.results, request.overrides)
            report = write_tuning_report(tasks, store, command, earlier)
            ended = [run for task in tasks for trial in task.trials.get_trials() for run in task.runs_of(trial)]
        found = _write_found(study, report.winners, store, request)
        _print_results(study, request, tasks, report, found, url, console)
        records = [record for record in store.read_all(ended)[0].values() if record.status != "paused"]
        finish(tracker, records, store.folder, partial(say, console))
    except OutOfTimeError:
        say(console, f"time budget used up, {_num_finished(tasks, request)}; re-run to continue")
        return []
    except KeyboardInterrupt:
        print(f"interrupted: {_num_finished(tasks, request)}; re-run to continue", file=sys.stderr)
        raise
    finally:
        tracker.close("KILLED")  # changes nothing if it is closed
    return [task.run.variant for task in tasks if task.run.variant not in report.winners]


@dataclass
class _Search:
    """A search as it runs: its lines on the console, and the time (`time.monotonic`) at which it ends.

    The time is looked at between two accesses to the storage, which an alarm would break off.
    """

    console: Console
    display: TuningDisplay
    deadline: float
    has_waited: bool = False

    def say(self, line: str) -> None:
        say(self.console, f"{line}{self.display.left()}")

    def watch(self, event: Event, rung: Rung) -> None:
        self.display.watch(event, rung)
        self._require_time_left()

    def wait(self) -> None:
        if not self.has_waited:
            say(self.console, "waiting for another driver, which has the remaining trials")
        self.has_waited = True
        self._require_time_left()

    def _require_time_left(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTimeError


def _num_finished(tasks: Sequence[Task], request: TuningRequest) -> str:
    try:
        return f"{sum(task.num_ended() for task in tasks)} of {len(tasks) * request.trials} trials finished"
    except Exception:  # a storage out of reach, which is no reason to end otherwise
        return "finished trials are kept"


def _open_tasks(
    study: Study, runs: Sequence[Run], request: TuningRequest, url: str
) -> tuple[list[Task], StorageClaims]:
    """Open the trials of each run's variant, and the claims on them, in the storage.

    Raises ValueError for a storage that cannot be used, or trials that were tuned otherwise.
    """
    # Two that create the tables at once would trip over each other.
    with notice_if_slow(f"trials at {url}"), FileLock(request.results / ".optuna.lock"):
        storage = open_storage(url)
        tasks = [
            find_or_create_task(
                study,
                run,
                storage,
                url,
                overrides=request.overrides,
                objective=request.objective,
                num_trials=request.trials,
                seeds=request.seeds_per_trial,
                data=load_cached(run.data, "cpu").checksum if can_change(run.data.name) else "",
            )
            for run in runs
        ]
        return tasks, StorageClaims(storage, f"internal: claims of {study.name}/{request.protocol}")


def require_possible(study: Study, request: TuningRequest) -> None:
    """Raise ValueError for an engine, a storage or a folder of results that a search cannot have. Writes nothing."""
    require_room(request.engine)
    require_url(request.storage)
    require_folder(request.results)
    for name in (study.name, tuned_name(study.name), tuning_name(study.name)):
        Store(request.results, name, request.protocol).require_unpublished()


def runs_to_tune(study: Study, request: TuningRequest) -> tuple[Run, ...]:
    """List a run of each variant that is tuned. Raises ValueError for what cannot be tuned."""
    require_tunable(study)
    chosen = request.variants or ([study.baseline] if study.searches else DECLARED)
    runs = study.expand(request.protocol, 1, chosen, request.overrides)
    require_effects(runs, request.overrides)
    longest = max(run.length for run in runs)  # whose verdict is the study's
    runs = tuple(run for run in runs if run.length == longest)
    _require_space(study, runs, request)
    if any(run.data.val_examples == 0 for run in runs):
        raise ValueError(
            f"under {request.protocol} the test set is watched in the place of validation images, and tuning must not choose by "
            "it: set some training images aside with --set data.val_examples=5000"
        )
    if not 1 <= request.seeds_per_trial <= MAX_SEEDS:
        raise ValueError(f"--seeds-per-trial {request.seeds_per_trial}: must be 1 or more and at most {MAX_SEEDS}")
    return runs


def _require_space(study: Study, runs: Sequence[Run], request: TuningRequest) -> None:
    """Raise ValueError if nothing is left to search, or no size although it is an objective."""
    with_sizes = request.objective != OBJECTIVES[0]
    shape_of = cache(shape)  # of a folder it takes a look into every file
    for run in runs:
        space = space_of(study, run, request.overrides, with_sizes=with_sizes)
        if not space:
            raise ValueError("--set fixes every hyperparameter that is searched: nothing is left to tune")
        sizes = {key.partition(".")[2] for key in space.keys() & SIZES.keys()}
        if with_sizes and not sizes - unread_fields(run.model, *shape_of(run.data)):
            raise ValueError(
                f"--objective {request.objective}: {run.variant} has neither a width nor a number of 1x1s to search"
            )


def _write_found(study: Study, winners: Mapping[str, Winner], store: Store, request: TuningRequest) -> Path | None:
    """Write the network that a search has found to best.json, and return its path; None for other studies or without a winner.

    What `--set` fixed of the network, or of what is searched otherwise, is part of it; lengths of training are not.
    """
    if not study.searches or study.baseline not in winners:
        return None
    path = store.folder / "best.json"
    searched = NUISANCE[request.protocol]
    changes = parse_overrides(request.overrides)
    fixed = {key: value for key, value in changes.items() if key.startswith("model.") or key in searched}
    write_atomically(path, json.dumps(fixed | winners[study.baseline].params, indent=1) + "\n")
    return path


def _print_results(
    study: Study,
    request: TuningRequest,
    tasks: Sequence[Task],
    report: TuningReport,
    found: Path | None,
    url: str,
    console: Console,
) -> None:
    """Print the winners, where they and the report are written, and how to look at the trials."""
    if request.objective == OBJECTIVES[0]:
        console.print(winners_table(tasks, report.winners, console.width))
    if report.winners and not found:  # a study that searches trains what it found, not its baseline as tuned
        path = tuned_path(request.results, study.name, request.protocol)
        options = ["--tuned", *results_option(request.results)]
        again = command_of(study, request.protocol, request.overrides, options)
        say(console, f"tuned:   {path}; train it with {again}")
    if found:
        say(console, f"found:   {found}; copied into ablations/studies/, it is variant 'found' of this study")
    say(console, f"report:  {report.path}")
    for line in _dashboard(url):
        say(console, line)


def winners_table(tasks: Sequence[Task], winners: Mapping[str, Winner], width: int) -> Table:
    """A row per variant: how accurate its own setting and its best trial are, and what that changes."""
    header = ("variant", "trials", "own setting, %", "best, %", "trial", "its settings")
    rows = []
    for task in tasks:
        trials, winner = task.trials.get_trials(), winners.get(task.run.variant)
        own = task.accuracy(trials[0]) if trials else math.nan
        row = [task.run.variant, str(len(trials)), "–" if math.isnan(own) else f"{100 * own:.2f}"]
        if winner is None:
            rows.append([*row, "–", "–", "none"])
            continue
        rows.append([*row, f"{100 * winner.value:.2f}", str(winner.trial), settings_text(winner.params)])
    return fitting_table(header, rows, width, ("its settings", "trials"))


def _dashboard(url: str) -> list[str]:
    """A line that says how to look at the trials; none for Optuna's proxy, which the dashboard does not know."""
    if url.startswith("grpc://"):
        return []
    storage = "" if url == DASHBOARD_STORAGE else f"OPTUNA_STORAGE='{redacted(url.removeprefix('journal:'))}' "
    return [f"trials:  {storage}{server_command('dashboard')}, then {DASHBOARD}"]
