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
    torch.testing.assert_close(POOLINGS[pooling]()(MAPS), torch.tensor([POOLED[pooling]]))


@pytest.mark.parametrize("pooling", GRADIENTS)
def test_gradient_has_its_closed_form(pooling: str) -> None:
    x = MAPS.clone().requires_grad_()
    POOLINGS[pooling]()(x)[0, 0].backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, 0], torch.tensor(GRADIENTS[pooling]))


def random_maps(height: int, width: int) -> Tensor:
    return torch.randn(3, 6, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("pooling", REFERENCES)
def test_pooling_equals_pytorchs_adaptive_one_bit_for_bit(pooling: str, size: tuple[int, int]) -> None:
    x = random_maps(*size)
    assert torch.equal(POOLINGS[pooling]()(x), REFERENCES[pooling](x).flatten(1))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_maps_features_to_one_number_per_channel(pooling: str, size: tuple[int, int]) -> None:
    x = random_maps(*size).abs().requires_grad_()
    pooled = POOLINGS[pooling]()(x)
    assert pooled.shape == (3, 6)
    assert pooled.isfinite().all()
    pooled.sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=(2, 3)) > 0).all(), "some map has no gradient"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_of_dead_maps_is_finite(pooling: str) -> None:
    """Maps that a ReLU has left all zero, as dying classes have them: no division by their sum, no logarithm of it."""
    x = torch.zeros(2, 6, 5, 5, requires_grad=True)
    pooled = POOLINGS[pooling]()(x)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
