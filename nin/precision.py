"""The number formats that networks train in, and which of them a device multiplies natively.

A device without instructions for bf16 emulates it: a processor with AVX-512 but not its bf16 part takes more than twice as long for
`quick` in bf16 as in float32, one without AVX-512 nine times as long. So "auto" takes a format of 16 bits only where the device
supports it natively.
"""

import os
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple

import torch

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}  # bytes of one activation

# Values of oneDNN's variable ONEDNN_MAX_CPU_ISA that keep it from instructions for bf16; all others allow these.
ISAS_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
# How long `quick` and `d2l` train in emulated bf16 on an x86 processor, in times of what float32 takes there, as docs/speed.md has it.
WITH_AVX512, WITHOUT_AVX512 = "2 to 3", "9 to 12"
TENSOR_CORES = 7  # major compute capability of the first NVIDIA GPUs that multiply float16 faster than float32


class Choice(NamedTuple):
    """The precision that "auto" stands for on a device, and why, in words."""

    precision: str
    reason: str


def best_precision(native: Collection[str]) -> Choice:
    """Return "bf16" if it is native, else "float16" (with scaled losses) if that is, else "float32"."""
    if "bf16" in native:
        return Choice("bf16", "multiplies bf16 natively")
    if "float16" in native:
        return Choice("float16", "multiplies float16 natively, and no bf16")
    return Choice("float32", "has no native bf16")


def choose_precision(device: torch.device | str) -> Choice:
    """Return the precision that "auto" stands for on this device."""
    return best_precision(native_formats(torch.device(device)))


def precision_on(device: torch.device | str, precision: str) -> str:
    """Return the precision in which a network trains on this device for the setting `precision`, which may be "auto"."""
    return choose_precision(device).precision if precision == "auto" else precision


@cache
def native_formats(device: torch.device) -> frozenset[str]:
    """Return the 16-bit formats for which the device has instructions.

    Apple's GPUs count as having none, since torch does not say.
    """
    match device.type:
        case "cpu":
            has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            return cpu_formats(torch.cpu.get_capabilities(), os.environ.get("ONEDNN_MAX_CPU_ISA", ""), has_onednn)
        case "cuda":
            return cuda_formats(torch.cuda.get_device_capability(device), is_rocm=torch.version.hip is not None)
        case "xpu":
            return frozenset({"bf16"} if torch.xpu.is_bf16_supported(including_emulation=False) else ())
    return frozenset()


def cpu_formats(capabilities: Mapping[str, object], max_isa: str = "", has_onednn: bool = True) -> frozenset[str]:
    """Return the native 16-bit formats of a processor, from its flags (`torch.cpu.get_capabilities`).

    max_isa  the value of ONEDNN_MAX_CPU_ISA, which keeps oneDNN from newer instructions
    """
    flags = ("avx512_bf16", "amx_bf16", "bf16")  # the last is what ARM calls it
    is_native = any(capabilities.get(flag) for flag in flags)
    return frozenset({"bf16"} if is_native and has_onednn and max_isa.upper() not in ISAS_WITHOUT_BF16 else ())


def cuda_formats(capability: tuple[int, int], is_rocm: bool = False) -> frozenset[str]:
    """Return the native 16-bit formats of an NVIDIA GPU, from its compute capability, or of an AMD GPU (always bf16)."""
    if is_rocm or capability[0] > TENSOR_CORES:
        return frozenset({"bf16", "float16"})
    return frozenset({"float16"} if capability[0] == TENSOR_CORES else ())


def slow_precision(device: torch.device | str, precision: str) -> str:
    """Return a line of advice for a format that the device emulates; empty for a native one."""
    device = torch.device(device)
    if precision in ("auto", "float32") or precision in native_formats(device):
        return ""
    instead = choose_precision(device).precision
    factor = _emulation_factor(torch.cpu.get_capabilities()) if (device.type, precision) == ("cpu", "bf16") else ""
    expected = f": expect {factor} times its time" if factor else ""
    return (
        f"train.precision={precision}: this {device.type} has no instructions for {precision} and emulates them; "
        f"{instead} (train.precision=auto) is faster{expected}"
    )


def _emulation_factor(capabilities: Mapping[str, object]) -> str:
    """Return how many times longer a processor trains in emulated bf16 than in float32; empty where it was not measured."""
    if capabilities.get("architecture") != "x86_64" or capabilities.get("avx_ne_convert"):
        return ""
    return WITH_AVX512 if capabilities.get("avx512_f") else WITHOUT_AVX512


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context of automatic mixed precision; no effect in float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])
