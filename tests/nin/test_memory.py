"""Memory of training: against what can be counted by hand."""

from dataclasses import replace

import pytest
import torch

from nin.data import ImageData, load
from nin.memory import activation_bytes, peak_bytes, prediction_memory, training_memory
from nin.spec import DataSpec, ModelSpec, TrainSpec

CPU = torch.device("cpu")
MLP = ModelSpec(trunk="identity", head="mlp", hidden=4096, dropout=0.0)
SGD = TrainSpec(batch_size=1, momentum=0.9)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load(DataSpec(name="synthetic", train_examples=256, val_examples=10))


def test_the_peak_counts_what_is_held_at_one_time() -> None:
    def work() -> None:
        first = torch.zeros(1000, 1000)
        del first
        second, third = torch.zeros(1000, 1000), torch.zeros(500, 1000)
        del second, third

    assert peak_bytes(work, CPU) == 4 * 1_500_000


def test_what_was_there_before_is_not_counted() -> None:
    kept = []
    before = torch.zeros(1000, 1000)
    assert peak_bytes(lambda: kept.append(before[:10].clone()), CPU) == 4 * 10_000


@pytest.mark.parametrize(("momentum", "copies"), [(0.0, 2), (0.9, 3)])
def test_a_wide_layer_needs_its_weights_gradients_and_momentum(data: ImageData, momentum: float, copies: int) -> None:
    params = 784 * 4096 + 4096 + 4096 * 10 + 10
    peak = training_memory(MLP, data, replace(SGD, momentum=momentum))
    assert copies * 4 * params == pytest.approx(peak, rel=0.02)


def test_memory_grows_by_at_least_the_activations_of_an_image(data: ImageData) -> None:
    spec = ModelSpec(layout="small", width=0.25)
    small, large = (training_memory(spec, data, TrainSpec(batch_size=n)) for n in (32, 128))
    counted = activation_bytes(spec, data.in_shape, 10, "float32", is_training=True)
    assert counted <= (large - small) / 96 <= 2 * counted


def test_activations_by_hand() -> None:
    """One 5x5 convolution with padding and a ReLU in place, 3x3 pooling that overhangs, and so on: what each layer puts out."""
    spec = ModelSpec(layout="small", num_1x1=0)
    sizes = [96 * 28 * 28, 96 * 14 * 14, 192 * 14 * 14, 192 * 7 * 7, 256 * 7 * 7, 256 * 3 * 3, 10 * 3 * 3, 10]
    assert activation_bytes(spec, (1, 28, 28), 10, "float32", is_training=False) == 4 * sum(sizes)
    assert activation_bytes(spec, (1, 28, 28), 10, "bf16", is_training=False) == 2 * sum(sizes)
    dropped = sum(sizes) + 256 * 3 * 3  # what dropout puts out, before the class block
    assert activation_bytes(spec, (1, 28, 28), 10, "float32", is_training=True) == 4 * dropped


def test_measuring_leaves_the_random_state_alone(data: ImageData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training_memory(ModelSpec(layout="small", width=0.1), data, SGD)
    assert torch.equal(torch.rand(3), expected)


def test_a_batch_beyond_the_data_takes_the_memory_of_the_batch_that_is_trained(data: ImageData) -> None:
    few, spec = data.first(64, 10), ModelSpec(layout="small", width=0.1)
    of_all = training_memory(spec, few, TrainSpec(batch_size=64))
    assert training_memory(spec, few, TrainSpec(batch_size=100_000)) == pytest.approx(of_all, rel=0.01)


def test_prediction_needs_the_weights_of_a_wide_layer_once(data: ImageData) -> None:
    params = 784 * 4096 + 4096 + 4096 * 10 + 10
    assert 4 * params == pytest.approx(prediction_memory(MLP, data, SGD), rel=0.02)


def test_prediction_keeps_fewer_activations_than_training(data: ImageData) -> None:
    spec = ModelSpec(layout="small", width=0.25)
    per_image = [
        (measure(spec, data, TrainSpec(batch_size=128)) - measure(spec, data, TrainSpec(batch_size=32))) / 96
        for measure in (prediction_memory, training_memory)
    ]
    largest = 24 * 28 * 28 * 4  # what the first convolution puts out, in float32
    assert largest <= per_image[0] < per_image[1] / 2
