"""Tuning: equal budgets to the image, exactly as many trials as were asked for whatever happens, winners that are still valid."""

import json
import math
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest
from matplotlib.figure import Figure
from processes import PASSWORD, call, command

from ablations import run, tune
from ablations.execution import claims
from ablations.execution.driver import CommonFailureError
from ablations.execution.engines import Ended, Event, Failed, Started
from ablations.records import RunRecord, Store
from ablations.runs import Run
from ablations.study import load_study
from ablations.tracking.tracker import Tracker
from ablations.tuning import halving
from ablations.tuning.report import write_tuning_report
from ablations.tuning.spaces import NUISANCE, Choice, Range, space_of
from ablations.tuning.storage import StorageClaims, open_storage
from ablations.tuning.task import FEW, FIRST_SEED, Task, winners_of
from ablations.tuning.winners import Winner, with_winners
from nin.history import Evaluation

NUM_1X1 = load_study("num_1x1")
TINY = ["num_1x1", "--protocol", "smoke", "--variants", "0x"]


def made_up(run: Run, examples: int, accuracy: float, status: str = "paused") -> RunRecord:
    point = Evaluation(examples, 1.0, 1.0, accuracy, 1.0, accuracy, 0, 1.0)
    return RunRecord(
        run, run.run_id, status, 900, 100, 0.1, {}, val_accuracy=accuracy, examples_seen=examples, curve=[point]
    )


class Toy:
    """An engine that trains nothing: accuracy is best at lr = 0.01, whatever the variant; `fail` counts failures by trial."""

    workers = 2
    device = "cpu"
    PAUSE = 0.0  # seconds

    def __init__(self, at: float, fail: dict[int, int]) -> None:
        self.at, self.fail = at, fail

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        for each in runs:
            yield Started(each)
            time.sleep(self.PAUSE)
            if self.fail.get(each.trial or 0):
                self.fail[each.trial or 0] -= 1
                yield Failed(each, "RuntimeError: no", "")
            else:
                accuracy = max(0.0, 0.9 - abs(each.train.lr - 0.01) * 10)
                yield Ended(each, made_up(each, round(self.at * 512 * each.train.epochs), accuracy))


def toy_tasks(tmp_path: Path, trials: int, variants: Iterable[str] = ("2x", "0x")) -> list[Task]:
    storage = open_storage(f"journal:{tmp_path / 'trials.log'}")
    runs = [each for each in NUM_1X1.expand("smoke", 1) if each.variant in variants]
    space = {"train.lr": Range(0.0005, 0.05, log=True)}
    return [
        Task(
            each,
            space,
            optuna.create_study(storage=storage, study_name=each.variant, direction="maximize", load_if_exists=True),
            "accuracy",
            trials,
            seeds=1,
        )
        for each in runs
    ]


def tune_toy(tmp_path: Path, tasks: list[Task], fail: dict[int, int] | None = None) -> list[str]:
    """Tune; the lines that were said."""
    said: list[str] = []
    failures = dict(fail or {})
    claims = StorageClaims(tasks[0].trials._storage, "claims")
    store = Store(tmp_path, "toy-tuning", "smoke")
    halving.tune(tasks, lambda at: Toy(at, failures), claims, store, Tracker(), said.append)
    return said


def examples(task: Task) -> list[int]:
    return [trial.user_attrs["examples"] for trial in task.trials.get_trials()]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_a_known_optimum_is_found(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 24)
    tune_toy(tmp_path, tasks)
    for winner in winners_of(tasks).values():
        assert winner.params["train.lr"] == pytest.approx(0.01, rel=0.25)


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


