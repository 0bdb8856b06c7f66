"""Feature extractors: from images (N, C, H, W) to features (N, C', H', W'), before any classifier.

A trunk is a published network without its classifier; for NiN that is everything before the last block, which belongs to the head
(`nin.heads`). Each trunk has layouts: "d2l" is Dive into Deep Learning's for 224 px, "small" the same idea for 28 to 32 px; NiN also
has the authors' own (`nin.layouts`).
"""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from nin.blocks import mlp_channels, mlp_conv, scaled
from nin.layouts import NIN_LAYOUTS, NinBlock
from nin.registry import Registry
from nin.spec import ModelSpec, choose

# Convolutions of VGG-11 and VGG-16 (Simonyan and Zisserman, arXiv:1409.1556): (how many, channels) between poolings.
VGG11 = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def nin_trunk(in_channels: int, spec: ModelSpec) -> nn.Sequential:
    """The blocks of NiN before the class block, each with `spec.num_1x1` 1x1 convolutions."""
    layout = choose(NIN_LAYOUTS, spec.layout, "NiN layout")
    layers: list[nn.Module] = []
    for i, block in enumerate(layout.blocks):
        if i == 0:
            block = _first_block(block, spec)
        channels = [scaled(c, spec.width) for c in mlp_channels(block.channels, spec.num_1x1)]
        layers.append(
            mlp_conv(
                in_channels,
                channels,
                block.kernel_size,
                block.stride,
                block.padding,
                inner_kernel=spec.inner_kernel,
                activation=spec.activation,
            )
        )
        layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=layout.ceil_pooling))
        if layout.dropout_between and i < len(layout.blocks) - 1:
            layers.append(nn.Dropout(spec.dropout))
        in_channels = channels[-1]
    return nn.Sequential(*layers)


def _first_block(block: NinBlock, spec: ModelSpec) -> NinBlock:
    """Return the layout's first block, with the specification's kernel or stride if it names one; padding stays a half kernel."""
    kernel_size = spec.first_kernel or block.kernel_size
    padding = kernel_size // 2 if block.padding else 0
    return replace(block, kernel_size=kernel_size, stride=spec.first_stride or block.stride, padding=padding)


def alexnet_trunk(in_channels: int, spec: ModelSpec) -> nn.Sequential:
    """The five convolutions of AlexNet as the textbook has them; "small" replaces the 11x11 stride-4 one by a 5x5."""
    firsts: dict[str, tuple[int, int, int]] = {"d2l": (11, 4, 1), "small": (5, 1, 2)}
    kernel_size, stride, padding = choose(firsts, spec.layout, "AlexNet layout")
    c1, c2, c3, c4, c5 = (scaled(c, spec.width) for c in (96, 256, 384, 384, 256))
    return nn.Sequential(
        *(nn.Conv2d(in_channels, c1, kernel_size, stride, padding), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
    )


def vgg_trunk(stages: tuple[tuple[int, int], ...]) -> Callable[[int, ModelSpec], nn.Sequential]:
    """A VGG's stages of 3x3 convolutions, each ended by 2x2 max pooling.

    Pooling counts overhanging windows, which changes nothing at 224 px and lets five poolings fit into 28 px.
    """

    def trunk(in_channels: int, spec: ModelSpec) -> nn.Sequential:
        choose({"d2l": None, "small": None}, spec.layout, "VGG layout")
        layers: list[nn.Module] = []
        for num_convs, channels in stages:
            out_channels = scaled(channels, spec.width)
            for _ in range(num_convs):
                layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = out_channels
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        return nn.Sequential(*layers)

    return trunk


def lenet_trunk(in_channels: int, spec: ModelSpec) -> nn.Sequential:
    """LeNet-5's two convolutions with sigmoids and average pooling, as the textbook has them, for 28 to 32 px."""
    choose({"d2l": None, "small": None}, spec.layout, "LeNet layout")
    c1, c2 = scaled(6, spec.width), scaled(16, spec.width)
    return nn.Sequential(
        *(nn.Conv2d(in_channels, c1, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2, stride=2)),
        *(nn.Conv2d(c1, c2, 5), nn.Sigmoid(), nn.AvgPool2d(2, stride=2)),
    )


def identity_trunk(in_channels: int, spec: ModelSpec) -> nn.Sequential:
    """No feature extractor: the head sees pixels, as in a multilayer perceptron."""
    return nn.Sequential(nn.Identity())


TRUNKS: Registry[Callable[[int, ModelSpec], nn.Sequential]] = Registry(
    "trunk",
    "model.trunk",
    {
        "nin": nin_trunk,
        "alexnet": alexnet_trunk,
        "vgg11": vgg_trunk(VGG11),
        "vgg16": vgg_trunk(VGG16),
        "lenet": lenet_trunk,
        "identity": identity_trunk,
    },
)
