"""The mlpconv block: a spatial convolution, then any number of 1x1 convolutions, each with its ReLU."""

import pytest
import torch
from torch import nn

from nin.blocks import ACTIVATIONS, Maxout, mlp_channels, mlp_conv, weight_layers


@pytest.mark.parametrize("num_1x1", range(5))
def test_block_is_one_spatial_convolution_and_num_1x1_1x1s(num_1x1: int) -> None:
    block = mlp_conv(3, [16] * (1 + num_1x1), kernel_size=5, stride=2, padding=1)
    convolutions = [layer for layer in block if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(5, 5)] + [(1, 1)] * num_1x1
    assert [type(layer) for layer in block] == [nn.Conv2d, nn.ReLU] * (1 + num_1x1)
    assert sum(p.numel() for p in block.parameters()) == 3 * 16 * 25 + 16 + num_1x1 * (16 * 16 + 16)
    assert block(torch.randn(2, 3, 28, 28)).shape == (2, 16, 13, 13)  # floor((28 + 2·1 - 5) / 2) + 1


def test_1x1s_mix_the_channels_of_each_pixel_and_nothing_else() -> None:
    """A 1x1 convolution is a fully connected layer on every pixel's channels (Lin, Chen and Yan)."""
    spatial, _, inner, _ = block = mlp_conv(3, [8, 4], kernel_size=3)
    x = torch.randn(2, 3, 9, 9)
    pixels = torch.relu(spatial(x)).movedim(1, -1)
    by_hand = torch.relu(nn.functional.linear(pixels, inner.weight.flatten(1), inner.bias)).movedim(-1, 1)
    torch.testing.assert_close(block(x), by_hand)


@pytest.mark.parametrize("last_relu", [True, False])
def test_only_the_last_relu_can_be_left_out(last_relu: bool) -> None:
    block = mlp_conv(3, [8, 8, 8], kernel_size=3, last_relu=last_relu)
    assert sum(isinstance(layer, nn.ReLU) for layer in block) == 2 + last_relu
    assert (block(torch.randn(2, 3, 9, 9)).amin() >= 0) == last_relu


@pytest.mark.parametrize("inner_kernel", [1, 3, 5])
def test_inner_kernels_keep_height_and_width(inner_kernel: int) -> None:
    block = mlp_conv(3, [8, 8, 8], kernel_size=3, padding=1, inner_kernel=inner_kernel)
    assert [layer.kernel_size[0] for layer in weight_layers(block)] == [3, inner_kernel, inner_kernel]
    assert block(torch.randn(1, 3, 9, 7)).shape == (1, 8, 9, 7)


@pytest.mark.parametrize(
    ("num_1x1", "channels"),
    [(0, [192]), (1, [192, 160]), (2, [192, 160, 96]), (3, [192, 160, 96, 96]), (4, [192, 160, 96, 96, 96])],
)
def test_published_widths_are_cut_short_or_their_last_repeated(num_1x1: int, channels: list[int]) -> None:
    assert mlp_channels((192, 160, 96), num_1x1) == channels


def test_weight_layers_come_in_the_order_of_the_forward_pass() -> None:
    first, second, third = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 1), nn.Linear(4, 5)
    network = nn.Sequential(nn.Sequential(first, nn.ReLU()), nn.Sequential(second, nn.Flatten(), third))
    assert list(weight_layers(network)) == [first, second, third]


# --- what follows each convolution


def kinds(activation: str, last_relu: bool = True) -> list[str]:
    return [type(layer).__name__ for layer in mlp_conv(3, [4, 5, 6], 3, activation=activation, last_relu=last_relu)]


def test_each_activation_stands_where_the_relu_stood() -> None:
    assert kinds("relu") == ["Conv2d", "ReLU"] * 3
    assert kinds("gelu") == ["Conv2d", "GELU"] * 3
    assert kinds("maxout2") == ["Conv2d", "Maxout"] * 3
    assert kinds("batchnorm-relu") == ["Conv2d", "BatchNorm2d", "ReLU"] * 3
    assert kinds("mixing") == ["Conv2d"] * 3 + ["ReLU"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_last_activation_can_be_left_out_and_nothing_else(activation: str) -> None:
    assert kinds(activation)[: len(kinds(activation, last_relu=False))] == kinds(activation, last_relu=False)
    block = mlp_conv(3, [4, 5, 6], 3, activation=activation, last_relu=False)
    assert block(torch.randn(2, 3, 8, 8)).shape == (2, 6, 6, 6)


def test_convolutions_that_only_mix_are_one_affine_map_and_with_relu_they_are_not() -> None:
    x, y = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for activation, is_affine in (("mixing", True), ("relu", False)):
        torch.manual_seed(0)
        block = mlp_conv(3, [4, 4, 4], 3, activation=activation, last_relu=False).double()
        zero = torch.zeros_like(x)
        assert torch.allclose(block(x + y) + block(zero), block(x) + block(y)) == is_affine


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pieces", [2, 3])
def test_maxout_keeps_the_largest_of_its_pieces(pieces: int, memory_format: torch.memory_format) -> None:
    parts = torch.randn(pieces, 4, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    x = torch.cat([*parts], dim=1).contiguous(memory_format=memory_format).requires_grad_()
    y = Maxout(pieces)(x)
    y.sum().backward()
    assert torch.equal(y, parts.amax(dim=0))
    is_largest = torch.cat([*(parts == parts.amax(dim=0))], dim=1)
    assert torch.equal(x.grad, is_largest.float())


def test_maxout_has_its_pieces_made_by_the_convolution_before_it() -> None:
    convolutions = [layer for layer in mlp_conv(3, [4, 5], 3, activation="maxout3") if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(3, 12), (4, 15)]