def test_trials_of_few_seeds_are_halved_by_their_mean(tmp_path: Path) -> None:
    task = replace(paired_task(tmp_path, 4), seeds=FEW)
    tune_toy(tmp_path, [task])
    total = 4 * 512 * 3
    assert sorted(examples(task)) == [total // 4, total // 2, total, total]
    seeds = [seed for trial in task.trials.get_trials() for seed in trial.user_attrs["seeds"]]
    assert len(set(seeds)) == 16


def test_the_first_trial_is_the_protocols_own_setting_and_variants_share_their_random_numbers(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 8)
    tune_toy(tmp_path, tasks)
    lrs = [[trial.params["train.lr"] for trial in task.trials.get_trials()] for task in tasks]
    assert lrs[0][0] == tasks[0].run.train.lr
    assert lrs[0] == lrs[1]


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


def test_a_trial_that_keeps_failing_is_told_and_blocks_nothing(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4)
    tune_toy(tmp_path, tasks, fail={1: 100})
    states = [trial.state.name for trial in tasks[0].trials.get_trials()]
    assert states[1] == "FAIL"
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
    assert tasks[0].trials.get_trials()[1].user_attrs["error"] == "RuntimeError: no"


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


# --- claims


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.BaseStorage:
    return open_storage(f"journal:{tmp_path / 'claims.log'}")


def test_a_claim_is_one_drivers_until_it_is_released(storage: optuna.storages.BaseStorage) -> None:
    with StorageClaims(storage, "claims") as ours, StorageClaims(storage, "claims") as theirs:
        assert ours.take("2x")
        assert not theirs.take("2x")
        assert theirs.take("0x")
        ours.release("2x")
        assert theirs.take("2x")
    with StorageClaims(storage, "claims") as ours:
        assert ours.take("2x")
        assert ours.take("0x")


def test_of_many_drivers_at_once_one_has_the_claim(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'claims.db'}"
    drivers = [StorageClaims(open_storage(url), "claims") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            taken = list(pool.map(lambda driver: driver.take("2x"), drivers))
            assert sum(taken) <= 1  # two that are equally fast may both step back
            for driver, has in zip(drivers, taken, strict=True):
                if has:
                    driver.release("2x")
    assert drivers[0].take("2x")


def test_a_claim_expires_when_its_driver_is_dead_or_stands_still(
    storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, far, ours = (StorageClaims(storage, "claims") for _ in range(3))
    dead._me = replace(dead._me, since=0.0)  # whose number another process has now
    far._me = replace(far._me, host="far")
    assert dead.take("2x")
    assert far.take("0x")
    assert ours.take("2x")
    assert not ours.take("0x")
    monkeypatch.setattr(claims, "LEASE", -1.0)
    assert ours.take("0x")
    far.release("0x")  # changes nothing: it has lost it
    monkeypatch.undo()
    assert not dead.take("0x")


def test_tuning_never_touches_what_a_study_is_about() -> None:
    for name in ("dropout", "init_lr", "num_1x1"):
        study = load_study(name)
        changed = {
            f"{part}.{key}"
            for variant in study.variants.values()
            for part in ("model", "data", "train")
            for key in getattr(variant, part)
        }
        assert not changed & space_of(study, "quick").keys()
    assert "model.dropout" in space_of(NUM_1X1, "quick")
    assert "model.dropout" not in space_of(load_study("dropout"), "quick")


@pytest.mark.parametrize("protocol", NUISANCE)
def test_the_protocols_own_setting_lies_in_its_space(protocol: str) -> None:
    own = NUM_1X1.expand(protocol, 1, ["2x"])[0]
    for key, each in NUISANCE[protocol].items():
        part, _, field = key.partition(".")
        value = getattr(getattr(own, part), field)
        assert value in each.values if isinstance(each, Choice) else each.low <= value <= each.high


def test_a_search_for_small_networks_has_a_report_and_a_pareto_front_of_its_own(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 4, ["2x"])
    trials = optuna.create_study(directions=["maximize", "minimize"])
    task = replace(task, trials=trials, objective="accuracy,params")
    tune_toy(tmp_path, [task])
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert report.path.name == "report-params.md"
    assert report.winners == {}
    front = report.path.read_text().partition("## Pareto front")[2]
    best = max(trial.values[0] for trial in trials.get_trials())  # all are equally large
    assert f"| {100 * best:.2f} " in front
    assert (tmp_path / "toy-tuning/smoke/figures/2x-pareto.png").stat().st_size > 0


def test_a_search_under_a_limit_says_what_is_too_large_and_what_others_have_published(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 4, ["2x"])
    task = replace(task, space={"model.width": Range(0.1, 1.0)}, most_params=100_000)
    tune_toy(tmp_path, [task])
    too_large = [trial for trial in task.trials.get_trials() if trial.constraints["params"] > 0]
    assert too_large
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert report.winners["2x"].trial not in {trial.number for trial in too_large}
    header, _, row = [line for line in report.path.read_text().splitlines() if line.startswith("|")][:3]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (header, row)), strict=True))
    assert cells["too large"] == str(len(too_large))
    assert cells["parameters of the best"] == "1,000"  # as `made_up` has it
    assert "95.4 % by DenseNet-BC" in report.path.read_text()


