"""Measure a device: the rates at which it multiplies matrices, copies its memory and receives data.

Accelerators are asked through `torch.accelerator` and `torch.get_device_module`, the same for all kinds; where kinds differ, they
do so here and in `nin.precision`.
"""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nin.spec import ACCELERATORS

HOST_SIZES, ACCELERATOR_SIZES = (1024, 2048), (4096, 8192)  # rows of square matrices; the largest of their rates counts
HOST_COPY_BYTES, ACCELERATOR_COPY_BYTES = 2**28, 2**30  # larger than any cache
BUDGET_SEC = 0.2  # seconds to measure one time
GROUPS = 4  # groups of calls; the fastest counts, since whatever else the machine does only adds to the others


def device_name(device: str | torch.device) -> str:
    """The device's model, and of a processor its cores and whether it multiplies bf16 natively.

    Where there is no such accelerator, as on a driver whose workers are elsewhere, only its kind; so for Apple's, which torch does
    not name.
    """
    device = torch.device(device)
    if is_accelerator(device):
        name = getattr(torch.get_device_module(device), "get_device_name", None)
        return str(name(device)) if name and device.type in _accelerators_here() else str(device)
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"cpu ({platform.processor() or platform.machine()})"
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return f"cpu ({model or platform.machine()}, {os.cpu_count()} cores{', bf16' if 'bf16' in info else ''})"


def is_accelerator(device: torch.device) -> bool:
    """Return whether the device computes while the host continues, so that reading from it waits. A CPU does not."""
    return device.type in ACCELERATORS


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished its queued work; a CPU never has any."""
    if is_accelerator(device):
        torch.accelerator.synchronize(device)


def timestamp(device: torch.device) -> float | torch.Event:
    """The time now; on an accelerator an event among its work, for which the host does not wait."""
    if not is_accelerator(device):
        return time.perf_counter()
    event = torch.Event(device, enable_timing=True)
    event.record()
    return event


def seconds_between(start: float | torch.Event, stop: float | torch.Event) -> float:
    """From one timestamp of a device to another; waits for the second."""
    if isinstance(start, float) and isinstance(stop, float):
        return stop - start
    assert not isinstance(start, float)
    assert not isinstance(stop, float)
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1000


def rng_state(device: torch.device) -> torch.Tensor:
    """The state of an accelerator's random stream."""
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(*_where(device))
    return state


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    """Bring an accelerator's random stream to that state."""
    torch.get_device_module(device).set_rng_state(state, *_where(device))


def _where(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # a machine has one MPS device at most


def seconds_per_call(call: Callable[[], object], device: torch.device, budget_sec: float = BUDGET_SEC) -> float:
    """Time of one call in the fastest of GROUPS groups of calls, after one to warm up; on a GPU, of the work it queues."""

    def elapsed(num_calls: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(num_calls):
            call()
        synchronize(device)
        return time.perf_counter() - start

    elapsed(1)
    num_calls = max(1, int(budget_sec / GROUPS / max(elapsed(1), 1e-6)))
    return min(elapsed(num_calls) for _ in range(GROUPS)) / num_calls


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s in products of square matrices of `dtype`, two per multiply-accumulate.

    What float32 means on a GPU is PyTorch's default: full precision in matrix products.
    """

    def rate(size: int) -> float:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * size**3 / seconds_per_call(lambda: torch.mm(a, b, out=out), device)

    return max(rate(size) for size in (ACCELERATOR_SIZES if is_accelerator(device) else HOST_SIZES))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes/s that the device's memory moves when it copies: those read and those written."""
    num_bytes = ACCELERATOR_COPY_BYTES if is_accelerator(device) else HOST_COPY_BYTES
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() / seconds_per_call(lambda: target.copy_(source), device)


def bus_bandwidth(device: torch.device) -> float:
    """Bytes/s from the host's page-locked memory to an accelerator; 0 for a device that shares the host's memory."""
    if device.type in ("cpu", "mps"):
        return 0.0
    source = torch.zeros(2**28, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)
    return source.numel() / seconds_per_call(lambda: target.copy_(source, non_blocking=True), device)


def choose_device(name: str) -> torch.device:
    """The device of one of DEVICES; "auto" is whichever accelerator torch sees, or the CPU. Raises ValueError if there is none."""
    here = _accelerators_here()
    if name in ACCELERATORS and name not in here:
        raise ValueError(
            f"--device {name}: torch finds no GPU here (PyTorch sees no {name.upper()} device); use --device cpu"
        )
    return torch.device(here[0] if name == "auto" and here else "cpu" if name == "auto" else name)


def _accelerators_here() -> list[str]:
    """The kinds of ACCELERATORS that torch sees; it sees one kind at a time."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [accelerator.type] if accelerator and accelerator.type in ACCELERATORS else []
