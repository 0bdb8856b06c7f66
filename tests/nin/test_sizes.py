"""Sizes as the course quotes them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nin.model import build_model
from nin.pooling import POOLINGS, GlobalPool
from nin.registry import ADDITIONS, Addition
from nin.sizes import NETWORKS, first_fully_connected, layer_rows, layers, size, unread_fields
from nin.spec import ModelSpec
from nin.trunks import TRUNKS, nin_trunk


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        ("lenet", "16·5·5 → 120", 48_000),
        ("alexnet", "256·5·5 → 4096", 26_214_400),
        ("vgg11", "512·7·7 → 4096", 102_760_448),
        ("vgg16", "512·7·7 → 4096", 102_760_448),
    ],
)
def test_the_first_fully_connected_layer_dominates(name: str, shape: str, weights: int) -> None:
    assert first_fully_connected(*NETWORKS[name], 10) == (shape, weights)


@pytest.mark.parametrize(("head", "found"), [("nin", ("10·3·3 → 10", 900)), ("linear", ("256·3·3 → 10", 23_040))])
def test_flattening_in_the_place_of_pooling_brings_a_fully_connected_layer(head: str, found: tuple[str, int]) -> None:
    spec = ModelSpec(layout="small", pooling="flatten", head=head)
    assert first_fully_connected(spec, (1, 28, 28), 10) == found


@pytest.mark.parametrize("name", ["nin-d2l", "nin-cifar", "nin-small"])
def test_nin_has_no_fully_connected_layer(name: str) -> None:
    assert first_fully_connected(*NETWORKS[name], 10) is None
    assert not any(row.kind == "Linear" for row in layers(*NETWORKS[name], 10))


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_add_up_to_the_whole(name: str) -> None:
    rows, network = layers(*NETWORKS[name], 10), size(*NETWORKS[name], 10)
    assert sum(row.params for row in rows if row.part == "trunk") == network.params_trunk
    assert sum(row.params for row in rows if row.part == "head") == network.params_head
    assert sum(row.flops for row in rows) == pytest.approx(1e9 * network.gflops)


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_two_per_weight_and_output_pixel(name: str) -> None:
    """Of every convolution and linear layer: 2·c_in·c_out·k² per pixel of its output, biases not counted; of no other."""
    for row in layers(*NETWORKS[name], 10):
        channels, *pixels = row.output_shape
        weights = row.params - channels if row.params else 0
        assert row.flops == 2 * weights * math.prod(pixels), row


NIN_FIELDS = {"num_1x1", "inner_kernel", "activation", "first_kernel", "first_stride", "class_block", "class_relu"}


@pytest.mark.parametrize(
    ("name", "unread"),
    [
        ("nin-d2l", {"hidden"}),
        ("alexnet", NIN_FIELDS | {"pooling"}),
        ("lenet", NIN_FIELDS | {"pooling", "hidden", "dropout"}),
    ],
)
def test_fields_that_a_network_does_not_read_are_those_it_has_no_part_for(name: str, unread: set[str]) -> None:
    assert unread_fields(*NETWORKS[name], 10) == unread


def test_a_field_that_is_read_by_way_of_a_copy_or_in_the_forward_pass_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(nn.Module):
        def __init__(self, spec: ModelSpec) -> None:
            super().__init__()
            self.spec = spec

        def forward(self, x_NCHW: Tensor) -> Tensor:
            return x_NCHW * self.spec.width

    monkeypatch.setitem(TRUNKS, "late", lambda channels, spec: Late(spec))
    monkeypatch.setitem(TRUNKS, "copy", lambda channels, spec: nin_trunk(channels, replace(spec, layout="small")))
    late = unread_fields(ModelSpec(trunk="late", head="linear"), (1, 28, 28), 10)
    assert "width" not in late
    assert "num_1x1" in late
    assert unread_fields(ModelSpec(trunk="copy", layout="small"), (1, 28, 28), 10) == set()


def test_a_pooling_that_does_not_flatten_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class KeepsPixels(GlobalPool):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            return x_NCHW.mean(dim=(2, 3), keepdim=True)

    monkeypatch.setitem(POOLINGS, "pixels", KeepsPixels)
    with pytest.raises(
        ValueError, match=r"returns \(1, 10, 1, 1\) in the place of logits .*does its pooling return \(N, C\)"
    ):
        size(ModelSpec(layout="small", pooling="pixels"), (1, 28, 28), 10)


class Draws(GlobalPool):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.mean(dim=(2, 3)) + torch.rand(1)  # on the CPU


class Asks(GlobalPool):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.mean(dim=(2, 3)) if float(x_NCHW.sum()) > 0 else x_NCHW.amax(dim=(2, 3))


@pytest.mark.parametrize("pooling", [Draws, Asks])
def test_added_code_that_needs_values_is_counted_with_values(
    pooling: type[GlobalPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pooling.__name__  # of its own, since counts are kept by name
    monkeypatch.setitem(POOLINGS, name, pooling)
    monkeypatch.setitem(ADDITIONS, ("model.pooling", name), Addition("pooling", name, __name__, ""))
    spec = ModelSpec(layout="small", pooling=name)
    counted, plain = size(spec, (1, 28, 28), 10), size(replace(spec, pooling="average"), (1, 28, 28), 10)
    assert (counted.params, counted.gflops) == (plain.params, plain.gflops)


class Raises(GlobalPool):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        raise RuntimeError("no\nidea")


def test_added_code_that_fails_is_one_line_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POOLINGS, "raises", Raises)
    monkeypatch.setitem(ADDITIONS, ("model.pooling", "raises"), Addition("pooling", "raises", __name__, ""))
    for count in (size, layers, unread_fields):
        with pytest.raises(ValueError, match=rf"network with pooling 'raises': {__file__}:\d+: RuntimeError: no idea$"):
            count(ModelSpec(layout="small", pooling="raises"), (1, 28, 28), 10)


def test_a_convolution_has_in_times_out_times_kernel_weights_and_twice_that_per_pixel_in_flops() -> None:
    second = next(row for row in layers(*NETWORKS["nin-d2l"], 10) if row.name == "2.0")
    assert second.params == 96 * 256 * 5 * 5 + 256
    assert second.flops == 2 * 96 * 256 * 5 * 5 * 26 * 26


def test_counting_draws_no_random_numbers_and_allocates_no_weights() -> None:
    torch.manual_seed(5)  # a state that no earlier count has left
    before = torch.get_rng_state()
    vast = ModelSpec(head="alexnet", hidden=2_000_000)  # 4·10^12 weights between the hidden layers: 16 TB
    assert size(vast, (1, 224, 224), 10).params_head == 9600 * 2_000_000 + 2_000_000**2 + 12 * 2_000_000 + 10
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("head", ["nin", "linear"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_built_network_has_the_layers_of_its_specification(pooling: str, head: str) -> None:
    spec = ModelSpec(layout="small", width=0.25, pooling=pooling, head=head)
    network = build_model(spec, (1, 28, 28), 10)
    assert layer_rows(network, torch.zeros(1, 1, 28, 28)) == layers(spec, (1, 28, 28), 10)


def test_what_belongs_to_no_layer_has_a_row_of_its_own() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 10)

        def forward(self, x_N784: Tensor) -> Tensor:
            x_NTC = torch.cat([self.class_token.expand(len(x_N784), 1, 8), x_N784.reshape(len(x_N784), -1, 8)], dim=1)
            logits_NK: Tensor = self.last(self.attention(x_NTC, x_NTC, x_NTC, need_weights=False)[0][:, 0])
            return logits_NK

    rows = layer_rows(Attending(), torch.zeros(1, 1, 28, 28))
    num_tokens = 1 + 98
    attention = 2 * (4 * num_tokens * 64 + 2 * num_tokens**2 * 8)
    assert [(row.name, row.params, row.flops) for row in rows] == [
        ("", 3 * (64 + 8) + 64 + 8, attention),
        ("", 80 + 10, 2 * 80),
        ("not in a layer", 8, 0),
    ]


def test_what_a_module_with_parts_computes_is_not_given_to_the_next_layer() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.zeros(784, 784))
            self.dropout, self.last = nn.Dropout(), nn.Linear(784, 10)

        def forward(self, x_N784: Tensor) -> Tensor:
            logits_NK: Tensor = self.last(self.dropout(x_N784.flatten(1) @ self.mix))
            return logits_NK

    rows = layer_rows(Mixing(), torch.zeros(1, 1, 28, 28))
    assert [(row.kind, row.flops) for row in rows] == [("Dropout", 0), ("Linear", 2 * 7840), ("", 2 * 784**2)]


def test_a_layer_that_is_used_twice_has_its_parameters_once_and_its_flops_each_time() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.Conv2d(1, 1, 3, padding=1)
            self.named = Named()

        def forward(self, x_NCHW: Tensor) -> Tensor:
            maps_NCHW: Tensor = self.named(self.twice(self.twice(x_NCHW)))["maps"]
            return maps_NCHW

    class Named(nn.Module):
        """Whose output is no tensor, and has no shape of its own."""

        def forward(self, x_NCHW: Tensor) -> dict[str, Tensor]:
            return {"maps": x_NCHW}

    rows = layer_rows(Shared(), torch.zeros(1, 1, 8, 8))
    assert [(row.name, row.params, row.flops) for row in rows] == [("", 10, 2 * 9 * 64), ("", 0, 2 * 9 * 64)]


def test_building_leaves_the_random_numbers_of_every_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("an accelerator's stream was set"))
    spec = ModelSpec(layout="small", width=0.125, num_1x1=1)
    build_model(spec, (1, 28, 28), 10)
    layers(spec, (1, 28, 28), 10)


@pytest.mark.parametrize("head", ["nin", "linear"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_layers_add_up_to_the_network_under_every_pooling(pooling: str, head: str) -> None:
    spec = ModelSpec(layout="small", pooling=pooling, head=head)
    rows, network = layers(spec, (1, 28, 28), 10), size(spec, (1, 28, 28), 10)
    assert sum(row.params for row in rows) == network.params
    assert sum(row.flops for row in rows) == round(network.gflops * 1e9)
    assert rows[-1].output_shape == (10,)
