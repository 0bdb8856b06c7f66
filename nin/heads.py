"""Classifier heads: from features (N, C, H, W) to logits (N, K). Softmax is in the loss, never here.

A head is built by `HEADS[name](in_shape, num_classes, spec)` with in_shape = (C, H, W). NiN's class block, the last block of
the network, belongs to its head: so any pooling and any number of 1x1 convolutions stay defined on any trunk.
"""

import math
from collections.abc import Callable

from torch import nn

from nin.blocks import mlp_channels, mlp_conv, scaled
from nin.layouts import NIN_LAYOUTS
from nin.pooling import POOLINGS, GlobalPool
from nin.registry import Registry
from nin.spec import ModelSpec, Shape, choose


def nin_head(in_shape: Shape, num_classes: int, spec: ModelSpec) -> nn.Sequential:
    """Dropout, the class block (one map per class), global pooling: no fully connected layer at all.

    A "narrow" class block squeezes to K channels in its spatial convolution, k -> K -> K -> K; a "wide" one has the layout's
    own channels, or those of its input, until the last layer, k -> k -> k -> K. With `num_1x1=0` both are a single convolution
    k -> K.
    """
    channels = in_shape[0]
    block = choose(NIN_LAYOUTS, spec.layout, "NiN layout").class_block
    published = [scaled(c, spec.width) for c in block.channels] or [channels]
    inner = {"narrow": [num_classes], "wide": published}[spec.class_block]
    class_block = mlp_conv(
        channels,
        [*mlp_channels(inner, spec.num_1x1 - 1), num_classes],
        kernel_size=block.kernel_size,
        padding=block.padding,
        inner_kernel=spec.inner_kernel,
        last_relu=spec.class_relu,
        activation=spec.activation,
    )
    pooling = _pooling((num_classes, *in_shape[1:]), spec)
    layers = [nn.Dropout(spec.dropout), class_block, pooling]
    if pooling.out_features != num_classes:  # a pooling with another number of outputs needs a linear layer
        layers.append(nn.Linear(pooling.out_features, num_classes))
    return nn.Sequential(*layers)


def linear_head(in_shape: Shape, num_classes: int, spec: ModelSpec) -> nn.Sequential:
    """Global pooling over the features, then one linear layer, as in most networks since ResNet."""
    pooling = _pooling(in_shape, spec)
    return nn.Sequential(pooling, nn.Dropout(spec.dropout), nn.Linear(pooling.out_features, num_classes))


def alexnet_head(in_shape: Shape, num_classes: int, spec: ModelSpec) -> nn.Sequential:
    """AlexNet's head: all features flattened, two hidden layers of `spec.hidden` units with ReLU and dropout, logits."""
    return nn.Sequential(nn.Flatten(), *_fully_connected(math.prod(in_shape), num_classes, spec))


def vgg_head(in_shape: Shape, num_classes: int, spec: ModelSpec) -> nn.Sequential:
    """VGG's head: features averaged onto the 7x7 grid that its trunk has at 224 px (as torchvision does), then as AlexNet's."""
    grid = nn.AdaptiveAvgPool2d((7, 7))
    return nn.Sequential(grid, nn.Flatten(), *_fully_connected(in_shape[0] * 7 * 7, num_classes, spec))


def mlp_head(in_shape: Shape, num_classes: int, spec: ModelSpec) -> nn.Sequential:
    """One hidden layer of `spec.hidden` units with ReLU and dropout, logits; on the identity trunk, a perceptron on pixels."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(math.prod(in_shape), spec.hidden), nn.ReLU(inplace=True), nn.Dropout(spec.dropout)),
        nn.Linear(spec.hidden, num_classes),
    )


def lenet_head(in_shape: Shape, num_classes: int, spec: ModelSpec) -> nn.Sequential:
    """LeNet-5's head: 120 and 84 sigmoid units, logits."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(math.prod(in_shape), 120), nn.Sigmoid()),
        *(nn.Linear(120, 84), nn.Sigmoid()),
        nn.Linear(84, num_classes),
    )


def _pooling(in_shape: Shape, spec: ModelSpec) -> GlobalPool:
    pooling = choose(POOLINGS, spec.pooling, "pooling")
    if not (isinstance(pooling, type) and issubclass(pooling, GlobalPool)):
        raise ValueError(f"pooling {spec.pooling!r} must be a subclass of nin.pooling.GlobalPool, and is {pooling!r}")
    return pooling(in_shape)


def _fully_connected(num_features: int, num_classes: int, spec: ModelSpec) -> list[nn.Module]:
    return [
        *(nn.Linear(num_features, spec.hidden), nn.ReLU(inplace=True), nn.Dropout(spec.dropout)),
        *(nn.Linear(spec.hidden, spec.hidden), nn.ReLU(inplace=True), nn.Dropout(spec.dropout)),
        nn.Linear(spec.hidden, num_classes),
    ]


HEADS: Registry[Callable[[Shape, int, ModelSpec], nn.Sequential]] = Registry(
    "head",
    "model.head",
    {
        "nin": nin_head,
        "linear": linear_head,
        "alexnet": alexnet_head,
        "vgg": vgg_head,
        "lenet": lenet_head,
        "mlp": mlp_head,
    },
)
