"""The networks are those of the literature, to the parameter and to the bit; every trunk takes every head and pooling."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nin.blocks import weight_layers
from nin.heads import HEADS
from nin.model import INITS, build_model, evaluating, predict
from nin.pooling import POOLINGS
from nin.sizes import size
from nin.spec import ModelSpec, stream
from nin.trunks import TRUNKS

Shape = tuple[int, int, int]

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


@pytest.mark.parametrize("num_1x1", D2L_COUNTS)
def test_d2l_layout_has_the_known_parameters_and_flops(num_1x1: int) -> None:
    trunk, head, gflops = D2L_COUNTS[num_1x1]
    network = size(replace(D2L, num_1x1=num_1x1), IMAGE, 10)
    assert (network.params_trunk, network.params_head, network.params) == (trunk, head, trunk + head)
    assert network.gflops == pytest.approx(gflops, abs=5e-4)


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
    ids=["lenet", "alexnet", "vgg11", "vgg11-channels/4", "vgg11-imagenet", "vgg16-imagenet"],
)
def test_known_networks_have_their_known_parameters(
    spec: ModelSpec, in_shape: Shape, num_classes: int, params: int
) -> None:
    assert size(spec, in_shape, num_classes).params == params


# The course's networks as its notebooks write them. AlexNet and VGG are narrow here, so that they are built in no time.


def textbook_nin() -> nn.Sequential:
    def block(in_channels: int, channels: int, kernel_size: int, stride: int, padding: int) -> list[nn.Module]:
        return [
            *(nn.Conv2d(in_channels, channels, kernel_size, stride, padding), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 1), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 1), nn.ReLU()),
        ]

    return nn.Sequential(
        *(*block(1, 96, 11, 4, 0), nn.MaxPool2d(3, stride=2)),
        *(*block(96, 256, 5, 1, 2), nn.MaxPool2d(3, stride=2)),
        *(*block(256, 384, 3, 1, 1), nn.MaxPool2d(3, stride=2)),
        nn.Dropout(0.5),
        *block(384, 10, 3, 1, 1),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


def fully_connected(num_features: int) -> list[nn.Module]:
    return [
        nn.Flatten(),
        *(nn.Linear(num_features, 16), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(16, 10),
    ]


def textbook_alexnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 11, stride=4, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(12, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(48, 48, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(48, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *fully_connected(32 * 5 * 5),
    )


def textbook_vgg11() -> nn.Sequential:
    layers: list[nn.Module] = []
    in_channels = 1
    for num_convs, channels in ((1, 8), (1, 16), (2, 32), (2, 64), (2, 64)):
        for _ in range(num_convs):
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            in_channels = channels
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers, *fully_connected(64 * 7 * 7))


def textbook_lenet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2, stride=2)),
        *(nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2, stride=2)),
        nn.Flatten(),
        *(nn.Linear(400, 120), nn.Sigmoid()),
        *(nn.Linear(120, 84), nn.Sigmoid()),
        nn.Linear(84, 10),
    )


NARROW = ModelSpec(width=1 / 8, hidden=16)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    ("spec", "in_shape", "textbook"),
    [
        (D2L, IMAGE, textbook_nin()),
        (replace(NARROW, trunk="alexnet", head="alexnet"), IMAGE, textbook_alexnet()),
        (replace(NARROW, trunk="vgg11", head="vgg"), IMAGE, textbook_vgg11()),
        (ModelSpec(trunk="lenet", head="lenet"), (1, 28, 28), textbook_lenet()),
    ],
    ids=["nin", "alexnet", "vgg11", "lenet"],
)
def test_logits_equal_the_textbooks_bit_for_bit(
    spec: ModelSpec, in_shape: Shape, textbook: nn.Sequential, training: bool
) -> None:
    """In float32, with the same weights and, in training mode, the same units dropped."""
    network = build_model(spec, in_shape, 10).train(training)
    for mine, other in zip(weight_layers(network), weight_layers(textbook), strict=True):
        other.load_state_dict(mine.state_dict())
    x = torch.rand(4, *in_shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    wanted = textbook.train(training)(x)
    torch.manual_seed(1)
    assert torch.equal(network(x), wanted)
    assert wanted.std() > 0


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
    network = build_model(replace(SMALL[trunk], head=head, pooling=pooling), SMALL_IMAGE, 7, seed=2)
    x = torch.randn(8, *SMALL_IMAGE, generator=torch.Generator().manual_seed(0))
    at_one_position = network.trunk(x).shape[2:] == (1, 1)
    logits = network(x)
    assert logits.shape == (8, 7)
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.arange(8) % 7).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not (at_one_position and name.startswith("head.")):  # where the mean is the maximum, mixtures learn nothing
            assert parameter.grad.abs().sum() > 0, name


def weights(network: nn.Module) -> list[Tensor]:
    return list(network.state_dict().values())


def test_the_seed_is_the_weights() -> None:
    first, again, other = (weights(build_model(SMALL["nin"], SMALL_IMAGE, 7, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_pooling_does_not_change_the_weights(pooling: str) -> None:
    """So that poolings are compared from the same start."""
    ours, average = (
        build_model(replace(SMALL["nin"], pooling=name), SMALL_IMAGE, 7, seed=3) for name in (pooling, "average")
    )
    for mine, other in zip(
        weight_layers(ours), weight_layers(average), strict=False
    ):  # ours may have a last linear layer
        assert torch.equal(mine.weight, other.weight)


@pytest.mark.parametrize("head", [name for name in HEADS if name != "nin"])
def test_the_head_does_not_change_the_trunks_weights(head: str) -> None:
    ours, nins = (
        weights(build_model(replace(SMALL["nin"], head=name), SMALL_IMAGE, 7, seed=3).trunk) for name in (head, "nin")
    )
    assert all(torch.equal(mine, other) for mine, other in zip(ours, nins, strict=True))


def test_the_callers_random_numbers_neither_change_nor_matter() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = weights(build_model(SMALL["nin"], SMALL_IMAGE, 7, seed=9))
    assert torch.equal(torch.rand(3), wanted)
    again = weights(build_model(SMALL["nin"], SMALL_IMAGE, 7, seed=9))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# Widest layer of the small layout: the 5x5 convolution from 96 to 192 channels.
FAN_IN, FAN_OUT = 96 * 25, 192 * 25


def widest(init: str) -> nn.Conv2d | nn.Linear:
    layer = list(weight_layers(build_model(ModelSpec(layout="small", init=init), SMALL_IMAGE, 7)))[3]
    assert layer.weight.shape == (192, 96, 5, 5)
    return layer


def test_xavier_weights_are_uniform_within_their_bound() -> None:
    """Glorot and Bengio (2010): variance 2 / (fan_in + fan_out), so uniform up to the root of three times that."""
    weight, bound = widest("xavier").weight, (6 / (FAN_IN + FAN_OUT)) ** 0.5
    assert bound * 0.999 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize(("init", "std"), [("kaiming", (2 / FAN_IN) ** 0.5), ("gaussian", 0.05)])
def test_normal_weights_have_their_standard_deviation(init: str, std: float) -> None:
    """He et al. (arXiv:1502.01852); Lin, Chen and Yan's Caffe definition."""
    weight = widest(init).weight
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=std / 100)
    assert weight.abs().max() > 3 * std, "a normal distribution has tails"


