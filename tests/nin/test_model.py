"""The networks are those of the literature, to the parameter and to the bit; every trunk takes every head and pooling."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nin.blocks import weight_layers
from nin.heads import HEADS
from nin.measure import layers, size
from nin.model import INITS, build_model, predict
from nin.pooling import POOLINGS
from nin.spec import ModelSpec
from nin.trunks import TRUNKS

D2L = ModelSpec()
IMAGE = (1, 224, 224)

# Counted by hand-written reference networks: parameters of trunk and class block, 10^9 FLOPs.
D2L_COUNTS = {
    0: (1_511_488, 34_570, 1.155),
    1: (1_734_432, 34_680, 1.340),
    2: (1_957_376, 34_790, 1.525),
    3: (2_180_320, 34_900, 1.709),
    4: (2_403_264, 35_010, 1.894),
}


def textbook_nin() -> nn.Sequential:
    """The course's NiN as its notebook writes it."""

    def block(in_channels: int, channels: int, kernel_size: int, stride: int, padding: int) -> list[nn.Module]:
        return [
            nn.Conv2d(in_channels, channels, kernel_size, stride, padding),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(1, 96, 11, 4, 0),
        nn.MaxPool2d(3, stride=2),
        *block(96, 256, 5, 1, 2),
        nn.MaxPool2d(3, stride=2),
        *block(256, 384, 3, 1, 1),
        nn.MaxPool2d(3, stride=2),
        nn.Dropout(0.5),
        *block(384, 10, 3, 1, 1),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


@pytest.mark.parametrize("num_1x1", D2L_COUNTS)
def test_d2l_layout_has_the_known_parameters_and_flops(num_1x1: int) -> None:
    trunk, head, gflops = D2L_COUNTS[num_1x1]
    network = size(replace(D2L, num_1x1=num_1x1), IMAGE, 10)
    assert (network.params_trunk, network.params_head, network.params) == (trunk, head, trunk + head)
    assert network.gflops == pytest.approx(gflops, abs=5e-4)


def test_d2l_layout_has_the_known_shapes() -> None:
    shapes = [row.output_shape for row in layers(D2L, IMAGE, 10) if row.kind in ("Conv2d", "MaxPool2d", "AveragePool")]
    block_ends = [shapes[i] for i in (2, 3, 6, 7, 10, 11, 14, 15)]
    assert block_ends == [
        *((96, 54, 54), (96, 26, 26)),
        *((256, 26, 26), (256, 12, 12)),
        *((384, 12, 12), (384, 5, 5)),
        *((10, 5, 5), (10,)),
    ]


@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_the_textbooks_bit_for_bit(training: bool) -> None:
    ours, theirs = build_model(D2L, IMAGE, 10).train(training), textbook_nin().train(training)
    for mine, other in zip(weight_layers(ours), weight_layers(theirs), strict=True):
        other.load_state_dict(mine.state_dict())
    x = torch.rand(4, *IMAGE)
    torch.manual_seed(1)
    wanted = theirs(x)
    torch.manual_seed(1)
    assert torch.equal(ours(x), wanted)
    assert wanted.abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "in_shape", "num_classes", "params"),
    [
        (ModelSpec(trunk="lenet", head="lenet"), (1, 28, 28), 10, 61_706),
        (ModelSpec(trunk="alexnet", head="alexnet"), IMAGE, 10, 46_764_746),
        (ModelSpec(trunk="vgg11", head="vgg"), IMAGE, 10, 128_806_154),
        (ModelSpec(trunk="vgg11", head="vgg", width=0.25), IMAGE, 10, 43_093_322),
        (ModelSpec(trunk="vgg11", head="vgg"), (3, 224, 224), 1000, 132_863_336),  # torchvision's
        (ModelSpec(trunk="vgg16", head="vgg"), (3, 224, 224), 1000, 138_357_544),  # torchvision's
    ],
)
def test_known_networks_have_their_known_parameters(
    spec: ModelSpec, in_shape: tuple[int, int, int], num_classes: int, params: int
) -> None:
    assert size(spec, in_shape, num_classes).params == params


def test_alexnets_head_on_nins_features() -> None:
    assert size(replace(D2L, head="alexnet"), IMAGE, 10).params_head == 56_147_978


def test_cifar_layout_is_the_authors() -> None:
    spec = ModelSpec(layout="cifar", class_block="wide")
    convolutions = [row.output_shape[0] for row in layers(spec, (3, 32, 32), 10) if row.kind == "Conv2d"]
    assert convolutions == [192, 160, 96, 192, 192, 192, 192, 192, 10]


def test_small_layout_has_blocks_of_constant_width_and_halves_between() -> None:
    rows = [row for row in layers(ModelSpec(layout="small", width=0.25), (1, 28, 28), 10) if row.kind == "Conv2d"]
    assert [row.output_shape for row in rows[::3]] == [(24, 28, 28), (48, 14, 14), (64, 7, 7), (10, 3, 3)]
    assert [row.output_shape[0] for row in rows] == [24] * 3 + [48] * 3 + [64] * 3 + [10] * 3


def test_a_wide_class_block_keeps_its_channels_until_the_last_layer() -> None:
    rows = layers(ModelSpec(layout="small", class_block="wide", num_1x1=2), (1, 28, 28), 10)
    assert [row.output_shape[0] for row in rows if row.part == "head" and row.kind == "Conv2d"] == [256, 256, 10]


