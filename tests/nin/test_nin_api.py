"""What notebooks and scripts call, as `nin` exports it."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from trained_networks import make

import nin
from nin.progress import progress_bar
from nin.sizes import NETWORKS, size

TINY = {"width": 1 / 8, "dropout": 0.2, "class_block": "wide", "init": "kaiming"}
FEW = {"train_examples": 64, "val_examples": 50, "test_examples": 50}

# What the textbook's notebook prints for a 224 px image (Dive into Deep Learning, section 8.3), but for the shape after
# pooling: its 1x1 map is flattened in a layer of its own.
SHAPES = (
    ("Sequential", (1, 96, 54, 54)),
    ("MaxPool2d", (1, 96, 26, 26)),
    ("Sequential", (1, 256, 26, 26)),
    ("MaxPool2d", (1, 256, 12, 12)),
    ("Sequential", (1, 384, 12, 12)),
    ("MaxPool2d", (1, 384, 5, 5)),
    ("Dropout", (1, 384, 5, 5)),
    ("Sequential", (1, 10, 5, 5)),
    ("AveragePool", (1, 10)),
)


class OneWeight(torch.nn.Module):
    """Softmax regression from scratch: no layer has its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(28 * 28, 10))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return x_NCHW.flatten(1) @ self.weight


def in_another_process(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def data() -> nin.ImageData:
    return nin.load_data("synthetic", device="cpu", **FEW)


def test_every_exported_name_is_there() -> None:
    assert all(getattr(nin, name) is not None for name in nin.__all__)
    assert set(nin.__all__) <= set(dir(nin))
    with pytest.raises(AttributeError, match="no attribute 'tensor'"):
        _ = nin.tensor


def test_importing_nin_loads_no_torch() -> None:
    assert in_another_process("import nin, sys; print('torch' in sys.modules)") == "False\n"


@pytest.mark.slow
def test_nin_trains_without_the_libraries_of_experiments() -> None:
    code = """
import sys
for name in ("mlflow", "optuna", "pandas", "scipy", "matplotlib"):
    sys.modules[name] = None
import nin
data = nin.load_data("synthetic", device="cpu", train_examples=64, val_examples=50, test_examples=50)
network = nin.build("nin-small", data.in_shape, width=1 / 8)
print(len(nin.fit(network, data, epochs=1, evals_per_epoch=2).curve))
"""
    assert in_another_process(code) == "2\n"


def test_iterating_over_a_network_gives_the_shapes_of_the_textbook() -> None:
    x = torch.zeros(1, 1, 224, 224)
    shapes = []
    for block in nin.build("nin-d2l").eval():
        x = block(x)
        shapes.append((type(block).__name__, tuple(x.shape)))
    assert tuple(shapes) == SHAPES


def test_blocks_one_after_the_other_are_the_network() -> None:
    network, x = nin.build("lenet").eval(), torch.rand(2, 1, 28, 28)
    y = x
    for block in network:
        y = block(y)
    assert torch.equal(network(x), y)


def test_a_network_is_built_by_name_or_specification_with_changes() -> None:
    by_name = nin.build("nin-small", num_1x1=1, seed=3)
    by_spec = nin.build(nin.ModelSpec(layout="small"), (1, 28, 28), num_1x1=1, seed=3)
    ours, theirs = by_name.state_dict(), by_spec.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_sum_to_the_network(name: str) -> None:
    table, counted = nin.layers(name), size(*NETWORKS[name], 10)
    assert table["params"].sum() == counted.params
    assert table["flops"].sum() == pytest.approx(1e9 * counted.gflops)


def test_layers_of_a_network_that_was_built_are_those_of_its_name() -> None:
    network = nin.build("nin-small")
    assert nin.layers(network).equals(nin.layers("nin-small"))
    assert network.training  # as it was
    assert nin.layers(torch.nn.Conv2d(3, 4, 1), (3, 8, 8))["output_shape"].tolist() == [(4, 8, 8)]


def test_a_network_learns_and_its_history_is_a_table_and_a_figure() -> None:
    data = nin.load_data("synthetic", device="cpu", train_examples=512, val_examples=200, test_examples=200)
    network, points = nin.build("nin-small", data.in_shape, num_1x1=0, **TINY), []
    training = nin.TrainSpec(epochs=3, batch_size=16, optimizer="adamw", schedule="one-cycle")
    history = nin.fit(network, data, training, points.append, lr=0.005)
    assert history.outcome == "finished"
    assert history.curve == points
    table = history.to_frame()
    assert table["examples"].iloc[-1] == 3 * 512
    assert table["val_accuracy"].max() > 0.5
    loss, accuracy = history.plot().axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("cross-entropy, nats", "accuracy")
    assert [line.get_ydata()[-1] for line in accuracy.lines] == table[["train_accuracy", "val_accuracy"]].iloc[
        -1
    ].tolist()
    x, labels = next(data.batches(data.test, 200))
    predicted = nin.probabilities(network, x)
    assert predicted.sum(dim=1) == pytest.approx(torch.ones(200), abs=1e-5)
    assert float((predicted.argmax(dim=1) == labels).float().mean()) > 0.5


def test_data_say_what_they_are_in_one_line(data: nin.ImageData) -> None:
    sizes = "64 train, 50 val, 50 test images, 1×28×28, 10 classes"
    assert repr(data) == f"ImageData(synthetic: {sizes}, on cpu)"


def test_a_trained_network_takes_bytes_and_files(tmp_path: Path) -> None:
    network = make()
    Image.new("L", (28, 28), 200).save(tmp_path / "light.png")
    from_bytes = nin.probabilities(network, torch.full((1, 1, 28, 28), 200, dtype=torch.uint8))
    torch.testing.assert_close(nin.probabilities(network, [tmp_path / "light.png"]), from_bytes)
    torch.testing.assert_close(nin.probabilities(network, str(tmp_path / "light.png")), from_bytes)
    torch.testing.assert_close(nin.probabilities(network, np.full((1, 1, 28, 28), 200, np.uint8)), from_bytes)
    assert network.card.name in repr(network)


def test_numbers_of_numpy_are_numbers() -> None:
    changes = {"num_1x1": np.int64(1), "dropout": np.float64(0.25)}
    assert repr(nin.build("nin-small", **changes)) == repr(nin.build("nin-small", num_1x1=1, dropout=0.25))
    assert repr(nin.build("lenet", np.array([3, 28, 28]))) == repr(nin.build("lenet", (3, 28, 28)))


def test_a_device_of_torch_and_no_callback_are_taken() -> None:
    data = nin.load_data("synthetic", device=torch.device("cpu"), **FEW)
    assert nin.fit(nin.build("lenet"), data, on_eval=None, epochs=1, progress=False).curve


def test_modules_are_there_without_an_import_of_their_own() -> None:
    assert in_another_process("import nin; print('quick' in nin.settings.SETTINGS)") == "True\n"


def test_layers_of_a_recurrent_network_have_shapes() -> None:
    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.LSTM(28, 4, batch_first=True)

        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return self.rows(x_NCHW[:, 0])[0][:, -1]

    assert nin.layers(Rows(), (1, 28, 28))["output_shape"].tolist() == [(28, 4)]


def test_a_curve_of_one_point_is_seen(data: nin.ImageData) -> None:
    history = nin.fit(nin.build("lenet"), data, epochs=1, evals_per_epoch=1, progress=False)
    lines = [line for axes in history.plot().axes for line in axes.lines]
    assert [line.get_marker() for line in lines] == ["o"] * 4


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_is_for_terminals(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr("nin.progress.Console", lambda: Console(file=output, force_terminal=is_terminal, width=120))
    with progress_bar(100) as show:
        show(nin.Evaluation(100, 1.0, 0.5, 0.8, 0.6, 0.75, 0, 1.0))
    assert ("epoch 1.0, loss 0.500, validation accuracy 75.0%" in output.getvalue()) is is_terminal


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: nin.build("nin-d3l"), "unknown network 'nin-d3l': the nearest is 'nin-d2l'"),
        (
            lambda data: nin.build("nin-d2l", num_1x2=3),
            "unknown field of ModelSpec 'num_1x2': the nearest is 'num_1x1'",
        ),
        (lambda data: nin.build("nin-d2l", num_1x1="3"), "num_1x1='3' must be a whole number"),
        (
            lambda data: nin.build("lenet", num_1x1=3),
            "num_1x1: would change nothing in trunk 'lenet' with head 'lenet'",
        ),
        (lambda data: nin.build("nin-small", (1, 28.0, 28)), "must be channels, height and width"),
        (
            lambda data: nin.layers(nin.build("lenet"), num_classes=100),
            "num_classes: a network that was built cannot be",
        ),
        (lambda data: nin.build("lenet", num_classes=2.5), "num_classes=2.5: must be a whole number, 1 or more and at"),
        (lambda data: nin.build("lenet", num_classes=10**10), "num_classes=10000000000: must be a whole number"),
        (lambda data: nin.fit(nin.build("lenet"), data, threads=-2), "threads=-2: must be 0 or more"),
        (lambda data: nin.fit(nin.build("lenet"), data, threads=1.5), "threads=1.5: must be 0 or more, and a whole"),
        (lambda data: nin.fit(nin.build("lenet"), data, lr=torch.ones(2)), "lr: "),
        (lambda data: nin.load_data("folder:~nobody-there/pets"), "~nobody-there/pets: "),
        (lambda data: nin.load_data("synthetic", root="~nobody-there/data"), "~nobody-there/data: "),
        (lambda data: nin.fit(nin.build("nin-small"), data, checkpoint="~nobody-there/c.pt"), "~nobody-there/c.pt: "),
        (lambda data: nin.load_trained("2x:0", results="~nobody-there"), "~nobody-there: "),
        (lambda data: nin.load_data(Path("~nobody-there/pets")), "~nobody-there/pets: "),
        (lambda data: nin.probabilities(nin.build("lenet"), np.array([None])), "images: "),
        (lambda data: nin.probabilities(nin.build("nin-small"), torch.zeros(1, 28, 28)), "float32 (1, 28, 28)"),
        (
            lambda data: nin.probabilities(nin.build("lenet"), torch.zeros(1, 1, 28, 28), invert=True),
            "invert: is for image",
        ),
        (lambda data: nin.class_maps(nin.build("nin-small"), torch.zeros(1, 28, 28)), "class_maps takes a network"),
        (lambda data: nin.build("lenet", seed="x"), "seed='x' must be a whole number"),
        (
            lambda data: nin.class_maps(make(), torch.zeros(1, 1, 28, 28)),
            "class_maps takes a network, as from nin.build",
        ),
        (lambda data: nin.class_maps(nin.build("nin-small"), [[0.0]]), "class_maps takes a network, as from nin.build"),
        (
            lambda data: nin.class_maps(nin.build("nin-small"), torch.zeros(1, 3, 28, 28)),
            "images: the network does not take float32 (1, 3, 28, 28) (",
        ),
        (lambda data: nin.build("nin-d2l", (1, 28, 28)), "images of 28x28 px are too small"),
        (lambda data: nin.build(nin.ModelSpec()), "in_shape: a ModelSpec does not say"),
        (lambda data: nin.layers(torch.nn.Identity()), "in_shape: this module does not say"),
        (lambda data: nin.layers(nin.build("lenet"), num_1x1=2), "num_1x1: a network that was built"),
        (lambda data: nin.load_data("fashion"), "unknown data set 'fashion': the nearest is 'fashion-mnist'"),
        (lambda data: nin.load_data(None), "data=None: must be a data set's name, the path of"),
        (lambda data: nin.fit("lenet", data), "fit takes a network, as from nin.build(...), and data"),
        (
            lambda data: nin.fit(nin.build("lenet"), "synthetic"),
            "fit takes a network, as from nin.build(...), and data",
        ),
        (lambda data: nin.fit(nin.build("lenet"), data, "quik"), "unknown training 'quik': the nearest is 'quick'"),
        (lambda data: nin.fit(nin.build("lenet"), data, nin.settings.SETTINGS["quick"]), "training=Setting("),
        (
            lambda data: nin.fit(OneWeight(), data, last_lr_factor=0.1),
            "the network has no convolution and no linear layer",
        ),
        (lambda data: nin.fit(nin.build("lenet"), data, epoch=1), "unknown field of TrainSpec 'epoch'"),
        (
            lambda data: nin.fit(nin.build("lenet", (3, 28, 28)), data),
            "the network does not take images of 1x28x28 in 10",
        ),
        (
            lambda data: nin.fit(nin.build("lenet", num_classes=3), data),
            "the network has 3 outputs; the data has images of",
        ),
        (lambda data: nin.load_data("/tmp/pets"), "for a folder of images write folder:/tmp/pets"),
        (lambda data: nin.load_data("my/pets"), "for a folder of images write folder:./my/pets"),
        (lambda data: nin.load_data("folder:tests"), "for that in the working directory write folder:./tests"),
        (
            lambda data: nin.probabilities(nin.build("lenet"), torch.zeros(3)),
            "images: the network does not take float32 (3,) (",
        ),
        (lambda data: nin.probabilities(nin.build("lenet"), ["a.png"]), "images: a bare network takes a tensor"),
        (
            lambda data: nin.probabilities(make(), next(data.batches(data.test, 2))[0]),
            "images: a trained network takes bytes, uint8 (N, 1, 28, 28), such as data.test.images; these are float32 (2, 1, 28, 28)",
        ),
        (
            lambda data: nin.probabilities(make(), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)),
            "these are uint8 (1, 1, 32, 32)",
        ),
        (lambda data: nin.probabilities(make(), []), "or paths of image files, at least one"),
        (lambda data: nin.probabilities(make(), Image.new("L", (28, 28))), "or paths of image files, at least one"),
        (lambda data: nin.build("lenet", 28), "in_shape=28: must be channels, height and width"),
        (lambda data: nin.layers(["nin-small"]), "unknown network ['nin-small']"),
        (lambda data: nin.class_map_figure(nin.build("nin-small"), data.test), "takes trained networks"),
        (lambda data: nin.build("lenet", num_classes=0), "num_classes=0: must be a whole number, 1 or more"),
        (lambda data: nin.build("lenet", (28, 28)), "in_shape=(28, 28): must be channels, height and width"),
        (lambda data: nin.layers(nin.build("lenet"), (3, 28, 28)), "in_shape=(3, 28, 28): the network does not take"),
        (lambda data: nin.load_data(device="gpu"), "unknown device 'gpu': auto, cpu, cuda"),
        (lambda data: nin.load_trained("2x:0", "/nowhere"), "there is no trained network under /nowhere"),
    ],
)
def test_what_a_caller_gets_wrong_is_one_line(
    call: Callable[[nin.ImageData], object], message: str, data: nin.ImageData
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call(data)
    assert "\n" not in str(error.value)


def test_a_bare_network_takes_any_number_of_images(data: nin.ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nin.build("lenet", data.in_shape)
    x_NCHW, _ = next(data.batches(data.test, 10))
    whole = nin.probabilities(network, x_NCHW)
    monkeypatch.setattr("nin.predict.BATCH", 4)
    seen: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    torch.testing.assert_close(nin.probabilities(network, x_NCHW), whole)
    assert seen == [4, 4, 2]


def test_a_checkpoint_may_be_named_by_a_string(data: nin.ImageData, tmp_path: Path) -> None:
    network = nin.build("lenet", data.in_shape)
    assert len(nin.fit(network, data, checkpoint=str(tmp_path / "run.pt"), epochs=1, progress=False).curve)


@pytest.mark.parametrize(("small", "threads", "used"), [(5.0, 0, 1), (0.0, 0, 3), (5.0, 2, 2)])
def test_a_small_network_is_trained_on_one_thread_unless_told_otherwise(
    data: nin.ImageData, small: float, threads: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("nin.api.SMALL_STEP_GFLOP", small)
    seen: list[int] = []
    torch.set_num_threads(3)
    try:
        network = nin.build("lenet", data.in_shape)
        nin.fit(
            network,
            data,
            on_eval=lambda _: seen.append(torch.get_num_threads()),
            threads=threads,
            epochs=1,
            progress=False,
        )
        assert set(seen) == {used}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
