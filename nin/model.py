"""A network from its specification: trunk + head, initialised from named random streams."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from nin.blocks import Maxout, weight_layers
from nin.heads import HEADS
from nin.machine import is_accelerator, kept_random_state
from nin.registry import Registry
from nin.spec import MAX_CLASSES, MAX_SIDE, ModelSpec, Shape, choose, is_whole, stream
from nin.text import one_line, reason, shape_text
from nin.trunks import TRUNKS

# Weights of convolutions and linear layers; biases keep PyTorch's default, as in the textbook's notebooks.
INITS: Registry[Callable[[Tensor], Tensor]] = Registry(
    "init",
    "model.init",
    {
        "xavier": nn.init.xavier_uniform_,
        "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "gaussian": partial(nn.init.normal_, std=0.05),
    },
)


# E[max^2] of so many standard normal variables, by which maxout raises the variance (of three: 1 + sqrt(3) / (2 pi)).
MAXOUT_POWER = {2: 1.0, 3: 1 + math.sqrt(3) / (2 * math.pi)}


class Network(nn.Module):
    """Images (N, C, H, W) of in_shape = (C, H, W) -> logits (N, K), by way of features.

    seed  of the first weights
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, in_shape: Shape, seed: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.in_shape = in_shape
        self.seed = seed

    def extra_repr(self) -> str:
        """Shape of the images and seed, which distinguish networks of the same layers."""
        return f"in_shape={self.in_shape}, seed={self.seed}"

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over blocks in the order of the forward pass, as the textbook does to print shapes."""
        for part in (self.trunk, self.head):
            yield from part if isinstance(part, nn.Sequential) else [part]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits (N, K); see `predict` for probabilities."""
        logits: Tensor = self.head(self.trunk(x_NCHW))
        return logits


def build_model(spec: ModelSpec, in_shape: Shape, num_classes: int, seed: int = 0) -> Network:
    """Build the network of `spec` for images of in_shape = (C, H, W), on the current default device.

    Each layer's weights come from their own random stream of `seed`: a trunk starts the same under every head, a class block
    under every pooling. The caller's random state is left as it was.
    Raises ValueError for an unknown name in `spec`, for no classes or more than MAX_CLASSES, or if the trunk cannot take
    the images, such as too small ones.
    """
    if not is_whole(num_classes) or not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes={num_classes}: must be a whole number, 1 or more and at most {MAX_CLASSES}")
    init = choose(INITS, spec.init, "init")
    trunk = choose(TRUNKS, spec.trunk, "trunk")
    head = choose(HEADS, spec.head, "head")
    feature_shape = _feature_shape(spec, in_shape)
    device = torch.get_default_device()
    # torch.manual_seed seeds every device.
    seed_by = torch.manual_seed if is_accelerator(device) else torch.default_generator.manual_seed
    with kept_random_state(device):
        seed_by(stream(seed, "trunk biases"))
        network_trunk = trunk(in_shape[0], spec)
        seed_by(stream(seed, "head biases"))
        network_head = head(feature_shape, num_classes, spec)
        parts = {"trunk": network_trunk, "head": network_head}
        if device.type == "meta":  # has no numbers, and drawing none takes long
            parts = {}
        for name, part in parts.items():
            for i, layer in enumerate(weight_layers(part)):
                seed_by(stream(seed, f"{name} weights {i}"))
                init(layer.weight)
            if spec.init == "kaiming":
                _keep_variance(part)
    return Network(network_trunk, network_head, in_shape, seed)


@torch.no_grad()
def _keep_variance(part: nn.Module) -> None:
    """Rescale Kaiming's weights of convolutions that are followed by a convolution or a maxout, so that the variance is kept.

    Kaiming's weights make up for the half of the variance that a ReLU removes (He et al., arXiv:1502.01852). Without a ReLU they
    would let the signal grow with every layer, and a comparison of activations would be one of initialisations.
    """
    for block in part.modules():
        if isinstance(block, nn.Sequential):
            for layer, after in pairwise(block):
                if isinstance(layer, nn.Conv2d) and isinstance(after, nn.Conv2d):
                    layer.weight.div_(math.sqrt(2))
                elif isinstance(layer, nn.Conv2d) and isinstance(after, Maxout):
                    if after.pieces not in MAXOUT_POWER:
                        known = " and ".join(map(str, MAXOUT_POWER))
                        raise ValueError(f"init 'kaiming' knows maxout of {known} pieces, not of {after.pieces}")
                    layer.weight.div_(math.sqrt(2 * MAXOUT_POWER[after.pieces]))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Context with the network in evaluation mode and without gradients; then the mode of each layer is as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def predict(network: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Return class probabilities (N, K), each row summing to 1, in evaluation mode without gradients.

    Networks give logits: in training the softmax is inside the cross-entropy loss, where it is computed stably together
    with the logarithm. It is applied explicitly only here (and in exported files that ask for it); the most probable class
    is the largest logit either way.
    """
    with evaluating(network):
        return torch.softmax(network(x_NCHW).float(), dim=1)


@contextmanager
def refusing(images: Tensor) -> Iterator[None]:
    """Context of a forward pass in which images that the network does not take raise ValueError, in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"images: the network does not take {shape_text(images)} ({one_line(error)})") from error


def _feature_shape(spec: ModelSpec, in_shape: Shape) -> Shape:
    """Return the shape of the trunk's output, from a pass on the meta device, which computes and stores nothing."""
    with torch.device("meta"), torch.no_grad():
        trunk = TRUNKS[spec.trunk](in_shape[0], spec)
        try:
            features = trunk(torch.empty(1, *in_shape))
        except RuntimeError as error:
            height, width = in_shape[1:]
            if not _takes(trunk, (in_shape[0], MAX_SIDE, MAX_SIDE)):
                raise ValueError(
                    f"trunk {spec.trunk!r} in layout {spec.layout!r} takes no images of {height}x{width} px: {reason(error)}"
                ) from error
            raise ValueError(
                f"images of {height}x{width} px are too small for trunk {spec.trunk!r} in layout {spec.layout!r}: "
                f"choose larger images (data.image_size in studies), or another layout ({reason(error)})"
            ) from error
    if features.dim() != 4:
        raise ValueError(f"trunk {spec.trunk!r} must return maps (N, C, H, W), and returns {tuple(features.shape)}")
    channels, height, width = features.shape[1:]
    return channels, height, width


def _takes(trunk: nn.Module, in_shape: Shape) -> bool:
    try:
        trunk(torch.empty(1, *in_shape))
    except RuntimeError:
        return False
    return True
