"""`python -m ablations.tune STUDY`: every variant at its best, by equal means. Its figures are in `ablations.tuning.report`.

Each variant has an Optuna study of its own, with the same space, the same number of trials and the same random numbers. Trials come
in batches of BATCH by synchronous successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all train to the first rung, the
better half goes on to the next, from where it stood. The first trial, which has the protocol's own setting, always trains to the
end, lest tuning lose it to a slow start. So every variant spends the same number of training images, to the image.

Trials of several seeds are as good as their mean. With more than FEW seeds they are not halved: all trials of a variant have the same
seeds, train them one after another to the end, and one that Wilcoxon's signed-rank test finds worse than the best so far, seed by
seed, ends there (Optuna's WilcoxonPruner, which cannot tell before it has seen that many). What that spends depends on the results,
so variants come to different numbers of training images, which the report counts.

What is maximised is validation accuracy; the test set is never read. `python -m ablations.tune best` searches a whole network.
"""

import argparse
import json
import math
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from ablations.cli import add_engine_options, add_study_options, names, warn
from ablations.study import Run, Study, load_study, parse_overrides
from ablations.tuning.spaces import Choice, Range, space_of
from ablations.tuning.storage import StorageClaims, one_line_errors, open_storage
from ablations.tuning.winners import Winner, tuned_path, tuning_name
from nin.cli import INTERRUPTED, SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with, positive, redacted
from nin.spec import stream

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

    from ablations.execution.engines import Engine
    from ablations.records import RunRecord, Store
    from ablations.tracking.tracker import Tracker

BATCH = 4  # trials that are halved together
SHARES = (0.25, 0.5, 1.0)  # of the whole training, at which the worse half ends
PRUNED_AT = 0.1  # p of Wilcoxon's test at which a trial ends
FEW = 4  # seeds, below which the smallest p that there can be, 2^-n, is above that
OWN = 0  # the trial that has the protocol's own setting
FIRST_SEED = 1000  # of tuning: trial k trains with seed 1000 + k, or all with the same from 1000 on; final runs with seeds from 0
TRIES = 3  # of a trial whose worker fails or dies
MOST_PARAMS = 1_000_000  # of the network that `best` searches
OBJECTIVES = ("accuracy", "accuracy,params", "accuracy,gflops")
OUTCOMES = ("learned", "collapsed", "diverged")  # of a trial: that of its worst seed
POLL = 1.0  # seconds between two looks at what other drivers are doing
# Where `make dashboard` listens, and the storage that it opens unless told otherwise
DASHBOARD, DASHBOARD_STORAGE = "http://127.0.0.1:8080", "sqlite:///results/optuna.db"


@dataclass(frozen=True)
class Rung:
    """Where trials are judged.

    step   its name to Optuna
    share  of their training that runs come to
    seeds  which of a trial's train until here
    """

    step: int
    share: float
    seeds: range


@dataclass(frozen=True)
class Task:
    """What is tuned: a variant's own run, the space, and where its trials are kept."""

    run: Run
    space: Mapping[str, Range | Choice]
    trials: "OptunaStudy"
    objective: str
    num_trials: int
    seeds: int
    most_params: int = 0

    @property
    def is_paired(self) -> bool:
        """Whether trials are compared seed by seed."""
        return self.objective == "accuracy" and self.seeds > FEW

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """With several objectives nothing is pruned: a small network that trains slowly is no worse for it."""
        if self.is_paired:
            return tuple(Rung(k, SHARES[-1], range(k, k + 1)) for k in range(self.seeds))
        shares = SHARES if self.objective == "accuracy" else SHARES[-1:]
        return tuple(Rung(round(100 * share), share, range(self.seeds)) for share in shares)

    def runs_of(self, trial: "FrozenTrial") -> list[Run]:
        """The runs of a trial, one per seed."""
        run = self.run.with_settings(trial.params)
        first = FIRST_SEED + (0 if self.is_paired else self.seeds * trial.number)
        return [replace(run, seed=first + k, trial=trial.number) for k in range(self.seeds)]

    def accuracy(self, trial: "FrozenTrial") -> float:
        """Of a trial as far as it has come: on validation images, the mean over its seeds; nan if it has not come to any rung."""
        values = trial.intermediate_values
        if not values:
            return math.nan
        return sum(values.values()) / len(values) if self.is_paired else values[max(values)]