def test_a_best_trial_that_collapsed_is_named(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 1, ["2x"])
    task = replace(task, space={"train.lr": Range(0.1, 1.0)})  # where nothing learns
    tune_toy(tmp_path, [task])
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert "- 2x: its best trial collapsed" in report.path.read_text()


def test_titles_of_figures_stay_apart_and_logarithmic_axes_are_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = set[str]()

    def look(figure: Figure, path: Path) -> None:
        figure.canvas.draw()
        drawn.add(path.name)
        ours = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
        for axes in figure.axes:
            assert not axes.title.get_text() or not ours.overlaps(axes.title.get_window_extent()), path.name
            low, high = axes.get_xlim()
            labelled = [t for t in axes.get_xticks() if low <= t <= high]
            assert axes.get_xscale() != "log" or len(labelled) > 1, path.name

    monkeypatch.setattr("ablations.reporting.figures.save", look)
    (task,) = toy_tasks(tmp_path, 13, ["2x"])
    tune_toy(tmp_path, [task])
    write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert drawn == {f"2x-{kind}" for kind in ("history", "rungs", "importances", "slice", "parallel")}


def test_a_best_value_at_the_edge_is_known() -> None:
    assert Range(0.001, 0.1, log=True).is_at_edge(0.0011)
    assert Range(0.001, 0.1, log=True).is_at_edge(0.099)
    assert not Range(0.001, 0.1, log=True).is_at_edge(0.01)
    assert not Range(0.0, 1.0).is_at_edge(0.0)  # beyond which there is nothing


# --- winners


def winner(name: str = "2x", **params: object) -> Winner:
    own = next(each for each in NUM_1X1.expand("smoke", 1) if each.variant == name)
    return Winner(3, 0.9, params, [1003], own.settings)


def test_winners_are_trained_beside_the_fixed_settings() -> None:
    study = with_winners(NUM_1X1, "smoke", {"2x": winner(**{"train.lr": 0.01}), "0x": winner("0x")})
    runs = {each.variant: each for each in study.expand("smoke", 1)}
    assert set(runs) == {"2x", "2x tuned", "0x"}  # of 0x its own setting has won
    assert (runs["2x"].train.lr, runs["2x tuned"].train.lr) == (0.005, 0.01)
    assert study.pairs == {"2x": "2x tuned", "0x": "0x"}


def test_a_winner_of_another_setting_is_refused_by_the_field() -> None:
    stale = winner(**{"train.lr": 0.01})
    stale.base["train.epochs"] = 7
    with pytest.raises(ValueError, match=r"2x has changed since it was tuned: train.epochs was 7, is 3"):
        with_winners(NUM_1X1, "smoke", {"2x": stale})


