"""Find the bound of each layer's speed on this machine: arithmetic or memory.

    python -m nin.measure roofline nin-d2l                      a table of layers, and what a faster machine would bring
    python -m nin.measure roofline nin-d2l --out roofline.png   and the figure

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (Communications of the ACM 52(4),
2009). A layer that does I FLOPs for each byte it moves cannot exceed min(matrix rate, I x memory bandwidth). The bytes are those
that must move at least once: inputs, outputs and weights. So two cards with equal matrix rates differ on layers left of the ridge,
where their memory decides; and a card can wait for images if its bus is too slow.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin.cli import (
    OneLineParser,
    add_device_options,
    add_network_options,
    require_figure_file,
    require_per_core,
    require_writable,
)
from nin.files import write_atomically
from nin.sizes import NETWORKS, image_shape, layer_modules, layers, product, require_effect, spec_changes
from nin.spec import PRECISIONS, ModelSpec, Shape, choose
from nin.text import text_table

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor, nn


@dataclass(frozen=True)
class Machine:
    """A device's limits: FLOP/s in matrix products by precision, bytes/s of its memory (read + written) and from the host.

    bus  bytes/s from the host; 0 for a device that shares the host's memory
    """

    device: str
    threads: int
    flops: dict[str, float]
    bandwidth: float
    bus: float = 0.0


@dataclass(frozen=True)
class LayerCost:
    """Cost of a layer in the forward pass of one batch: FLOPs, least bytes moved, seconds measured."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    flops: int
    bytes_moved: int
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes_moved

    def least_seconds(self, flops: float, bandwidth: float) -> float:
        """Return the time that arithmetic or memory needs at these rates (FLOP/s, bytes/s), whichever is longer."""
        return max(self.flops / flops, self.bytes_moved / bandwidth)

    def bound(self, flops: float, bandwidth: float) -> str:
        """Return which takes longer at these rates, "compute" or "memory"."""
        return "compute" if self.flops / flops >= self.bytes_moved / bandwidth else "memory"


def measure_machine(device: "torch.device", precision: str = "float32") -> Machine:
    """Measure the limits of `device` in its own precisions and the one named, with as many threads as torch uses now."""
    import torch

    from nin.machine import bus_bandwidth, copy_bandwidth, device_name, matrix_rate
    from nin.precision import DTYPES, native_formats

    return Machine(
        device=device_name(device),
        threads=torch.get_num_threads(),
        flops={
            name: matrix_rate(device, DTYPES[name])
            for name in sorted({"bf16", "float32", precision, *native_formats(device)})
        },
        bandwidth=copy_bandwidth(device),
        bus=bus_bandwidth(device),
    )


