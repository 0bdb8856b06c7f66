"""Successive halving of every variant's trials, with equal budgets.

Each variant has an Optuna study of its own, with the same space, the same number of trials and the same random numbers. Trials come
in batches of BATCH by synchronous successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all train to the first rung, the
better half continues to the next, from where it stood. The first trial, which has the protocol's own setting, always trains to the
end, so that a slow start cannot eliminate it. So every variant spends the same number of training images, to the image, unless
trials fail or diverge.

A trial with several seeds is scored by their mean. With more than MAX_HALVED_SEEDS seeds, trials are not halved: all trials of a
variant have the same seeds and train them one after another. A trial that Wilcoxon's signed-rank test finds worse than the best so
far, seed by seed, ends there (Optuna's WilcoxonPruner, which cannot tell before it has seen that many). The number of images then
depends on the results; the report states it.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ablations.execution.driver import CommonFailureError, follow, without_numbers
from ablations.execution.engines import Ended, Engine, Event, Failed, Warned
from ablations.execution.worker import load_cached
from ablations.records import RunRecord, Store
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from ablations.tuning.spaces import Range
from ablations.tuning.storage import StorageClaims
from ablations.tuning.task import FIRST_SEED, MAX_HALVED_SEEDS, PRUNED_AT, SHARES, Rung, Task
from nin.data import shape
from nin.sizes import size
from nin.spec import stream
from nin.train import has_left_chance

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

BATCH = 4  # trials that are halved together
OWN_TRIAL = 0  # the trial that has the protocol's own setting
TRIES = 3  # of a trial whose worker fails or dies
OUTCOMES = ("learned", "collapsed", "diverged")  # of a trial: that of its worst seed
POLL = 1.0  # seconds between two looks at what other drivers are doing


def tune(
    tasks: Sequence[Task],
    make_engine: Callable[[float], Engine],
    claims: StorageClaims,
    store: Store,
    tracker: Tracker,
    say: Callable[[str], None],
    watch: Callable[[Event, Rung], None] = lambda event, rung: None,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Run every task's remaining trials. Drivers on one storage share the work, a batch of a variant at a time.

    make_engine  an engine whose runs pause at that share of their training
    watch        is told of each event of a run that trains until the rung
    wait         is called again and again while other drivers have all that is left; an exception from it ends the search
    """
    # The last rung of a batch has one run; more batches than keep all workers busy are left to others.
    at_once = max(1, make_engine(SHARES[-1]).workers)
    for task in tasks:
        _end_left_open(task, store, tracker)
    with claims:
        while left := [task for task in tasks if not task.is_done]:
            mine: list[Task] = []
            for task in left:
                if len(mine) < at_once and claims.take(task.trials.study_name):
                    mine.append(task)
            try:
                _run_batches(mine, make_engine, store, tracker, say, watch)
            finally:
                for task in mine:
                    claims.release(task.trials.study_name)
            if not mine:
                wait()
                time.sleep(POLL)


def _run_batches(
    tasks: Sequence[Task],
    make_engine: Callable[[float], Engine],
    store: Store,
    tracker: Tracker,
    say: Callable[[str], None],
    watch: Callable[[Event, Rung], None],
) -> None:
    """Run the next batch of each task through all rungs; a batch left unfinished by a driver is continued."""
    from optuna.exceptions import UpdateFinishedTrialError

    batches = [(task, range(*_batch(task))) for task in tasks if not task.is_done]
    for rung in batches[0][0].rungs if batches else ():  # the same for all
        members = [(task, trial) for task, numbers in batches for trial in _members(task, numbers)]
        todo = [
            run
            for task, trial in members
            if _is_open(trial) and rung.step not in trial.intermediate_values
            for run in _until(rung, task, trial)
        ]
        has_worked = any(trial.intermediate_values for _, trial in members)
        records = _execute_to(rung, todo, make_engine, tracker, say, watch, has_worked)
        for task, numbers in batches:
            with suppress(UpdateFinishedTrialError):  # we stood still so long that another driver took over
                _finish_rung(task, numbers, rung, records, store, tracker, say)


def _until(rung: Rung, task: Task, trial: "FrozenTrial") -> list[Run]:
    """The trial's runs that train until the rung."""
    return [task.runs_of(trial)[k] for k in rung.seeds]


