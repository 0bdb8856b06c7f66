"""What makes training fast changes no result: held against a plain loop that is written here, on its own."""

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nin.data import ImageData, load
from nin.model import build_model
from nin.spec import DataSpec, ModelSpec, TrainSpec, stream
from nin.train import train

# What is drawn in dropout follows the order of units in memory, so there is none.
MODEL = ModelSpec(layout="small", width=1 / 12, init="kaiming", dropout=0.0, class_block="wide", class_relu=False)
DATA = DataSpec(name="synthetic", train_examples=300, val_examples=100, test_examples=100, image_size=42)
SPEC = TrainSpec(epochs=3, batch_size=32, lr=0.02, momentum=0.9, weight_decay=5e-4, evals_per_epoch=1)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load(DATA)


def images_of(data: ImageData, bytes_NCHW: Tensor) -> Tensor:
    x_NCHW = (bytes_NCHW.float() / 255 - data.mean[:, None, None]) / data.std[:, None, None]
    return F.interpolate(x_NCHW, (42, 42), mode="bilinear")


def plain_loss_curve(data: ImageData, spec: TrainSpec, seed: int = 0) -> list[float]:
    """Mean training loss of each epoch: contiguous, one image set, SGD written out by hand.

    In float64, since rounding grows with the steps: a plain loop in float32 is itself up to 0.12 % away after the third epoch.
    """
    network = build_model(MODEL, data.in_shape, data.num_classes, seed=seed).double()
    velocities = [torch.zeros_like(parameter) for parameter in network.parameters()]
    num_images, curve = len(data.train.labels), []
    for epoch in range(spec.epochs):
        order = torch.randperm(num_images, generator=torch.Generator().manual_seed(stream(seed, f"order-{epoch}")))
        total = 0.0
        for indices in order.split(spec.batch_size):
            loss = F.cross_entropy(
                network(images_of(data, data.train.images[indices]).double()), data.train.labels[indices]
            )
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                for weight, velocity, gradient in zip(network.parameters(), velocities, gradients, strict=True):
                    velocity.mul_(spec.momentum).add_(gradient + spec.weight_decay * weight)
                    weight -= spec.lr * velocity
            total += loss.item() * len(indices)
        curve.append(total / num_images)
    return curve


# bf16 keeps 8 bits of a number (steps of 0.4 %), which on this curve shows as less than 3 %; float32 differs by rounding alone.
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), pytest.param("bf16", 0.03, marks=pytest.mark.slow)]
)
def test_the_fast_loop_has_the_loss_curve_of_the_plain_one(data: ImageData, precision: str, tolerance: float) -> None:
    network = build_model(MODEL, data.in_shape, data.num_classes)
    fast = train(network, data, replace(SPEC, precision=precision, channels_last=True)).curve
    plain = plain_loss_curve(data, SPEC)
    assert plain[-1] < 0.9 * plain[0], "a curve that does not move would be easy to follow"
    assert [point.train_loss for point in fast] == pytest.approx(plain, rel=tolerance)


PAGE_FAULTS = """
import resource, torch
from nin._malloc import keep_freed_memory
{calls}
before = None
for i in range(60):
    if i == 30:  # by then the heap has found its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB: 16,384 pages of 4 kB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's way with freed memory is known")
def test_memory_that_was_freed_is_not_faulted_in_again_unless_a_layer_is_very_large() -> None:
    def faults(*sizes: int) -> int:
        calls = "; ".join(f"keep_freed_memory(torch.nn.Linear({size}, {size}))" for size in sizes)
        return int(subprocess.check_output([sys.executable, "-c", PAGE_FAULTS.format(calls=calls)]))

    assert faults(10) < 1 + faults() / 2
    assert faults(10, 4096) > faults() / 2  # whatever was trained before
    assert faults(4096, 10) < 1 + faults() / 2


GROWTH = """
import resource, torch
from nin._malloc import keep_freed_memory
keep_freed_memory(torch.nn.Linear(2048, 2049))  # 16 MB and a little
kept = []
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(40):
    kept.append(torch.ones(640))  # settles where the last step's block was
    block = torch.ones(2**22)  # 16 MB
    kept.append(torch.ones(640))
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's way with freed memory is known")
def test_large_blocks_leave_no_gaps_between_small_ones_that_stay() -> None:
    grown = int(subprocess.check_output([sys.executable, "-c", GROWTH]))  # kB
    assert grown < 5 * 16 * 1024


HEAP_FLAGS = """
import torch
from nin._malloc import keep_freed_memory
keep_freed_memory(torch.nn.Linear({size}, {size}))
flags, in_heap = [], False
for line in open("/proc/self/smaps"):
    if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
        in_heap = "[heap]" in line
    elif in_heap and line.startswith("VmFlags:"):
        flags += line.split()[1:]
print("hg" in flags)  # proc(5): huge pages advised
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is known")
@pytest.mark.parametrize(("size", "expected"), [(10, "True"), (4096, "False")])
def test_the_heap_of_a_training_may_have_huge_pages(size: int, expected: str) -> None:
    output = subprocess.check_output([sys.executable, "-c", HEAP_FLAGS.format(size=size)], text=True)
    assert output.strip() == expected
