"""Frozen specifications of a run: the network, the data and the training.

Standard library only, so that reading or listing experiments loads no torch. Names in these specifications (`trunk`,
`pooling`, ...) are keys of the registries in the modules that build them; `choose` looks a name up and, where there is none,
says which one is near.
"""

import ast
import difflib
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Shape = tuple[int, int, int]  # (C, H, W) of an image or of features

MAX_CLASSES = 2**20
MAX_SIDE = 4096  # pixels of an image's height or width, far beyond the use of any network here

BY_SEED = "by-seed"  # a division of the training images of its own for each seed
ACCELERATORS = ("cuda", "mps", "xpu")  # kinds of device besides "cpu"
DEVICES = ("auto", "cpu", *ACCELERATORS)  # choices of --device
PRECISIONS = ("auto", "float32", "bf16", "float16")

TRAINER_VERSION = 1  # part of every run's identity; raised when the same specification would train differently

AnySpec = TypeVar("AnySpec", "ModelSpec", "DataSpec", "TrainSpec")


@dataclass(frozen=True)
class ModelSpec:
    """A network: a trunk (features) and a head (logits). Fields that they have no part for are ignored (`nin.sizes.unread_fields`).

    trunk, layout  feature extractor, and its published geometry (`nin.trunks.TRUNKS`, `nin.trunks.NIN_LAYOUTS`)
    head, pooling  classifier (`nin.heads.HEADS`) and, where it has one, its global pooling (`nin.pooling.POOLINGS`)
    num_1x1        1x1 convolutions after each spatial convolution of a NiN trunk and of the class block
    inner_kernel   size of those "1x1" convolutions; 3 is the depth-matched control, which is no NiN
    activation     layers after each convolution of a NiN block (`nin.blocks.ACTIVATIONS`)
    first_kernel, first_stride  geometry of the first convolution in pixels; 0: the layout's own
    width          factor on every hidden channel count of the trunk, and on a wide class block
    hidden         units of each fully connected hidden layer of an FC head
    dropout        probability of zeroing a unit, wherever the published network drops units
    class_block    "narrow": the spatial convolution of the class block already has K channels (Dive into Deep Learning);
                   "wide": it keeps the trunk's channels until its last layer (Lin, Chen and Yan)
    class_relu     whether a ReLU follows the last layer of the class block, as it does in both
    init           distribution of the initial weights (`nin.model.INITS`)
    """

    trunk: str = "nin"
    layout: str = "d2l"
    head: str = "nin"
    pooling: str = "average"
    num_1x1: int = 2
    inner_kernel: int = 1
    activation: str = "relu"
    first_kernel: int = 0
    first_stride: int = 0
    width: float = 1.0
    hidden: int = 4096
    dropout: float = 0.5
    class_block: str = "narrow"
    class_relu: bool = True
    init: str = "xavier"

    def __post_init__(self) -> None:
        _require_types(self)
        _require(0 <= self.num_1x1 <= 64, "num_1x1", self.num_1x1, "0 or more and at most 64")
        _require(self.inner_kernel in (1, 3, 5), "inner_kernel", self.inner_kernel, "1, 3 or 5")
        _require(0 <= self.first_kernel <= 64, "first_kernel", self.first_kernel, "0 or more and at most 64")
        _require(0 <= self.first_stride <= 64, "first_stride", self.first_stride, "0 or more and at most 64")
        _require(0 < self.width <= 64, "width", self.width, "greater than 0 and at most 64")
        _require(1 <= self.hidden <= 2**24, "hidden", self.hidden, "between 1 and 2^24")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        _require(self.class_block in ("narrow", "wide"), "class_block", self.class_block, "'narrow' or 'wide'")


