"""Classifier heads: from features to logits, with any pooling; the published ones to the parameter."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nin.heads import HEADS
from nin.pooling import POOLINGS
from nin.spec import ModelSpec

FEATURES = (64, 5, 5)
SPEC = ModelSpec(hidden=32, dropout=0.0, class_relu=False)
READS_POOLING = ("nin", "linear")

EVERY_HEAD = [
    pytest.param(replace(SPEC, head=head, pooling=pooling), id=f"{head}-{pooling}" if pooling != "none" else head)
    for head in HEADS
    for pooling in (POOLINGS if head in READS_POOLING else ["none"])
]


def build(spec: ModelSpec, in_shape: tuple[int, int, int] = FEATURES, num_classes: int = 10) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HEADS[spec.head](in_shape, num_classes, spec)


def num_params(head: nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize("spec", EVERY_HEAD)
@pytest.mark.parametrize("in_shape", [FEATURES, (64, 1, 1), (64, 3, 8)], ids=lambda shape: "x".join(map(str, shape)))
def test_head_maps_features_to_logits(spec: ModelSpec, in_shape: tuple[int, int, int]) -> None:
    """(N, C, H, W) -> (N, K), finite; a loss on the logits reaches every parameter and every image."""
    head = build(spec, in_shape)
    features = torch.rand(6, *in_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = head(features)
    assert logits.shape == (6, 10)
    assert logits.isfinite().all()
    F.cross_entropy(logits, torch.arange(6)).backward()
    assert features.grad is not None
    assert (features.grad.flatten(1).abs().sum(dim=1) > 0).all()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if in_shape[1:] != (1, 1):  # of one position the mean is the maximum: learned mixtures have nothing to learn
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", HEADS)
def test_logits_are_not_probabilities(name: str) -> None:
    """Softmax is in the loss: applied twice, it would flatten what is learned."""
    head = build(replace(SPEC, head=name)).eval()
    assert not any(isinstance(module, nn.Softmax | nn.LogSoftmax) for module in head.modules())
    assert not torch.allclose(head(torch.rand(6, *FEATURES)).sum(dim=1), torch.ones(6))


@pytest.mark.parametrize(("num_1x1", "params"), [(0, 34_570), (1, 34_680), (2, 34_790), (3, 34_900), (4, 35_010)])
def test_class_block_has_the_known_parameters(num_1x1: int, params: int) -> None:
    assert num_params(build(replace(SPEC, num_1x1=num_1x1), (384, 5, 5))) == params


def test_alexnets_head_on_nins_features_has_56_million_parameters() -> None:
    """9600 -> 4096 -> 4096 -> 10, where NiN's class block has 34,790."""
    with torch.device("meta"):
        assert num_params(build(ModelSpec(head="alexnet"), (384, 5, 5))) == 56_147_978


def test_linear_head_is_one_weight_per_channel_and_class() -> None:
    assert num_params(build(replace(SPEC, head="linear"), (384, 5, 5))) == 384 * 10 + 10


@pytest.mark.parametrize(("class_block", "channels"), [("narrow", [10, 10, 10]), ("wide", [64, 64, 10])])
def test_class_block_narrows_first_or_last(class_block: str, channels: list[int]) -> None:
    head = build(replace(SPEC, class_block=class_block))
    assert [module.out_channels for module in head.modules() if isinstance(module, nn.Conv2d)] == channels


def test_both_class_blocks_are_one_convolution_without_1x1s() -> None:
    narrow, wide = (build(replace(SPEC, num_1x1=0, class_block=name)) for name in ("narrow", "wide"))
    x = torch.rand(2, *FEATURES)
    assert torch.equal(narrow(x), wide(x))


@pytest.mark.parametrize("class_relu", [True, False])
def test_the_class_maps_relu_can_be_left_out(class_relu: bool) -> None:
    logits = build(replace(SPEC, class_relu=class_relu))(torch.randn(32, *FEATURES))
    assert (logits.amin() >= 0) == class_relu


def test_a_dead_class_block_sits_at_chance_and_never_leaves_it() -> None:
    """Behind the ReLU on class maps a network can die: loss ln 10 = 2.303, class 0 for every image, no gradient."""
    head = build(replace(SPEC, class_relu=True))
    last = [module for module in head.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.bias is not None
    nn.init.constant_(last.bias, -1e3)
    logits = head(torch.rand(10, *FEATURES))
    loss = F.cross_entropy(logits, torch.arange(10))
    assert loss.item() == pytest.approx(math.log(10))
    assert (logits.argmax(dim=1) == 0).all()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in head.parameters())


def test_vggs_head_takes_features_of_any_size() -> None:
    """They are averaged onto the 7x7 grid that its trunk has at 224 px; a 7x7 grid is left as it is."""
    head = build(replace(SPEC, head="vgg")).eval()
    x = torch.rand(2, 64, 7, 7)
    torch.testing.assert_close(head(x.repeat_interleave(2, 2).repeat_interleave(3, 3)), head(x))
    assert torch.equal(nn.AdaptiveAvgPool2d((7, 7))(x), x)


@pytest.mark.parametrize("name", ["nin", "linear", "alexnet", "vgg"])
def test_head_drops_units_only_in_training(name: str) -> None:
    head = build(replace(SPEC, head=name, dropout=0.5))
    x = torch.rand(4, *FEATURES)
    assert not torch.equal(head(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


def test_an_unknown_pooling_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'avrage': the nearest is 'average'"):
        build(replace(SPEC, pooling="avrage"))
