"""Count a network's size layer by layer: shapes, parameters, FLOPs.

Networks are counted on the meta device, which has shapes but no numbers, so even VGG takes milliseconds. FLOPs are those of
convolutions and matrix products in a forward pass of one image, two per multiply-accumulate, as `torch.utils.flop_counter` counts
them. The functions that count import torch, so that a wrong request is refused without waiting for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

from nin.registry import Addition, added, naming_additions
from nin.spec import MAX_SIDE, ModelSpec, Shape, choose, parse_value

if TYPE_CHECKING:
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


def size(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> NetworkSize:
    """Count the network of `spec` for images of in_shape = (C, H, W). Raises ValueError as `build_model` does."""
    return _size(spec, in_shape, num_classes, _additions(spec))


@lru_cache(maxsize=4096)
def _size(spec: ModelSpec, in_shape: "Shape", num_classes: int, additions: tuple[Addition, ...]) -> NetworkSize:
    """Count once for each version of the added code that the specification names."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, image = _network_and_image(spec, in_shape, num_classes, additions)
    counter = FlopCounterMode(display=False)
    with naming_additions("network", additions), counter, torch.no_grad():
        returned = tuple(network(image).shape)
    if returned != (1, num_classes):
        wanted = f"logits (N, K), here (1, {num_classes})"
        raise ValueError(f"the network returns {returned} in the place of {wanted}; does its pooling return (N, C)?")
    return NetworkSize(_params(network.trunk), _params(network.head), counter.get_total_flops() / 1e9)


def layers(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> list[LayerRow]:
    """Return a row per layer, in the order of the forward pass."""
    return layer_rows(*_network_and_image(spec, in_shape, num_classes, _additions(spec)))


def layer_rows(network: "nn.Module", image_1CHW: "Tensor") -> list[LayerRow]:
    """Return a row per layer of a built network, from a forward pass of one image in evaluation mode.

    A last row has the parameters and FLOPs that no layer accounts for, such as the class token of a vision transformer, or products
    that a module with parts computes itself.
    """
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from nin.model import evaluating

    counter = FlopCounterMode(display=False)
    rows: list[LayerRow] = []
    before: list[int] = []  # FLOPs counted before the layers at hand
    used = set[nn.Module]()

    def record(name: str, module: "nn.Module", output: object) -> None:
        output = output[0] if isinstance(output, tuple) else output  # such as of an LSTM, whose states follow
        flops = counter.get_total_flops() - before.pop()
        if isinstance(output, Tensor):
            part, _, path = name.partition(".")
            params = 0 if module in used else _params(module)  # a layer that is used twice has its parameters once
            kind = type(module).__name__
            rows.append(LayerRow(part, path, kind, tuple(output.shape[1:]), params, flops))
            used.add(module)

    hooks = [
        hook
        for name, module in layer_modules(network)
        for hook in (
            module.register_forward_pre_hook(lambda *_: before.append(counter.get_total_flops())),
            module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output)),
        )
    ]
    try:
        with evaluating(network), counter, _attention_by_products():
            network(image_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    params = _params(network) - sum(row.params for row in rows)
    flops = counter.get_total_flops() - sum(row.flops for row in rows)
    if params > 0 or flops > 0:
        rows.append(LayerRow("", "not in a layer", "", (), max(params, 0), max(flops, 0)))
    return rows


@contextmanager
def _attention_by_products() -> "Iterator[None]":
    """Context in which attention is computed by matrix products, which torch counts on every device, and not by fused kernels."""
    from torch.backends import mha
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)


def layer_modules(module: "nn.Module", name: str = "") -> "Iterator[tuple[str, nn.Module]]":
    """Yield layers with names: modules without parts, and whole those whose parts hooks may not see: poolings, attention."""
    from torch import nn

    from nin.pooling import GlobalPool

    if isinstance(module, GlobalPool | nn.MultiheadAttention) or not any(module.children()):
        yield name, module
    else:
        for part, child in module.named_children():
            yield from layer_modules(child, f"{name}.{part}" if name else part)


