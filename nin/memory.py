"""Measure the peak memory of training, as bytes that PyTorch's allocator holds, and count its parts."""

import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from nin.data import ImageData
from nin.fast import fast_layers
from nin.machine import is_accelerator, kept_random_state, synchronize
from nin.model import build_model
from nin.precision import BYTES, autocast, precision_on
from nin.sizes import layers
from nin.spec import ModelSpec, Shape, TrainSpec
from nin.train import train

IN_PLACE = ("ReLU", "Flatten", "Identity")  # layers whose output needs no memory of its own, or little


def training_memory(model: ModelSpec, data: ImageData, spec: TrainSpec) -> int:
    """Measure the peak bytes of two training steps: weights, gradients, the optimiser's state, activations, workspace.

    The network is built again on the data's device; the data set's own bytes are not counted. Torch's random state is left as
    it was. On the CPU, memory that libraries allocate without PyTorch is not counted. The result is 0 on Apple's GPUs, for which
    torch keeps no maximum.
    """
    batch_size = min(spec.batch_size, len(data.train.labels))
    few = 2 * batch_size
    positions = torch.arange(few, device=data.train.labels.device) % len(data.train.labels)
    part = replace(data, train=data.train.take(positions), val=data.val.first(1))
    once = replace(spec, batch_size=batch_size, epochs=1, evals_per_epoch=1, examples=0, eval_every=0)

    def two_steps() -> None:
        train(build_model(model, data.in_shape, data.num_classes), part, once)

    return _peak_apart(two_steps, data.train.images.device)


def prediction_memory(model: ModelSpec, data: ImageData, spec: TrainSpec) -> int:
    """Measure the peak bytes of predicting one batch: weights, and the activations that exist at the same time.

    The network is in evaluation mode, without gradients, in the precision of training; otherwise as in `training_memory`.
    """
    device = data.train.images.device
    positions = torch.arange(spec.batch_size, device=device) % len(data.train.labels)
    part = data.train.take(positions)
    precision = precision_on(device, spec.precision)
    ((x_NCHW, _),) = data.batches(part, spec.batch_size, channels_last=spec.channels_last)
    memory_format = torch.channels_last if spec.channels_last else torch.contiguous_format

    def predict_batch() -> None:
        network = build_model(model, data.in_shape, data.num_classes).eval()
        network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        with torch.no_grad(), fast_layers(network, precision), autocast(device, precision):
            network(x_NCHW)

    return _peak_apart(predict_batch, device)


def _peak_apart(work: Callable[[], None], device: torch.device) -> int:
    """Return `peak_bytes` of the work, leaving torch's random state as it was; 0 on Apple's GPUs."""
    if device.type == "mps":
        return 0
    with kept_random_state(device):
        return peak_bytes(work, device)


def activation_bytes(model: ModelSpec, in_shape: Shape, num_classes: int, precision: str, is_training: bool) -> int:
    """Count the bytes of one image's activations: the outputs of all layers that need memory of their own, dropout only in training.

    Precision is "float32", "bf16" or "float16". The input and the backward pass's other needs, such as the positions of maxima or
    the mask of dropout, are not counted.
    """
    without = IN_PLACE if is_training and model.dropout else (*IN_PLACE, "Dropout")
    rows = layers(model, in_shape, num_classes)
    elements = sum(torch.Size(row.output_shape).numel() for row in rows if row.kind not in without)
    return elements * BYTES[precision]


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Return the largest number of bytes that `work` has allocated at one time, beyond those allocated before it."""
    if is_accelerator(device):
        synchronize(device)
        before = torch.accelerator.memory_allocated(device)
        torch.accelerator.reset_peak_memory_stats(device)
        work()
        return torch.accelerator.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes to stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results if profiled.profiler else None
    assert results is not None
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak
