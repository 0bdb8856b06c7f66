"""How a network is trained: on the same images in the same order, watched on one grid, and honest about how it ends."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from nin.data import ImageData, load
from nin.history import Evaluation, History, Score
from nin.model import build_model
from nin.spec import DataSpec, ModelSpec, TrainSpec
from nin.train import OPTIMIZERS, SCHEDULES, Grid, chance_level, evaluate, train

SMALL = ModelSpec(layout="small", width=1 / 12, init="kaiming", dropout=0.2, class_block="wide")
SPEC = TrainSpec(epochs=2, batch_size=32, lr=0.02, momentum=0.9, evals_per_epoch=2)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load(DataSpec(name="synthetic", train_examples=200, val_examples=100, test_examples=100))


def trained(
    data: ImageData, spec: TrainSpec = SPEC, model: ModelSpec = SMALL, seed: int = 0
) -> tuple[nn.Module, History]:
    network = build_model(model, data.in_shape, data.num_classes, seed=seed)
    return network, train(network, data, spec, seed=seed)


def losses(history: History) -> list[float]:
    return [point.train_loss for point in history.curve]


def test_the_same_seed_trains_the_same_network_bit_for_bit(data: ImageData) -> None:
    (first, first_history), (second, second_history) = trained(data), trained(data)
    assert losses(first_history) == losses(second_history)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_another_seed_trains_another(data: ImageData) -> None:
    assert losses(trained(data, seed=0)[1]) != losses(trained(data, seed=1)[1])


def test_evaluations_lie_on_a_grid_finer_than_an_epoch_and_end_with_it(data: ImageData) -> None:
    history = trained(data)[1]  # 200 images in batches of 32: 7 steps, evaluated after 4 and 7
    assert [point.examples for point in history.curve] == [128, 200, 328, 400]
    assert [point.epoch for point in history.curve] == [0.64, 1.0, 1.64, 2.0]


def test_there_is_at_most_an_evaluation_after_every_step(data: ImageData) -> None:
    history = trained(data, replace(SPEC, epochs=1, evals_per_epoch=10**18))[1]
    assert [point.examples for point in history.curve] == [32, 64, 96, 128, 160, 192, 200]


def test_the_grid_is_the_same_for_every_network(data: ImageData) -> None:
    grids = [[p.examples for p in trained(data, model=replace(SMALL, num_1x1=n))[1].curve] for n in (0, 3)]
    assert grids[0] == grids[1]


def test_each_point_is_told_as_it_comes(data: ImageData) -> None:
    heard: list[Evaluation] = []
    network = build_model(SMALL, data.in_shape, data.num_classes)
    assert train(network, data, SPEC, heard.append).curve == heard != []


def test_who_is_told_may_draw_random_numbers(data: ImageData) -> None:
    network = build_model(SMALL, data.in_shape, data.num_classes)
    assert losses(train(network, data, SPEC, lambda _: torch.rand(3))) == losses(trained(data)[1])


def test_a_step_is_the_textbooks(data: ImageData) -> None:
    """Plain SGD on mean cross-entropy, written out by hand, gives the same weights."""
    spec = replace(SPEC, epochs=1, momentum=0.0, channels_last=False, batch_size=200, evals_per_epoch=1)
    model = replace(SMALL, dropout=0.0)
    network = trained(data, spec, model)[0]
    by_hand = build_model(model, data.in_shape, data.num_classes)
    images, labels = next(iter(data.epoch(200, 0, 0)))
    nn.functional.cross_entropy(by_hand(images), labels).backward()
    for parameter, wanted in zip(network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted - spec.lr * wanted.grad)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimizer_with_every_schedule_lowers_the_loss(data: ImageData, optimizer: str, schedule: str) -> None:
    lr = {"sgd": 0.02, "adamw": 0.003}[optimizer]
    history = trained(data, replace(SPEC, epochs=4, optimizer=optimizer, schedule=schedule, lr=lr))[1]
    assert losses(history)[-1] < losses(history)[0]


@pytest.mark.parametrize(
    ("schedule", "factors"), [("none", [1, 1, 1]), ("cosine", [1, 0.5, 0]), ("one-cycle", [1 / 25, 0.8, 0])]
)
def test_schedules_start_middle_and_end_where_they_should(schedule: str, factors: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    steps = SCHEDULES[schedule](optimizer, 100)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        if len(rates) <= 100:
            steps.step()
    assert [rates[0], rates[50], rates[100]] == pytest.approx(factors, abs=0.12)


def test_bf16_trains_nearly_as_float32(data: ImageData) -> None:
    float32, bf16 = (losses(trained(data, replace(SPEC, precision=p))[1]) for p in ("float32", "bf16"))
    assert bf16 != float32
    assert bf16 == pytest.approx(float32, rel=0.05)


@pytest.mark.parametrize("evaluations", [1, 3])
def test_nothing_is_read_from_the_device_within_an_epoch(
    data: ImageData, monkeypatch: pytest.MonkeyPatch, evaluations: int
) -> None:
    """On the meta device there are no numbers, so that any read raises; only scores are read, when an epoch has ended."""
    scores_at: list[int] = []
    steps = 0

    def stepped(*_: object) -> None:
        nonlocal steps
        steps += 1

    def score(accumulator: object) -> Score:
        scores_at.append(steps)
        return Score(loss=1.0, accuracy=0.5, dead_classes=0)

    monkeypatch.setattr("nin.train._Accumulator.score", score)
    monkeypatch.setattr("nin.train.chance_level", lambda labels_N: 0.1)
    plain = {"sgd": lambda groups, spec: torch.optim.SGD(groups, spec.lr)}  # fused has no meta
    monkeypatch.setattr("nin.train.OPTIMIZERS", plain)
    handle = register_optimizer_step_post_hook(stepped)
    try:
        network = build_model(SMALL, data.in_shape, data.num_classes)
        history = train(network, data.to("meta"), replace(SPEC, evals_per_epoch=evaluations))
    finally:
        handle.remove()
    assert all(parameter.is_meta for parameter in network.parameters())
    assert (
        scores_at == [7] * 2 * evaluations + [14] * 2 * evaluations
    )  # 7 steps an epoch, of training and of validation
    assert len(history.curve) == 2 * evaluations


def test_on_the_meta_device_any_read_raises(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above rests on."""
    monkeypatch.setattr("nin.train.OPTIMIZERS", {"sgd": lambda groups, spec: torch.optim.SGD(groups, spec.lr)})
    network = build_model(SMALL, data.in_shape, data.num_classes)
    network.register_forward_hook(lambda module, x, logits: logits.sum().item() and None)
    with pytest.raises(RuntimeError, match="meta"):
        train(network, data.to("meta"), SPEC)