def test_winners_tuned_with_set_are_trained_with_the_same_set() -> None:
    changed = ["train.epochs=2"]
    own = next(each for each in NUM_1X1.expand("smoke", 1, ["2x"], changed))
    found = {"2x": Winner(3, 0.9, {"train.lr": 0.01}, [1003], own.settings)}
    study = with_winners(NUM_1X1, "smoke", found, changed)
    assert {each.train.epochs for each in study.expand("smoke", 1, None, changed)} == {2}
    with pytest.raises(ValueError, match=r"train.epochs was 2, is 3"):
        with_winners(NUM_1X1, "smoke", found)
    with pytest.raises(ValueError, match=r"train.lr: is what tuning has chosen"):
        with_winners(NUM_1X1, "smoke", found, [*changed, "train.lr=0.005"])


def test_a_winner_is_refused_when_the_study_has_changed() -> None:
    ours = winner(**{"train.lr": 0.01})
    with pytest.raises(ValueError, match=r"'9x' was tuned, and is no variant of num_1x1 any more"):
        with_winners(NUM_1X1, "smoke", {"2x": ours, "9x": ours})
    with pytest.raises(ValueError, match=r"model.num_1x1 was tuned, and num_1x1 is about it now"):
        with_winners(NUM_1X1, "smoke", {"2x": winner(**{"model.num_1x1": 3})})
    ours.base["model.gone"] = 1
    with pytest.raises(ValueError, match=r"model.gone was 1, is no more"):
        with_winners(NUM_1X1, "smoke", {"2x": ours})


def damaged(**fields: object) -> str:
    return json.dumps({"variants": {"2x": {**asdict(winner()), **fields}}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no"),
        ("{", "is damaged"),
        ('{"variants": {"2x": {"a": 1}}}', "is damaged"),
        (damaged(params={"lr": 0.1}), "is damaged.*unknown field of a run 'lr'"),
        (damaged(params={"train.lr": "high"}), "is damaged.*train.lr='high' must be float"),
        (damaged(params=[1]), "is damaged"),
        (damaged(base=None), "is damaged"),
        (damaged(seeds="1000"), "is damaged"),
    ],
)
def test_tuned_without_winners_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "num_1x1-tuning" / "smoke" / "tuned.json"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=said):
        run.main(["num_1x1", "--protocol", "smoke", "--tuned", "--results", str(tmp_path)])