def _execute_to(
    rung: Rung,
    todo: Sequence[Run],
    make_engine: Callable[[float], Engine],
    tracker: Tracker,
    say: Callable[[str], None],
    watch: Callable[[Event, Rung], None],
    has_worked: bool,
) -> dict[str, RunRecord]:
    """Train all runs to the rung, each up to TRIES times; return records by run_id, failed ones with their error.

    has_worked  whether some trial of these batches has come to a rung, so that what fails now is no fault of the surroundings

    Raises CommonFailureError if all of several runs failed alike each time, and none has worked.
    """
    records: dict[str, RunRecord] = {}
    waiting = {run.run_id: run for run in todo}
    if not waiting:
        return records

    def keep(record: RunRecord, weights: bytes) -> None:
        records[record.run_id] = record
        if record.status != "failed":
            del waiting[record.run_id]

    def show(event: Event) -> None:
        watch(event, rung)
        match event:
            case Ended(record=record):
                say(f"{event.run.label}: {rung.share:.0%}, validation accuracy {record.val_accuracy:.4f}")
            case Failed(error=error):
                say(f"{event.run.label}: failed, {error}")
            case Warned(line=line):
                say(f"{event.run.label}: warning, {line}")

    engine = make_engine(rung.share)
    for _ in range(TRIES):
        follow(list(waiting.values()), engine, lambda run: tracker, keep, show)
        if not waiting:
            break
    errors = [records[run_id].error for run_id in waiting]
    if not has_worked and len(errors) == len(todo) > 1 and len(set(map(without_numbers, errors))) == 1:
        # The cause is not any trial, so none is reported to Optuna; re-running retries them all.
        raise CommonFailureError(f"all {len(todo)} runs failed: {errors[0]}")
    return records


def _finish_rung(
    task: Task,
    numbers: range,
    rung: Rung,
    records: Mapping[str, RunRecord],
    store: Store,
    tracker: Tracker,
    say: Callable[[str], None],
) -> None:
    """Report the batch's results at a rung to Optuna, and end the trials that are not continued."""
    from optuna.trial import Trial, TrialState

    for trial in _members(task, numbers):
        runs = _until(rung, task, trial) if _is_open(trial) else []
        ours = [records[run.run_id] for run in runs if run.run_id in records]
        if not ours:
            continue
        live = Trial(task.trials, trial._trial_id)
        failed = [record for record in ours if record.status == "failed"]
        before = trial.user_attrs if task.is_paired else {}  # of its earlier seeds; otherwise ours go on from there
        seeds = before.get("seeds", [])
        is_counted = len(seeds) > rung.step  # by a driver that was killed before it reported
        worst = max(before.get("outcome", OUTCOMES[0]), _outcome(ours), key=OUTCOMES.index) if not failed else "failed"
        live.set_user_attr("outcome", worst)
        num_examples = before.get("examples", 0) + (0 if is_counted else sum(record.examples_seen for record in ours))
        # The record of a run that failed has none, though an earlier rung saw some
        live.set_user_attr("examples", max(num_examples, trial.user_attrs.get("examples", 0)))
        live.set_user_attr("seeds", seeds[: rung.step] + [record.run.seed for record in ours])
        live.set_user_attr("params", ours[0].params_trunk + ours[0].params_head)
        live.set_user_attr("gflops", ours[0].gflops)
        for record in ours:
            store.write(record)
        if failed:
            live.set_user_attr("error", failed[0].error)
            task.trials.tell(trial.number, state=TrialState.FAIL)
            _end_runs(task, trial, "pruned", store, tracker)
        else:
            _report(task, live, rung.step, sum(record.val_accuracy for record in ours) / len(ours))
    there = [trial for trial in _members(task, numbers) if rung.step in trial.intermediate_values]
    is_last = rung == task.rungs[-1]
    for trial in there if is_last else _worse(task, rung, [trial for trial in there if trial.number != OWN_TRIAL]):
        if _is_open(trial):
            _end(task, trial, is_last, store, tracker)
            place = f"seed {rung.step + 1} of {task.seeds}" if task.is_paired else f"{rung.share:.0%}"
            fate = "complete" if is_last else "ends"
            say(f"{task.run.variant} trial {trial.number}: {fate} at {place}, {trial.user_attrs['outcome']}")


def _worse(task: Task, rung: Rung, trials: Sequence["FrozenTrial"]) -> list["FrozenTrial"]:
    """Select the trials of a rung that are not continued: by the pruner seed by seed, otherwise the worse half.

    A resumed search comes to this rung again. If a trial has reached a later one, all that end here have ended; to judge again
    by what the others have become since could end another.
    """
    from optuna.pruners import WilcoxonPruner

    if any(max(trial.intermediate_values) > rung.step for trial in trials):
        return []
    if task.is_paired:
        with warnings.catch_warnings(action="ignore"):  # that it is experimental
            pruner = WilcoxonPruner(p_threshold=PRUNED_AT, n_startup_steps=MAX_HALVED_SEEDS)
        return [trial for trial in trials if pruner.prune(task.trials, trial)]
    best_first = sorted(trials, key=lambda trial: (-task.rank(trial, rung.step), trial.number))
    return best_first[math.ceil(len(trials) / 2) :]


