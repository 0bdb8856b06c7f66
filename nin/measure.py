"""How large a network is, layer by layer: shapes, parameters, FLOPs.

    python -m nin.measure nin-d2l                       the layer table that textbooks print, and the split trunk | head
    python -m nin.measure nin-d2l --set head=alexnet    the same with another head, or any other field of `ModelSpec`
    python -m nin.measure --compare                     LeNet, AlexNet, VGG and NiN side by side: the first FC layer's share
    python -m nin.measure roofline nin-d2l              what bounds each layer's speed on this machine (`nin.roofline`)

Counted on the meta device, which has shapes but no numbers, so even VGG costs milliseconds. FLOPs are those of convolutions
and matrix products in a forward pass of one image, two per multiply-accumulate, as `torch.utils.flop_counter` counts them.
Torch is imported by the functions that count, so that a wrong request is answered without waiting for it.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

from nin.cli import OneLineParser, exit_with
from nin.spec import MAX_SIDE, ModelSpec, Shape, choose

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

    from nin.model import Network

# Networks by name, for images of (C, H, W), as the textbook has them.
NETWORKS: dict[str, tuple[ModelSpec, "Shape"]] = {
    "nin-d2l": (ModelSpec(), (1, 224, 224)),
    "nin-cifar": (ModelSpec(layout="cifar", class_block="wide"), (3, 32, 32)),
    "nin-small": (ModelSpec(layout="small"), (1, 28, 28)),
    "alexnet": (ModelSpec(trunk="alexnet", head="alexnet"), (1, 224, 224)),
    "vgg11": (ModelSpec(trunk="vgg11", head="vgg"), (1, 224, 224)),
    "vgg16": (ModelSpec(trunk="vgg16", head="vgg"), (1, 224, 224)),
    "lenet": (ModelSpec(trunk="lenet", head="lenet"), (1, 28, 28)),
}
COMPARED = ("lenet", "alexnet", "vgg11", "nin-d2l")
MAX_CLASSES = 2**20


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
def size(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> NetworkSize:
    """Size of the network of `spec` for images of in_shape = (C, H, W). Raises ValueError as `build_model` does."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, image = _on_meta(spec, in_shape, num_classes)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image)
    return NetworkSize(_params(network.trunk), _params(network.head), counter.get_total_flops() / 1e9)


