"""Devices: choose and name one, keep its random state, time it, and measure the rates at which it multiplies, copies and receives.

`torch.accelerator` and `torch.get_device_module` serve all kinds of accelerators alike. Code that differs by kind is here and in
`nin.precision`.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from nin.spec import ACCELERATORS, DEVICES

HOST_SIZES, ACCELERATOR_SIZES = (1024, 2048), (4096, 8192)  # rows of square matrices; the largest of their rates counts
HOST_COPY_BYTES, ACCELERATOR_COPY_BYTES = 2**28, 2**30  # larger than any cache
BUDGET_SEC = 0.2  # seconds to measure one time
GROUPS = 4  # groups of calls; the fastest counts, since whatever else the machine does only adds to the others
LONG_CALL_SEC = 1.0  # a call this long is timed once: in an emulated precision a matrix product takes many seconds


def device_name(device: str | torch.device) -> str:
    """Return the device's model; for a processor also its cores and whether it multiplies bf16 natively.

    For an accelerator that this machine lacks, as on a driver with remote workers, the name is only its kind. So it is for Apple's,
    which torch does not name.
    """
    device = torch.device(device)
    if is_accelerator(device):
        name = getattr(torch.get_device_module(device), "get_device_name", None)
        return str(name(device)) if name and is_here(device) else str(device)
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"cpu ({platform.processor() or platform.machine()})"
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return f"cpu ({model or platform.machine()}, {os.cpu_count()} cores{', bf16' if 'bf16' in info else ''})"


def is_here(device: torch.device) -> bool:
    """Return whether this machine has such a device; false for an accelerator that only remote workers have."""
    return not is_accelerator(device) or device.type in _accelerators_here()


def is_accelerator(device: torch.device) -> bool:
    """Return whether the device computes while the host continues, so that reading from it waits; false for a CPU."""
    return device.type in ACCELERATORS


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Context in which torch computes on the CPU with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished its queued work; a CPU never has any."""
    if is_accelerator(device):
        torch.accelerator.synchronize(device)


def timestamp(device: torch.device) -> float | torch.Event:
    """Return the time now; on an accelerator but Apple's an event in its queue, for which the host does not wait."""
    if not is_accelerator(device) or device.type == "mps":
        synchronize(device)  # reading the time of an Apple GPU's event may wait for ever (pytorch/pytorch#162872)
        return time.perf_counter()
    event = torch.Event(device, enable_timing=True)
    event.record()
    return event


def seconds_between(start: float | torch.Event, stop: float | torch.Event) -> float:
    """Return the seconds from one timestamp of a device to another; waits for the second."""
    if isinstance(start, float) and isinstance(stop, float):
        return stop - start
    assert not isinstance(start, float)
    assert not isinstance(stop, float)
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1000


def rng_state(device: torch.device) -> torch.Tensor:
    """Return the state of an accelerator's random stream."""
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(*_where(device))
    return state


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    """Set the state of an accelerator's random stream."""
    torch.get_device_module(device).set_rng_state(state, *_where(device))


def kept_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Context that leaves torch's random streams, of the CPU and of the device, as they were."""
    # Not by the name "meta", with which fork_rng keeps nothing, though layers seed the CPU's stream.
    return (
        torch.random.fork_rng([device], device_type=device.type)
        if is_accelerator(device)
        else torch.random.fork_rng([])
    )


def _where(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # a machine has one MPS device at most


def seconds_per_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call in the fastest of GROUPS groups, after a warm-up; on a GPU, the time of its queued work.

    A call of LONG_CALL_SEC or more is timed only once.
    """

    def elapsed(num_calls: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(num_calls):
            call()
        synchronize(device)
        return time.perf_counter() - start

    elapsed(1)
    once = elapsed(1)
    if once >= LONG_CALL_SEC:
        return once
    num_calls = max(1, int(BUDGET_SEC / GROUPS / max(once, 1e-6)))
    return min(elapsed(num_calls) for _ in range(GROUPS)) / num_calls


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure FLOP/s in products of square matrices of `dtype`, two per multiply-accumulate.

    On a GPU, float32 follows PyTorch's default: full precision in matrix products.
    """

    def rate(size: int) -> float:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * size**3 / seconds_per_call(lambda: torch.mm(a, b, out=out), device)

    return max(rate(size) for size in (ACCELERATOR_SIZES if is_accelerator(device) else HOST_SIZES))


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes/s, read and written, of a copy within the device's memory."""
    num_bytes = ACCELERATOR_COPY_BYTES if is_accelerator(device) else HOST_COPY_BYTES
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() / seconds_per_call(lambda: target.copy_(source), device)


def bus_bandwidth(device: torch.device) -> float:
    """Measure bytes/s from the host's page-locked memory to an accelerator; 0 for a device that shares the host's memory."""
    if device.type in ("cpu", "mps"):
        return 0.0
    source = torch.zeros(2**28, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)
    return source.numel() / seconds_per_call(lambda: target.copy_(source, non_blocking=True), device)


def choose_device(name: str) -> torch.device:
    """Return the device of one of DEVICES; "auto" is the accelerator that torch sees, or the CPU. Raises ValueError if missing."""
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: {', '.join(DEVICES)}")
    here = _accelerators_here()
    if name in ACCELERATORS and name not in here:
        raise ValueError(
            f"--device {name}: torch finds no GPU here (PyTorch sees no {name.upper()} device); use --device cpu"
        )
    return torch.device(here[0] if name == "auto" and here else "cpu" if name == "auto" else name)


def _accelerators_here() -> list[str]:
    """Return the kinds of ACCELERATORS that torch sees; it sees one kind at a time."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [accelerator.type] if accelerator and accelerator.type in ACCELERATORS else []
