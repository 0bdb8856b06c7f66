"""Equal budgets to the image, and exactly as many trials as were asked for whatever happens."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from builders import record_of
from toys import Toy, examples, made_up, toy_tasks, tune_toy

from ablations.catalog import load_study
from ablations.execution.driver import CommonFailureError
from ablations.execution.engines import Ended, Event, Failed, Started
from ablations.execution.signals import OutOfTimeError
from ablations.records import Store
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from ablations.tuning import halving
from ablations.tuning.storage import StorageClaims
from ablations.tuning.task import MAX_HALVED_SEEDS, Task, winners_of
from nin.spec import DataSpec


@pytest.mark.slow
def test_a_known_optimum_is_found(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 24)
    tune_toy(tmp_path, tasks)
    winners = winners_of(tasks)
    assert winners.keys() == {task.run.variant for task in tasks}
    for winner in winners.values():
        assert winner.params["train.lr"] == pytest.approx(0.01, rel=0.25)


def test_a_search_that_is_resumed_after_its_best_trials_diverged_continues_the_same(tmp_path: Path) -> None:
    """Trials 4 and 5 are the better half of their batch at a quarter of the training, and diverge by the half."""
    stopped = False

    class Diverging(Toy):
        def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
            nonlocal stopped
            for each in runs:
                assert each.trial is not None
                if each.trial >= 4 and self.at == 1.0 and not stopped:
                    stopped = True
                    raise OutOfTimeError
                has_diverged = each.trial in (4, 5) and self.at > 0.25
                record = made_up(each, round(self.at * 1000), 0.9 - each.trial / 100)
                yield Started(each)
                yield Ended(each, replace(record, status="diverged") if has_diverged else record)

    def states(folder: Path) -> list[str]:
        (task,) = toy_tasks(folder, 8, ["2x"])
        store = Store(folder, "toy-tuning", "smoke")
        while True:
            claims = StorageClaims(task.trials._storage, "claims")
            try:
                halving.tune([task], lambda at: Diverging(at, {}), claims, store, Tracker(), lambda line: None)
                return [trial.state.name for trial in task.trials.get_trials()]
            except OutOfTimeError:
                pass

    for name in ("resumed", "whole"):
        (tmp_path / name).mkdir()
    resumed = states(tmp_path / "resumed")
    assert stopped
    assert resumed == states(tmp_path / "whole")
    assert resumed[4:] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]


@pytest.mark.parametrize("trials", [1, 4, 6, 11])
def test_every_variant_spends_the_same_number_of_images(tmp_path: Path, trials: int) -> None:
    """Of four trials all train to a quarter, two to a half, one to the end; a shorter last batch is halved alike.

    Of the first four, one has the protocol's own setting, which trains to the end beside the best of the others.
    """
    tasks = toy_tasks(tmp_path, trials)
    tune_toy(tmp_path, tasks)
    total = 512 * 3
    expected = {
        1: [total],
        4: [total, total, total // 2, total // 4],
        6: [total, total, total // 2, total // 4, total, total // 4],
        11: [total, *(2 * [total, total // 2, total // 4]), total // 4, total, total // 2, total // 4],
    }[trials]
    for task in tasks:
        assert sorted(examples(task)) == sorted(expected)


def paired_task(tmp_path: Path, trials: int) -> Task:
    (task,) = toy_tasks(tmp_path, trials, ["2x"])
    return replace(task, seeds=6)


def test_trials_of_many_seeds_end_where_they_are_worse_seed_by_seed(tmp_path: Path) -> None:
    """In the toy every seed says the same, so four are enough to tell, once a trial is complete to compare with."""
    task = paired_task(tmp_path, 12)
    tune_toy(tmp_path, [task])
    first, later = task.trials.get_trials()[:4], task.trials.get_trials()[4:]
    assert [trial.user_attrs["seeds"] for trial in first] == [list(range(1000, 1006))] * 4
    best = max(trial.value for trial in first)
    assert {trial.state.name for trial in later} == {"COMPLETE", "PRUNED"}
    for trial in later:
        pruned = trial.state.name == "PRUNED"
        assert pruned == (task.accuracy(trial) < best)
        best = best if pruned else max(best, trial.value)
        assert trial.user_attrs["seeds"] == list(range(1000, 1004 if pruned else 1006))
        assert trial.user_attrs["examples"] == len(trial.user_attrs["seeds"]) * 512 * 3
    (winner,) = winners_of([task]).values()
    assert winner.value == pytest.approx(best)


def test_a_trial_of_many_seeds_goes_on_at_the_seed_where_a_driver_was_stopped(tmp_path: Path) -> None:
    task = paired_task(tmp_path, 4)
    with pytest.raises(CommonFailureError):
        tune_toy(tmp_path, [task], fail=dict.fromkeys(range(4), halving.TRIES))
    tune_toy(tmp_path, [task])
    assert examples(task) == [6 * 512 * 3] * 4
    own, *_ = task.trials.get_trials()
    assert own.state.name == "COMPLETE"


def test_a_driver_killed_before_it_reports_a_seed_counts_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = paired_task(tmp_path, 4)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(halving, "_report", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_toy(tmp_path, [task])
    tune_toy(tmp_path, [task])
    assert examples(task) == [6 * 512 * 3] * 4
    assert {tuple(trial.user_attrs["seeds"]) for trial in task.trials.get_trials()} == {tuple(range(1000, 1006))}


@pytest.mark.parametrize("num_before", [0, 3, 5])
def test_a_driver_killed_before_it_ends_a_trials_runs_leaves_none_open(
    num_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = toy_tasks(tmp_path, trials=6, variants=["2x"])
    (tmp_path / "whole").mkdir()
    tune_toy(tmp_path / "whole", toy_tasks(tmp_path / "whole", trials=6, variants=["2x"]))
    calls = count()
    end_runs = halving._end_runs

    def killed(*arguments: Any) -> None:
        if next(calls) == num_before:
            raise KeyboardInterrupt
        end_runs(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(halving, "_end_runs", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_toy(tmp_path, tasks)
    tune_toy(tmp_path, tasks)
    folders = [Store(folder, "toy-tuning", "smoke") for folder in (tmp_path / "whole", tmp_path)]
    whole, resumed = ({run_id: store.read(run_id) for run_id in store.run_ids()} for store in folders)
    assert "paused" not in {record.status for record in resumed.values() if record}
    assert resumed == whole


def test_a_trial_that_fails_with_one_seed_ends_with_all(tmp_path: Path) -> None:
    task = replace(paired_task(tmp_path, 4), seeds=2)
    failing = task.runs_of(SimpleNamespace(params={}, number=0))[1].seed  # type: ignore[arg-type]

    class FailsWith(Toy):
        def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
            for run in runs:
                yield from [Failed(run, "no", "")] if run.seed == failing else super().execute([run])

    store = Store(tmp_path, "toy-tuning", "smoke")
    claims = StorageClaims(task.trials._storage, "claims")
    halving.tune([task], lambda at: FailsWith(at, {}), claims, store, Tracker(), lambda line: None)
    failed = task.trials.get_trials()[0]
    assert failed.state.name == "FAIL"
    records = [store.read(run.run_id) for run in task.runs_of(failed)]
    assert [record and record.status for record in records] == ["pruned", "failed"]


def test_trials_of_few_seeds_are_halved_by_their_mean(tmp_path: Path) -> None:
    task = replace(paired_task(tmp_path, 4), seeds=MAX_HALVED_SEEDS)
    tune_toy(tmp_path, [task])
    total = 4 * 512 * 3
    assert sorted(examples(task)) == [total // 4, total // 2, total, total]
    seeds = [seed for trial in task.trials.get_trials() for seed in trial.user_attrs["seeds"]]
    assert len(set(seeds)) == 16


class Dipping(Toy):
    """All are far worse at half of the training than at a quarter; `stops` interrupts the last rung of the second batch."""

    def __init__(self, at: float, stops: bool) -> None:
        super().__init__(at, {})
        self.stops = stops

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        for event in super().execute(runs):
            if self.stops and self.at == 1 and (event.run.trial or 0) >= 4:
                raise KeyboardInterrupt
            if isinstance(event, Ended) and self.at == 0.5:
                yield replace(event, record=replace(event.record, val_accuracy=event.record.val_accuracy - 0.8))
            else:
                yield event


def test_a_search_that_goes_on_judges_an_earlier_rung_as_it_did(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 8, ["2x"])
    store = Store(tmp_path, "toy-tuning", "smoke")

    def search(stops: bool) -> None:
        claims = StorageClaims(task.trials._storage, "claims")
        halving.tune([task], lambda at: Dipping(at, stops), claims, store, Tracker(), print)

    with pytest.raises(KeyboardInterrupt):
        search(stops=True)
    search(stops=False)
    states = [trial.state.name for trial in task.trials.get_trials()]
    assert sorted(states[4:]) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]


def test_the_first_trial_is_the_protocols_own_setting_and_variants_share_their_random_numbers(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 8)
    tune_toy(tmp_path, tasks)
    lrs = [[trial.params["train.lr"] for trial in task.trials.get_trials()] for task in tasks]
    assert lrs[0][0] == tasks[0].run.train.lr
    assert lrs[0] == lrs[1]


def test_a_driver_killed_between_two_numbers_changes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (undisturbed,) = toy_tasks(tmp_path / "a", 4, ["2x"])
    tune_toy(tmp_path / "a", [undisturbed])
    (task,) = toy_tasks(tmp_path / "b", 4, ["2x"])
    suggest_float, asked = optuna.trial.Trial.suggest_float, list[str]()

    def interrupted(trial: optuna.trial.Trial, key: str, *ends: float, log: bool) -> float:
        asked.append(key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return suggest_float(trial, key, *ends, log=log)

    monkeypatch.setattr(optuna.trial.Trial, "suggest_float", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_toy(tmp_path / "b", [task])
    assert any(trial.params for trial in task.trials.get_trials()[1:]), "interrupted in the middle of a batch"
    tune_toy(tmp_path / "b", [task])
    wanted, found = ([trial.params for trial in each.trials.get_trials()] for each in (undisturbed, task))
    assert found == wanted
    assert len({str(params) for params in found}) == 4


def test_while_another_driver_has_the_rest_it_may_be_told_to_end(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 4, ["2x"])
    claims = StorageClaims(task.trials._storage, "claims")

    def give_up() -> None:
        raise OutOfTimeError

    store = Store(tmp_path, "toy-tuning", "smoke")
    with StorageClaims(task.trials._storage, "claims") as other:
        assert other.take(task.trials.study_name)
        with pytest.raises(OutOfTimeError):
            halving.tune([task], lambda at: Toy(at, {}), claims, store, Tracker(), print, wait=give_up)


def test_the_protocols_own_setting_is_never_pruned(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 8, ["2x"])
    task = replace(
        task, run=replace(task.run, train=replace(task.run.train, lr=1.0))
    )  # of all that are tried the worst
    tune_toy(tmp_path, [task])
    own, *others = task.trials.get_trials()
    assert own.state.name == "COMPLETE"
    assert own.intermediate_values[25] < max(
        trial.intermediate_values[25] for trial in others if trial.state.name == "PRUNED"
    )


def test_a_second_call_goes_on_to_the_number_asked_for(tmp_path: Path) -> None:
    tune_toy(tmp_path, toy_tasks(tmp_path, 5))
    tasks = toy_tasks(tmp_path, 9)
    before = [trial.params for trial in tasks[0].trials.get_trials()]
    tune_toy(tmp_path, tasks)
    after = [trial.params for trial in tasks[0].trials.get_trials()]
    assert (len(after), after[:5]) == (9, before)
    tune_toy(tmp_path, toy_tasks(tmp_path, 9))
    assert len(tasks[0].trials.get_trials()) == 9


def test_a_batch_that_was_begun_is_ended_though_fewer_trials_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = halving._finish_rung

    def finish_one(*arguments: Any) -> None:
        finish(*arguments)
        raise OutOfTimeError

    monkeypatch.setattr(halving, "_finish_rung", finish_one)
    with pytest.raises(OutOfTimeError):
        tune_toy(tmp_path, toy_tasks(tmp_path, 4, ["2x"]))
    monkeypatch.setattr(halving, "_finish_rung", finish)
    (task,) = toy_tasks(tmp_path, 1, ["2x"])
    assert (task.num_ended(), task.is_done) == (1, False)
    tune_toy(tmp_path, [task])
    assert task.is_done
    assert "COMPLETE" in [trial.state.name for trial in task.trials.get_trials()]


def test_a_trial_that_keeps_failing_is_told_and_blocks_nothing(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4)
    tune_toy(tmp_path, tasks, fail={1: 100})
    states = [trial.state.name for trial in tasks[0].trials.get_trials()]
    assert states[1] == "FAIL"
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
    assert tasks[0].trials.get_trials()[1].user_attrs["error"] == "RuntimeError: no"
    failed = tasks[0].runs_of(tasks[0].trials.get_trials()[1])[0]
    record = Store(tmp_path, "toy-tuning", "smoke").read(failed.run_id)
    assert record is not None
    assert (record.status, record.error) == ("failed", "RuntimeError: no")
    assert record.environment["device"].startswith("cpu")


def test_trials_that_all_fail_alike_after_a_rung_are_told_and_block_nothing(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 12, ["2x"])
    tune_toy(tmp_path, [task], fail=dict.fromkeys(range(4, 12), 100), fail_from=0.5)
    assert task.is_done
    states = [trial.state.name for trial in task.trials.get_trials()]
    assert (states[:4].count("COMPLETE"), states[4:].count("FAIL")) == (2, 4)


def test_a_trial_that_dies_is_tried_again(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4, ["2x"])
    said = tune_toy(tmp_path, tasks, fail={1: halving.TRIES - 1})
    assert sum("failed" in line for line in said) == halving.TRIES - 1
    assert sorted(trial.state.name for trial in tasks[0].trials.get_trials()) == [*["COMPLETE"] * 2, *["PRUNED"] * 2]


def test_a_failure_common_to_all_trials_is_told_of_none_and_the_next_call_has_them_anew(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4)
    with pytest.raises(CommonFailureError, match="all 8 runs failed: RuntimeError: no"):
        tune_toy(tmp_path, tasks, fail=dict.fromkeys(range(4), 2 * halving.TRIES))
    tune_toy(tmp_path, tasks)
    for task in tasks:
        states = sorted(trial.state.name for trial in task.trials.get_trials())
        assert states == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]


def test_each_variant_pauses_at_shares_of_its_own_length(tmp_path: Path) -> None:
    short, long = toy_tasks(tmp_path, 4)
    long = replace(long, run=replace(long.run, train=replace(long.run.train, epochs=6)))
    tune_toy(tmp_path, [short, long])
    assert [2 * each for each in sorted(examples(short))] == sorted(examples(long))


def test_a_trial_left_over_by_a_driver_that_had_stood_still_is_closed(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 5, ["2x"])
    tune_toy(tmp_path, toy_tasks(tmp_path, 4, ["2x"]))
    tasks[0].trials.ask()  # outside of any batch
    tune_toy(tmp_path, tasks)
    states = [trial.state.name for trial in tasks[0].trials.get_trials()]
    assert (len(states), states[4]) == (5, "FAIL")


def test_two_tuners_with_nothing_but_the_storage_in_common_share_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "PAUSE", 0.01)
    monkeypatch.setattr(Toy, "workers", 1)
    monkeypatch.setattr(halving, "POLL", 0.01)

    def tune_here(name: str) -> list[str]:
        return tune_toy(tmp_path / name, toy_tasks(tmp_path, 12))

    with ThreadPoolExecutor() as pool:
        said = list(pool.map(tune_here, ["one", "other"]))
    for task in toy_tasks(tmp_path, 12):
        states = [trial.state.name for trial in task.trials.get_trials()]
        assert (len(states), states.count("COMPLETE"), states.count("PRUNED")) == (12, 4, 8)
    ended = [[line for line in lines if " at " in line] for lines in said]
    assert all(ended)
    assert len(set(ended[0] + ended[1])) == len(ended[0] + ended[1]) == 24


@pytest.mark.parametrize(
    ("status", "accuracy", "outcome"),
    [("paused", 0.1, "collapsed"), ("paused", 0.9, "learned"), ("collapsed", 0.9, "collapsed")],
)
def test_a_trial_is_judged_by_the_validation_images_of_its_seed(
    status: str, accuracy: float, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has ended is as its training says."""
    (run,) = load_study("num_1x1").expand("standard", 1, ["2x"], lengths=[40_000])
    loaded: list[DataSpec] = []

    def load_cached(spec: DataSpec, device: str) -> object:
        loaded.append(spec)
        return SimpleNamespace(val=SimpleNamespace(labels=torch.arange(1_000) % 10))

    monkeypatch.setattr(halving, "load_cached", load_cached)
    record = record_of(replace(run, seed=1003), status, accuracy)
    assert halving._outcome([record]) == outcome
    assert loaded == ([run.data.for_seed(1003)] if status == "paused" else [])
    assert run.data.for_seed(1003) != run.data