@dataclass(frozen=True)
class DataSpec:
    """A data set, its division, and how much of it is used.

    name            a key of `nin.data.DATASETS`, or "folder:NAME" for images in folders of classes under the data root
    split           names the division into training and validation images; the same name divides alike on every machine.
                    "by-seed": each seed of a run has its own division (`for_seed`)
    train_examples  training images used (0: all that validation leaves)
    train_fraction  share of those that are different images; each is then seen 1/train_fraction times an epoch, so that the
                    budget and the points of evaluation stay the same
    val_examples    images set aside from the training set for validation; 0: none, the test set is watched in their place,
                    as the textbook does
    test_examples   test images used (0: all), the same under every division
    label_noise     share of the training labels that are redrawn, all classes equally likely; labels of validation and test
                    images never are. The division fixes which labels are redrawn, and the new ones
    image_size      height and width in pixels that networks see (0: the data set's own); made on the device, bilinear
    normalize       subtract the training set's mean and divide by its standard deviation, channel by channel;
                    otherwise pixels are in [0, 1]
    augment         a key of `nin.data.AUGMENTATIONS`
    """

    name: str = "fashion-mnist"
    split: str = "holdout"
    train_examples: int = 0
    train_fraction: float = 1.0
    val_examples: int = 5000
    test_examples: int = 0
    image_size: int = 0
    normalize: bool = True
    augment: str = "none"
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        _require_types(self)
        for field in ("train_examples", "val_examples", "test_examples"):
            _require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")
        _require(0 <= self.image_size <= MAX_SIDE, "image_size", self.image_size, f"0 or more and at most {MAX_SIDE}")
        _require(0 < self.train_fraction <= 1, "train_fraction", self.train_fraction, "greater than 0 and at most 1")
        _require(0 <= self.label_noise <= 1, "label_noise", self.label_noise, "between 0 and 1")

    def for_seed(self, seed: int) -> "DataSpec":
        """Return the data specification of a run with this seed, where a division by seed gets its own name."""
        return replace(self, split=f"{BY_SEED}-{seed}") if self.split == BY_SEED else self

    @property
    def test_split(self) -> str:
        """Name by which test images are chosen: one for all seeds, so that networks are compared on the same images."""
        return BY_SEED if self.split.startswith(f"{BY_SEED}-") else self.split


@dataclass(frozen=True)
class TrainSpec:
    """Specification of a training.

    epochs           passes over the training images
    examples         training images seen in total, in place of `epochs`; the last step may exceed it by less than a batch.
                     0: as many as `epochs` passes
    batch_size       images per step; the last partial batch of an epoch is kept
    optimizer        a key of `nin.train.OPTIMIZERS`
    lr               learning rate; the peak where the schedule has one
    last_lr_factor   factor on the learning rate of the network's last layer (a tenth in Lin, Chen and Yan)
    schedule         a key of `nin.train.SCHEDULES`, over all steps of the run
    precision        "float32"; "bf16" or "float16": automatic mixed precision; "auto": the device's native one
                     (`nin.precision`)
    channels_last    memory format of images and convolution weights
    evals_per_epoch  evaluations at equal distances, counted in training examples, the last at the epoch's end
    eval_every       training images between evaluations, in place of `evals_per_epoch`; the last is at the end.
                     0: as `evals_per_epoch` says
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    last_lr_factor: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    schedule: str = "none"
    precision: str = "float32"
    channels_last: bool = True
    evals_per_epoch: int = 2
    examples: int = 0
    eval_every: int = 0

    def __post_init__(self) -> None:
        _require_types(self)
        for field in ("epochs", "batch_size", "evals_per_epoch"):
            _require(getattr(self, field) >= 1, field, getattr(self, field), "1 or more")
        for field in ("examples", "eval_every"):
            _require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")
        _require(0 < self.lr < math.inf, "lr", self.lr, "greater than 0 and finite")
        _require(0 < self.last_lr_factor < math.inf, "last_lr_factor", self.last_lr_factor, "greater than 0 and finite")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more and finite")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1")
        _require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")

    @property
    def has_momentum(self) -> bool:
        """Return whether the optimizer reads `momentum`. AdamW does not; one that was added may."""
        return self.optimizer != "adamw"

    @property
    def effective(self) -> "TrainSpec":
        """Return this training with the fields that it does not read at fixed values: equal ones train alike."""
        return replace(
            self,
            momentum=self.momentum if self.has_momentum else 0.0,
            epochs=1 if self.examples else self.epochs,
            evals_per_epoch=1 if self.eval_every else self.evals_per_epoch,
        )

    def images(self, num_examples: int) -> int:
        """Return the training images that a run sees in total, of a training set of `num_examples`; the last step may exceed it."""
        return self.examples or self.epochs * num_examples


def stream(seed: int, name: str) -> int:
    """Return the 63-bit seed of one named random stream of a run.

    Streams ("trunk weights 0", "order-3", "dropout", ...) are independent, so that a variant that draws more numbers from one
    of them sees the same numbers as every other variant in the rest. Raises ValueError for a seed that is no whole number.
    """
    if not is_whole(seed):
        raise ValueError(f"seed={seed!r} must be {TYPE_WORDS[int]}")
    return int.from_bytes(hashlib.sha256(f"{name}:{seed}".encode()).digest()[:8]) >> 1


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether the value is a whole number, of Python or numpy; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def as_shape(in_shape: object) -> Shape:
    """Return (C, H, W) of the three whole numbers, of Python or numpy. Raises ValueError for anything else."""
    numbers = list(in_shape) if isinstance(in_shape, Iterable) else []
    if len(numbers) != 3 or not all(is_whole(n) and n >= 1 for n in numbers):
        raise ValueError(f"in_shape={in_shape}: must be channels, height and width, such as (1, 28, 28)")
    channels, height, width = map(int, numbers)
    return channels, height, width


def hint(name: object, valid: Iterable[str]) -> str:
    """Return "the nearest is 'max' (of average, max)", or only the list if no name is near by difflib's measure, ignoring case.

    Of names such as "train.lr" the last part is enough: "lr" and "model.lr" are near it.
    """
    names, text = list(valid), str(name)
    same_end = [other for other in names if "." in other and other.rpartition(".")[2] == text.rpartition(".")[2]]
    if same_end:
        return f"did you mean {' or '.join(map(repr, same_end))}?"
    by_lower_case = {other.lower(): other for other in names}
    listed = ", ".join(names)
    near = difflib.get_close_matches(text.lower(), by_lower_case, n=1)
    return f"the nearest is {by_lower_case[near[0]]!r} (of {listed})" if near else f"choose one of {listed}"


def choose(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return the registry's entry of that name; `kind` ("pooling", "study") is the word for it in messages.

    Raises ValueError for an unknown name, with the nearest entry, or with all if none is near.
    """
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"unknown {kind} {name!r}: {hint(name, registry)}")
    return registry[name]


