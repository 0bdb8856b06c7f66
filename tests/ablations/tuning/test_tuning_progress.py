"""The bar of tuning counts the work that halving takes, and ends when it does."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from toys import Toy, examples, toy_tasks, tune_toy

from ablations import tune
from ablations.execution.time_left import TimeLeft
from ablations.records import Store
from ablations.tracking.tracker import Tracker
from ablations.tuning import halving
from ablations.tuning.progress import TuningDisplay, rung_of, stretches
from ablations.tuning.session import winners_table
from ablations.tuning.storage import StorageClaims
from ablations.tuning.task import rungs_of, winners_of


@pytest.mark.parametrize("trials", [1, 4, 6, 11])
def test_the_work_planned_is_the_work_done(tmp_path: Path, trials: int) -> None:
    (task,) = toy_tasks(tmp_path, trials, ["2x"])
    planned = sum(share for _, share in stretches("2x", task.rungs, 0, trials, task.is_paired))
    tune_toy(tmp_path, [task])
    assert planned * 512 * 3 == sum(examples(task))


def test_trials_that_are_compared_seed_by_seed_are_planned_whole() -> None:
    assert sum(share for _, share in stretches("2x", rungs_of("accuracy", 6), 0, 5, is_paired=True)) == 30
    assert sum(share for _, share in stretches("2x", rungs_of("accuracy,params", 2), 0, 5, is_paired=False)) == 10


@pytest.mark.parametrize("failures", [{}, {1: 1}, {1: halving.TRIES}])
def test_the_bar_is_full_at_the_end_whatever_fails_on_the_way(tmp_path: Path, failures: dict[int, int]) -> None:
    tasks = toy_tasks(tmp_path, 8)
    terminal = Console(file=StringIO(), force_terminal=True, width=80)
    claims = StorageClaims(tasks[0].trials._storage, "claims")
    store = Store(tmp_path, "toy-tuning", "smoke")
    with TuningDisplay(tasks, terminal, workers=2, probe=lambda run: 10.0) as display:
        total = display._bars.tasks[0].total
        assert total is not None
        halving.tune(tasks, lambda at: Toy(at, failures), claims, store, Tracker(), lambda line: None, display.watch)
        remaining = total - display._bars.tasks[0].completed
    lost_for_good = failures == {1: halving.TRIES}
    most_lost = 3 * display._work[next(iter(display._work))] if lost_for_good else 0.0  # of that trial
    assert -1e-9 <= remaining <= most_lost + 1e-9
    assert isinstance(terminal.file, StringIO)
    assert "0 of 16 trials" in terminal.file.getvalue()


def test_without_a_terminal_lines_end_in_the_time_left(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4, ["2x"])
    plain = Console(file=StringIO())
    assert TuningDisplay(tasks, plain, workers=1).left() == ""
    assert (
        TuningDisplay(tasks, plain, workers=1, probe=lambda run: 60.0).left() == "; about 3 min left"
    )  # 2.75 trainings


def test_the_last_table_names_the_winner_and_what_it_changes(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4)
    tune_toy(tmp_path, tasks)
    winners = winners_of(tasks)
    console = Console(file=StringIO(), width=100)
    console.print(winners_table(tasks, winners, 100))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    for name, winner in winners.items():
        (line,) = (line for line in text.splitlines() if f" {name} " in line)
        assert f"{100 * winner.value:.2f}" in line
        assert f"lr {winner.params['train.lr']:.3g}" in line


def test_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--list"]) == 0
    assert "num_1x1 " in capsys.readouterr().out


def test_dry_run_says_what_would_be_trained_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--protocol", "smoke", "--variants", "0x", "--trials", "4", "--workers", "1", "--dry-run"]
    assert tune.main(["num_1x1", *options, "--set", "train.lr=0.1", "--results", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "2.75" in said
    assert "searched: train.weight_decay, " in said  # lr is set, and AdamW has no momentum
    assert "8 trials from the first on, " in said
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("study", "message"),
    [("batch_memory", "study 'batch_memory' measures memory"), ("init_lr", "'init_lr' asks how often runs fail")],
)
def test_what_is_not_about_accuracy_is_not_tuned(study: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tune.main([study, "--protocol", "smoke", "--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_dry_run_of_what_does_not_fit_into_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> float:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("ablations.execution.worker.seconds_per_image", too_large)
    with pytest.raises(ValueError, match=r"^variant '2x' cannot be trained here: CUDA out of memory"):
        tune.main(["num_1x1", "--protocol", "smoke", "--variants", "0x", "--dry-run"])


@pytest.mark.parametrize(
    ("variants", "trials", "workers", "trainings"), [(1, 40, 16, 10), (1, 20, 4, 5), (6, 20, 2, 32.25)]
)
def test_workers_wait_for_each_other_at_every_rung(variants: int, trials: int, workers: int, trainings: float) -> None:
    rungs = rungs_of("accuracy", 1)
    work = {s: share for k in range(variants) for s, share in stretches(str(k), rungs, 0, trials, is_paired=False)}
    left = TimeLeft(work, workers, sum(work.values()), stage_of=rung_of)
    assert left.seconds(0.0) == pytest.approx(trainings)
