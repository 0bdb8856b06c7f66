"""A worker executes a run in the precision that its device is made for, and says where and from which code."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from builders import smoke_runs

from ablations.execution import worker
from ablations.execution.worker import code_commit, environment_of, execute, probe
from ablations.runs import Run
from nin.machine import is_here
from nin.spec import ACCELERATORS
from nin.train import Grid


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without instructions for bf16."""
    monkeypatch.setattr("nin.precision.native_formats", lambda device: frozenset())


def short(precision: str) -> Run:
    return smoke_runs(seeds=1)[0].with_settings(
        {"train.precision": precision, "train.epochs": 1, "data.train_examples": 64}
    )


@pytest.mark.usefixtures("no_bf16")
def test_a_run_of_auto_is_computed_in_what_the_device_has_and_says_so() -> None:
    auto, float32 = (execute(short(precision)).record for precision in ("auto", "float32"))
    assert auto.environment["precision"] == auto.precision == "float32"
    assert [point.train_loss for point in auto.curve] == [point.train_loss for point in float32.curve]
    assert auto.run_id != float32.run_id


@pytest.mark.usefixtures("no_bf16")
def test_an_emulated_precision_that_is_forced_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="no instructions for bf16 and emulates them"):
        record = execute(short("bf16")).record
    assert record.precision == "bf16"


def test_a_driver_without_the_workers_device_describes_a_failed_run() -> None:
    elsewhere = next(kind for kind in ACCELERATORS if not is_here(torch.device(kind)))
    assert "precision" not in environment_of(short("auto"), elsewhere, "")
    assert "precision" in environment_of(short("auto"), "cpu", "")


def test_a_run_says_how_many_threads_it_had_and_a_driver_does_not_guess() -> None:
    before = torch.get_num_threads()
    try:
        assert [execute(short("float32"), threads=n).record.environment["threads"] for n in (1, 2)] == ["1", "2"]
    finally:
        torch.set_num_threads(before)
    assert "threads" not in environment_of(short("float32"), "cpu", "")


def test_a_probe_leaves_the_callers_threads_and_random_numbers_alone() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert probe(short("float32"), "cpu", threads + 1) > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("images", "batch_size"), [(64, 16), (20, 16), (10, 16)])
def test_a_probe_takes_the_fastest_step_but_the_first(
    images: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the images are fewer than its steps take, or than a batch."""
    clock = iter([0, 50, 60, 62, 70, 80, 87, 90, 95, 100])  # starts and ends of steps; the second takes 2 s
    monkeypatch.setattr("nin.train.timestamp", lambda device: float(next(clock)))
    changes = {"data.train_examples": images, "train.batch_size": batch_size, "train.epochs": 1}
    run = smoke_runs(seeds=1)[0].with_settings({**changes, "train.precision": "float32"})
    evaluated = len(Grid(run.train, images).steps) * 200 + 3 * 200
    assert probe(run, "cpu") == pytest.approx(2 / min(images, batch_size) * (images + evaluated / 3))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_repository_that_tracks_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed copy lies untracked in somebody else's repository."""
    file = tmp_path / "worker.py"
    file.touch()
    monkeypatch.setattr(worker, "__file__", str(file))

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "theirs")
    assert code_commit.__wrapped__() == ""
    git("add", "worker.py")
    git("commit", "-m", "ours")
    assert len(code_commit.__wrapped__()) == 40
