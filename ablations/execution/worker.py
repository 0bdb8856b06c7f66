"""Execute one run: Run -> RunRecord. Workers of every engine call this.

It writes nothing but the run's own checkpoint.
"""

import math
import platform
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from ablations.plugins import Plugin, install, module_label
from ablations.records import Executed, RunRecord, Store, pack_correctness
from ablations.runs import Run, code_of
from nin.data import AUGMENTATIONS, ImageData, load
from nin.history import Evaluation
from nin.machine import cpu_threads, device_name, is_here
from nin.memory import prediction_memory, training_memory
from nin.model import build_model
from nin.precision import precision_on, slow_precision
from nin.registry import added
from nin.shift import shifted_score
from nin.sizes import NetworkSize, size
from nin.spec import DataSpec, ModelSpec, TrainSpec, choose
from nin.train import OPTIMIZERS, SCHEDULES, Grid, evaluate, require_batches, train
from nin.weights import Card, to_bytes

PROBED_STEPS = 4
PASSES_OVER_TEST = 3  # after training: test images, as many training images, and shifted test images


def execute(
    run: Run,
    on_eval: Callable[[Evaluation], None] = lambda _: None,
    *,
    device: str = "cpu",
    threads: int = 1,
    keep_weights: bool = False,
    results: Path | None = None,
    commit: str | None = None,
    pause_at: float = 0,
    plugins: Sequence[Plugin] = (),
) -> Executed:
    """Train and test one network. `on_eval` receives each evaluation. With `keep_weights` the result includes the weights.

    On a CPU the result depends on `threads`, in the last digits: sums are split among them.

    results   where the run's checkpoint is kept (`Store.checkpoint`), from which a run goes on that was killed; unused where the
              folder for it does not exist, as on a machine that does not share it
    pause_at  share of the training after which the run pauses (`nin.train.train`); its record is then not a result and the test
              set is not read
    commit    of this code, where a worker's copy of it does not know; else it is looked up
    plugins   code outside this package that adds what the run names, to be loaded first

    The test set is read once, after the last step. Raises ValueError if that code is another version here, and whatever
    training raises; a loss that is not finite and a network that never leaves chance are outcomes, not errors.
    """
    install(plugins)
    _require_same_code(run)
    torch.set_num_threads(threads)
    if advice := slow_precision(device, run.train.precision):
        warnings.warn(advice, stacklevel=2)
    started, started_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    data = load_cached(run.data.for_seed(run.seed), device)
    model = build_model(run.model, data.in_shape, data.num_classes, seed=run.seed)
    checkpoint = Store(results, run.study, run.protocol).checkpoint(run.run_id) if results else None
    if checkpoint and not checkpoint.parent.is_dir():
        checkpoint = None
    pause_after = math.ceil(pause_at * run.train.images(len(data.train.labels)))
    history = train(model, data, run.train, on_eval, seed=run.seed, checkpoint=checkpoint, pause_after=pause_after)
    network, last = network_size(run, data), history.curve[-1]
    record = RunRecord(
        run=run,
        run_id=run.run_id,
        status=history.outcome,
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment=environment_of(run, device, code_commit() if commit is None else commit, threads),
        val_accuracy=last.val_accuracy,
        dead_classes=last.dead_classes,
        data_checksum=data.checksum,
        examples_seen=last.examples,
        train_seconds=last.seconds,
        started_at=started_at,
        curve=history.curve,
    )
    if history.outcome == "paused" or (pause_at and history.outcome == "diverged"):
        return Executed(record)
    record = _tested(record, model, data, device)
    record = replace(record, wall_seconds=history.seconds_before + time.perf_counter() - started)
    return Executed(record, to_bytes(model, _card(record, data)) if keep_weights else b"")


def _require_same_code(run: Run) -> None:
    """Raise ValueError unless the code that adds what the run names is here what it was when the run was made."""
    code = code_of(run.settings)
    if run.code and not code:
        raise ValueError(
            "what this run names is not added when a worker executes its file: add it there at the top level, outside "
            "functions and `if __name__ == '__main__':`"
        )
    if code != run.code:
        raise ValueError(
            "the code that adds what this run names has changed since it was loaded: call the command again, or in a notebook "
            "restart the kernel"
        )


def _tested(record: RunRecord, model: nn.Module, data: ImageData, device: str) -> RunRecord:
    """Add to the record what is measured after training: train and test scores, and memory. Reads the test set."""
    run = record.run
    train_score, _ = evaluate(model, data, data.train.first(len(data.test.labels)), run.train)
    test_score, correct = evaluate(model, data, data.test, run.train)
    return replace(
        record,
        train_accuracy=train_score.accuracy,
        test_accuracy=test_score.accuracy,
        test_loss=test_score.loss,
        dead_classes=test_score.dead_classes,
        test_correct=pack_correctness(correct.numpy()),
        test_examples=len(correct),
        peak_memory_bytes=_memory(run.model, run.data.for_seed(run.seed), run.train, device),
        prediction_memory_bytes=prediction_memory(run.model, data, run.train),
        shifted_accuracy=shifted_score(model, data, run.train).accuracy,
    )


