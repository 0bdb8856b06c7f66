"""What a layer costs, and which of a machine's limits bounds it. No test asserts a time that was measured."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from nin import measure, roofline
from nin.pooling import POOLINGS
from nin.precision import choose_precision
from nin.roofline import LayerCost, Machine, conclusion, figure, layer_costs, least_seconds
from nin.sizes import NETWORKS, layers, size
from nin.spec import ModelSpec
from nin.trunks import TRUNKS

MACHINE = Machine("a card", 1, {"bf16": 100e12, "float32": 50e12}, bandwidth=1e12, bus=1e9)  # ridge: 100 FLOP/byte


@pytest.fixture(autouse=True)
def one_second_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nin.machine.seconds_per_call", lambda call, device: call() is None or 1.0)


@pytest.mark.parametrize(("name", "batch"), [("lenet", 3), ("nin-small", 2), ("nin-cifar", 1)])
def test_flops_are_nin_measures_times_the_batch(name: str, batch: int) -> None:
    counted = {f"{row.part}.{row.name}": batch * row.flops for row in layers(*NETWORKS[name], 10) if row.flops}
    costs = layer_costs(*NETWORKS[name], 10, batch=batch)
    assert {cost.name: cost.flops for cost in costs if cost.flops} == counted


@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("float32", 4)])
def test_bytes_are_what_comes_in_what_goes_out_and_the_weights(precision: str, size: int) -> None:
    costs = {cost.name: cost for cost in layer_costs(*NETWORKS["lenet"], 10, batch=3, precision=precision)}
    images, maps, weights = 3 * 28 * 28, 3 * 6 * 28 * 28, 6 * 5 * 5 + 6
    assert costs["trunk.0"].bytes_moved == size * (images + maps + weights)
    assert costs["trunk.1"].bytes_moved == size * 2 * maps  # a sigmoid
    assert costs["trunk.2"].bytes_moved == size * (maps + maps // 4)  # 2x2 pooling
    assert costs["head.1"].bytes_moved == size * (3 * 400 + 3 * 120 + 400 * 120 + 120)


@pytest.mark.parametrize("head", ["nin", "linear"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_measured_in_16_bits(pooling: str, head: str) -> None:
    spec = ModelSpec(layout="small", width=0.25, pooling=pooling, head=head)
    costs = layer_costs(spec, (1, 28, 28), 10, batch=2, precision="bf16")
    assert sum(cost.flops for cost in costs) == 2 * round(size(spec, (1, 28, 28), 10).gflops * 1e9)


def test_a_trunk_of_one_layer_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRUNKS, "bare", lambda channels, spec: torch.nn.MaxPool2d(2))
    costs = layer_costs(ModelSpec(layout="small", trunk="bare"), (1, 28, 28), 10, batch=2, precision="float32")
    assert costs[0].name == "trunk"


def test_attention_is_measured_with_all_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attending(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(28, 2, batch_first=True)

        def forward(self, x_N1HW: torch.Tensor) -> torch.Tensor:
            x_NHW = x_N1HW.flatten(1, 2)
            return self.attention(x_NHW, key=x_NHW, value=x_NHW, need_weights=False)[0][:, None]

    monkeypatch.setitem(TRUNKS, "attending", lambda channels, spec: Attending())
    spec = ModelSpec(layout="small", trunk="attending")
    cost = layer_costs(spec, (1, 28, 28), 10, batch=2, precision="float32")[0]
    assert (cost.name, cost.flops) == ("trunk.attention", 2 * 2 * (4 * 28**3 + 2 * 28**3))
    assert cost.seconds > 0


def test_layers_that_do_nothing_when_evaluating_are_left_out() -> None:
    costs = layer_costs(*NETWORKS["nin-small"], 10, batch=2)
    assert "Dropout" not in {cost.kind for cost in costs}
    assert sum(cost.kind == "ReLU" for cost in costs) == 12  # in place: they move bytes all the same


def cost(flops: int, bytes_moved: int) -> LayerCost:
    return LayerCost("layer", "Conv2d", (1, 1, 1), flops, bytes_moved, 1.0)


def test_the_ridge_divides_what_arithmetic_bounds_from_what_memory_bounds() -> None:
    limits = (100e12, 1e12)
    assert cost(10**14, 10**11).bound(*limits) == "compute"
    assert cost(10**14, 10**13).bound(*limits) == "memory"
    assert cost(10**14, 10**11).least_seconds(*limits) == 1
    assert cost(10**14, 10**13).least_seconds(*limits) == 10
    assert cost(10**14, 10**13).intensity == 10


def test_a_faster_memory_helps_what_waits_for_memory() -> None:
    """One layer of 1 s arithmetic, one of 3 s memory: 4 s; with twice the bandwidth 2.5 s; with twice the arithmetic 3.5 s."""
    costs = [cost(10**14, 10**11), cost(10**12, 3 * 10**12)]
    assert least_seconds(costs, 100e12, 1e12) == 4
    text = conclusion(costs, MACHINE, "bf16", batch=10, image_bytes=1000)
    for wanted in (
        "Ridge: 100 FLOP/byte",
        "75% is memory's and 25% arithmetic's",
        "twice the memory bandwidth could be 1.60 times as fast",
        "twice the arithmetic, 1.14 times",
        "takes 0.01 ms",
    ):
        assert wanted in text


@pytest.mark.parametrize("name", ["nin-d2l", "vgg16"])
def test_labels_of_the_figure_do_not_overlap(name: str) -> None:
    rows = [row for row in layers(*NETWORKS[name], 10) if row.flops]
    costs = [LayerCost(f"{r.part}.{r.name}", r.kind, r.output_shape, r.flops, r.flops // 300, 1e-5) for r in rows]
    picture = figure("a network", costs, MACHINE, "bf16")
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    # Of the words alone: an annotation's own extent includes its line.
    labels = [text for text in picture.axes[0].texts if "%" in text.get_text()]
    boxes = sorted((Text.get_window_extent(text) for text in labels), key=lambda box: box.y0)
    assert len(boxes) == len(rows)
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    assert max(box.x1 for box in boxes) <= picture.bbox.width


def test_the_command_prints_a_table_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "measure_machine", lambda device, precision: MACHINE)
    png, numbers = tmp_path / "new" / "roof.png", tmp_path / "other" / "roof.json"
    files = ["--out", str(png), "--json", str(numbers)]
    assert measure.main(["roofline", "lenet", "--batch", "2", "--device", "cpu", "--threads", "1", *files]) == 0
    printed = capsys.readouterr().out
    for wanted in (
        f"lenet on 1×28×28, 2 images, forward, {choose_precision('cpu').precision}",
        "trunk.3",
        "bound by",
        "A device with the same arithmetic",
    ):
        assert wanted in printed
    assert png.read_bytes().startswith(b"\x89PNG")
    assert json.loads(numbers.read_text())["machine"]["bandwidth"] == 1e12


def test_a_machine_is_measured_in_the_precision_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nin.machine.matrix_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr("nin.machine.copy_bandwidth", lambda device: 1e10)
    assert "float16" in roofline.measure_machine(torch.device("cpu"), "float16").flops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenett"], "unknown network 'lenett': the nearest is 'lenet'"),
        (["lenet", "--batch", "0"], "--batch 0: must be 1 or more"),
        (["lenet", "--threads", "1000000"], "--threads 1000000: must be 1 or more and at most"),
        (["lenet", "--out", "roof.bmp"], "must end in .png, .svg or .pdf"),
        (["lenet", "--set", "num1x1=3"], "nearest is 'num_1x1'"),
        (["nin-d2l", "--input", "1x28x28"], "too small"),
        (["nin-d2l", "--num-classes", "10000000000"], "at most 1048576"),
    ],
)
def test_a_wrong_request_is_a_value_error_of_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        measure.main(["roofline", "--threads", "1", *arguments])