def tune(
    tasks: Sequence[Task],
    make_engine: Callable[[float], "Engine"],
    claims: StorageClaims,
    store: "Store",
    tracker: "Tracker",
    say: Callable[[str], None],
) -> None:
    """Bring every task to its number of trials. Several drivers on one storage share the work, a batch of a variant at a time.

    make_engine  an engine whose runs pause at that share of their training
    """
    # The last rung of a batch has one run; more batches than keep all workers busy are left to others.
    at_once = max(1, make_engine(SHARES[-1]).workers)
    with claims:
        while left := [task for task in tasks if _num_ended(task) < task.num_trials]:
            mine: list[Task] = []
            for task in left:
                if len(mine) < at_once and claims.take(task.trials.study_name):
                    mine.append(task)
            try:
                _run_batches(mine, make_engine, store, tracker, say)
            finally:
                for task in mine:
                    claims.release(task.trials.study_name)
            if not mine:
                time.sleep(POLL)


def _run_batches(
    tasks: Sequence[Task],
    make_engine: Callable[[float], "Engine"],
    store: "Store",
    tracker: "Tracker",
    say: Callable[[str], None],
) -> None:
    """The next batch of each task, through all rungs; one that a driver left half done goes on where it stood."""
    from optuna.exceptions import UpdateFinishedTrialError

    batches = [(task, range(*_batch(task))) for task in tasks if _num_ended(task) < task.num_trials]
    for rung in batches[0][0].rungs if batches else ():  # the same for all
        todo = [
            run
            for task, numbers in batches
            for trial in _members(task, numbers)
            if _is_open(trial) and rung.step not in trial.intermediate_values
            for run in _until(rung, task, trial)
        ]
        records = _execute_to(rung.share, todo, make_engine, tracker, say)
        for task, numbers in batches:
            with suppress(UpdateFinishedTrialError):  # we stood still so long that another driver took over
                _settle_rung(task, numbers, rung, records, store, tracker, say)


def _until(rung: Rung, task: Task, trial: "FrozenTrial") -> list[Run]:
    """The trial's runs that train until the rung."""
    return [task.runs_of(trial)[k] for k in rung.seeds]


def _execute_to(
    share: float,
    todo: Sequence[Run],
    make_engine: Callable[[float], "Engine"],
    tracker: "Tracker",
    say: Callable[[str], None],
) -> dict[str, "RunRecord"]:
    """Train all runs to that share, each up to TRIES times; the records by run_id, of a failed one its error.

    Raises CommonFailureError if all of several runs failed alike each time.
    """
    from ablations.execution.driver import CommonFailureError, without_numbers
    from ablations.execution.engines import Ended, Failed, Progressed, Started, Warned
    from ablations.records import RunRecord

    records: dict[str, RunRecord] = {}
    waiting = {run.run_id: run for run in todo}
    if not waiting:
        return records
    engine = make_engine(share)
    for _ in range(TRIES):
        events = engine.execute(list(waiting.values()))
        try:
            for event in events:
                match event:
                    case Started():
                        tracker.run_started(event.run)
                    case Progressed():
                        tracker.run_progressed(event.run, event.point)
                    case Ended():
                        records[event.run.run_id] = event.record
                        del waiting[event.run.run_id]
                        say(f"{event.run.label}: {share:.0%}, validation accuracy {event.record.val_accuracy:.4f}")
                    case Failed():
                        records[event.run.run_id] = RunRecord(
                            event.run,
                            event.run.run_id,
                            "failed",
                            0,
                            0,
                            0.0,
                            {},
                            error=redacted(event.error),
                            error_detail=redacted(event.detail),
                        )
                        say(f"{event.run.label}: failed, {redacted(event.error)}")
                    case Warned():
                        say(f"{event.run.label}: warning, {event.line}")
        finally:
            events.close()  # type: ignore[attr-defined]
        if not waiting:
            break
    errors = [records[run_id].error for run_id in waiting]
    if len(errors) == len(todo) > 1 and len(set(map(without_numbers, errors))) == 1:
        # It lies in no trial, so none is told, and the next call has them anew.
        raise CommonFailureError(f"all {len(todo)} runs failed: {errors[0]}")
    return records


