"""Print a network's size layer by layer: shapes, parameters, FLOPs.

    python -m nin.measure nin-d2l                       the layer table that textbooks print, and the split trunk | head
    python -m nin.measure nin-d2l --set head=alexnet    the same with another head, or any other field of `ModelSpec`
    python -m nin.measure --compare                     LeNet, AlexNet, VGG and NiN side by side: the first FC layer's share
    python -m nin.measure roofline nin-d2l              what bounds each layer's speed on this machine (`nin.roofline`)

`nin.sizes` counts them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nin.cli import OneLineParser, add_network_options, exit_with, output_console
from nin.sizes import (
    NETWORKS,
    first_fully_connected,
    image_shape,
    layers,
    product,
    require_effect,
    size,
    spec_changes,
    unread_fields,
)
from nin.spec import ModelSpec, Shape, choose

if TYPE_CHECKING:
    from rich.table import Table

COMPARED = ("lenet", "alexnet", "vgg11", "nin-d2l")


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


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m nin.measure",
        description="Print a network's size layer by layer: shapes, parameters, FLOPs.",
        epilog="python -m nin.measure roofline NETWORK: find the bound of each layer's speed on this machine.",
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument(
        "--compare", action="store_true", help=f"networks side by side (default: {', '.join(COMPARED)})"
    )
    add_network_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["roofline"]:
        from nin import roofline

        return roofline.main(words[1:])
    arguments = _parser().parse_intermixed_args(words)
    if not arguments.networks and not arguments.compare:
        raise ValueError(f"name a network ({', '.join(NETWORKS)}), or --compare")
    changes = spec_changes(arguments.overrides)
    requests: dict[str, tuple[ModelSpec, Shape]] = {}
    for name in arguments.networks or COMPARED:
        spec, in_shape = choose(NETWORKS, name, "network")
        requests[name] = replace(spec, **changes), image_shape(arguments.input) if arguments.input else in_shape
    require_effect(changes, ((*network, arguments.num_classes) for network in requests.values()))

    unchanged = [
        f"--set changes nothing of {name}: {', '.join(sorted(unread))}"
        for name, network in requests.items()
        if changes and (unread := unread_fields(*network, arguments.num_classes) & changes.keys())
    ]

    # Everything is counted before anything is printed, so a request that is wrong in one network prints nothing.
    if arguments.compare:
        output_console().print(_comparison(requests, arguments.num_classes))
    else:
        counted = [(name, *network, arguments.num_classes) for name, network in requests.items()]
        parts = (part for one in counted for part in (_layer_table(*one), _summary(*one[1:])))
        output_console().print(*parts, sep="\n")
    if unchanged:
        print(*unchanged, sep="\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