def layer_costs(
    spec: ModelSpec,
    in_shape: Shape,
    num_classes: int,
    *,
    batch: int,
    precision: str = "bf16",
    device: "str | torch.device" = "cpu",
) -> list[LayerCost]:
    """Measure the layers in order, except those that do nothing in evaluation mode or only return a view of their input.

    Each layer is timed alone, repeatedly on one input: if that fits a cache, the layer may exceed the memory's bandwidth. On a GPU
    no layer takes less time than its launch by the host. What a module with parts computes itself is not timed.
    """
    import torch

    from nin._malloc import keep_freed_memory
    from nin.machine import seconds_per_call
    from nin.model import build_model
    from nin.precision import BYTES, DTYPES

    device = torch.device(device)
    counted = {f"{row.part}.{row.name}".rstrip("."): row for row in layers(spec, in_shape, num_classes)}
    network = build_model(spec, in_shape, num_classes).eval()
    network.to(device=device, dtype=DTYPES[precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
    costs: list[LayerCost] = []

    def measure(
        name: str, module: "nn.Module", inputs: "tuple[Tensor, ...]", options: dict[str, Any], returned: "Any"
    ) -> None:
        row = counted[name]
        output = returned[0] if isinstance(returned, tuple) else returned  # as attention's, whose weights follow
        if not row.flops and _is_view(module, inputs[0], output):
            return
        weights = sum(parameter.numel() for parameter in module.parameters())
        costs.append(
            LayerCost(
                name=name,
                kind=row.kind,
                output_shape=row.output_shape,
                flops=batch * row.flops,
                bytes_moved=BYTES[precision] * (inputs[0].numel() + output.numel() + weights),
                seconds=seconds_per_call(lambda: module.forward(*inputs, **options), device),
            )
        )

    if device.type == "cpu":
        keep_freed_memory(network)  # as training does: else layers with large outputs are timed by their page faults
    for name, module in layer_modules(network):
        module.register_forward_hook(
            lambda module, x, options, y, name=name: measure(name, module, x, options, y), with_kwargs=True
        )
    images = torch.rand(batch, *in_shape, device=device, dtype=DTYPES[precision])
    with torch.no_grad():
        network(images.contiguous(memory_format=torch.channels_last))
    return costs


def _is_view(module: "nn.Module", x: "Tensor", y: "Tensor") -> bool:
    return x.data_ptr() == y.data_ptr() and not getattr(module, "inplace", False)


def least_seconds(costs: Sequence[LayerCost], flops: float, bandwidth: float) -> float:
    """Return the time of the whole pass if every layer ran at its bound."""
    return sum(cost.least_seconds(flops, bandwidth) for cost in costs)


def machine_line(machine: Machine) -> str:
    """Return the limits in words."""
    parts = [
        f"{flops / 1e12:,.3g} TFLOP/s in {precision} matrix products" for precision, flops in machine.flops.items()
    ]
    parts.append(f"{machine.bandwidth / 1e9:,.1f} GB/s copying memory (read + written)")
    if machine.bus:
        parts.append(f"{machine.bus / 1e9:,.1f} GB/s from the host")
    threads = f", {machine.threads} threads" if machine.device.startswith("cpu") else ""
    return f"{machine.device}{threads}: {', '.join(parts)}"


def layer_table(costs: Sequence[LayerCost], machine: Machine, precision: str) -> str:
    """Return a table with one line per layer."""
    flops, bandwidth = machine.flops[precision], machine.bandwidth
    total = sum(cost.seconds for cost in costs)
    header = (
        "layer",
        "kind",
        "output",
        "GFLOP",
        "MB",
        "FLOP/byte",
        "ms",
        "share",
        "TFLOP/s",
        "GB/s",
        "of its bound",
        "bound by",
    )
    rows = [
        (
            cost.name,
            cost.kind,
            product(cost.output_shape),
            f"{cost.flops / 1e9:,.2f}",
            f"{cost.bytes_moved / 1e6:,.2f}",
            f"{cost.intensity:,.1f}",
            f"{1e3 * cost.seconds:,.3f}",
            f"{cost.seconds / total:.1%}",
            f"{cost.flops / cost.seconds / 1e12:,.3f}",
            f"{cost.bytes_moved / cost.seconds / 1e9:,.1f}",
            f"{cost.least_seconds(flops, bandwidth) / cost.seconds:.0%}",
            cost.bound(flops, bandwidth),
        )
        for cost in costs
    ]
    return text_table(header, rows)


def conclusion(costs: Sequence[LayerCost], machine: Machine, precision: str, batch: int, image_bytes: int) -> str:
    """State the bound of the whole network, and the speed-up that another machine could bring.

    image_bytes  bytes of one image as it is sent to the device
    """
    flops, bandwidth = machine.flops[precision], machine.bandwidth
    measured, least = sum(cost.seconds for cost in costs), least_seconds(costs, flops, bandwidth)
    by_memory = sum(c.least_seconds(flops, bandwidth) for c in costs if c.bound(flops, bandwidth) == "memory")
    lines = [
        f"{batch} images forward: {1e3 * measured:,.2f} ms in layers; {1e3 * least:,.2f} ms if each ran at its bound "
        f"({least / measured:.0%}). Ridge: {flops / bandwidth:,.0f} FLOP/byte.",
        f"Of the least time {by_memory / least:.0%} is memory's and {1 - by_memory / least:.0%} arithmetic's.",
        "A device with the same arithmetic and twice the memory bandwidth could be "
        f"{least / least_seconds(costs, flops, 2 * bandwidth):.2f} times as fast; with the same memory and twice the arithmetic, "
        f"{least / least_seconds(costs, 2 * flops, bandwidth):.2f} times.",
    ]
    if machine.bus:
        sent = batch * image_bytes / machine.bus
        lines.append(
            f"Sending the batch over the bus as float32 takes {1e3 * sent:,.2f} ms, unless it is there already."
        )
    return "\n".join(lines)


def figure(title: str, costs: Sequence[LayerCost], machine: Machine, precision: str) -> "Figure":
    """Draw the roofs of the machine, and a dot per layer that multiplies, its area in proportion to its share of the time.

    Labels stand in a column beside the axes, in the order of the dots' heights, each tied to its dot.
    """
    from matplotlib.figure import Figure

    total = sum(cost.seconds for cost in costs)
    dots = sorted((cost for cost in costs if cost.flops), key=lambda cost: -cost.flops / cost.seconds)
    rest = sum(cost.seconds for cost in costs if not cost.flops) / total
    picture = Figure(figsize=(11, max(5.0, 1.4 + 0.27 * len(dots))), layout="constrained", dpi=150)
    axes = picture.subplots()
    low = min(min(cost.intensity for cost in dots), machine.flops[precision] / machine.bandwidth) / 3
    high = max(max(cost.intensity for cost in dots), max(machine.flops.values()) / machine.bandwidth) * 3
    for name, flops in machine.flops.items():
        ridge = flops / machine.bandwidth
        style = "-" if name == precision else ":"
        axes.plot(
            [low, ridge, high],
            [machine.bandwidth * low / 1e12, flops / 1e12, flops / 1e12],
            style,
            color="black",
            lw=1.2,
        )
        axes.annotate(
            f"{name}: {flops / 1e12:,.3g} TFLOP/s",
            (ridge, flops / 1e12),
            (6, 4),
            textcoords="offset points",
            bbox={"boxstyle": "square,pad=0", "color": "white", "alpha": 0.8},  # over the lines to labels
        )
    colors = {"compute": "#0072b2", "memory": "#d55e00"}
    heights = [(i + 0.5) / len(dots) for i in range(len(dots) - 1, -1, -1)]
    for cost, height in zip(dots, heights, strict=True):
        color = colors[cost.bound(machine.flops[precision], machine.bandwidth)]
        dot = (cost.intensity, cost.flops / cost.seconds / 1e12)
        axes.scatter(*dot, s=20 + 2000 * cost.seconds / total, color=color, alpha=0.6, edgecolor="white", zorder=3)
        axes.annotate(
            f"{cost.name} {cost.kind}, {product(cost.output_shape)}: {cost.seconds / total:.0%}",
            dot,
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.75", "lw": 0.6, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)},
        )
    axes.plot([], [], "o", color=colors["compute"], label="bound by arithmetic")
    axes.plot([], [], "o", color=colors["memory"], label="bound by memory")
    picture.legend(loc="outside lower left", ncols=2, frameon=False)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="arithmetic intensity (FLOP/byte)", ylabel="TFLOP/s")
    axes.set_title(
        f"{title}\n{machine.device}, memory {machine.bandwidth / 1e9:,.0f} GB/s\n"
        f"dots: share of the time; layers that do not multiply (ReLU, pooling) take {rest:.0%} of it",
        fontsize=9,
        loc="left",
    )
    axes.grid(alpha=0.2)
    return picture


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m nin.measure roofline", description="Find what bounds each layer's speed on this machine."
    )
    parser.add_argument("network", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="images at a time (default: 128)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="training precision (default: auto, the device's native one)",
    )
    add_device_options(parser)
    add_network_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="draw the figure into FILE (.png, .svg or .pdf)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers into FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_args(argv)
    require_per_core("--threads", arguments.threads)
    if arguments.batch < 1:
        raise ValueError(f"--batch {arguments.batch}: must be 1 or more")
    if arguments.out:
        require_figure_file(arguments.out)
    spec, in_shape = choose(NETWORKS, arguments.network, "network")
    changes = spec_changes(arguments.overrides)
    spec = replace(spec, **changes)
    in_shape = image_shape(arguments.input) if arguments.input else in_shape

    import torch

    from nin.machine import choose_device
    from nin.precision import BYTES, precision_on

    torch.set_num_threads(arguments.threads)
    device, batch = choose_device(arguments.device), arguments.batch
    precision = precision_on(device, arguments.precision)
    require_effect(changes, [(spec, in_shape, arguments.num_classes)])
    layers(spec, in_shape, arguments.num_classes)  # refuses an impossible network before anything is measured
    for path in filter(None, (arguments.out, arguments.json)):
        require_writable(path)  # before minutes are spent
    machine = measure_machine(device, precision)
    costs = layer_costs(spec, in_shape, arguments.num_classes, batch=batch, precision=precision, device=device)
    title = f"{arguments.network} on {product(in_shape)}, {batch} images, forward, {precision}"
    image_bytes = BYTES["float32"] * in_shape[0] * in_shape[1] * in_shape[2]
    print(title, machine_line(machine), "", layer_table(costs, machine, precision), "", sep="\n")
    print(conclusion(costs, machine, precision, batch, image_bytes))
    if arguments.json:
        numbers = {
            "machine": asdict(machine),
            "batch": batch,
            "precision": precision,
            "layers": [asdict(c) for c in costs],
        }
        write_atomically(arguments.json, json.dumps(numbers, indent=1) + "\n")
    if arguments.out:
        figure(title, costs, machine, precision).savefig(arguments.out)
    return 0