def _settle_rung(
    task: Task,
    numbers: range,
    rung: Rung,
    records: Mapping[str, "RunRecord"],
    store: "Store",
    tracker: "Tracker",
    say: Callable[[str], None],
) -> None:
    """Tell Optuna how far the batch's trials have come; those end here that are not worth going on with."""
    from optuna.trial import Trial, TrialState

    for trial in _members(task, numbers):
        runs = _until(rung, task, trial) if _is_open(trial) else []
        ours = [records[run.run_id] for run in runs if run.run_id in records]
        if not ours:
            continue
        live = Trial(task.trials, trial._trial_id)
        failed = [record for record in ours if record.status == "failed"]
        before = trial.user_attrs if task.is_paired else {}  # of its earlier seeds; otherwise ours go on from there
        worst = max(before.get("outcome", OUTCOMES[0]), _outcome(ours), key=OUTCOMES.index) if not failed else "failed"
        live.set_user_attr("outcome", worst)
        live.set_user_attr("examples", before.get("examples", 0) + sum(record.examples_seen for record in ours))
        live.set_user_attr("params", ours[0].params_trunk + ours[0].params_head)
        live.set_user_attr("gflops", ours[0].gflops)
        live.set_user_attr("seeds", before.get("seeds", []) + [record.run.seed for record in ours])
        for record in ours:
            store.write(record)
        if failed:
            live.set_user_attr("error", failed[0].error)
            task.trials.tell(trial.number, state=TrialState.FAIL)
            tracker.run_ended(failed[0])
        else:
            _report(task, live, rung.step, sum(record.val_accuracy for record in ours) / len(ours))
    there = [trial for trial in _members(task, numbers) if rung.step in trial.intermediate_values]
    is_last = rung == task.rungs[-1]
    for trial in there if is_last else _worse(task, [trial for trial in there if trial.number != OWN]):
        if _is_open(trial):
            _end(task, trial, is_last, store, tracker)
            place = f"seed {rung.step + 1} of {task.seeds}" if task.is_paired else f"{rung.share:.0%}"
            fate = "complete" if is_last else "ends"
            say(f"{task.run.variant} trial {trial.number}: {fate} at {place}, {trial.user_attrs['outcome']}")


def _worse(task: Task, trials: Sequence["FrozenTrial"]) -> list["FrozenTrial"]:
    """Of trials at one rung those not worth going on with: what the pruner says seed by seed, otherwise the worse half."""
    from optuna.pruners import WilcoxonPruner

    if task.is_paired:
        with warnings.catch_warnings(action="ignore"):  # that it is experimental
            pruner = WilcoxonPruner(p_threshold=PRUNED_AT, n_startup_steps=FEW)
        return [trial for trial in trials if pruner.prune(task.trials, trial)]
    best_first = sorted(trials, key=lambda trial: (-_rank(task, trial), trial.number))
    return best_first[math.ceil(len(trials) / 2) :]


def _report(task: Task, trial: "Trial", step: int, value: float) -> None:
    """Intermediate values are for one objective; Optuna takes none with several."""
    if task.objective == "accuracy":
        trial.report(value, step)
    else:
        trial.storage.set_trial_intermediate_value(trial._trial_id, step, value)


def _end(task: Task, trial: "FrozenTrial", is_complete: bool, store: "Store", tracker: "Tracker") -> None:
    """A trial's last word to Optuna, its record and MLflow."""
    from optuna.trial import TrialState

    accuracy = task.accuracy(trial)
    accuracy = accuracy if math.isfinite(accuracy) else 0.0
    if not is_complete:
        task.trials.tell(trial.number, state=TrialState.PRUNED)
    else:
        size = {"accuracy,params": "params", "accuracy,gflops": "gflops"}.get(task.objective)
        task.trials.tell(trial.number, accuracy if size is None else [accuracy, float(trial.user_attrs[size])])
    status = trial.user_attrs["outcome"] if is_complete else "pruned"
    for run in task.runs_of(trial):
        record = store.read(run.run_id)
        if record is not None:
            store.write(replace(record, run=run, status=status))
            tracker.run_ended(replace(record, run=run, status=status))
        store.drop_checkpoints([run.run_id])


