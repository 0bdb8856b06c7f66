"""What a device can do, measured: how fast it multiplies matrices, copies its memory and is sent data."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # the largest rate of these is the device's
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # larger than any cache
BUDGET_SEC = 0.2  # for one time to be measured
GROUPS = 4  # of calls; the fastest counts, since whatever else the machine does only adds to the others


def device_name(device: str | torch.device) -> str:
    """The device's model, and of a processor its cores and whether it multiplies bf16 natively.

    Where there is no such GPU, as on a driver whose workers are elsewhere, only its kind.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else str(device)
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"cpu ({platform.processor() or platform.machine()})"
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return f"cpu ({model or platform.machine()}, {os.cpu_count()} cores{', bf16' if 'bf16' in info else ''})"


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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

    return max(rate(size) for size in MATRIX_SIZES[device.type])


def copy_bandwidth(device: torch.device) -> float:
    """Bytes/s that the device's memory moves when it copies: those read and those written."""
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() / seconds_per_call(lambda: target.copy_(source), device)


def bus_bandwidth(device: torch.device) -> float:
    """Bytes/s from the host's page-locked memory to a GPU."""
    source = torch.zeros(2**28, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)
    return source.numel() / seconds_per_call(lambda: target.copy_(source, non_blocking=True), device)


def choose_device(name: str) -> torch.device:
    """The device of "auto" (a GPU if there is one), "cpu" or "cuda". Raises ValueError if there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here (PyTorch sees no CUDA device); use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
