"""Feature extractors: their published shapes and widths, and the smallest image each takes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from nin import _torchvision  # noqa: F401  (makes torchvision importable beside a CPU build of torch)
from nin.blocks import scaled
from nin.layouts import NIN_LAYOUTS
from nin.model import build_model
from nin.sizes import layers, size
from nin.spec import ModelSpec
from nin.trunks import TRUNKS


def convolutions(spec: ModelSpec, in_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Output shapes (C, H, W) of all convolutions, those of the head too."""
    return [row.output_shape for row in layers(spec, in_shape, 10) if row.kind == "Conv2d"]


def test_d2l_layout_has_the_known_shapes() -> None:
    shapes = [(1, 224, 224), *(row.output_shape for row in layers(ModelSpec(), (1, 224, 224), 10))]
    changes = [after for before, after in pairwise(shapes) if after != before]
    assert changes == [
        *((96, 54, 54), (96, 26, 26)),
        *((256, 26, 26), (256, 12, 12)),
        *((384, 12, 12), (384, 5, 5)),
        *((10, 5, 5), (10,)),
    ]


def test_cifar_layout_is_the_authors() -> None:
    """Lin, Chen and Yan's CIFAR-10 network: 5x5-192, 160, 96; 5x5-192, 192, 192; 3x3-192, 192, K; pooling that overhangs."""
    widths_and_sizes = convolutions(ModelSpec(layout="cifar", class_block="wide"), (3, 32, 32))
    assert [shape[0] for shape in widths_and_sizes] == [192, 160, 96, 192, 192, 192, 192, 192, 10]
    assert [shape[1:] for shape in widths_and_sizes[::3]] == [(32, 32), (16, 16), (8, 8)]


@pytest.mark.parametrize(
    ("layout", "in_shape", "widths"),
    [
        ("svhn", (3, 32, 32), [128, 96, 64, 320, 256, 128, 384, 256, 10]),
        ("mnist", (1, 28, 28), [96, 64, 48, 128, 96, 48, 128, 96, 10]),
    ],
)
def test_the_authors_layouts_for_svhn_and_mnist(layout: str, in_shape: tuple[int, int, int], widths: list[int]) -> None:
    """Three blocks of 5x5 convolutions, the class block included."""
    spec = ModelSpec(layout=layout, class_block="wide")
    assert [shape[0] for shape in convolutions(spec, in_shape)] == widths
    network = build_model(spec, in_shape, 10)
    kernels = [module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == [(5, 5), (1, 1), (1, 1)] * 3


def test_cifar_layout_drops_units_after_both_poolings() -> None:
    kinds = [row.kind for row in layers(ModelSpec(layout="cifar", class_block="wide"), (3, 32, 32), 10)]
    assert [after for kind, after in pairwise(kinds) if kind == "MaxPool2d"] == ["Dropout"] * 2
    assert kinds.count("Dropout") == 2


def test_d2l_layout_drops_units_once() -> None:
    assert [row.kind for row in layers(ModelSpec(), (1, 224, 224), 10)].count("Dropout") == 1


def test_small_layout_has_blocks_of_constant_width_and_halves_between() -> None:
    shapes = convolutions(ModelSpec(layout="small", width=0.25), (1, 28, 28))
    assert shapes[::3] == [(24, 28, 28), (48, 14, 14), (64, 7, 7), (10, 3, 3)]
    assert [shape[0] for shape in shapes] == [24] * 3 + [48] * 3 + [64] * 3 + [10] * 3


@pytest.mark.parametrize("layout", NIN_LAYOUTS)
@pytest.mark.parametrize("num_1x1", range(5))
def test_num_1x1_1x1s_follow_each_spatial_convolution(layout: str, num_1x1: int) -> None:
    rows = layers(ModelSpec(layout=layout, num_1x1=num_1x1), (3, 96, 96), 10)
    num_blocks = len(NIN_LAYOUTS[layout].blocks) + 1  # the class block is the last
    assert sum(row.kind == "Conv2d" for row in rows) == num_blocks * (1 + num_1x1)


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_vgg_has_torchvisions_layers(name: str) -> None:
    """Every weight and bias of torchvision's network on 3x224x224 images of 1000 classes, shape by shape."""
    from torchvision import models

    with torch.device("meta"):
        ours = build_model(ModelSpec(trunk=name, head="vgg"), (3, 224, 224), 1000)
        theirs: nn.Module = models.get_model(name)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize(
    ("trunk", "in_shape", "features"),
    [
        ("nin", (1, 224, 224), (384, 5, 5)),
        ("alexnet", (1, 224, 224), (256, 5, 5)),
        ("vgg11", (1, 224, 224), (512, 7, 7)),
        ("vgg16", (1, 224, 224), (512, 7, 7)),
        ("lenet", (1, 28, 28), (16, 5, 5)),
        ("identity", (1, 28, 28), (1, 28, 28)),
    ],
)
def test_trunk_gives_the_published_features(
    trunk: str, in_shape: tuple[int, int, int], features: tuple[int, int, int]
) -> None:
    rows = [row for row in layers(ModelSpec(trunk=trunk, head="linear"), in_shape, 10) if row.part == "trunk"]
    assert rows[-1].output_shape == features


@pytest.mark.parametrize("trunk", TRUNKS)
def test_small_layout_of_every_trunk_takes_28_and_32_px(trunk: str) -> None:
    spec = ModelSpec(trunk=trunk, layout="small", head="linear", width=1 / 16)
    for pixels in (28, 32):
        assert size(spec, (3, pixels, pixels), 10).params_head > 0


@pytest.mark.parametrize(
    ("trunk", "layout", "smallest"),
    [
        # 3x3 pooling needs 3 px: 3 -> 7 -> 15 rows before the three poolings, and 4·14 + 11 = 67 px under the 11x11 stride 4.
        ("nin", "d2l", 67),
        # The same with one pixel of padding on either side.
        ("alexnet", "d2l", 65),
        # 15 -> 7 -> 3 -> 1 rows.
        ("alexnet", "small", 15),
        # 2x2 pooling needs 2 px, so (2 + 4) rows before the 5x5 convolution and 12 before the first pooling.
        ("lenet", "small", 12),
    ],
)
def test_images_too_small_for_a_trunk_are_refused_in_one_line(trunk: str, layout: str, smallest: int) -> None:
    spec = ModelSpec(trunk=trunk, layout=layout, width=1 / 16, head="linear")
    assert size(spec, (1, smallest, smallest), 10).params > 0
    with pytest.raises(ValueError, match=f"^images of {smallest - 1}x{smallest} px are too small for trunk '{trunk}'"):
        size(spec, (1, smallest - 1, smallest), 10)


@pytest.mark.parametrize(("width", "channels"), [(1.0, 96), (0.25, 24), (0.3, 29), (1e-9, 1)])
def test_width_scales_channels_and_leaves_at_least_one(width: float, channels: int) -> None:
    assert scaled(96, width) == channels


def test_width_scales_every_hidden_convolution() -> None:
    full, half = (convolutions(replace(ModelSpec(), width=width), (1, 224, 224)) for width in (1.0, 0.5))
    assert [shape[0] for shape in half[:-3]] == [shape[0] // 2 for shape in full[:-3]]
    assert half[-3:] == full[-3:], "the class block has as many channels as there are classes"
