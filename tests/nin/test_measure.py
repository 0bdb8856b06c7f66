"""Sizes as the course quotes them."""

import math
import re
import subprocess
import sys

import pytest
import torch

from nin.measure import NETWORKS, first_fully_connected, layers, main, size
from nin.pooling import POOLINGS
from nin.spec import ModelSpec


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


def test_a_convolution_has_in_times_out_times_kernel_weights_and_twice_that_per_pixel_in_flops() -> None:
    second = next(row for row in layers(*NETWORKS["nin-d2l"], 10) if row.name == "2.0")
    assert second.params == 96 * 256 * 5 * 5 + 256
    assert second.flops == 2 * 96 * 256 * 5 * 5 * 26 * 26


def test_counting_draws_no_random_numbers_and_allocates_no_weights() -> None:
    before = torch.get_rng_state()
    vast = ModelSpec(head="alexnet", hidden=2_000_000)  # 4·10^12 weights between the hidden layers: 16 TB
    assert size(vast, (1, 224, 224), 10).params_head == 9600 * 2_000_000 + 2_000_000**2 + 12 * 2_000_000 + 10
    assert torch.equal(torch.get_rng_state(), before)


def test_the_table_shows_shapes_parameters_and_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nin-d2l"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("96×54×54", "384×5×5", "614,656", "trunk 1,957,376 | head 34,790 | total 1,992,166", "1.525 GFLOP"):
        assert wanted in printed


@pytest.mark.parametrize("head", ["nin", "linear"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_layers_add_up_to_the_network_under_every_pooling(pooling: str, head: str) -> None:
    spec = ModelSpec(layout="small", pooling=pooling, head=head)
    rows, network = layers(spec, (1, 28, 28), 10), size(spec, (1, 28, 28), 10)
    assert sum(row.params for row in rows) == network.params
    assert sum(row.flops for row in rows) == round(network.gflops * 1e9)
    assert rows[-1].output_shape == (10,)


def test_the_comparison_shows_the_first_fully_connected_layers_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("lenet", "48,000", "78%", "26,214,400", "56%", "102,760,448", "80%", "nin-d2l", "none"):
        assert wanted in printed


def test_any_field_input_and_number_of_classes_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nin-d2l", "--set", "head=alexnet", "--set", "model.num_1x1=0"]) == 0
    assert "trunk 1,511,488 | head 56,147,978" in capsys.readouterr().out
    assert main(["vgg16", "--input", "3x224x224", "--num-classes", "1000"]) == 0
    assert "total 138,357,544 parameters" in capsys.readouterr().out  # torchvision's
    assert main(["--compare", "nin-d2l", "--set", "num_1x1=4"]) == 0
    assert "2,438,274" in capsys.readouterr().out
    assert main(["nin-small", "--set", "class_relu=False", "--set", "width=0.25", "--set", "inner_kernel=3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet", "--compare", "nin-cifr"], "unknown network 'nin-cifr': the nearest is 'nin-cifar'"),
        (["nin-d2l", "--set", "num1x1=3"], "unknown --set key 'num1x1': the nearest is 'num_1x1'"),
        (["nin-d2l", "--set", "num_1x1=two"], "num_1x1 must be int"),
        (["nin-d2l", "--set", "num_1x1=-1"], "must be 0 or more"),
        (["nin-d2l", "--set", "class_relu=1"], "class_relu must be true or false"),
        (["nin-d2l", "--set", "head=alexnt"], "nearest is 'alexnet'"),
        (["nin-d2l", "--input", "3x32"], "must be channels, height and width"),
        (["nin-d2l", "--input", "1x0x32"], "must be channels, height and width"),
        (["nin-d2l", "--input", "1x99999999999999999999x32"], "each at most 4096"),
        (["nin-d2l", "--num-classes", "99999999999999999999"], "at most 1048576"),
        (["lenet", "nin-d2l", "--input", "1x28x28"], "28x28 px are too small for trunk 'nin'"),
    ],
)
def test_a_wrong_request_is_a_value_error_of_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == "", "the networks before the wrong one are not printed either"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nin-d2"], "nearest is 'nin-d2l'"),
        ([], "name a network"),
        (["nin-d2l", "--num-classes", "0"], "must be 1 or more"),
        (["nin-d2l", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nin.measure", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
