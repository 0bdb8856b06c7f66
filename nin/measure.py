"""How large a network is, layer by layer: shapes, parameters, FLOPs.

Counted on the meta device, which has shapes but no numbers, so even VGG costs milliseconds. FLOPs are those of convolutions
and matrix products in a forward pass of one image, two per multiply-accumulate, as `torch.utils.flop_counter` counts them.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nin.heads import Shape
from nin.model import build_model
from nin.spec import ModelSpec


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


def size(spec: ModelSpec, in_shape: Shape, num_classes: int) -> NetworkSize:
    """Size of the network of `spec` for images of in_shape = (C, H, W). Raises ValueError as `build_model` does."""
    with torch.device("meta"):
        network = build_model(spec, in_shape, num_classes).eval()
        image = torch.empty(1, *in_shape)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image)
    return NetworkSize(_params(network.trunk), _params(network.head), counter.get_total_flops() / 1e9)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
