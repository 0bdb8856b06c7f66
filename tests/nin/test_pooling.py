"""Global poolings: closed forms, reference implementations, and what every registered one must do."""

import pytest
import torch
from torch import Tensor, nn

from nin.pooling import POOLINGS

MAPS = torch.tensor([[[0.0, 1.0], [2.0, 5.0]], [[4.0, 4.0], [4.0, 4.0]]])[None]  # (1, 2, 2, 2), non-negative
POOLED = {"average": [2.0, 4.0], "max": [5.0, 4.0]}
# dy/dx of the first map, whose values all differ.
GRADIENTS = {"average": [[0.25, 0.25], [0.25, 0.25]], "max": [[0.0, 0.0], [0.0, 1.0]]}
REFERENCES = {"average": nn.AdaptiveAvgPool2d((1, 1)), "max": nn.AdaptiveMaxPool2d((1, 1))}

SIZES = [(1, 1), (5, 5), (3, 7), (28, 28)]


@pytest.mark.parametrize("pooling", POOLED)
def test_closed_form(pooling: str) -> None:
    torch.testing.assert_close(POOLINGS[pooling]((2, 2, 2))(MAPS), torch.tensor([POOLED[pooling]]))


@pytest.mark.parametrize("pooling", GRADIENTS)
def test_gradient_has_its_closed_form(pooling: str) -> None:
    x = MAPS.clone().requires_grad_()
    POOLINGS[pooling](tuple(x.shape[1:]))(x)[0, 0].backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, 0], torch.tensor(GRADIENTS[pooling]))


def random_maps(height: int, width: int) -> Tensor:
    return torch.randn(3, 6, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("pooling", REFERENCES)
def test_pooling_equals_pytorchs_adaptive_one_bit_for_bit(pooling: str, size: tuple[int, int]) -> None:
    x = random_maps(*size)
    assert torch.equal(POOLINGS[pooling](tuple(x.shape[1:]))(x), REFERENCES[pooling](x).flatten(1))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_maps_features_to_a_vector_of_its_declared_length(pooling: str, size: tuple[int, int]) -> None:
    x = random_maps(*size).abs().requires_grad_()
    layer = POOLINGS[pooling](tuple(x.shape[1:]))
    vector = layer(x)
    assert vector.shape == (3, layer.out_features)
    assert vector.isfinite().all()
    vector.square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=(2, 3)) > 0).all(), "some map has no gradient"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_of_dead_maps_is_finite(pooling: str) -> None:
    """Maps that a ReLU has left all zero, as dying classes have them: no division by their sum, no logarithm of it."""
    x = torch.zeros(2, 6, 5, 5, requires_grad=True)
    pooled = POOLINGS[pooling](tuple(x.shape[1:]))(x)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# --- closed forms and limits of the learned and parametric ones


def pooled(name: str, x: Tensor, training: bool = False, **parameters: float) -> Tensor:
    """The pooling's output with some of its parameters set."""
    pooling = POOLINGS[name](tuple(x.shape[1:])).train(training)
    with torch.no_grad():
        for key, value in parameters.items():
            getattr(pooling, key).fill_(value)
        return pooling(x)


POSITIVE = torch.rand(4, 6, 5, 5, generator=torch.Generator().manual_seed(1)) + 0.1
MEAN, LARGEST = POSITIVE.mean(dim=(2, 3)), POSITIVE.amax(dim=(2, 3))


def test_gem_with_power_1_is_the_mean_and_tends_to_the_maximum() -> None:
    torch.testing.assert_close(pooled("gem", POSITIVE, power=1.0), MEAN)
    torch.testing.assert_close(pooled("gem", POSITIVE, power=400.0), LARGEST, rtol=0.01, atol=0)
    cubic = POSITIVE.pow(3).mean(dim=(2, 3)).pow(1 / 3)
    torch.testing.assert_close(pooled("gem", POSITIVE), cubic)  # the published default is 3


