"""Sizes as the course quotes them."""

import subprocess
import sys

import pytest

from nin.measure import NETWORKS, first_fully_connected, layers, main, size


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


def test_a_convolution_has_in_times_out_times_kernel_weights_and_twice_that_per_pixel_in_flops() -> None:
    second = next(row for row in layers(*NETWORKS["nin-d2l"], 10) if row.name == "2.0")
    assert second.params == 96 * 256 * 5 * 5 + 256
    assert second.flops == 2 * 96 * 256 * 5 * 5 * 26 * 26


def test_the_table_shows_shapes_parameters_and_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nin-d2l"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("96×54×54", "384×5×5", "614,656", "trunk 1,957,376 | head 34,790 | total 1,992,166", "1.525 GFLOP"):
        assert wanted in printed


def test_the_comparison_shows_the_first_fully_connected_layers_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("lenet", "48,000", "78%", "26,214,400", "56%", "102,760,448", "80%", "nin-d2l", "none"):
        assert wanted in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nin-d2"], "nearest is 'nin-d2l'"),
        ([], "name a network"),
        (["nin-d2l", "--num-classes", "0"], "must be 1 or more"),
        (["nin-d2l", "--num-1x1", "-1"], "must be 0 or more"),
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