def first_fully_connected(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> tuple[str, int] | None:
    """Return shape and number of weights of the first linear layer on flattened features, ("256·5·5 → 4096", 26214400), if any."""
    rows = [row for row in layers(spec, in_shape, num_classes) if row.kind != "Dropout"]
    for i, row in enumerate(rows):
        if row.kind == "Linear" and i > 0 and rows[i - 1].kind in ("Flatten", "FlattenPool"):
            features = rows[i - 2].output_shape if i > 1 else in_shape
            inputs, outputs = rows[i - 1].output_shape[0], row.output_shape[0]
            return f"{product(features, '·')} → {outputs}", inputs * outputs
    return None


def unread_fields(spec: ModelSpec, in_shape: "Shape", num_classes: int) -> frozenset[str]:
    """Return the fields that this network does not read, whose values therefore change nothing, such as LeNet's num_1x1."""
    return _unread_fields(spec, in_shape, num_classes, _additions(spec))


@lru_cache(maxsize=4096)
def _unread_fields(
    spec: ModelSpec, in_shape: "Shape", num_classes: int, additions: tuple[Addition, ...]
) -> frozenset[str]:
    """Watch once for each version of the added code that the specification names."""
    import torch

    read: set[str] = set()

    class Watched(ModelSpec):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    watched = Watched(**vars(spec))
    read.clear()  # of what the checks of its values read
    network, image = _network_and_image(watched, in_shape, num_classes, additions)
    with torch.no_grad():
        network(image)
    everything = frozenset(field.name for field in fields(ModelSpec))
    return frozenset() if "__dict__" in read else everything - read


def _additions(spec: ModelSpec) -> tuple[Addition, ...]:
    return tuple(added({f"model.{name}": value for name, value in vars(spec).items()}))


def require_effect(changes: Iterable[str], networks: Iterable[tuple[ModelSpec, "Shape", int]]) -> None:
    """Raise ValueError if a change of one of these fields changes none of the networks.

    changes   fields of `ModelSpec`
    networks  specification, shape of the images and number of classes of each
    """
    without, kinds = set(changes), set[str]()
    for spec, in_shape, num_classes in networks:
        if without:
            without &= unread_fields(spec, in_shape, num_classes)
            kinds.add(f"trunk {spec.trunk!r} with head {spec.head!r}")
    if without:
        place = kinds.pop() if len(kinds) == 1 else "any of these networks"
        raise ValueError(f"{', '.join(sorted(without))}: would change nothing in {place}")


def _network_and_image(
    spec: ModelSpec, in_shape: "Shape", num_classes: int, additions: tuple[Addition, ...]
) -> tuple["Network", "Tensor"]:
    """Build a network and an image without values, on torch's meta device; with values, on the CPU, where added code needs them.

    Raises ValueError, which names the added code, where that fails there too.
    """
    import torch

    from nin.model import build_model

    with naming_additions("network", additions), torch.no_grad():
        with torch.device("meta"):
            network, image = build_model(spec, in_shape, num_classes).eval(), torch.empty(1, *in_shape)
        if additions:
            try:
                network(image)
            except Exception:  # as of torch.rand(1), which is on the CPU, or of `if x.max() > 0`
                network, image = build_model(spec, in_shape, num_classes).eval(), torch.zeros(1, *in_shape)
                network(image)
    return network, image


def _params(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def product(numbers: Sequence[int], sign: str = "×") -> str:
    """Join numbers by a sign: 96×54×54."""
    return sign.join(str(n) for n in numbers)


def image_shape(text: str) -> "Shape":
    """Parse the argument of --input: (1, 28, 28) from "1x28x28". Raises ValueError for anything else."""
    numbers = [int(n) if n.isdecimal() else 0 for n in text.replace("×", "x").split("x")]
    if len(numbers) != 3 or not 1 <= min(numbers) <= max(numbers) <= MAX_SIDE:
        raise ValueError(
            f"--input {text!r}: must be channels, height and width in pixels, such as 3x32x32, each at most {MAX_SIDE}"
        )
    channels, height, width = numbers
    return channels, height, width


def spec_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse the arguments of --set: {"num_1x1": 3} from ["num_1x1=3"], or from ["model.num_1x1=3"], as experiments write it."""
    types = get_type_hints(ModelSpec)
    changes: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.removeprefix("model.").partition("=")
        wanted = choose(types, key, "--set key")
        try:
            changes[key] = parse_value(text, wanted)
        except ValueError as error:
            raise ValueError(f"--set {override!r}: {key} {error}") from None
    return changes