def changed(spec: AnySpec, changes: Mapping[str, object]) -> AnySpec:
    """Return the specification with these fields changed.

    Raises ValueError for a field that does not exist, naming the nearest, or a value that is not of the field's type.
    """
    types = get_type_hints(type(spec))
    values: dict[str, Any] = {}
    for name, value in changes.items():
        wanted = choose(types, name, f"field of {type(spec).__name__}")
        try:
            number: Any = value.item() if hasattr(value, "item") else value  # of numpy, pandas or torch
        except (RuntimeError, ValueError) as error:  # several numbers
            raise ValueError(f"{name}: {error}") from error
        require_type(name, number, wanted)
        values[name] = float(number) if wanted is float else number  # 2 and 2.0 are one run
    return replace(spec, **values)


NUMBERS: Mapping[type, type] = {int: Integral, float: Real}
TYPE_WORDS: Mapping[type, str] = {
    int: "a whole number without a point",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _require_types(spec: "DataclassInstance") -> None:
    """Raise ValueError unless each field has a value of its type; an int is a float as well, and numpy's numbers are numbers."""
    for field in fields(spec):  # whose types are classes here; to resolve hints at each specification takes long
        value, wanted = getattr(spec, field.name), cast("type", field.type)
        if not isinstance(value, NUMBERS.get(wanted, wanted)) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{field.name}={value!r} must be {TYPE_WORDS[wanted]}")
        if hasattr(value, "item"):  # of numpy's numbers Python's own, with which a checkpoint can be read
            object.__setattr__(spec, field.name, value.item())


def require_type(key: str, value: object, wanted: type) -> None:
    """Raise ValueError unless the value is of that type; an int is a float as well, a bool is no int."""
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise ValueError(f"{key}={value!r} must be {TYPE_WORDS[wanted]}")


def parse_value(text: str, wanted: type) -> Any:
    """Return the value of that type that a command line gives as text: 3 for "3" and int, True for "true" and bool.

    Raises ValueError ("must be a whole number without a point") for any other text.
    """
    if wanted is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if wanted is bool else text)
        if wanted is float and type(value) is int:
            value = float(value)
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):  # all that ast may raise
        value = None
    if type(value) is not wanted:
        raise ValueError(f"must be {TYPE_WORDS[wanted]}")
    return value


def _require(condition: bool, field: str, value: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{field}={value!r} must be {wanted}")
