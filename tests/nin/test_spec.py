"""Specifications: what is refused, which name is nearest, which random streams a seed opens; none of it needs torch."""

import hashlib
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from nin.spec import DataSpec, ModelSpec, TrainSpec, changed, choose, hint, parse_value, require_type, stream


@pytest.mark.parametrize("module", ["nin.spec", "nin.history", "nin.cli", "nin.measure"])
def test_module_is_imported_without_torch(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'numpy', 'torch'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_are_the_textbooks_setting() -> None:
    """Dive into Deep Learning, "Network in Network": SGD, lr 0.1, batch 128, 10 epochs, Xavier, two 1x1s, dropout 0.5."""
    model, train = ModelSpec(), TrainSpec()
    assert (model.trunk, model.layout, model.head, model.pooling) == ("nin", "d2l", "nin", "average")
    assert (model.num_1x1, model.dropout, model.init, model.class_relu) == (2, 0.5, "xavier", True)
    assert (train.optimizer, train.lr, train.batch_size, train.epochs) == ("sgd", 0.1, 128, 10)
    assert (train.momentum, train.weight_decay, train.label_smoothing, train.schedule) == (0, 0, 0, "none")


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        *((ModelSpec(), "num_1x1", -1), (ModelSpec(), "inner_kernel", 2), (ModelSpec(), "width", 0.0)),
        *((ModelSpec(), "width", float("nan")), (ModelSpec(), "hidden", 0), (ModelSpec(), "class_block", "broad")),
        *((ModelSpec(), "dropout", 1.0), (ModelSpec(), "dropout", -0.1), (ModelSpec(), "dropout", float("nan"))),
        *((DataSpec(), "train_examples", -1), (DataSpec(), "val_examples", -1), (DataSpec(), "test_examples", -1)),
        *(
            (DataSpec(), "image_size", -28),
            (DataSpec(), "image_size", 5000),
            (TrainSpec(), "epochs", 0),
            (TrainSpec(), "batch_size", 0),
        ),
        *((TrainSpec(), "evals_per_epoch", 0), (TrainSpec(), "lr", 0.0), (TrainSpec(), "lr", float("nan"))),
        *((TrainSpec(), "last_lr_factor", 0.0), (TrainSpec(), "momentum", 1.0), (TrainSpec(), "weight_decay", -1e-4)),
        *((TrainSpec(), "label_smoothing", 1.0), (TrainSpec(), "precision", "float8")),
        *((ModelSpec(), "num_1x1", "3"), (ModelSpec(), "hidden", True), (ModelSpec(), "class_relu", 1)),
        *((DataSpec(), "train_examples", 1e2), (DataSpec(), "name", None), (TrainSpec(), "epochs", 1.5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ModelSpec | DataSpec | TrainSpec) else None,
)
def test_an_impossible_value_is_refused_by_name(spec: ModelSpec, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}={value!r} must be "):
        replace(spec, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [ModelSpec(), DataSpec(), TrainSpec()], ids=lambda spec: type(spec).__name__)
def test_a_specification_does_not_change_and_can_be_a_key(spec: object) -> None:
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"  # type: ignore[attr-defined]
    assert hash(spec) == hash(replace(spec))  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["weights", "order", "dropout", "augment"])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a_stream_is_the_first_63_bits_of_a_hash(name: str, seed: int) -> None:
    assert stream(seed, name) == int(hashlib.sha256(f"{name}:{seed}".encode()).hexdigest()[:16], 16) >> 1


def test_streams_never_meet() -> None:
    seeds = {stream(seed, name) for seed in range(1000) for name in ("weights", "order-0", "order-1", "dropout")}
    assert len(seeds) == 4000
    assert max(seeds) < 2**63, "torch takes no larger seed"


@pytest.mark.parametrize(("name", "wanted"), [("nni", "nin"), ("AlexNt", "alexnet"), ("avg16", "vgg16")])
def test_the_nearest_name(name: str, wanted: str) -> None:
    names = ["nin", "alexnet", "vgg11", "vgg16"]
    assert hint(name, names) == f"the nearest is {wanted!r} (of nin, alexnet, vgg11, vgg16)"


@pytest.mark.parametrize("name", ["lr", "model.lr"])
def test_the_last_part_of_a_name_is_enough_for_a_hint(name: str) -> None:
    assert hint(name, ["train.lr", "train.min_lr", "data.name"]) == "did you mean 'train.lr'?"


def test_a_name_that_is_like_none_is_answered_by_all() -> None:
    assert hint("fast", ["smoke", "quick", "paper-mnist"]) == "choose one of smoke, quick, paper-mnist"


def test_choose_finds_an_entry_or_names_the_nearest() -> None:
    registry = {"average": 1, "max": 2}
    assert choose(registry, "max", "pooling") == 2
    with pytest.raises(ValueError, match=r"^unknown pooling 'avg': the nearest is 'average' \(of average, max\)$"):
        choose(registry, "avg", "pooling")


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 0.001),
        ("true", bool, True),
        ("False", bool, False),
        ("3", str, "3"),
        ("", str, ""),
    ],
)
def test_a_text_of_the_command_line_becomes_a_value_of_the_fields_type(text: str, wanted: type, value: object) -> None:
    parsed = parse_value(text, wanted)
    assert parsed == value
    assert type(parsed) is wanted


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("0.5", int, "^must be a whole number without a point$"),
        ("true", int, "^must be a whole number without a point$"),
        ("", int, "^must be a whole number without a point$"),
        ("{[]: 1}", int, "^must be a whole number without a point$"),
        pytest.param("(" * 10_000, int, "^must be a whole number without a point$", id="nested beyond measure"),
        ("nan", float, "^must be a number$"),
        pytest.param("9" * 400, float, "^must be a number$", id="more than a float holds"),
        ("1", bool, "^must be true or false$"),
    ],
)
def test_a_text_of_another_type_is_refused(text: str, wanted: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_value(text, wanted)


def test_an_int_is_a_float_and_a_bool_is_no_int() -> None:
    require_type("train.lr", 1, float)
    assert type(changed(ModelSpec(), {"width": 2}).width) is float  # else it would have another identity than 2.0
    with pytest.raises(ValueError, match=r"^train\.epochs=True must be a whole number without a point$"):
        require_type("train.epochs", True, int)