def test_channels_last_changes_nothing_but_rounding(data: ImageData) -> None:
    model = replace(SMALL, dropout=0.0)  # which units are dropped follows their order in memory
    curves = [losses(trained(data, replace(SPEC, channels_last=flag), model)[1]) for flag in (True, False)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def test_label_smoothing_and_weight_decay_reach_the_optimisation(data: ImageData) -> None:
    plain = losses(trained(data)[1])
    assert losses(trained(data, replace(SPEC, label_smoothing=0.1))[1]) != plain
    assert losses(trained(data, replace(SPEC, weight_decay=0.1))[1]) != plain


def test_the_last_layer_may_learn_more_slowly(data: ImageData) -> None:
    spec = replace(SPEC, epochs=1, momentum=0.0, last_lr_factor=1e-9)
    network = trained(data, spec)[0]
    start = build_model(SMALL, data.in_shape, data.num_classes)
    *others, weight, bias = zip(network.parameters(), start.parameters(), strict=True)
    for trained_last, initial_last in (weight, bias):
        torch.testing.assert_close(trained_last, initial_last, rtol=0, atol=1e-6)
    assert not any(torch.equal(a, b) for a, b in others)


@pytest.mark.parametrize("pooling", ["attention", "simpool", "flatten"])
def test_the_last_layer_is_none_of_a_poolings_own(data: ImageData, pooling: str) -> None:
    model = replace(SMALL, pooling=pooling)
    network = trained(data, replace(SPEC, epochs=1, momentum=0.0, last_lr_factor=1e-9), model)[0]
    start = build_model(model, data.in_shape, data.num_classes)
    moved = {
        name: not torch.allclose(weight, start.get_parameter(name), rtol=0, atol=1e-6)
        for name, weight in network.named_parameters()
    }
    last = "head.3" if pooling == "flatten" else "head.1.4"  # the linear layer after it, else what makes the class maps
    assert {name for name in moved if not moved[name]} == {f"{last}.weight", f"{last}.bias"}


def test_a_loss_that_is_not_finite_stops_the_run_as_diverged(data: ImageData) -> None:
    history = trained(data, replace(SPEC, lr=1e9))[1]
    assert history.outcome == "diverged"
    assert len(history.curve) < 4


def test_a_network_that_never_leaves_chance_has_collapsed(data: ImageData) -> None:
    history = trained(data, replace(SPEC, lr=1e-9))[1]
    assert history.outcome == "collapsed"


def test_one_that_learns_has_finished(data: ImageData) -> None:
    spec = replace(SPEC, epochs=12, batch_size=16, optimizer="adamw", lr=0.005, schedule="one-cycle")
    history = trained(data, spec, replace(SMALL, num_1x1=0))[1]
    assert history.outcome == "finished"
    assert history.curve[-1].val_accuracy > 0.5


def test_chance_is_the_largest_class_and_three_standard_errors() -> None:
    assert chance_level(torch.tensor([0] * 50 + [1] * 50)) == pytest.approx(0.5 + 3 * math.sqrt(0.25 / 100))
    assert chance_level(torch.tensor([0] * 5 + [1] * 5)) == 0.5, "ten images could hardly show more"
    assert chance_level(torch.tensor([0, 0, 1, 2, 3])) == pytest.approx(0.4)


def test_evaluation_counts_the_classes_that_are_never_predicted(data: ImageData) -> None:
    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    score, correct = evaluate(Always(), data, data.test, SPEC)
    assert score.dead_classes == 9
    assert torch.equal(correct, data.test.labels == 3)
    assert score.accuracy == pytest.approx(float((data.test.labels == 3).float().mean()))


def test_a_class_that_no_image_has_is_not_missed(data: ImageData) -> None:
    """Of ten classes only the first two are there, and only the second is predicted."""

    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.ones(len(x), dtype=torch.long), 10).float()

    few = replace(data.test, labels=data.test.labels % 2)
    assert evaluate(Always(), data, few, SPEC)[0].dead_classes == 1


