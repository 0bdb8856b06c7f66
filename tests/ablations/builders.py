"""Runs and records made by hand, for tests that need some but train nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ablations.catalog import load_study
from ablations.records import RunRecord, Store, pack_correctness
from ablations.runs import Run
from nin.history import Evaluation

NUM_TEST = 200


def smoke_runs(study: str = "num_1x1", seeds: int = 2, variants: list[str] | None = None) -> tuple[Run, ...]:
    return load_study(study).expand("smoke", seeds, variants)


def record_of(run: Run, status: str = "finished", test_accuracy: float = 0.8, **changes: object) -> RunRecord:
    """A plausible record of `run`: a curve that rises to `test_accuracy` over four evaluations."""
    curve = [
        Evaluation(
            examples=256 * k,
            epoch=k / 2,
            train_loss=2.3 / k,
            train_accuracy=test_accuracy * k / 4,
            val_loss=2.3 / k,
            val_accuracy=test_accuracy * k / 4,
            dead_classes=0,
            seconds=0.5 * k,
        )
        for k in range(1, 5)
    ]
    correct = np.arange(NUM_TEST) < test_accuracy * NUM_TEST - 0.5
    record = RunRecord(
        run=run,
        run_id=run.run_id,
        status=status,
        params_trunk=1000,
        params_head=100,
        gflops=0.002,
        environment={"device": "cpu (test)"},
        train_accuracy=test_accuracy + 0.02,
        val_accuracy=test_accuracy,
        test_accuracy=test_accuracy,
        test_loss=0.5,
        test_correct=pack_correctness(correct),
        test_examples=NUM_TEST,
        data_checksum="0" * 64,
        examples_seen=1024,
        peak_memory_bytes=10_000_000,
        prediction_memory_bytes=4_000_000,
        shifted_accuracy=test_accuracy - 0.05,
        train_seconds=2.0,
        wall_seconds=2.5,
        started_at="2026-01-01T00:00:00+00:00",
        curve=curve,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def filled(results: Path, record: Callable[[Run], RunRecord], seeds: int = 3, study: str = "num_1x1") -> Store:
    """A store with a record of every run of a study under `smoke`."""
    store = Store(results, study, "smoke")
    for run in load_study(study).expand("smoke", seeds):
        store.write(record(run))
    return store


def accuracy(run: Run) -> float:
    """A plausible test accuracy: rises with the number of 1x1s, with noise that the seed decides."""
    noise = np.random.default_rng([run.seed, run.model.num_1x1]).normal(0, 0.004)
    return float(0.80 + 0.03 * run.model.num_1x1 + noise)


def plain(run: Run) -> RunRecord:
    return record_of(run, test_accuracy=accuracy(run))


def sized(run: Run) -> RunRecord:
    """A plain record whose sizes grow with the number of 1x1s."""
    factor = 1 + run.model.num_1x1
    return replace(plain(run), params_trunk=1000 * factor, gflops=0.002 * factor)


def text_of(store: Store) -> str:
    """The text of a store's report."""
    return (store.folder / "report.md").read_text()


def opening(store: Store) -> str:
    """The answer of a store's report and its grounds."""
    return "\n\n".join(text_of(store).split("\n\n")[1:3])