# A small instance of each trunk on a small image, with every field that a head or pooling reads.
SMALL = {
    name: ModelSpec(trunk=name, layout="small", width=1 / 8, hidden=16, dropout=0.0, init="kaiming", class_relu=False)
    for name in TRUNKS
}
SMALL_IMAGE = (2, 28, 28)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_any_trunk_takes_any_head_and_pooling(trunk: str, head: str, pooling: str) -> None:
    """Logits have their shape, are finite, and a loss on them reaches every parameter."""
    network = build_model(replace(SMALL[trunk], head=head, pooling=pooling), SMALL_IMAGE, 7)
    x = torch.randn(8, *SMALL_IMAGE, generator=torch.Generator().manual_seed(0))
    logits = network(x)
    assert logits.shape == (8, 7)
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.arange(8) % 7).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("num_1x1", range(5))
@pytest.mark.parametrize("class_block", ["narrow", "wide"])
def test_every_number_of_1x1s_is_defined_for_both_class_blocks(num_1x1: int, class_block: str) -> None:
    spec = replace(SMALL["nin"], num_1x1=num_1x1, class_block=class_block)
    convolutions = [row for row in layers(spec, SMALL_IMAGE, 7) if row.kind == "Conv2d"]
    assert len(convolutions) == 4 * (1 + num_1x1)
    assert convolutions[-1].output_shape == (7, 3, 3)


def test_the_class_maps_relu_can_be_left_out() -> None:
    with_relu, without = (
        [row.kind for row in layers(replace(SMALL["nin"], class_relu=flag), SMALL_IMAGE, 7)] for flag in (True, False)
    )
    assert with_relu[:-2] == without[:-1]
    assert with_relu[-2] == "ReLU"


def test_the_depth_matched_control_has_3x3_in_place_of_1x1() -> None:
    network = build_model(replace(SMALL["nin"], inner_kernel=3), SMALL_IMAGE, 7)
    kernels = [layer.kernel_size[0] for layer in weight_layers(network) if isinstance(layer, nn.Conv2d)]
    assert kernels == [5, 3, 3] * 2 + [3, 3, 3] * 2


def test_average_pooling_is_adaptive_average_pooling() -> None:
    x = torch.randn(3, 5, 4, 6)
    assert torch.equal(POOLINGS["average"]()(x), nn.AdaptiveAvgPool2d(1)(x).flatten(1))


def test_max_pooling_is_adaptive_max_pooling() -> None:
    x = torch.randn(3, 5, 4, 6)
    assert torch.equal(POOLINGS["max"]()(x), nn.AdaptiveMaxPool2d(1)(x).flatten(1))


def weights(network: nn.Module) -> list[Tensor]:
    return list(network.state_dict().values())


def test_the_seed_is_the_weights() -> None:
    first, again, other = (weights(build_model(SMALL["nin"], SMALL_IMAGE, 7, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    build_model(SMALL["nin"], SMALL_IMAGE, 7, seed=9)
    assert torch.equal(torch.rand(3), wanted)


def test_initial_weights_follow_their_distribution() -> None:
    def first_1x1(init: str) -> Tensor:
        network = build_model(ModelSpec(layout="small", init=init), SMALL_IMAGE, 7)
        return list(weight_layers(network))[4].weight.detach()  # 192 -> 192

    assert first_1x1("xavier").abs().max() == pytest.approx((6 / (192 + 192)) ** 0.5, rel=0.01)
    assert first_1x1("kaiming").std() == pytest.approx((2 / 192) ** 0.5, rel=0.02)
    assert first_1x1("gaussian").std() == pytest.approx(0.05, rel=0.02)


def test_biases_keep_pytorchs_default() -> None:
    network = build_model(ModelSpec(layout="small"), SMALL_IMAGE, 7)
    bias = list(weight_layers(network))[4].bias
    assert bias is not None
    assert 0 < bias.abs().max() <= 192**-0.5


def test_predict_gives_probabilities_and_leaves_the_mode_alone() -> None:
    network = build_model(replace(SMALL["nin"], dropout=0.9), SMALL_IMAGE, 7).train()
    x = torch.randn(4, *SMALL_IMAGE)
    probabilities = predict(network, x)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    assert torch.equal(probabilities, predict(network, x)), "dropout must be off"
    assert network.training
    assert torch.equal(probabilities.argmax(1), network.eval()(x).argmax(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trunk": "nni"}, "unknown trunk 'nni': the nearest is 'nin'"),
        ({"head": "alexne"}, "nearest is 'alexnet'"),
        ({"pooling": "avrage"}, "nearest is 'average'"),
        ({"layout": "d2"}, "nearest is 'd2l'"),
        ({"init": "xaver"}, "nearest is 'xavier'"),
        ({"layout": "d2l"}, "28x28 px are too small for trunk 'nin' in layout 'd2l'"),
    ],
)
def test_what_does_not_exist_or_fit_is_one_line(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(replace(SMALL["nin"], **changes), SMALL_IMAGE, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", INITS)
def test_every_init_gives_a_network_that_can_be_trained(init: str) -> None:
    network = build_model(replace(SMALL["nin"], init=init), SMALL_IMAGE, 7)
    assert network(torch.randn(2, *SMALL_IMAGE)).std() > 0