def test_log_sum_exp_lies_between_mean_and_maximum_and_reaches_both() -> None:
    between = pooled("lse", POSITIVE)
    assert ((between > MEAN) & (between < LARGEST)).all()
    torch.testing.assert_close(pooled("lse", POSITIVE, sharpness=1e-3), MEAN, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(pooled("lse", POSITIVE, sharpness=2000.0), LARGEST, rtol=0.01, atol=0)
    by_definition = (10 * POSITIVE).exp().mean(dim=(2, 3)).log() / 10
    torch.testing.assert_close(between, by_definition)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *(("gem", {"power": power}) for power in (8.0, 0.0, -8.0)),
        *(("lse", {"sharpness": sharpness}) for sharpness in (0.0, -5.0)),
    ],
)
def test_wherever_training_takes_its_parameter_a_pooling_stays_finite(name: str, parameters: dict[str, float]) -> None:
    """Such as on maps without a positive value, whose eighth powers are too small for a float."""
    pooling = POOLINGS[name]((6, 5, 5))
    with torch.no_grad():
        for key, value in parameters.items():
            getattr(pooling, key).fill_(value)
    x = -POSITIVE
    x[0, 0, 0, 0] = 1.0
    x.requires_grad_()
    pooled = pooling(x)
    pooled.sum().backward()
    assert x.grad is not None
    assert all(tensor.isfinite().all() for tensor in (pooled, x.grad, *(p.grad for p in pooling.parameters())))
    assert (pooled >= x.mean(dim=(2, 3)) - 1e-3).all(), "never less than the mean"


def test_mixed_and_gated_start_half_way_between_mean_and_maximum() -> None:
    half = (MEAN + LARGEST) / 2
    for name in ("avgmax", "mixed", "gated"):
        torch.testing.assert_close(pooled(name, POSITIVE), half)
    torch.testing.assert_close(pooled("mixed", POSITIVE, share_of_max=1.0), LARGEST)
    torch.testing.assert_close(pooled("mixed", POSITIVE, share_of_max=0.0), MEAN)


def test_the_gate_is_a_sigmoid_of_each_map() -> None:
    share = torch.sigmoid(0.3 * POSITIVE.sum(dim=(2, 3)))
    torch.testing.assert_close(pooled("gated", POSITIVE, gate_HW=0.3), share * LARGEST + (1 - share) * MEAN)


def test_stochastic_pooling_in_evaluation_is_the_mean_under_its_own_probabilities() -> None:
    wanted = (POSITIVE**2).sum(dim=(2, 3)) / POSITIVE.sum(dim=(2, 3))
    torch.testing.assert_close(pooled("stochastic", POSITIVE), wanted)


def test_stochastic_pooling_in_training_draws_values_in_proportion() -> None:
    torch.manual_seed(0)
    x = torch.tensor([0.0, 1.0, 3.0, 0.0]).reshape(1, 1, 2, 2).expand(20_000, 1, 2, 2)
    drawn = pooled("stochastic", x, training=True)
    assert set(drawn.unique().tolist()) == {1.0, 3.0}
    assert float((drawn == 3).float().mean()) == pytest.approx(0.75, abs=0.01)


def test_stochastic_pooling_in_bf16_never_draws_what_has_no_probability() -> None:
    torch.manual_seed(0)
    maps_NCHW = torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(3)).bfloat16()
    maps_NCHW[:, :, -1, -1] = 0
    for _ in range(200):
        assert (pooled("stochastic", maps_NCHW, training=True) > 0).all()


def test_stochastic_pooling_of_zeros_is_zero() -> None:
    for training in (True, False):
        assert (pooled("stochastic", torch.zeros(2, 3, 4, 4), training) == 0).all()


def test_concatenation_pyramid_and_flattening_keep_more_than_a_number_per_channel() -> None:
    torch.testing.assert_close(pooled("concat", POSITIVE), torch.cat([MEAN, LARGEST], dim=1))
    pyramid = pooled("pyramid", POSITIVE)
    assert pyramid.shape == (4, 6 * 14)
    torch.testing.assert_close(pyramid[:, -6:], LARGEST)
    assert torch.equal(pooled("flatten", POSITIVE), POSITIVE.flatten(1))


def test_attention_to_equal_positions_is_a_linear_map_of_the_mean() -> None:
    """With keys of zero every position counts alike, itself the mean among them."""
    pooling = POOLINGS["attention"]((6, 5, 5)).eval()
    with torch.no_grad():
        pooling.positions_TC.zero_()
        pooling.attention.in_proj_weight[6:12].zero_()
        values = pooling.attention.in_proj_weight[12:]
        wanted = MEAN @ values.T @ pooling.attention.out_proj.weight.T
        torch.testing.assert_close(pooling(POSITIVE), wanted, rtol=1e-4, atol=1e-5)


def test_simpool_with_equal_attention_is_a_generalised_mean_of_normalised_features() -> None:
    pooling = POOLINGS["simpool"]((6, 5, 5)).eval()
    with torch.no_grad():
        pooling.query.weight.zero_()
        features = nn.functional.layer_norm(POSITIVE.flatten(2).transpose(1, 2), (6,), eps=1e-6)
        shifted = features - features.amin(dim=(1, 2), keepdim=True) + 1e-6
        torch.testing.assert_close(pooling(POSITIVE), shifted.square().mean(dim=1).sqrt(), rtol=1e-4, atol=1e-5)