# --- the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "0"], "--trials"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/none"], "cannot be used"),
        (["--storage", "sqlite:////nowhere/at/all.db"], "cannot be used"),
        (["--storage", "nonsense"], "cannot be used"),
        (["--storage", "journal:/nowhere/at/all.log"], "cannot be used"),
        (["--storage", "grpc://127.0.0.1:port"], "must be grpc://HOST:PORT"),
        (["--seeds", "2"], "--seeds-per-trial"),
        (["--set", "data.val_examples=0"], "must not choose by it"),
        (["--set", "train.optimizer=adam"], "unknown optimizer 'adam': the nearest is 'adamw'"),
        (["--set", "data.name=nothing"], "unknown data set 'nothing'"),
    ],
)
def test_a_wrong_request_is_one_line(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        tune.main([*TINY, "--results", str(tmp_path), *arguments])
        raise AssertionError("nothing was refused")
    except ValueError as error:
        message = str(error)
    except SystemExit:
        message = capsys.readouterr().err.strip()
    assert said in message
    assert "\n" not in message
    assert "secret" not in message


def test_a_storage_of_an_incompatible_optuna_is_one_line(tmp_path: Path) -> None:
    import sqlite3

    url = f"sqlite:///{tmp_path / 'old.db'}"
    optuna.create_study(storage=url)
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("update version_info set schema_version = 999")
        database.execute("update alembic_version set version_num = 'v9.9.9'")
    with pytest.raises(ValueError, match="cannot be used"):
        tune.main([*TINY, "--results", str(tmp_path), "--storage", url])


class Synced(Tracker):
    """Remembers what it is told in the end."""

    def sync(self, records: Iterable[RunRecord]) -> None:
        self.labels = [record.run.label for record in records]

    def links(self) -> list[str]:
        return ["MLflow:  here"]


@pytest.mark.slow
def test_trials_of_another_setting_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["--results", str(tmp_path), "--trials", "1"]
    synced = Synced()
    monkeypatch.setattr("ablations.tuning.session.open_tracker", lambda *_: synced)
    assert tune.main([*TINY, *tasks, "--set", "train.epochs=1", "--workers", "1"]) == 0
    assert sorted(synced.labels) == ["0x trial 0", "2x trial 0"]  # in case MLflow had not heard of them
    said = capsys.readouterr().out
    assert f"trials:  OPTUNA_STORAGE='sqlite:///{tmp_path}/optuna.db' make dashboard" in said
    assert "MLflow:  here" in said
    with pytest.raises(ValueError, match=r"was tuned with another base \(train.epochs: 1, now 3\)"):
        tune.main([*TINY, *tasks])


def trials_of(url: str) -> dict[str, list[optuna.trial.FrozenTrial]]:
    """Trials by Optuna study, of those that are not claims."""
    storage = optuna.storages.RDBStorage(url)
    try:
        summaries = optuna.get_all_study_summaries(storage)
        return {
            summary.study_name: optuna.load_study(storage=storage, study_name=summary.study_name).get_trials()
            for summary in summaries
            if "settings" in summary.user_attrs
        }
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
def test_a_tuning_that_was_killed_goes_on_to_exactly_as_many_trials(tmp_path: Path) -> None:
    arguments = [*TINY, "--trials", "6", "--results", str(tmp_path)]
    for moment in (": 25%", ": 50%", "complete at"):  # in a rung, between the halvings, between the batches
        with subprocess.Popen(
            command(*arguments, module="ablations.tune"), stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as driver:
            assert driver.stdout is not None
            assert any(moment in line for line in driver.stdout)
            driver.kill()
    last = call(*arguments, cwd=tmp_path, module="ablations.tune")
    assert last.returncode == 0, last.stderr
    tuned_studies = trials_of(f"sqlite:///{tmp_path / 'optuna.db'}")
    for done in tuned_studies.values():
        assert sorted(trial.state.name for trial in done) == [*["COMPLETE"] * 3, *["PRUNED"] * 3]
    budgets = [sum(trial.user_attrs["examples"] for trial in done) for done in tuned_studies.values()]
    assert budgets[0] == budgets[1]
    tuned = json.loads((tmp_path / "num_1x1-tuning/smoke/tuned.json").read_text())["variants"]
    assert set(tuned) == {"2x", "0x"}
    assert all(seed >= FIRST_SEED for winner in tuned.values() for seed in winner["seeds"])
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("runs/*.json")]
    assert len(records) == 12
    assert all(math.isnan(record["test_accuracy"]) for record in records)  # the test set was not read


@pytest.mark.slow
def test_two_tuners_on_one_postgresql_share_the_work(database: str, tmp_path: Path) -> None:
    """Each with results of its own, as on two machines."""
    tuners = [
        subprocess.Popen(
            command(*arguments, module="ablations.tune"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "other")
        for arguments in [
            [*TINY, "--trials", "4", "--results", str(tmp_path / name), "--storage", database, "--workers", "1"]
        ]
    ]
    outputs = [tuner.communicate() for tuner in tuners]
    assert [tuner.returncode for tuner in tuners] == [0, 0], outputs
    for done in trials_of(database).values():
        assert sorted(trial.state.name for trial in done) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    ended = [[line for line in output.splitlines() if " at " in line] for output, _ in outputs]
    assert all(ended), "one of them had nothing to do"
    assert len(set(ended[0] + ended[1])) == len(ended[0] + ended[1]) == 8  # each trial came to its end once
    winners = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("tuned.json"))]
    assert len(winners) == 2
    assert winners[0] == winners[1]
    written = [path.read_text() for path in tmp_path.rglob("report.md")]
    assert PASSWORD not in str([outputs, written])