def test_seconds_leave_evaluation_out(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each look takes a second, and each evaluation a thousand."""
    import nin.train

    unhurried = nin.train._accumulator
    now = 0.0

    def slow(*args: object) -> object:
        nonlocal now
        now += 1000
        return unhurried(*args)  # type: ignore[arg-type]

    def look(device: object) -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(nin.train, "_accumulator", slow)
    monkeypatch.setattr(nin.train, "timestamp", look)
    assert 0 < trained(data)[1].curve[-1].seconds < 1000 < now


@pytest.mark.parametrize(
    ("field", "value", "nearest"), [("optimizer", "adam", "adamw"), ("schedule", "onecycle", "one-cycle")]
)
def test_a_wrong_name_names_the_nearest(data: ImageData, field: str, value: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"nearest is '{nearest}'"):
        trained(data, replace(SPEC, **{field: value}))


def test_a_training_of_so_many_images_ends_with_the_batch_that_reaches_them(data: ImageData) -> None:
    spec = replace(
        SPEC, examples=250, eval_every=100
    )  # 200 images in batches of 32; 7 steps an epoch, the last of 8 images
    assert [point.examples for point in trained(data, spec)[1].curve] == [128, 200, 264]
    assert spec.images(200) == 250
    assert replace(spec, examples=0).images(200) == 400


def test_epochs_are_a_length_like_any_other(data: ImageData) -> None:
    by_epochs = trained(data, replace(SPEC, schedule="cosine"))[1]
    by_images = trained(data, replace(SPEC, schedule="cosine", epochs=9, examples=400))[1]
    assert losses(by_images) == losses(by_epochs)


def test_evaluations_may_span_the_end_of_an_epoch(data: ImageData) -> None:
    spec = replace(SPEC, examples=600, eval_every=300)
    assert [point.examples for point in trained(data, spec)[1].curve] == [328, 600]


@pytest.mark.parametrize(
    ("spec", "last_of_epoch"),
    [
        (SPEC, [False, True, False, True]),
        (replace(SPEC, examples=600, eval_every=100), [False, True, False, True, False, True]),
        (replace(SPEC, examples=600, eval_every=250), [True, False, True]),
    ],
)
def test_a_gpu_is_read_once_an_epoch_and_at_the_end(spec: TrainSpec, last_of_epoch: list[bool]) -> None:
    assert [is_last for _, is_last in Grid(spec, 200).from_point(0)] == last_of_epoch


def test_evaluations_closer_than_steps_are_counted_by_steps() -> None:
    """Points are the steps that pass a multiple of 27 images: not the seventh, from 192 to 200, nor that from 392 to 400."""
    expected = [step for step in range(1, 22) if step not in (7, 14)]
    assert Grid(replace(SPEC, examples=600, eval_every=27), 200).steps == expected
    assert Grid(replace(SPEC, batch_size=50_000, examples=20_000_000, eval_every=1), 50_000).steps == list(
        range(1, 401)
    )


def test_a_paused_training_of_so_many_images_goes_on_to_the_same_end(data: ImageData, tmp_path: Path) -> None:
    spec = replace(SPEC, examples=600, eval_every=150, schedule="cosine")
    network = build_model(SMALL, data.in_shape, data.num_classes)
    paused = train(network, data, spec, checkpoint=tmp_path / "run.pt", pause_after=250)
    assert paused.outcome == "paused"
    resumed = train(build_model(SMALL, data.in_shape, data.num_classes), data, spec, checkpoint=tmp_path / "run.pt")
    assert losses(resumed) == losses(trained(data, spec)[1])


def test_a_pause_before_the_point_that_a_checkpoint_has_reached_shows_nothing_of_later(
    data: ImageData, tmp_path: Path
) -> None:
    spec, shown = replace(SPEC, examples=600, eval_every=150), list[int]()
    network = build_model(SMALL, data.in_shape, data.num_classes)
    later = train(network, data, spec, checkpoint=tmp_path / "run.pt", pause_after=450)
    earlier = train(
        network, data, spec, lambda point: shown.append(point.examples), checkpoint=tmp_path / "run.pt", pause_after=150
    )
    assert (earlier.outcome, earlier.curve) == ("paused", later.curve[:1])
    assert shown == [later.curve[0].examples]


BATCHNORM = replace(SMALL, activation="batchnorm-relu")


@pytest.mark.parametrize(("num_images", "batch_size"), [(65, 64), (65, 32), (1, 64), (7, 1)])
def test_a_batch_of_one_image_is_refused_where_batches_are_normalised(num_images: int, batch_size: int) -> None:
    few = load(DataSpec(name="synthetic", train_examples=num_images, val_examples=10, test_examples=10))
    spec = replace(SPEC, epochs=1, batch_size=batch_size)
    with pytest.raises(
        ValueError, match=f"batch_size={batch_size} leaves a batch of one of {num_images} training images"
    ):
        trained(few, spec, BATCHNORM)
    assert trained(few, spec)[1].outcome in ("finished", "collapsed")


def test_batches_of_one_image_are_refused_in_less_than_an_epoch_too() -> None:
    few = load(DataSpec(name="synthetic", train_examples=10, val_examples=10, test_examples=10))
    with pytest.raises(ValueError, match="batch normalisation has nothing to average over"):
        trained(few, replace(SPEC, batch_size=1, examples=5), BATCHNORM)


@pytest.mark.parametrize("spec", [replace(SPEC, epochs=1, batch_size=63), replace(SPEC, batch_size=64, examples=64)])
def test_batches_of_more_are_not(spec: TrainSpec) -> None:
    few = load(DataSpec(name="synthetic", train_examples=65, val_examples=10, test_examples=10))
    assert trained(few, spec, BATCHNORM)[1].curve[-1].examples == spec.images(65)
