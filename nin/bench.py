"""Measure training speed on this machine, against the textbook's loop and against the machine's own peak.

    python -m nin.bench                     every setting
    python -m nin.bench d2l --json FILE     one of them, and the numbers as JSON
    python -m nin.bench --quick             shorter repeats: three minutes on 2 cores
    python -m nin.bench --compile           torch.compile as well; the time it takes is counted apart

Each loop lives in its own process (`nin.remote`), so that neither has the other's memory or settings. The loops take turns, so
that other load of the machine falls on both; the ratio is the median over the turns. A training step counts as three times the
FLOPs of a forward pass, since there are two products in the backward pass for each in the forward pass.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nin.bench_tables import tables
from nin.cli import OneLineParser, add_device_options, exit_with, require_per_core, require_writable
from nin.files import write_atomically
from nin.out_of_memory import is_out_of_memory
from nin.remote import RemoteObject, remote, result
from nin.settings import SETTINGS, Setting
from nin.spec import choose
from nin.text import reason

if TYPE_CHECKING:
    from nin.loops import Pace
    from nin.roofline import Machine

LOADER_WORKERS = 4  # the textbook's
REPEATS = 3
REPEAT_SEC, QUICK_REPEAT_SEC = 15.0, 3.0
GPU_PROCESSES = (1, 2, 4)  # runs at once on one GPU
LEAST_MATRIX_RATE = 0.1  # of the training precision's; where an emulated one is slower, a step of `d2l` takes minutes
TFLOP = 1e12


def compared(textbook: "Sequence[Pace]", ours: "Sequence[Pace]") -> dict[str, float]:
    """Return medians over turns, in each of which both loops ran once. The ratio is the median of the turns' ratios.

    Images/s without a prefix are from end to end: loading, training and evaluating. `step_` is the textbook's own count, without
    loading and evaluation; ours still includes making batches, which happens on the device.
    """
    turns = list(zip(textbook, ours, strict=True))
    return {
        "textbook_images_per_sec": median(theirs.images_per_sec for theirs in textbook),
        "images_per_sec": median(mine.images_per_sec for mine in ours),
        "ratio": median(mine.images_per_sec / theirs.images_per_sec for theirs, mine in turns),
        "textbook_step_images_per_sec": median(theirs.step_images_per_sec for theirs in textbook),
        "step_images_per_sec": median(mine.step_images_per_sec for mine in ours),
        "step_ratio": median(mine.step_images_per_sec / theirs.step_images_per_sec for theirs, mine in turns),
    }


def arithmetic(setting: Setting, step_images_per_sec: float, matrix_flops: float) -> dict[str, float]:
    """Return the 10^12 FLOP/s of training without evaluation, those of the machine's matrix products, and their ratio."""
    from nin.sizes import size

    flops = 3e9 * size(setting.model, setting.in_shape, 10).gflops * step_images_per_sec
    return {
        "tflops": flops / TFLOP,
        "matrix_tflops": matrix_flops / TFLOP,
        "share_of_matrix_rate": flops / matrix_flops,
    }


def too_slow(flops: Mapping[str, float], precision: str) -> list[str]:
    """Return the precisions whose matrix products run at less than LEAST_MATRIX_RATE of the FLOP/s of `precision`."""
    return [name for name, rate in flops.items() if rate < LEAST_MATRIX_RATE * flops[precision]]


def measure_setting(
    setting: Setting, machine: "Machine", device: str, threads: int, repeat_sec: float, compiled: bool = False
) -> dict[str, Any]:
    """Measure one setting and return its numbers, named as in the JSON.

    Our loop runs in its own precision and in every other that is not far slower (`too_slow`).
    """
    from nin.loops import OurLoop, TextbookLoop
    from nin.precision import precision_on

    native = precision_on(device, setting.train.precision)
    precisions = [native, *sorted(machine.flops.keys() - {native, *too_slow(machine.flops, native)})]
    with ExitStack() as stack:
        loops = [stack.enter_context(remote(TextbookLoop, setting, device, threads, LOADER_WORKERS))]
        for precision in precisions:
            loops.append(stack.enter_context(remote(OurLoop, _in(precision, setting), device, threads)))
        num_images = [loop.call("images_for", repeat_sec) for loop in loops]
        turns = [[loop.call("epoch", n) for loop, n in zip(loops, num_images, strict=True)] for _ in range(REPEATS)]
        phases: dict[str, float] = loops[1].call("phases", num_images[1])
    theirs = [turn[0] for turn in turns]
    by_precision = {}
    for i, precision in enumerate(precisions, start=1):
        speeds = compared(theirs, [turn[i] for turn in turns])
        by_precision[precision] = speeds | arithmetic(setting, speeds["step_images_per_sec"], machine.flops[precision])
    row: dict[str, Any] = {"device": machine.device, "batch_size": setting.train.batch_size, "precision": native}
    row |= by_precision[native]
    row["precisions"] = by_precision
    row["phases"] = {phase: seconds / sum(phases.values()) for phase, seconds in phases.items()}
    row["turns"] = [[asdict(pace) for pace in turn[:2]] for turn in turns]
    if compiled:
        try:
            row["compiled"] = _measure_compiled(setting, machine, device, threads, num_images[1])
        except RuntimeError as error:  # as torch's without a C++ compiler; what else was measured is kept
            if is_out_of_memory(error):
                raise
            _say(f"leaving out torch.compile, which needs a C++ compiler: {reason(error)}")
    return row


