"""The unit of Network in Network: a spatial convolution, then 1x1 convolutions that mix its channels at every pixel.

Lin, Chen and Yan (arXiv:1312.4400) call it mlpconv: the 1x1 convolutions are a small perceptron slid over the image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from nin.registry import Registry
from nin.spec import choose


class Maxout(nn.Module):
    """The largest of each group of `pieces` channels, which are C apart (Goodfellow et al., arXiv:1302.4389)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C * pieces, H, W) -> (N, C, H, W)."""
        num_images, channels, height, width = x_NCHW.shape
        channels //= self.pieces
        # As max pooling of pieces that lie one below the other: on a CPU in a quarter of the time that amax and its gradient take.
        pieces_NCP1 = x_NCHW.permute(0, 2, 3, 1).reshape(num_images, -1, 1, channels).permute(0, 3, 1, 2)
        largest_NCP1 = F.max_pool2d(pieces_NCP1, (self.pieces, 1))
        return largest_NCP1.permute(0, 2, 3, 1).reshape(num_images, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Activation:
    """The layers after a convolution in a block: `after(channels)` at a block's end, `between(channels)` inside it.

    pieces  channels of the convolution for each channel of the activation's output
    """

    after: Callable[[int], list[nn.Module]]
    between: Callable[[int], list[nn.Module]]
    pieces: int = 1


def _everywhere(make: Callable[[int], list[nn.Module]], pieces: int = 1) -> Activation:
    return Activation(after=make, between=make, pieces=pieces)


ACTIVATIONS: Registry[Activation] = Registry(
    "activation",
    "model.activation",
    {
        "relu": _everywhere(lambda channels: [nn.ReLU(inplace=True)]),
        # No ReLU between a block's convolutions: they only mix, and the block computes what a single convolution could.
        "mixing": Activation(after=lambda channels: [nn.ReLU(inplace=True)], between=lambda channels: []),
        "gelu": _everywhere(lambda channels: [nn.GELU()]),
        "maxout2": _everywhere(lambda channels: [Maxout(2)], pieces=2),
        "maxout3": _everywhere(lambda channels: [Maxout(3)], pieces=3),
        "batchnorm-relu": _everywhere(lambda channels: [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]),
    },
)


def mlp_conv(
    in_channels: int,
    channels: Sequence[int],
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    inner_kernel: int = 1,
    last_relu: bool = True,
    activation: str = "relu",
) -> nn.Sequential:
    """(N, in_channels, H, W) -> (N, channels[-1], H', W'): one spatial convolution, then a 1x1 for each further width.

    An activation follows each convolution; `last_relu=False` leaves out the one after the last. `inner_kernel=3` puts 3x3
    convolutions in the place of the 1x1s: the block is as deep, but no longer a perceptron at each pixel.
    """
    act = choose(ACTIVATIONS, activation, "activation")
    if not isinstance(act, Activation):
        raise ValueError(f"activation {activation!r} must be a nin.blocks.Activation, and is {act!r}")
    pieces = act.pieces if len(channels) > 1 or last_relu else 1
    layers: list[nn.Module] = [nn.Conv2d(in_channels, pieces * channels[0], kernel_size, stride, padding)]
    for i, (before, after) in enumerate(pairwise(channels), start=2):
        layers += act.between(before)
        pieces = act.pieces if i < len(channels) or last_relu else 1
        layers.append(nn.Conv2d(before, pieces * after, inner_kernel, padding=inner_kernel // 2))
    if last_relu:
        layers += act.after(channels[-1])
    return nn.Sequential(*layers)


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width`, rounded, at least 1."""
    return max(1, round(channels * width))


def mlp_channels(published: Sequence[int], num_1x1: int) -> list[int]:
    """Return the widths of a block's convolutions with `num_1x1` 1x1s: the published ones, the last repeated as needed."""
    return [published[min(i, len(published) - 1)] for i in range(1 + num_1x1)]


def weight_layers(network: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Yield convolutions and linear layers in the order in which the network has them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module


def last_layer(network: nn.Module) -> nn.Conv2d | nn.Linear:
    """Return the layer that makes the class maps or logits: the last of `weight_layers`, not counting a pooling's own.

    Raises ValueError if there is none.
    """
    in_poolings = {m for part in network.modules() if getattr(part, "is_global_pooling", False) for m in part.modules()}
    layers = [layer for layer in weight_layers(network) if layer not in in_poolings]
    if not layers:
        raise ValueError(
            "the network has no convolution and no linear layer, so no last one: set train.last_lr_factor=1"
        )
    return layers[-1]
