"""One run, executed: Run -> RunRecord. This is what a worker does, whichever engine it belongs to; it writes nothing."""

import platform
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

from ablations.records import RunRecord, pack_correctness
from ablations.study import Run
from nin.data import AUGMENTATIONS, ImageData, Split, load
from nin.history import Evaluation
from nin.machine import device_name
from nin.measure import NetworkSize, size
from nin.model import build_model
from nin.spec import DataSpec, choose
from nin.train import OPTIMIZERS, SCHEDULES, evaluate, train


def execute(
    run: Run, on_eval: Callable[[Evaluation], None] = lambda _: None, *, device: str = "cpu", threads: int = 1
) -> RunRecord:
    """Train and test one network; `on_eval` hears of each point of its learning curve.

    On a CPU the result depends on `threads`, in the last digits: sums are split among them.

    The test set is read once, here, after the last step. Raises whatever training raises; a loss that is not finite and a
    network that never leaves chance are outcomes, not errors.
    """
    torch.set_num_threads(threads)
    started, started_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    data = load_cached(run.data, device)
    model = build_model(run.model, data.in_shape, data.num_classes, seed=run.seed)
    history = train(model, data, run.train, on_eval, seed=run.seed)
    seen_in_training = Split(data.train.images[: len(data.test.labels)], data.train.labels[: len(data.test.labels)])
    train_score, _ = evaluate(model, data, seen_in_training, run.train)
    test_score, correct = evaluate(model, data, data.test, run.train)
    network = network_size(run, data)
    last = history.curve[-1]
    return RunRecord(
        run=run,
        run_id=run.run_id,
        status=history.outcome,
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment=environment(device),
        train_accuracy=train_score.accuracy,
        val_accuracy=last.val_accuracy,
        test_accuracy=test_score.accuracy,
        test_loss=test_score.loss,
        dead_classes=test_score.dead_classes,
        test_correct=pack_correctness(correct.numpy()),
        test_examples=len(correct),
        data_checksum=data.checksum,
        examples_seen=last.examples,
        train_seconds=last.seconds,
        wall_seconds=time.perf_counter() - started,
        started_at=started_at,
        curve=history.curve,
    )


def probe(run: Run, device: str) -> float:
    """Seconds that the run would take, judged from a few training steps on this device after one to warm up."""
    data = load_cached(run.data, device)
    model = build_model(run.model, data.in_shape, data.num_classes, seed=run.seed)

    def seconds_per_example(num_batches: int) -> float:
        few = num_batches * run.train.batch_size
        part = replace(
            data,
            train=Split(data.train.images[:few], data.train.labels[:few]),
            val=Split(data.val.images[:1], data.val.labels[:1]),
        )
        last = train(model, part, replace(run.train, epochs=1, evals_per_epoch=1), seed=run.seed).curve[-1]
        return last.seconds / last.examples

    seconds_per_example(1)
    evaluated = run.train.epochs * run.train.evals_per_epoch * len(data.val.labels) + 2 * len(data.test.labels)
    # A forward pass is about a third of a training step.
    return seconds_per_example(4) * (run.train.epochs * len(data.train.labels) + evaluated / 3)


def network_size(run: Run, data: ImageData) -> NetworkSize:
    """Parameters and FLOPs of a run's network. Raises ValueError for anything in the run that does not exist or fit."""
    choose(OPTIMIZERS, run.train.optimizer, "optimizer")
    choose(SCHEDULES, run.train.schedule, "schedule")
    choose(AUGMENTATIONS, run.data.augment, "augmentation")
    return size(run.model, data.in_shape, data.num_classes)


@lru_cache(maxsize=2)
def load_cached(spec: DataSpec, device: str) -> ImageData:
    """The data of a run, kept from one run of a process to the next."""
    return load(spec, device=device)


@lru_cache
def environment(device: str) -> dict[str, str]:
    """Where a run was executed: device, threads, versions, host, commit of this code."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "" if on_gpu else "",
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the working tree this code is in, with "+" if it has changes; empty outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