def _in(precision: str, setting: Setting) -> Setting:
    return replace(setting, train=replace(setting.train, precision=precision))


def _measure_compiled(
    setting: Setting, machine: "Machine", device: str, threads: int, num_images: int
) -> dict[str, float]:
    """Measure our loop after torch.compile; compile_seconds is the first epoch's time minus that of later ones."""
    from nin.loops import OurLoop
    from nin.precision import precision_on

    with remote(OurLoop, setting, device, threads, True) as loop:
        first: Pace = loop.call("epoch", num_images)
        paces: list[Pace] = [loop.call("epoch", num_images) for _ in range(REPEATS)]
    rate = median(pace.step_images_per_sec for pace in paces)
    return {
        "images_per_sec": median(pace.images_per_sec for pace in paces),
        "step_images_per_sec": rate,
        "compile_seconds": first.seconds - median(pace.seconds for pace in paces),
    } | arithmetic(setting, rate, machine.flops[precision_on(device, setting.train.precision)])


def measure_at_once(
    setting: Setting, device: str, ways: Sequence[tuple[int, int]], repeat_sec: float
) -> list[dict[str, Any]]:
    """Measure images/s of several runs of the setting at the same time, all together, from end to end.

    ways  (number of processes, threads of each); they take turns, and `ratio` compares each with the one of fewest processes
    """
    from nin.loops import OurLoop

    with ExitStack() as stack:
        loops = [
            [stack.enter_context(remote(OurLoop, setting, device, threads)) for _ in range(processes)]
            for processes, threads in ways
        ]
        num_images = [min(_call_all(side_by_side, "images_for", repeat_sec)) for side_by_side in loops]
        turns = [
            [_images_per_sec(side_by_side, n) for side_by_side, n in zip(loops, num_images, strict=True)]
            for _ in range(REPEATS)
        ]
    one = min(range(len(ways)), key=lambda i: ways[i][0])
    return [
        {
            "processes": processes,
            "threads": threads,
            "images_per_sec": median(turn[i] for turn in turns),
            "ratio": median(turn[i] / turn[one] for turn in turns),
        }
        for i, (processes, threads) in enumerate(ways)
    ]


def _images_per_sec(side_by_side: Sequence[RemoteObject], num_images: int) -> float:
    start = time.perf_counter()
    paces: list[Pace] = _call_all(side_by_side, "epoch", num_images)
    return sum(pace.images for pace in paces) / (time.perf_counter() - start)


def _call_all(side_by_side: Sequence[RemoteObject], method: str, *arguments: object) -> list[Any]:
    return [result(future) for future in [there.start(method, *arguments) for there in side_by_side]]


def _limits(device: str, threads: int) -> "Machine":
    from nin.loops import Limits

    with remote(Limits, device, threads) as there:
        machine: Machine = there.call("machine")
        return machine


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nin.bench", description="Measure training speed on this machine.")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{', '.join(SETTINGS)} (default: all)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"measure for {QUICK_REPEAT_SEC:.0f} s per repeat (default: {REPEAT_SEC:.0f} s)",
    )
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    add_device_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers into FILE (default: print only)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_intermixed_args(argv)
    require_per_core("--threads", arguments.threads)
    chosen = {name: choose(SETTINGS, name, "setting") for name in arguments.settings or SETTINGS}
    settings = {name: chosen[name] for name in SETTINGS if name in chosen}  # the largest networks first
    if arguments.json:
        require_writable(arguments.json)  # before minutes are spent

    import torch

    from nin.loops import has_fashion_mnist
    from nin.machine import choose_device
    from nin.precision import choose_precision
    from nin.roofline import machine_line

    device, threads = choose_device(arguments.device).type, arguments.threads
    choice = choose_precision(device)
    precision_line = f"precision auto is {choice.precision}: this {device} {choice.reason}"
    repeat_sec = QUICK_REPEAT_SEC if arguments.quick else REPEAT_SEC
    data = "Fashion-MNIST" if has_fashion_mnist() else "random bytes of Fashion-MNIST's shape"
    _say("measuring what the machine can do")
    machine = _limits(device, threads)
    for name in too_slow(machine.flops, choice.precision):
        share = machine.flops[name] / machine.flops[choice.precision]
        _say(f"leaving out {name}: here it multiplies at {share:.1%} of the rate of {choice.precision}")
    rows = {}
    for name, setting in settings.items():
        _say(f"measuring {name}: the textbook's loop and ours, {REPEATS} turns")
        rows[name] = measure_setting(setting, machine, device, threads, repeat_sec, arguments.compile)
    ways = sorted({(threads, 1), (1, threads)}) if device == "cpu" else [(n, 1) for n in GPU_PROCESSES]
    at_once = {}
    for name in list(settings)[-1 if device == "cpu" else -2 :]:  # the smallest networks, which leave a GPU idle
        _say(f"measuring {' and '.join(str(n) for n, _ in ways)} runs of {name} at once, {REPEATS} turns")
        at_once[name] = measure_at_once(settings[name], device, ways, repeat_sec)
    numbers = {
        "device": machine.device,
        "precision": choice._asdict(),
        "torch": torch.__version__,
        "threads": threads,
        "data": data,
        "machine": asdict(machine),
        "settings": rows,
        "at_once": at_once,
    }
    print(f"{precision_line}\n{machine_line(machine)}\ntorch {torch.__version__}, {data}\n\n{tables(numbers)}")
    if arguments.json:
        write_atomically(arguments.json, json.dumps(numbers, indent=1) + "\n")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with(main)