def _report(task: Task, trial: "Trial", step: int, value: float) -> None:
    """Report an intermediate value; Optuna accepts none with several objectives."""
    if task.objective == "accuracy":
        trial.report(value, step)
    else:
        trial.storage.set_trial_intermediate_value(trial._trial_id, step, value)


def _end(task: Task, trial: "FrozenTrial", is_complete: bool, store: Store, tracker: Tracker) -> None:
    """End a trial in Optuna, in its record and in MLflow."""
    from optuna.trial import TrialState

    accuracy = task.accuracy(trial)
    accuracy = accuracy if math.isfinite(accuracy) else 0.0
    if not is_complete:
        task.trials.tell(trial.number, state=TrialState.PRUNED)
    else:
        size = {"accuracy,params": "params", "accuracy,gflops": "gflops"}.get(task.objective)
        task.trials.tell(trial.number, accuracy if size is None else [accuracy, float(trial.user_attrs[size])])
    _end_runs(task, trial, trial.user_attrs["outcome"] if is_complete else "pruned", store, tracker)


def _end_left_open(task: Task, store: Store, tracker: Tracker) -> None:
    """End the runs of ended trials that a driver left open because it was killed after it had told Optuna."""
    for trial in task.trials.get_trials():
        records = store.read_all(task.runs_of(trial))[0] if not _is_open(trial) else {}
        if any(record.status == "paused" for record in records.values()):
            is_complete = trial.state.name == "COMPLETE"
            _end_runs(task, trial, trial.user_attrs["outcome"] if is_complete else "pruned", store, tracker)


def _end_runs(task: Task, trial: "FrozenTrial", status: str, store: Store, tracker: Tracker) -> None:
    """End a trial's runs in their records and in MLflow, with that status where they have not failed."""
    for run in task.runs_of(trial):
        record = store.read(run.run_id)
        if record is not None:
            ended = replace(record, run=run, status=record.status if record.status == "failed" else status)
            store.write(ended)
            tracker.run_ended(ended)
        store.drop_checkpoints([run.run_id])


def _batch(task: Task) -> tuple[int, int]:
    """Return the first and last + 1 trial number of the current batch; creates missing trials."""
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
    if start == 0 and not task.trials.get_trials():
        task.trials.enqueue_trial(task.own_setting())
    while len(task.trials.get_trials()) < stop or any(
        trial.state.name == "WAITING" for trial in task.trials.get_trials()
    ):
        task.trials.ask()
    for trial in _members(task, range(start, stop)):
        if _is_open(trial):
            _suggest(task, trial)
    return start, stop


def _suggest(task: Task, member: "FrozenTrial") -> None:
    """Suggest a trial's hyperparameters; values from a driver that was killed meanwhile are kept."""
    from optuna.samplers import TPESampler
    from optuna.trial import Trial

    trial = Trial(task.trials, member._trial_id)
    for key, each in task.space.items():
        # A new sampler for each number: variants have the same numbers, and a driver killed between two of them changes none.
        seed = stream(FIRST_SEED, f"trial {trial.number} {key}") % 2**32
        task.trials.sampler = TPESampler(seed=seed, n_startup_trials=2 * BATCH)
        if isinstance(each, Range):
            trial.suggest_float(key, each.low, each.high, log=each.log)
        else:
            trial.suggest_categorical(key, each.values)
    if task.most_params and "params" not in trial.constraints:
        (suggested,) = _members(task, range(trial.number, trial.number + 1))
        run = task.runs_of(suggested)[0]
        trial.set_constraint("params", float(size(run.model, *shape(run.data)).params - task.most_params))


def _members(task: Task, numbers: range) -> list["FrozenTrial"]:
    return [trial for trial in task.trials.get_trials() if trial.number in numbers]


def _is_open(trial: "FrozenTrial") -> bool:
    return not trial.state.is_finished()


def _outcome(records: Sequence[RunRecord]) -> str:
    """ "diverged" or "collapsed" if any seed is; else "learned"."""
    if any(record.status == "diverged" for record in records):
        return "diverged"
    return "collapsed" if any(map(_has_collapsed, records)) else "learned"


def _has_collapsed(record: RunRecord) -> bool:
    if record.status != "paused":
        return record.status == "collapsed"
    data = load_cached(record.run.data.for_seed(record.run.seed), "cpu")
    return not has_left_chance(record.curve, data.val.labels)
