"""Train a network by minibatch descent, and evaluate it on a grid of training images seen.

`train` takes a network and data and builds neither. Within an epoch the host never waits for an accelerator: losses and counts stay
there as tensors until the end of the epoch. On the CPU they are read at each evaluation.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from nin._malloc import keep_freed_memory
from nin.blocks import last_layer
from nin.checkpoint import Checkpoint
from nin.data import AUGMENTATIONS, ImageData, Split
from nin.fast import fast_layers, is_finite
from nin.history import Evaluation, History, Score
from nin.machine import kept_random_state, seconds_between, timestamp
from nin.precision import autocast, precision_on
from nin.registry import Registry, digest
from nin.spec import TRAINER_VERSION, TrainSpec, choose, stream

EVAL_BATCH = 500  # images; larger ones are slower on a CPU, whose caches they leave
# Factor of losses in float16. It grows by itself; torch's own, 2^16, overflows in the first steps.
FIRST_SCALE = 2.0**12
MAX_POINTS = 100_000  # points of a learning curve; one more digit in an option would fill memory before the first step
CHANCE_DEVIATIONS = 3  # a network has left chance when its accuracy is this many standard errors above guessing

ParameterGroups = list[dict[str, object]]

OPTIMIZERS: Registry[Callable[[ParameterGroups, TrainSpec], Optimizer]] = Registry(
    "optimizer",
    "train.optimizer",
    {
        "sgd": lambda groups, spec: SGD(
            groups, spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
        ),
        "adamw": lambda groups, spec: AdamW(groups, spec.lr, weight_decay=spec.weight_decay, fused=True),
    },
)

# Each is stepped after every batch; one-cycle rises for 30 % of the steps and leaves the momentum alone.
SCHEDULES: Registry[Callable[[Optimizer, int], LRScheduler]] = Registry(
    "schedule",
    "train.schedule",
    {
        "none": lambda optimizer, steps: LambdaLR(optimizer, lambda _: 1.0),
        "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
        "one-cycle": lambda optimizer, steps: OneCycleLR(
            optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=steps, cycle_momentum=False
        ),
    },
)


def train(
    model: nn.Module,
    data: ImageData,
    spec: TrainSpec,
    on_eval: Callable[[Evaluation], None] = lambda _: None,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    pause_after: int = 0,
) -> History:
    """Train `model` in place on `data.train`, evaluating on `data.val`.

    The model is moved to the device of the data. `seed` fixes the order of images, augmentation and dropout, each in its own
    stream (torch's global random state is set); `on_eval` is called with each point of the curve in order, and may draw random
    numbers of torch's without changing the training.

    checkpoint   file in which the state is saved at evaluations. If it exists, training resumes from it; `on_eval` first
                 receives the earlier points. On a CPU the result equals an uninterrupted training. The file is not removed.
    pause_after  pause at the first evaluation after this many training images, on a GPU at the end of its epoch (outcome
                 "paused"); 0: never

    Raises ValueError for an unknown optimizer or schedule, and as `require_batches` does.
    """
    require_batches(model, len(data.train.labels), spec)
    device = data.train.images.device
    spec = replace(spec, precision=precision_on(device, spec.precision))
    if device.type == "cpu":
        keep_freed_memory(model)
    memory_format = torch.channels_last if spec.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    grid = Grid(spec, len(data.train.labels))
    scaler = GradScaler(device.type, FIRST_SCALE, enabled=spec.precision == "float16")  # else it changes nothing
    optimizer = _make_optimizer(model, spec, scaler)
    schedule = choose(SCHEDULES, spec.schedule, "schedule")(optimizer, grid.steps[-1])
    torch.manual_seed(stream(seed, "dropout"))

    curve: list[Evaluation] = []
    saved = None
    if checkpoint:
        belongs_to = {
            **asdict(spec),
            "seed": int(seed),  # numpy's could not be read back
            "network": repr(model),
            "data": data.checksum,
            "data settings": asdict(data.spec),
            "code": _sources(model, data, spec),
            "trainer": TRAINER_VERSION,
        }
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        saved = Checkpoint(checkpoint, parts | ({"scaler": scaler} if scaler.is_enabled() else {}), device, belongs_to)
        curve = saved.restore()
    if pause_after:  # what an earlier call has trained after that point is not shown
        del curve[1 + sum(point.examples < pause_after for point in curve) :]

    def tell(point: Evaluation) -> None:
        with kept_random_state(device):
            on_eval(point)

    for point in curve:
        tell(point)

    def has_to_pause() -> bool:
        return bool(pause_after and curve and curve[-1].examples >= pause_after)

    clock = _Clock(device, curve)
    if has_to_pause():
        return History("paused", curve, clock.seconds_before)
    steps_done = grid.steps[len(curve) - 1] if curve else 0
    batches = _batches_from(steps_done, grid, data, spec, seed)
    unread: list[tuple[int, _Accumulator, _Accumulator]] = []
    for step, is_last_of_epoch in grid.from_point(len(curve)):
        clock.start()
        trained = _train_steps(model, islice(batches, step - steps_done), optimizer, schedule, scaler, spec)
        clock.stop()
        steps_done = step
        unread.append((grid.examples_at(step), trained, _accumulator(model, data, data.val, spec)))
        if device.type != "cpu" and not is_last_of_epoch:
            continue  # reading now would wait for the device
        for examples, trained, validated in unread:
            seconds = clock.seconds(num_segments=len(curve) + 1)
            point = _evaluation(examples, examples / grid.num_examples, trained.score(), validated.score(), seconds)
            curve.append(point)
            tell(point)
            if not (math.isfinite(point.train_loss) and math.isfinite(point.val_loss)):
                return History("diverged", curve, clock.seconds_before)
        unread.clear()
        if has_to_pause():
            if saved:
                saved.save(curve)
            return History("paused", curve, clock.seconds_before)
        if saved:
            saved.save_if_due(curve)
    outcome = "finished" if has_left_chance(curve, data.val.labels) else "collapsed"
    return History(outcome, curve, clock.seconds_before)


def _sources(model: nn.Module, data: ImageData, spec: TrainSpec) -> dict[str, str]:
    """Return digests of the code from elsewhere that takes part: network, optimiser, schedule, augmentation.

    Code without a source, such as that of a Python prompt, has none.
    """
    named = (OPTIMIZERS[spec.optimizer], SCHEDULES[spec.schedule], AUGMENTATIONS[data.spec.augment])
    used: set[Any] = {*map(type, model.modules()), *named}
    sources: dict[str, str] = {}
    for each in used:
        if each.__module__.partition(".")[0] not in ("nin", "torch"):
            with suppress(OSError, TypeError):
                sources[f"{each.__module__}.{each.__qualname__}"] = digest(inspect.getsource(each).encode())
    return sources


def _make_optimizer(model: nn.Module, spec: TrainSpec, scaler: GradScaler) -> Optimizer:
    optimizer = choose(OPTIMIZERS, spec.optimizer, "optimizer")(_parameter_groups(model, spec), spec)
    if scaler.is_enabled() and isinstance(optimizer, SGD) and spec.momentum:
        for parameter in model.parameters():  # fused SGD leaves it undefined if the first step overflows
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _evaluation(examples: int, epoch: float, train_score: Score, val_score: Score, seconds: float) -> Evaluation:
    return Evaluation(
        examples=examples,
        epoch=epoch,
        train_loss=train_score.loss,
        train_accuracy=train_score.accuracy,
        val_loss=val_score.loss,
        val_accuracy=val_score.accuracy,
        dead_classes=val_score.dead_classes,
        seconds=seconds,
    )


def has_left_chance(curve: Sequence[Evaluation], val_labels_N: Tensor) -> bool:
    """Return whether validation accuracy was above chance (`chance_level`) at some point of the curve."""
    return max(point.val_accuracy for point in curve) > chance_level(val_labels_N)


def require_batches(model: nn.Module, num_examples: int, spec: TrainSpec) -> None:
    """Raise ValueError unless every batch that meets batch normalisation has two or more images to average over.

    Torch refuses a batch of one image only at the end of the first epoch, and only where maps are of one pixel; elsewhere it
    normalises the image by itself and updates the running statistics from it.
    """
    last = num_examples % spec.batch_size or min(spec.batch_size, num_examples)
    reached = spec.images(num_examples) > num_examples - last
    if (spec.batch_size == 1 or (last == 1 and reached)) and any(
        isinstance(module, _BatchNorm) for module in model.modules()
    ):
        raise ValueError(
            f"train.batch_size={spec.batch_size} leaves a batch of one of {num_examples:,} training images, in which batch "
            "normalisation has nothing to average over: choose another batch size or another data.train_examples"
        )


def evaluate(model: nn.Module, data: ImageData, split: Split, spec: TrainSpec) -> tuple[Score, Tensor]:
    """Return the score of `model` on `split`, and whether each image is classified correctly: (N,) bool, on the CPU."""
    spec = replace(spec, precision=precision_on(split.images.device, spec.precision))
    accumulator = _accumulator(model, data, split, spec)
    return accumulator.score(), accumulator.correct().cpu()


def chance_level(labels_N: Tensor) -> float:
    """Return the accuracy below which N predictions cannot be distinguished from always naming the most frequent class.

    If N is so small that the level exceeds the middle between that class's share and 1, the share itself is the level: otherwise
    ten images of two classes could hardly show that a network has learned.
    """
    share = float(torch.bincount(labels_N.cpu()).max()) / len(labels_N)
    level = share + CHANCE_DEVIATIONS * math.sqrt(share * (1 - share) / len(labels_N))
    return level if level <= (1 + share) / 2 else share


def _train_steps(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    schedule: LRScheduler,
    scaler: GradScaler,
    spec: TrainSpec,
) -> "_Accumulator":
    model.train()
    accumulator = _Accumulator()
    with fast_layers(model, spec.precision) as are_fast:
        for x_NCHW, labels_N in batches:
            with autocast(x_NCHW.device, spec.precision):
                logits_NK = model(x_NCHW)
            logits_NK = logits_NK.float()
            loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=spec.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)  # fused optimisers skip a step that overflowed without telling the host
            scaler.update()
            schedule.step()
            accumulator.add(loss.detach(), logits_NK.detach(), labels_N)
    if are_fast and not is_finite(model):  # which fast layers can hide from the loss
        accumulator.mean_losses[-1] = torch.tensor(math.nan)
    return accumulator


@torch.no_grad()
def _accumulator(model: nn.Module, data: ImageData, split: Split, spec: TrainSpec) -> "_Accumulator":
    model.eval()
    accumulator = _Accumulator()
    with fast_layers(model, spec.precision):
        for x_NCHW, labels_N in data.batches(split, EVAL_BATCH, channels_last=spec.channels_last):
            with autocast(x_NCHW.device, spec.precision):
                logits_NK = model(x_NCHW)
            logits_NK = logits_NK.float()
            accumulator.add(F.cross_entropy(logits_NK, labels_N), logits_NK, labels_N)
    return accumulator


@dataclass
class _Accumulator:
    """Accumulate losses, logits and labels on the device; `score` reads them, so that a step never waits."""

    mean_losses: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def add(self, mean_loss: Tensor, logits_NK: Tensor, labels_N: Tensor) -> None:
        self.mean_losses.append(mean_loss)
        self.logits.append(logits_NK)
        self.labels.append(labels_N)

    def correct(self) -> Tensor:
        """Mark correct predictions: (N,) bool."""
        return self._predictions() == torch.cat(self.labels)

    def score(self) -> Score:
        predictions_N, labels_N, num_classes = self._predictions(), torch.cat(self.labels), self.logits[0].shape[1]
        mean_losses = torch.stack(self.mean_losses)
        sizes = torch.tensor([float(len(part_N)) for part_N in self.labels], device=mean_losses.device)
        predicted_K, there_K = (
            torch.bincount(each_N, minlength=num_classes) > 0 for each_N in (predictions_N, labels_N)
        )
        return Score(
            loss=float((mean_losses * sizes).cpu().double().sum()) / len(predictions_N),  # an Apple GPU has no float64
            accuracy=int((predictions_N == labels_N).sum()) / len(predictions_N),
            dead_classes=int((there_K & ~predicted_K).sum()),
        )

    def _predictions(self) -> Tensor:
        return torch.cat(self.logits).argmax(dim=1)


class _Clock:
    """Measure time on the device between start and stop, summed over segments; accelerators record events, so nothing waits.

    curve  evaluations of the same training in an earlier process: one segment each
    """

    def __init__(self, device: torch.device, curve: list[Evaluation]) -> None:
        self._device = device
        self.seconds_before = curve[-1].seconds if curve else 0.0
        before = pairwise([0.0, *(point.seconds for point in curve)])
        self._segments: list[tuple[float | torch.Event, float | torch.Event]] = list(before)
        self._started: float | torch.Event = 0.0
        self._summed, self._num_summed = 0.0, 0

    def start(self) -> None:
        self._started = timestamp(self._device)

    def stop(self) -> None:
        self._segments.append((self._started, timestamp(self._device)))

    def seconds(self, num_segments: int) -> float:
        """Return the sum over the first `num_segments` segments, no fewer than in the call before."""
        for start, stop in self._segments[self._num_summed : num_segments]:
            self._summed += seconds_between(start, stop)
        self._num_summed = num_segments
        return self._summed


class Grid:
    """The steps of a training after which it is evaluated, counted from its start; the last is its end.

    The grid depends only on the training's specification and `num_examples`, the size of the training set.
    Raises ValueError for more than MAX_POINTS evaluations.
    """

    def __init__(self, spec: TrainSpec, num_examples: int) -> None:
        self.num_examples, self._batch_size = num_examples, spec.batch_size
        self.steps_per_epoch = math.ceil(num_examples / spec.batch_size)
        images = spec.images(num_examples)
        last = self._step_at(images)
        parts = min(spec.evals_per_epoch, self.steps_per_epoch)
        epochs = math.ceil(last / self.steps_per_epoch)
        num_points = min(last, math.ceil(images / spec.eval_every) if spec.eval_every else epochs * parts)
        if num_points > MAX_POINTS:
            raise ValueError(
                f"{images:,} training images with {num_points:,} evaluations: at most {MAX_POINTS:,} can be kept; choose a "
                "shorter training, a smaller train.evals_per_epoch or a larger train.eval_every"
            )
        if spec.eval_every and images // spec.eval_every > last:  # several evaluations would fall on a step
            seen = [self.examples_at(step) // spec.eval_every for step in range(last)]
            points = {step for step in range(1, last) if seen[step] > seen[step - 1]}
        elif spec.eval_every:
            points = {self._step_at(k * spec.eval_every) for k in range(1, math.ceil(images / spec.eval_every))}
        else:
            within = {math.ceil(self.steps_per_epoch * k / parts) for k in range(1, parts + 1)}
            starts = range(0, last, self.steps_per_epoch)
            points = {start + step for start in starts for step in within if start + step < last}
        self.steps = sorted(points | {last})

    def examples_at(self, step: int) -> int:
        """Return the number of training images seen after `step` steps."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.num_examples + min(steps * self._batch_size, self.num_examples)

    def from_point(self, first: int) -> Iterator[tuple[int, bool]]:
        """Yield the step of each point from `first` on, and whether it is the last point of its epoch."""
        beyond = self.steps[-1] + self.steps_per_epoch
        for step, later in pairwise([*self.steps[first:], beyond]):
            yield step, math.ceil(later / self.steps_per_epoch) > math.ceil(step / self.steps_per_epoch)

    def _step_at(self, examples: int) -> int:
        """Return the first step after which at least that many images were seen."""
        epochs, rest = divmod(examples, self.num_examples)
        return epochs * self.steps_per_epoch + math.ceil(rest / self._batch_size)


def _batches_from(
    step: int, grid: Grid, data: ImageData, spec: TrainSpec, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of epoch after epoch without end, from `step` of the training on."""
    first_epoch, first_step = divmod(step, grid.steps_per_epoch)
    for epoch in count(first_epoch):
        yield from data.epoch(spec.batch_size, seed, epoch, channels_last=spec.channels_last, first_step=first_step)
        first_step = 0


def _parameter_groups(model: nn.Module, spec: TrainSpec) -> ParameterGroups:
    """Group parameters by learning rate: the last layer's has the factor `spec.last_lr_factor`."""
    if spec.last_lr_factor == 1:
        return [{"params": list(model.parameters())}]
    last = list(last_layer(model).parameters())
    others = [p for p in model.parameters() if all(p is not q for q in last)]
    return [{"params": others}, {"params": last, "lr": spec.lr * spec.last_lr_factor}]