@pytest.mark.parametrize("init", INITS)
def test_biases_keep_pytorchs_default(init: str) -> None:
    """Uniform within 1 / sqrt(fan_in)."""
    bias = widest(init).bias
    assert bias is not None
    assert 0.9 * FAN_IN**-0.5 < bias.abs().max() <= FAN_IN**-0.5


def test_predict_gives_probabilities() -> None:
    network = build_model(replace(SMALL["nin"], dropout=0.9), SMALL_IMAGE, 7)
    x = torch.randn(4, *SMALL_IMAGE)
    probabilities = predict(network, x)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    assert torch.equal(probabilities, predict(network, x)), "dropout must be off"
    assert not probabilities.requires_grad
    assert torch.equal(probabilities.argmax(1), network.eval()(x).argmax(1))


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_mode_as_it_was(training: bool) -> None:
    network = build_model(SMALL["nin"], SMALL_IMAGE, 7).train(training)
    predict(network, torch.randn(1, *SMALL_IMAGE))
    assert network.training == training
    with pytest.raises(RuntimeError):
        predict(network, torch.randn(1, 5, 28, 28))
    assert network.training == training, "after an error too"


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
    with pytest.raises(ValueError, match=message) as raised:
        build_model(replace(SMALL["nin"], **changes), SMALL_IMAGE, 7)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


class BrokenTrunk(nn.Sequential):
    """Whose second convolution does not fit behind its first."""

    def __init__(self, in_channels: int, spec: ModelSpec) -> None:
        super().__init__(nn.Conv2d(in_channels, 4, 3), nn.Conv2d(5, 6, 3))


def no_trunk(in_channels: int, spec: ModelSpec) -> nn.Sequential:
    raise RuntimeError("no such weights")


def test_a_trunk_that_does_not_fit_together_is_not_blamed_on_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRUNKS, "broken", BrokenTrunk)
    with pytest.raises(
        ValueError, match=r"^trunk 'broken' in layout 'small' takes no images of 28x28 px: Runtime"
    ) as raised:
        build_model(ModelSpec(trunk="broken", layout="small"), SMALL_IMAGE, 7)
    assert "Invalid channel dimensions" in str(raised.value)


def test_what_building_a_trunk_raises_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRUNKS, "none", no_trunk)
    with pytest.raises(RuntimeError, match="no such weights"):
        build_model(ModelSpec(trunk="none", layout="small"), SMALL_IMAGE, 7)


@pytest.mark.parametrize("activation", ["mixing", "maxout2", "maxout3"])
def test_kaimings_weights_keep_the_signals_size_whatever_follows_them(activation: str) -> None:
    """Six 1x1s in every block: a factor of two in each layer would put the features out of all bounds."""
    spec = ModelSpec(layout="small", width=0.5, num_1x1=6, init="kaiming")
    x = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def size(name: str) -> float:
        with torch.no_grad():
            return float(build_model(replace(spec, activation=name), (1, 28, 28), 10).trunk(x).square().mean())

    assert 0.1 < size(activation) / size("relu") < 10


def test_kaimings_weights_before_a_relu_are_torchs_own() -> None:
    network = build_model(ModelSpec(layout="small", init="kaiming"), (1, 28, 28), 10, seed=3)
    first = next(module for module in network.trunk.modules() if isinstance(module, nn.Conv2d))
    torch.manual_seed(stream(3, "trunk weights 0"))
    assert torch.equal(first.weight, nn.init.kaiming_normal_(torch.empty_like(first.weight), nonlinearity="relu"))


def test_layers_that_were_frozen_stay_so() -> None:
    network = build_model(ModelSpec(layout="small", activation="batchnorm-relu"), (1, 28, 28), 10)
    frozen = [module.eval() for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with evaluating(network):
        assert not network.training
    assert frozen
    assert network.training
    assert not any(module.training for module in frozen)
