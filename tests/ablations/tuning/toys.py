"""Tuning without training: an engine that makes up how accurate a run is, and tasks for it."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import optuna

from ablations.catalog import load_study
from ablations.execution.engines import Ended, Event, Failed, Started
from ablations.records import RunRecord, Store
from ablations.runs import Run
from ablations.tracking.tracker import Tracker
from ablations.tuning import halving
from ablations.tuning.spaces import Range
from ablations.tuning.storage import StorageClaims, open_storage
from ablations.tuning.task import Task
from nin.history import Evaluation

NUM_1X1 = load_study("num_1x1")
optuna.logging.set_verbosity(optuna.logging.ERROR)


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


def tune_toy(
    tmp_path: Path, tasks: list[Task], fail: dict[int, int] | None = None, fail_from: float = 0.0
) -> list[str]:
    """Tune; the lines that were said. `fail_from` is the share of a training from which on runs fail."""
    said: list[str] = []
    failures = dict(fail or {})
    claims = StorageClaims(tasks[0].trials._storage, "claims")
    store = Store(tmp_path, "toy-tuning", "smoke")
    halving.tune(tasks, lambda at: Toy(at, failures if at >= fail_from else {}), claims, store, Tracker(), said.append)
    return said


def examples(task: Task) -> list[int]:
    return [trial.user_attrs["examples"] for trial in task.trials.get_trials()]
