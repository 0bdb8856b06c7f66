"""Layers that are lent to a network in training compute what its own do: to the bit, but for the order of sums of strided ones.

In float32 torch leaves 1x1 convolutions of fewer than 16 images to another library on one thread, whose sums are in another order.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nin import fast
from nin.data import load
from nin.fast import fast_layers
from nin.model import build_model
from nin.precision import autocast
from nin.spec import DataSpec, ModelSpec, TrainSpec
from nin.train import train

BF16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this processor"
)
PRECISIONS = ["float32", pytest.param("bf16", marks=BF16)]
TOLERANCES = {"float32": 1e-6, "bf16": 0.02}  # of sums in another order, relative; float32 has 24 bits, bf16 8

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")

SMALL_NIN = ModelSpec(layout="small", width=1 / 8, dropout=0.0)
WIDE = replace(SMALL_NIN, class_block="wide", class_relu=False)
D2L_NIN = replace(SMALL_NIN, layout="d2l")


@pytest.fixture(params=[0, fast.MIN_FUSED_OUTPUTS], ids=["all fused", "large ones fused"])
def smallest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "MIN_FUSED_OUTPUTS", request.param)


def logits_and_gradients(network: nn.Module, x_NCHW: Tensor, precision: str) -> list[Tensor]:
    network.zero_grad()
    with autocast(torch.device("cpu"), precision):
        logits_NK = network(x_NCHW)
    logits_NK.float().square().sum().backward()
    return [logits_NK.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def networks_and_images(spec: ModelSpec, size: int, num_images: int = 4) -> tuple[nn.Module, Tensor]:
    network = build_model(spec, (1, size, size), 10).to(memory_format=torch.channels_last)
    x_NCHW = torch.randn(num_images, 1, size, size, generator=torch.Generator().manual_seed(0))
    return network, x_NCHW.contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("smallest")
@pytest.mark.parametrize(
    "spec",
    [
        SMALL_NIN,
        WIDE,
        replace(SMALL_NIN, num_1x1=0),
        replace(SMALL_NIN, inner_kernel=3),
        replace(SMALL_NIN, activation="mixing"),
        replace(SMALL_NIN, activation="batchnorm-relu"),
        replace(SMALL_NIN, trunk="alexnet", head="linear"),
        replace(SMALL_NIN, trunk="vgg11", head="linear"),
        replace(SMALL_NIN, trunk="lenet", head="lenet"),
    ],
    ids=lambda spec: f"{spec.trunk} {spec.num_1x1} {spec.activation} {spec.class_block} {spec.inner_kernel}",
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fast_layers_give_the_same_bits(spec: ModelSpec, precision: str) -> None:
    network, x_NCHW = networks_and_images(spec, 28, num_images=16)
    plain = logits_and_gradients(network, x_NCHW, precision)
    with fast_layers(network, precision) as are_fast:
        assert are_fast == (spec.trunk != "lenet" and spec.activation != "batchnorm-relu")
        faster = logits_and_gradients(network, x_NCHW, precision)
    assert all(torch.equal(a, b) for a, b in zip(plain, faster, strict=True))


@pytest.mark.usefixtures("smallest")
def test_a_few_images_in_float32_are_the_same_but_for_the_order_of_sums() -> None:
    assert same_but_for_the_order_of_sums(*networks_and_images(SMALL_NIN, 28, num_images=3), "float32")


@pytest.mark.usefixtures("smallest")
def test_a_strided_first_convolution_in_float32_is_left_as_it_is() -> None:
    network, x_NCHW = networks_and_images(D2L_NIN, 130, num_images=16)
    plain = logits_and_gradients(network, x_NCHW, "float32")
    with fast_layers(network, "float32") as are_fast:
        assert are_fast
        faster = logits_and_gradients(network, x_NCHW, "float32")
    assert all(torch.equal(a, b) for a, b in zip(plain, faster, strict=True))


@BF16
@pytest.mark.usefixtures("smallest")
@pytest.mark.parametrize(("kernel", "stride"), [(11, 4), (3, 4), (7, 2), (11, 8), (5, 4)])
def test_a_strided_convolution_of_few_channels_is_a_dense_one_of_more(kernel: int, stride: int) -> None:
    network, x_NCHW = networks_and_images(replace(D2L_NIN, first_kernel=kernel, first_stride=stride), 130)
    assert same_but_for_the_order_of_sums(network, x_NCHW, "bf16")


@BF16
def test_padding_is_the_strided_convolutions_own() -> None:
    network, x_NCHW = networks_and_images(ModelSpec(trunk="alexnet", head="linear", width=1 / 8, dropout=0.0), 127)
    assert network.trunk[0].padding == (1, 1)
    assert same_but_for_the_order_of_sums(network, x_NCHW, "bf16")


def same_but_for_the_order_of_sums(network: nn.Module, x_NCHW: Tensor, precision: str) -> bool:
    plain = logits_and_gradients(network, x_NCHW, precision)
    with fast_layers(network, precision) as are_fast:
        faster = logits_and_gradients(network, x_NCHW, precision)
    tolerance = TOLERANCES[precision]
    return are_fast and all((a - b).norm() <= tolerance * a.norm() for a, b in zip(plain, faster, strict=True))


class Residual(nn.Sequential):
    """What its layers compute, added to their input."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + super().forward(x_NCHW)