def _batch(task: Task) -> tuple[int, int]:
    """First and last + 1 of the trial numbers in the batch at hand, asking for those that are not there yet."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    start, stop = task.trials.user_attrs.get("batch", (0, 0))
    for trial in task.trials.get_trials():
        if _is_open(trial) and not start <= trial.number < stop:  # asked for by a driver that had stood still
            task.trials.tell(trial.number, state=TrialState.FAIL)
    if all(trial.state.is_finished() for trial in task.trials.get_trials() if start <= trial.number < stop):
        num_trials = len(task.trials.get_trials())
        if num_trials >= stop:
            start, stop = num_trials, min(num_trials + BATCH, task.num_trials)
            task.trials.set_user_attr("batch", (start, stop))
    # Anew for each batch, from its place alone: variants have the same random numbers, and a killed driver changes nothing.
    task.trials.sampler = TPESampler(seed=stream(FIRST_SEED, f"batch {start}") % 2**32, n_startup_trials=2 * BATCH)
    if start == 0 and not task.trials.get_trials():
        task.trials.enqueue_trial(_own_setting(task))
    while len(task.trials.get_trials()) < stop or any(
        trial.state.name == "WAITING" for trial in task.trials.get_trials()
    ):
        task.trials.ask()
    for trial in _members(task, range(start, stop)):
        if _is_open(trial):
            _suggest(task, trial)
    return start, stop


def _suggest(task: Task, asked: "FrozenTrial") -> None:
    """Give a trial its parameters; those that it has already, from a driver that was killed meanwhile, stay."""
    from optuna.trial import Trial

    trial = Trial(task.trials, asked._trial_id)
    for key, each in task.space.items():
        if isinstance(each, Range):
            trial.suggest_float(key, each.low, each.high, log=each.log)
        else:
            trial.suggest_categorical(key, each.values)
    if task.most_params and "params" not in trial.constraints:
        from nin.data import shape
        from nin.measure import size

        (member,) = _members(task, range(trial.number, trial.number + 1))
        run = task.runs_of(member)[0]
        trial.set_constraint("params", float(size(run.model, *shape(run.data)).params - task.most_params))


def _own_setting(task: Task) -> dict[str, object]:
    """The protocol's own values, which the first trial has; of what lies outside of the space, its nearest end."""
    own: dict[str, object] = {}
    for key, range_ in task.space.items():
        value = task.run.settings[key]
        if isinstance(range_, Range):
            assert isinstance(value, int | float)
            value = min(max(float(value), range_.low), range_.high)
        elif value not in range_.values:
            value = range_.values[0]
        own[key] = value
    return own


def _num_ended(task: Task) -> int:
    return sum(trial.state.is_finished() for trial in task.trials.get_trials(deepcopy=False))


def _members(task: Task, numbers: range) -> list["FrozenTrial"]:
    return [trial for trial in task.trials.get_trials() if trial.number in numbers]


def _is_open(trial: "FrozenTrial") -> bool:
    return not trial.state.is_finished()


def _rank(task: Task, trial: "FrozenTrial") -> float:
    value = task.accuracy(trial)
    broken = not math.isfinite(value) or trial.user_attrs["outcome"] == "diverged"
    return -math.inf if broken or trial.constraints.get("params", 0.0) > 0 else value


