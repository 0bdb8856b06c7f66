"""How large a network is, layer by layer: shapes, parameters, FLOPs.

    python -m nin.measure nin-d2l      the layer table that textbooks print, and the split trunk | head
    python -m nin.measure --compare    LeNet, AlexNet, VGG and NiN side by side, with the share of the first FC layer

Counted on the meta device, which has shapes but no numbers, so even VGG costs milliseconds. FLOPs are those of convolutions
and matrix products in a forward pass of one image, two per multiply-accumulate, as `torch.utils.flop_counter` counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nin.heads import Shape
from nin.model import Network, build_model
from nin.spec import ModelSpec, choose

# Networks by name, for images of (C, H, W), as the textbook has them.
NETWORKS: dict[str, tuple[ModelSpec, Shape]] = {
    "nin-d2l": (ModelSpec(), (1, 224, 224)),
    "nin-cifar": (ModelSpec(layout="cifar", class_block="wide"), (3, 32, 32)),
    "nin-small": (ModelSpec(layout="small"), (1, 28, 28)),
    "alexnet": (ModelSpec(trunk="alexnet", head="alexnet"), (1, 224, 224)),
    "vgg11": (ModelSpec(trunk="vgg11", head="vgg"), (1, 224, 224)),
    "vgg16": (ModelSpec(trunk="vgg16", head="vgg"), (1, 224, 224)),
    "lenet": (ModelSpec(trunk="lenet", head="lenet"), (1, 28, 28)),
}
COMPARED = ("lenet", "alexnet", "vgg11", "nin-d2l")


@dataclass(frozen=True)
class NetworkSize:
    """Trainable parameters of the two parts of a network, and 10^9 FLOPs of one image's forward pass."""

    params_trunk: int
    params_head: int
    gflops: float

    @property
    def params(self) -> int:
        """All trainable parameters."""
        return self.params_trunk + self.params_head


@dataclass(frozen=True)
class LayerRow:
    """One layer: its part ("trunk" or "head"), its kind, output shape (C, H, W) or (C,), parameters, FLOPs of one image."""

    part: str
    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    flops: int


@lru_cache(maxsize=4096)
def size(spec: ModelSpec, in_shape: Shape, num_classes: int) -> NetworkSize:
    """Size of the network of `spec` for images of in_shape = (C, H, W). Raises ValueError as `build_model` does."""
    network, image = _on_meta(spec, in_shape, num_classes)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image)
    return NetworkSize(_params(network.trunk), _params(network.head), counter.get_total_flops() / 1e9)


def layers(spec: ModelSpec, in_shape: Shape, num_classes: int) -> list[LayerRow]:
    """One row per layer, in the order of the forward pass."""
    network, image = _on_meta(spec, in_shape, num_classes)
    counter = FlopCounterMode(display=False)
    rows: list[LayerRow] = []
    seen = 0  # FLOPs counted before the layer at hand

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        nonlocal seen
        total = counter.get_total_flops()
        part, _, path = name.partition(".")
        kind = type(module).__name__
        rows.append(LayerRow(part, path, kind, tuple(output.shape[1:]), _params(module), total - seen))
        seen = total

    for name, module in network.named_modules():
        if not any(module.children()):
            module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))  # type: ignore[misc]
    with counter, torch.no_grad():
        network(image)
    return rows


def first_fully_connected(spec: ModelSpec, in_shape: Shape, num_classes: int) -> tuple[str, int] | None:
    """Shape and number of weights of the first linear layer on flattened features, ("256·5·5 → 4096", 26214400), or None."""
    rows = layers(spec, in_shape, num_classes)
    for i, row in enumerate(rows):
        if row.kind == "Linear" and i > 0 and rows[i - 1].kind == "Flatten":
            features = rows[i - 2].output_shape if i > 1 else in_shape
            inputs, outputs = rows[i - 1].output_shape[0], row.output_shape[0]
            return f"{'·'.join(str(n) for n in features)} → {outputs}", inputs * outputs
    return None


def _on_meta(spec: ModelSpec, in_shape: Shape, num_classes: int) -> tuple[Network, Tensor]:
    with torch.device("meta"):
        return build_model(spec, in_shape, num_classes).eval(), torch.empty(1, *in_shape)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _print_layers(name: str, spec: ModelSpec, in_shape: Shape, num_classes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "part", "layer", "kind", "output shape", "parameters", "MFLOP", title=f"{name} on {_product(in_shape, '×')}"
    )
    for column in table.columns[3:]:
        column.justify = "right"
    for row in layers(spec, in_shape, num_classes):
        shape = _product(row.output_shape, "×")
        flops = f"{row.flops / 1e6:,.2f}" if row.flops else ""
        table.add_row(row.part, row.name, row.kind, shape, f"{row.params:,}" if row.params else "", flops)
    network = size(spec, in_shape, num_classes)
    Console(highlight=False).print(table)
    print(f"trunk {network.params_trunk:,} | head {network.params_head:,} | total {network.params:,} parameters")
    print(f"{network.gflops:.3f} GFLOP per image, forward (2 per multiply-accumulate)")
    first = first_fully_connected(spec, in_shape, num_classes)
    if first:
        print(
            f"first fully connected layer {first[0]}: {first[1]:,} weights, {first[1] / network.params:.0%} of all parameters"
        )
    else:
        print("no fully connected layer on flattened features")


def _print_comparison(names: Sequence[str], num_classes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("network", "input", "parameters", "trunk", "head", "GFLOP", "first FC layer", "its weights", "share")
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        spec, in_shape = choose(NETWORKS, name, "network")
        network = size(spec, in_shape, num_classes)
        shape, weights = first_fully_connected(spec, in_shape, num_classes) or ("none", 0)
        table.add_row(
            name,
            _product(in_shape, "×"),
            f"{network.params:,}",
            f"{network.params_trunk:,}",
            f"{network.params_head:,}",
            f"{network.gflops:.3f}",
            shape,
            f"{weights:,}",
            f"{weights / network.params:.0%}",
        )
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=140)).print(table)


def _product(numbers: Sequence[int], sign: str) -> str:
    return sign.join(str(n) for n in numbers)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    from nin.cli import OneLineParser

    parser = OneLineParser(prog="python -m nin.measure", description="How large a network is, layer by layer.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--compare", action="store_true", help=f"side by side (default: {', '.join(COMPARED)})")
    parser.add_argument("--num-classes", type=int, default=10, metavar="K")
    parser.add_argument(
        "--num-1x1", type=int, metavar="N", help="1x1 convolutions per block, where the network has blocks"
    )
    arguments = parser.parse_args(argv)
    if arguments.num_classes < 1:
        raise ValueError(f"--num-classes {arguments.num_classes}: must be 1 or more")
    if not arguments.networks and not arguments.compare:
        raise ValueError(f"name a network ({', '.join(NETWORKS)}), or --compare")
    if arguments.compare:
        _print_comparison(arguments.networks or COMPARED, arguments.num_classes)
        return 0
    for name in arguments.networks:
        spec, in_shape = choose(NETWORKS, name, "network")
        if arguments.num_1x1 is not None:
            spec = replace(spec, num_1x1=arguments.num_1x1)
        _print_layers(name, spec, in_shape, arguments.num_classes)
    return 0


if __name__ == "__main__":
    from nin.cli import exit_with

    exit_with(main)
