"""The unit of Network in Network: a spatial convolution, then 1x1 convolutions that mix its channels at every pixel.

Lin, Chen and Yan (arXiv:1312.4400) call it mlpconv: the 1x1 convolutions are a small perceptron slid over the image.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import nn


def mlp_conv(
    in_channels: int,
    channels: Sequence[int],
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    inner_kernel: int = 1,
    last_relu: bool = True,
) -> nn.Sequential:
    """(N, in_channels, H, W) -> (N, channels[-1], H', W'): one spatial convolution, then a 1x1 for each further width.

    A ReLU follows each convolution; `last_relu=False` leaves out the one after the last. `inner_kernel=3` puts 3x3
    convolutions in the place of the 1x1s: as deep, but no longer a perceptron at each pixel.
    """
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], kernel_size, stride, padding)]
    for before, after in pairwise(channels):
        layers += [nn.ReLU(inplace=True), nn.Conv2d(before, after, inner_kernel, padding=inner_kernel // 2)]
    if last_relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def mlp_channels(published: Sequence[int], num_1x1: int) -> list[int]:
    """Widths of a block's convolutions when it has `num_1x1` 1x1s: the published ones, the last repeated as needed."""
    return [published[min(i, len(published) - 1)] for i in range(1 + num_1x1)]


def weight_layers(network: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers, in the order of the forward pass."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module