def _outcome(records: Sequence["RunRecord"]) -> str:
    """ "diverged" or "collapsed" if any seed is; else "learned"."""
    from ablations.execution.worker import load_cached
    from nin.train import chance_level

    if any(record.status == "diverged" for record in records):
        return "diverged"
    for record in records:
        labels = load_cached(record.run.data, "cpu").val.labels
        if max(point.val_accuracy for point in record.curve) <= chance_level(labels):
            return "collapsed"
    return "learned"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.study is None:
        raise ValueError("name a study to tune; python -m ablations.run --list shows them")
    if arguments.seeds is not None:
        raise ValueError("--seeds is for final runs: a trial has --seeds-per-trial of its own, which never meet those")
    study = load_study(arguments.study)
    confirmatory = [name for name in study.variants if study.role(name) == "confirmatory" and not study.searches]
    chosen = names(arguments.variants, "variant") or [study.baseline, *confirmatory]
    runs = study.expand(arguments.protocol, 1, chosen, arguments.overrides)
    if any(run.data.val_examples == 0 for run in runs):
        raise ValueError(
            f"under {arguments.protocol} the test set is watched in the place of validation images, and tuning must not choose by "
            "it: set some training images aside with --set data.val_examples=5000"
        )

    import optuna
    from filelock import FileLock

    from ablations.execution.driver import CommonFailureError, handle_signals, make_engine, require_writable
    from ablations.execution.progress import console_for_output
    from ablations.execution.worker import load_cached, network_size
    from ablations.records import Store, write_atomically
    from ablations.tracking.mlflow_tree import open_tracker
    from ablations.tuning.report import write_tuning_report

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for run in runs:  # here, so that no trial is spent on a name that does not exist, and workers find the data
        network_size(run, load_cached(run.data, "cpu"))
    require_writable(arguments.results)
    tuning = replace(study, name=tuning_name(study.name), question=f"Tuning of: {study.question}")
    runs = tuple(replace(run, study=tuning.name) for run in runs)  # whose checkpoints are kept there
    store = Store(arguments.results, tuning.name, arguments.protocol)
    store.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    url = arguments.storage or f"sqlite:///{arguments.results / 'optuna.db'}"
    with FileLock(arguments.results / ".optuna.lock"):  # two that create the tables at once would trip over each other
        storage = open_storage(url)
        tasks = [_task(study, run, arguments, storage, url) for run in runs]
        claims = StorageClaims(storage, f"{study.name}/{arguments.protocol}/who works on what")
    handle_signals()
    console = console_for_output()

    def engine_that_pauses(at: float) -> "Engine":
        return make_engine(arguments, pause_at=at)[0]

    tracker = open_tracker(arguments.results, tuning, arguments.protocol, warn)
    lines = f"{len(tasks)} variants, {arguments.trials} trials each, {sum(map(_num_ended, tasks))} done"
    print(f"{study.name} under {arguments.protocol}: {lines}")
    try:
        with one_line_errors(url, "all that has ended is kept, and the same command goes on"):
            tune(
                tasks,
                engine_that_pauses,
                claims,
                store,
                tracker,
                lambda line: console.print(line, markup=False, soft_wrap=True),
            )
            command = "python -m ablations.tune " + redacted(shlex.join(sys.argv[1:] if argv is None else argv))
            report = write_tuning_report(tasks, store, command)
            ended = [run for task in tasks for trial in task.trials.get_trials() for run in task.runs_of(trial)]
        tracker.sync(record for record in store.read_all(ended)[0].values() if record.status != "paused")
        tracker.add_files(store.folder)
        tracker.close("FINISHED")
    except CommonFailureError as reason:
        print(f"stopped early: {reason}; the same command tries again", file=sys.stderr)
        return SOME_RUN_FAILED
    except KeyboardInterrupt:
        done = sum(map(_num_ended, tasks))
        print(
            f"interrupted: {done} of {len(tasks) * arguments.trials} trials have ended; the same command goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    finally:
        tracker.close("KILLED")  # changes nothing if it is closed
    if report.winners:
        path = tuned_path(arguments.results, study.name, arguments.protocol)
        print(
            f"tuned:   {path}; train it with python -m ablations.run {study.name} --protocol {arguments.protocol} --tuned"
        )
    if study.searches and study.baseline in report.winners:
        found = store.folder / "best.json"
        write_atomically(found, json.dumps(report.winners[study.baseline].params, indent=1) + "\n")
        print(f"found:   {found}; copied into ablations/studies/, it is variant 'found' under every protocol")
    print(f"report:  {report.path}")
    for line in [*_dashboard(url), *tracker.links()]:
        print(line)
    without = [task.run.variant for task in tasks if task.run.variant not in report.winners]
    if without and arguments.objective == "accuracy":
        print(
            f"no trial of {', '.join(without)} was complete, finite and small enough: see the report", file=sys.stderr
        )
        return SOME_RUN_FAILED
    return SUCCESS


def _dashboard(url: str) -> list[str]:
    """A line that says how to look at the trials; none for Optuna's proxy, which the dashboard does not know."""
    if url.startswith("grpc://"):
        return []
    storage = "" if url == DASHBOARD_STORAGE else f"OPTUNA_STORAGE='{redacted(url.removeprefix('journal:'))}' "
    return [f"trials:  {storage}make dashboard, then {DASHBOARD}"]


def _task(study: Study, run: Run, arguments: argparse.Namespace, storage: "BaseStorage", url: str) -> Task:
    """The variant's Optuna study, found again or made. Raises ValueError if what is there was tuned otherwise."""
    import optuna

    directions: list[Literal["minimize", "maximize"]]
    directions = ["maximize"] if arguments.objective == "accuracy" else ["maximize", "minimize"]
    kind = "" if arguments.objective == "accuracy" else f"/{arguments.objective}"
    name = f"{study.name}/{run.protocol}/{run.variant}{kind}"
    held = parse_overrides(arguments.overrides)
    space = space_of(study, run.protocol, with_sizes=bool(kind))
    space = {key: each for key, each in space.items() if key not in held}
    settings = {
        "base": run.settings,
        "space": json.loads(json.dumps({key: asdict(each) for key, each in space.items()})),
        "seeds_per_trial": arguments.seeds_per_trial,
    }
    with one_line_errors(url, "nothing in it was changed"):
        trials = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        if "settings" not in trials.user_attrs:
            trials.set_user_attr("settings", settings)
        before = trials.user_attrs["settings"]
    for key, now in settings.items():
        if before.get(key) != now:
            raise ValueError(
                f"--storage {redacted(url)}: {name} was tuned with another {key} ({_difference(before.get(key), now)}); "
                "choose another --storage or --results"
            )
    most_params = MOST_PARAMS if study.searches else 0
    return Task(run, space, trials, arguments.objective, arguments.trials, arguments.seeds_per_trial, most_params)


def _difference(before: object, now: object) -> str:
    """The first thing in which two nested settings differ, such as "train.epochs: 4, now 5"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *before]:
            if before.get(key) != now.get(key):
                inner = _difference(before.get(key), now.get(key))
                return f"{key}{'.' if isinstance(now.get(key), dict) else ': '}{inner}"
    return f"{before}, now {now}"


def winners_of(tasks: Sequence[Task]) -> dict[str, Winner]:
    """The best complete trial of each variant: the most accurate on the validation images, within the constraint."""
    winners = {}
    for task in tasks:
        complete = [t for t in task.trials.get_trials() if t.state.name == "COMPLETE" and _rank(task, t) > -math.inf]
        if complete and task.objective == "accuracy":
            best = max(complete, key=lambda trial: (_rank(task, trial), -trial.number))
            seeds = [int(seed) for seed in best.user_attrs["seeds"]]
            params, value = dict(best.params), task.accuracy(best)
            winners[task.run.variant] = Winner(best.number, value, params, seeds, task.run.settings)
    return winners


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m ablations.tune", description=__doc__.split("\n\n")[0])
    add_study_options(parser)
    parser.add_argument("--trials", type=positive, default=20, metavar="N", help="for each variant (default: 20)")
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default=OBJECTIVES[0], help="with a size, widths and depths are searched too"
    )
    parser.add_argument(
        "--seeds-per-trial",
        type=positive,
        default=1,
        metavar="N",
        help=f"whose mean counts; with more than {FEW} trials are pruned seed by seed, not halved (default: 1)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="of the trials: a database, journal:FILE or grpc://HOST:PORT (default: RESULTS/optuna.db)",
    )
    add_engine_options(parser)
    return parser


if __name__ == "__main__":
    exit_with(main)
