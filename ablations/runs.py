"""A run is one training, fully resolved: its settings, its identity, and changes to it. Imports no torch."""

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from nin.registry import added, digest
from nin.spec import TRAINER_VERSION, DataSpec, ModelSpec, TrainSpec, changed, choose, parse_value, require_type

Changes = Mapping[str, object]

AUTO_IDENTITY = "bf16"  # what precision "auto" goes by: what protocols asked for before


@dataclass(frozen=True)
class Run:
    """One training, fully resolved. Its identity is what is trained, not what it is called or where it is executed.

    trial  its number among those that tune the variant, if it is one of them
    code   a digest of the code outside this package that adds what the run names, such as its pooling; empty if none does
    """

    study: str
    protocol: str
    variant: str
    role: str
    seed: int
    model: ModelSpec
    data: DataSpec
    train: TrainSpec
    trial: int | None = None
    code: str = ""

    @cached_property
    def run_id(self) -> str:
        """16 hexadecimal digits: a hash over network, data, training, seed, the trainer's version and code that was added.

        Fields at their default are left out, so a new field whose default means what was there before changes no identity.
        A default that changes needs a new trainer version. Precision "auto" is AUTO_IDENTITY, whatever a device makes of it.
        """
        train = replace(self.train, precision=AUTO_IDENTITY) if self.train.precision == "auto" else self.train
        what = [*(_differences(spec) for spec in (self.model, self.data, train)), self.seed, TRAINER_VERSION]
        what += [self.code] if self.code else []
        return digest(json.dumps(what, sort_keys=True).encode())

    @property
    def settings(self) -> dict[str, object]:
        """Every field of network, data and training: {"model.head": "nin", ...}; precision "auto" as in `run_id`."""
        settings = flat(asdict(self.model), asdict(self.data), asdict(self.train))
        return settings | ({"train.precision": AUTO_IDENTITY} if self.train.precision == "auto" else {})

    def with_settings(self, settings: Mapping[str, object]) -> "Run":
        """The run with some of its settings changed."""
        changes = by_part(settings)
        run = replace(
            self,
            model=changed(self.model, changes["model"]),
            data=changed(self.data, changes["data"]),
            train=changed(self.train, changes["train"]),
        )
        return replace(run, code=code_of(run.settings))

    def takes(self, precision: str) -> bool:
        """Return whether a result in that precision is one of this run: only "auto" takes any."""
        return self.train.precision in ("auto", precision)

    @property
    def length(self) -> int:
        """Training images seen in all, where the protocol asks a question after several lengths of training; else 0."""
        return self.train.examples

    @property
    def name(self) -> str:
        """The variant, and the length of training if there are several: "2x 40k"."""
        return f"{self.variant} {length_name(self.length)}" if self.length else self.variant

    @property
    def label(self) -> str:
        """The name with the seed or trial: "2x 40k seed 0"."""
        return f"{self.name} seed {self.seed}" if self.trial is None else f"{self.name} trial {self.trial}"


def length_name(length: int) -> str:
    """ "40k" for 40,000 training images; "1,500" where it is not whole thousands."""
    return f"{length // 1000}k" if length % 1000 == 0 else f"{length:,}"


def parse_length(text: str) -> int:
    """40000 from "40k" or "40000". Raises ValueError for anything else."""
    number = text.strip().lower().replace(",", "")
    digits, factor = (number[:-1], 1000) if number.endswith("k") else (number, 1)
    if not digits.isdecimal() or int(digits) == 0:
        raise ValueError(f"--lengths {text!r}: must be training images seen, such as 40k or 160000")
    return int(digits) * factor


def code_of(settings: Mapping[str, object]) -> str:
    """The digest of the code that adds what these settings name; empty if all of it is this package's own.

    Raises ValueError for what was added where no worker can import it.
    """
    additions = added(settings)
    for addition in additions:
        if not addition.digest:
            raise ValueError(
                f"{addition.kind} {addition.name!r} was added in a notebook or at a prompt, where no worker can import it: "
                "write it into a file, such as my_code.py, and import that"
            )
    digests = sorted({addition.digest for addition in additions})
    return digests[0] if len(digests) == 1 else digest("".join(digests).encode())


def settings_text(settings: Mapping[str, object]) -> str:
    """ "lr 0.03, head alexnet" from {"train.lr": 0.03, "model.head": "alexnet"}."""
    return ", ".join(f"{key.partition('.')[2]} {value_text(value)}" for key, value in settings.items())


def value_text(value: object) -> str:
    """Three digits of a float; all else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def flat(model: Changes, data: Changes, train: Changes) -> dict[str, object]:
    """{"model.head": "nin", ...} from the parts of a run."""
    parts = {"model": model, "data": data, "train": train}
    return {f"{part}.{name}": value for part, changes in parts.items() for name, value in changes.items()}


def require_settings(settings: object) -> None:
    """Raise ValueError unless they are {"train.lr": 0.05, ...}: fields of a run, with values of the fields' types."""
    if not isinstance(settings, dict):
        raise ValueError(f"{settings!r} must be fields of a run and their values")
    types = settings_types()
    for key, value in settings.items():
        require_type(key, value, choose(types, key, "field of a run"))


def by_part(settings: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """{"model": {}, "data": {}, "train": {"lr": 0.05}} from {"train.lr": 0.05}: what a `Variant` is made of."""
    parts: dict[str, dict[str, object]] = {"model": {}, "data": {}, "train": {}}
    for setting, value in settings.items():
        part, _, name = setting.partition(".")
        parts[part][name] = value
    return parts


def parse_overrides(overrides: Iterable[str]) -> dict[str, object]:
    """{"train.lr": 0.05} from ["train.lr=0.05"].

    Raises ValueError for a key that does not exist, naming the nearest, or a value that is not of the field's type.
    """
    types = settings_types()
    settings: dict[str, object] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r}: must be key=value, such as train.lr=0.05")
        wanted = choose(types, key, "--set key")
        try:
            settings[key] = parse_value(text, wanted)
        except ValueError as error:
            raise ValueError(f"--set {key}={text!r}: {error}") from None
    return settings


def with_data_name(override: str) -> str:
    """Replace the path of a folder of images by a name ("data.name=folder:/disk/pets" by "data.name=folder:pets").

    Raises `nin.data.DataError` if there is no such folder, or if the name is taken.
    """
    key, _, value = override.partition("=")
    if key != "data.name" or not value.startswith("folder:"):
        return override
    from nin.sources import link_folder  # needs torch

    return f"{key}={link_folder(value)}"


def settings_types() -> dict[str, type]:
    """The type of each field of a run: {"model.head": str, ...}."""
    specs = {"model": ModelSpec, "data": DataSpec, "train": TrainSpec}
    return {
        f"{part}.{key}": type_ for part, spec in specs.items() for key, type_ in typing.get_type_hints(spec).items()
    }


def _differences(spec: ModelSpec | DataSpec | TrainSpec) -> dict[str, object]:
    """The fields that are not at their default."""
    return {f.name: getattr(spec, f.name) for f in fields(spec) if getattr(spec, f.name) != f.default}