class UsedApart(nn.Module):
    """Uses one layer of a sequence on its own, and the sequence as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.ReLU())

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat([self.layers[0](x_NCHW), self.layers(x_NCHW)], dim=1).flatten(1)


def sharing_a_relu() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(nn.Conv2d(1, 4, 3), relu, nn.BatchNorm2d(4), relu, nn.Flatten())


def with_a_hook() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
    network[0].register_forward_hook(lambda layer, x, y: y + 1)
    return network


@pytest.mark.usefixtures("smallest")
@pytest.mark.parametrize(
    "make",
    [
        sharing_a_relu,
        with_a_hook,
        UsedApart,
        lambda: nn.Sequential(Residual(nn.Conv2d(1, 1, 3, padding=1)), nn.ReLU(), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    ],
    ids=["one ReLU in two places", "a hook", "a layer used apart", "a residual block", "max pooling"],
)
def test_networks_of_other_kinds_compute_what_they_do_without_fast_layers(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make()
    x_NCHW = torch.randn(16, 1, 8, 8)
    plain = logits_and_gradients(network, x_NCHW, "float32")
    with fast_layers(network, "float32"):
        faster = logits_and_gradients(network, x_NCHW, "float32")
    assert all(torch.equal(a, b) for a, b in zip(plain, faster, strict=True))


def test_a_compiled_network_is_left_alone() -> None:
    network, _ = networks_and_images(WIDE, 28)
    with fast_layers(torch.compile(network, backend="eager"), "float32") as are_fast:
        assert not are_fast
    network.compile(backend="eager")
    with fast_layers(network, "float32") as are_fast:
        assert not are_fast


def test_layers_are_their_own_again_afterwards() -> None:
    network, _ = networks_and_images(WIDE, 28)
    names = [name for name, _ in network.named_modules()]
    with fast_layers(network, "float32"):
        assert any("forward" in vars(module) for module in network.modules())
        assert [name for name, _ in network.named_modules()] == names
    assert not any("forward" in vars(module) for module in network.modules())


def test_float16_is_left_alone() -> None:
    network, _ = networks_and_images(WIDE, 28)
    with fast_layers(network, "float16") as are_fast:
        assert not are_fast


@torch.no_grad()
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_that_are_not_finite_show_in_the_logits(precision: str) -> None:
    network, x_NCHW = networks_and_images(SMALL_NIN, 28)
    next(network.parameters())[0] = torch.nan
    with fast_layers(network, precision), autocast(torch.device("cpu"), precision):
        assert network(x_NCHW).isnan().all()


@pytest.mark.usefixtures("smallest")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_training_whose_weights_become_nan_has_diverged_and_no_loss(precision: str) -> None:
    data = load(DataSpec(name="synthetic", train_examples=128, val_examples=50, test_examples=50))
    network = build_model(SMALL_NIN, data.in_shape, data.num_classes)
    next(network.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    history = train(network, data, TrainSpec(epochs=1, batch_size=16, precision=precision, evals_per_epoch=1))
    assert history.outcome == "diverged"
    assert math.isnan(history.curve[-1].train_loss)