def probe(run: Run, device: str, threads: int = 1) -> float:
    """Seconds that the run would take, by `seconds_per_image`."""
    return seconds_per_image(run, device, threads) * images_passed(run, device)


def images_passed(run: Run, device: str) -> float:
    """Images that pass through the network, evaluations included: a forward pass is about a third of a training step."""
    data = load_cached(run.data, device)
    num_examples, num_val, num_test = (len(part.labels) for part in (data.train, data.val, data.test))
    evaluated = len(Grid(run.train, num_examples).steps) * num_val + PASSES_OVER_TEST * num_test
    return run.train.images(num_examples) + evaluated / 3


def seconds_per_image(run: Run, device: str, threads: int = 1) -> float:
    """Seconds of training per image, from the fastest of a few steps on this device, after one to warm up.

    The fastest, because other load on the machine only slows the others down. The steps are of one training, since the first
    step of any makes the optimiser's state, which for large layers takes longer than the step.
    """
    data = load_cached(run.data, device)
    model = build_model(run.model, data.in_shape, data.num_classes, seed=run.seed)
    num_examples = len(data.train.labels)
    batch_size, num_steps = min(run.train.batch_size, num_examples), 1 + PROBED_STEPS
    part = data.first(batch_size * min(num_steps, num_examples // batch_size), 1)
    steps = replace(run.train, examples=num_steps * batch_size, eval_every=batch_size)
    with cpu_threads(threads), torch.random.fork_rng(devices=[]):  # a notebook's stay as they are
        points = train(model, part, steps, seed=run.seed).curve
    if len(points) == 1:  # it has diverged
        return points[0].seconds / points[0].examples
    return min(
        (after.seconds - before.seconds) / (after.examples - before.examples) for before, after in pairwise(points)
    )


def network_size(run: Run, data: ImageData) -> NetworkSize:
    """Parameters and FLOPs of a run's network. Raises ValueError for anything in the run that does not exist or fit."""
    choose(OPTIMIZERS, run.train.optimizer, "optimizer")
    choose(SCHEDULES, run.train.schedule, "schedule")
    choose(AUGMENTATIONS, run.data.augment, "augmentation")
    network = size(run.model, data.in_shape, data.num_classes)
    Grid(run.train, len(data.train.labels))
    with torch.device("meta"):
        require_batches(build_model(run.model, data.in_shape, data.num_classes), len(data.train.labels), run.train)
    return network


@lru_cache(maxsize=2)
def load_cached(spec: DataSpec, device: str) -> ImageData:
    """The data of a run, kept from one run of a process to the next."""
    return load(spec, device=device)


@lru_cache
def _memory(model: ModelSpec, data: DataSpec, train: TrainSpec, device: str) -> int:
    """Measure peak memory once for all seeds of a process that share their data; it does not depend on the values."""
    return training_memory(model, load_cached(data, device), train)


def environment_of(run: Run, device: str, commit: str, threads: int = 0) -> dict[str, str]:
    """Describe where, in which precision and with how many threads a run executed, and the plugins it used, with digests.

    A driver leaves out the threads, which are its worker's, and the precision if it has no such device.
    """
    own = {"threads": str(threads)} if threads else {}
    used = {"precision": precision_on(device, run.train.precision)} if is_here(torch.device(device)) else {}
    plugins = sorted({f"{module_label(addition.module)} {addition.digest}" for addition in added(run.settings)})
    return environment(device, commit) | own | used | ({"plugins": ", ".join(plugins)} if plugins else {})


@lru_cache
def environment(device: str, commit: str) -> dict[str, str]:
    """Describe where runs execute: device, versions, host, commit of this code."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": device_name(device),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "" if on_gpu else "",
        "commit": commit,
    }


def _card(record: RunRecord, data: ImageData) -> Card:
    """The card stored with a run's weights, without the name of the machine that trained it."""
    from ablations.analysis.stats import wilson  # here, because loading it takes longer than most of what workers load

    run = record.run
    accuracy = wilson(int(record.test_correctness().sum()), record.test_examples)
    normalized = run.data.normalize
    channels, height, width = data.test.images.shape[1:]
    return Card(
        name=f"{run.study}/{run.protocol}/{run.name}:{run.seed}",
        run_id=run.run_id,
        seed=run.seed,
        outcome=record.status,
        model=run.model,
        data=run.data.for_seed(run.seed),
        train=replace(run.train, precision=record.precision),
        image_shape=(channels, height, width),
        in_shape=data.in_shape,
        classes=data.classes,
        mean=tuple(data.mean.tolist()) if normalized else (0.0,) * channels,
        std=tuple(data.std.tolist()) if normalized else (1.0,) * channels,
        data_checksum=data.checksum,
        test_accuracy=record.test_accuracy,
        test_interval=(accuracy.low, accuracy.high),
        test_examples=record.test_examples,
        params_trunk=record.params_trunk,
        params_head=record.params_head,
        gflops=record.gflops,
        environment={key: value for key, value in record.environment.items() if key != "host"},
    )


@cache
def code_commit() -> str:
    """The commit of the working tree this code is in, with "+" if it has changes; empty for code that no repository tracks."""
    file = Path(__file__)
    git = ["git", "-C", str(file.parent)]
    try:
        # An installed copy may lie in somebody else's repository.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, timeout=10, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