def layers(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> list[LayerRow]:
    """One row per layer, in the order of the forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, image = _on_meta(spec, in_shape, num_classes)
    counter = FlopCounterMode(display=False)
    rows: list[LayerRow] = []
    seen = 0  # FLOPs counted before the layer at hand

    def record(name: str, module: "nn.Module", output: "Tensor") -> None:
        nonlocal seen
        total = counter.get_total_flops()
        part, _, path = name.partition(".")
        kind = type(module).__name__
        rows.append(LayerRow(part, path, kind, tuple(output.shape[1:]), _params(module), total - seen))
        seen = total

    for name, module in layer_modules(network):
        module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
    with counter, torch.no_grad():
        network(image)
    return rows


def layer_modules(module: "nn.Module", name: str = "") -> "Iterator[tuple[str, nn.Module]]":
    """What counts as a layer, by name: modules without parts, and poolings as a whole, whose parts may be used unseen."""
    from nin.pooling import GlobalPool

    if isinstance(module, GlobalPool) or not any(module.children()):
        yield name, module
    else:
        for part, child in module.named_children():
            yield from layer_modules(child, f"{name}.{part}" if name else part)


def first_fully_connected(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> tuple[str, int] | None:
    """Shape and number of weights of the first linear layer on flattened features, ("256·5·5 → 4096", 26214400), or None."""
    rows = [row for row in layers(spec, in_shape, num_classes) if row.kind != "Dropout"]
    for i, row in enumerate(rows):
        if row.kind == "Linear" and i > 0 and rows[i - 1].kind in ("Flatten", "FlattenPool"):
            features = rows[i - 2].output_shape if i > 1 else in_shape
            inputs, outputs = rows[i - 1].output_shape[0], row.output_shape[0]
            return f"{product(features, '·')} → {outputs}", inputs * outputs
    return None


def _on_meta(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> tuple["Network", "Tensor"]:
    import torch

    from nin.model import build_model

    with torch.device("meta"):
        return build_model(spec, in_shape, num_classes).eval(), torch.empty(1, *in_shape)


def _params(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layer_table(name: str, spec: ModelSpec, in_shape: "Shape", num_classes: int) -> "Table":
    from rich.table import Table

    table = Table(title=f"{name} on {product(in_shape)}")
    for column in ("part", "layer", "kind"):
        table.add_column(column)
    for column in ("output shape", "parameters", "MFLOP"):
        table.add_column(column, justify="right")
    for row in layers(spec, in_shape, num_classes):
        params = f"{row.params:,}" if row.params else ""
        mflops = f"{row.flops / 1e6:,.2f}" if row.flops else ""
        table.add_row(row.part, row.name, row.kind, product(row.output_shape), params, mflops)
    return table


def _summary(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> str:
    network, first = size(spec, in_shape, num_classes), first_fully_connected(spec, in_shape, num_classes)
    lines = [
        f"trunk {network.params_trunk:,} | head {network.params_head:,} | total {network.params:,} parameters",
        f"{network.gflops:.3f} GFLOP per image, forward (2 per multiply-accumulate)",
        "no fully connected layer on flattened features",
    ]
    if first:
        shape, weights = first
        share = weights / network.params
        lines[-1] = f"first fully connected layer {shape}: {weights:,} weights, {share:.0%} of all parameters"
    return "\n".join(lines)


def _comparison(requests: Mapping[str, tuple[ModelSpec, "Shape"]], num_classes: int) -> "Table":
    from rich.table import Table

    table = Table("network", title="Parameters, GFLOP per image (forward), and the weights of the first FC layer")
    for column in ("input", "parameters", "trunk", "head", "GFLOP", "first FC layer", "its weights", "share"):
        table.add_column(column, justify="right")
    for name, (spec, in_shape) in requests.items():
        network = size(spec, in_shape, num_classes)
        shape, weights = first_fully_connected(spec, in_shape, num_classes) or ("none", 0)
        params = (f"{n:,}" for n in (network.params, network.params_trunk, network.params_head))
        fc = (shape, f"{weights:,}", f"{weights / network.params:.0%}")
        table.add_row(name, product(in_shape), *params, f"{network.gflops:.3f}", *fc)
    return table


def _print(*parts: "Table | str") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=140)).print(*parts, sep="\n")


def product(numbers: Sequence[int], sign: str = "×") -> str:
    """Numbers with a sign between them: 96×54×54."""
    return sign.join(str(n) for n in numbers)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m nin.measure",
        description="How large a network is, layer by layer.",
        epilog="python -m nin.measure roofline NETWORK: what bounds each layer's speed on this machine.",
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--compare", action="store_true", help=f"side by side (default: {', '.join(COMPARED)})")
    parser.add_argument("--num-classes", type=int, default=10, metavar="K", help="default: 10")
    parser.add_argument("--input", metavar="CxHxW", help="channels, height and width of an image, such as 3x32x32")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a field of the network, such as num_1x1=3",
    )
    return parser


def image_shape(text: str) -> "Shape":
    """(1, 28, 28) from "1x28x28", as --input has it. Raises ValueError for anything else."""
    numbers = [int(n) if n.isdecimal() else 0 for n in text.replace("×", "x").split("x")]
    if len(numbers) != 3 or not 1 <= min(numbers) <= max(numbers) <= MAX_SIDE:
        raise ValueError(
            f"--input {text!r}: must be channels, height and width in pixels, such as 3x32x32, each at most {MAX_SIDE}"
        )
    channels, height, width = numbers
    return channels, height, width


def spec_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """{"num_1x1": 3} from ["num_1x1=3"]; "model.num_1x1=3", as experiments write it, is the same."""
    types = get_type_hints(ModelSpec)
    changes: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.removeprefix("model.").partition("=")
        wanted = choose(types, key, "--set key")
        try:
            changes[key] = {"true": True, "false": False}[text.lower()] if wanted is bool else wanted(text)
        except (KeyError, ValueError):
            kind = "true or false" if wanted is bool else wanted.__name__
            raise ValueError(f"--set {override!r}: {key} must be {kind}") from None
    return changes


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["roofline"]:
        from nin import roofline

        return roofline.main(words[1:])
    arguments = _parser().parse_intermixed_args(words)
    if not 1 <= arguments.num_classes <= MAX_CLASSES:
        raise ValueError(f"--num-classes {arguments.num_classes}: must be 1 or more and at most {MAX_CLASSES}")
    if not arguments.networks and not arguments.compare:
        raise ValueError(f"name a network ({', '.join(NETWORKS)}), or --compare")
    changes = spec_changes(arguments.overrides)
    requests: dict[str, tuple[ModelSpec, Shape]] = {}
    for name in arguments.networks or COMPARED:
        spec, in_shape = choose(NETWORKS, name, "network")
        requests[name] = replace(spec, **changes), image_shape(arguments.input) if arguments.input else in_shape

    # Everything is counted before anything is printed, so a request that is wrong in one network prints nothing.
    if arguments.compare:
        _print(_comparison(requests, arguments.num_classes))
    else:
        counted = [(name, *network, arguments.num_classes) for name, network in requests.items()]
        _print(*(part for one in counted for part in (_layer_table(*one), _summary(*one[1:]))))
    return 0


if __name__ == "__main__":
    exit_with(main)
