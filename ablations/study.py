"""A study is one question: a table of variants, and the runs it becomes under a protocol.

Everything a run needs is resolved here, before anything is executed. Imports no torch, so studies can be listed at once.
"""

import ast
import hashlib
import importlib
import json
import pkgutil
import shlex
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from ablations.protocols import PROTOCOLS, Protocol
from nin.spec import TRAINER_VERSION, DataSpec, ModelSpec, TrainSpec, choose

Spec = TypeVar("Spec", ModelSpec, DataSpec, TrainSpec)
Changes = Mapping[str, object]

MAX_SEEDS = 10_000  # runs of a variant; all are made before the first is executed
ROLES = ("baseline", "confirmatory", "control", "exploratory")
AUTO_IDENTITY = "bf16"  # what precision "auto" goes by: what protocols asked for before, equivalent by study precision


@dataclass(frozen=True)
class Match:
    """Makes a control: one field of the variant's network is solved so that its size equals another variant's.

    variant  whose size is to be met
    by       "params" (all parameters) or "gflops" (of one image's forward pass)
    field    the `ModelSpec` field that is solved for: "width" or "hidden"
    """

    variant: str
    by: str
    field: str = "width"


@dataclass(frozen=True)
class Variant:
    """What one variant changes in the protocol's own network, data and training; all else stays as it is there.

    role   "confirmatory": compared with the baseline by a test declared in advance; "control": of equal size or depth to
           another variant; "exploratory": looked at, but no claim rests on it
    match  for a control, the size it is to have
    """

    model: Changes = field(default_factory=dict)
    data: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)
    role: str = "confirmatory"
    match: Match | None = None

    @staticmethod
    def of(settings: Mapping[str, object], role: str = "confirmatory") -> "Variant":
        """The variant that has these settings."""
        parts = by_part(settings)
        return Variant(parts["model"], parts["data"], parts["train"], role)

    @property
    def settings(self) -> dict[str, object]:
        """All changes: {"model.head": "nin", ...}."""
        return _flat(self.model, self.data, self.train)


@dataclass(frozen=True)
class Published:
    """Runs that others have published, to be laid beside a study's own.

    file         a CSV under `results/reference`, one row per run, with columns network, train_loss (nats, mean over the last
                 epoch) and test_accuracy (a fraction)
    networks     what the file calls each variant
    protocol     under which ours have the same settings
    failed_loss  for variants that fail at times: the train_loss from which a run counts as failed
    """

    file: str
    networks: Mapping[str, str]
    protocol: str
    failed_loss: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training, fully resolved. Its identity is what is trained, not what it is called or where it is executed.

    trial  its number among those that tune the variant, if it is one of them
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

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits: a hash over network, data, training, seed and the trainer's version.

        Fields at their default are left out, so a new field whose default means what was there before changes no identity.
        A default that changes needs a new trainer version. Precision "auto" is AUTO_IDENTITY, whatever a device makes of it.
        """
        train = replace(self.train, precision=AUTO_IDENTITY) if self.train.precision == "auto" else self.train
        what = [*(_differences(spec) for spec in (self.model, self.data, train)), self.seed, TRAINER_VERSION]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, object]:
        """Every field of network, data and training: {"model.head": "nin", ...}; precision "auto" as in `run_id`."""
        settings = _flat(asdict(self.model), asdict(self.data), asdict(self.train))
        return settings | ({"train.precision": AUTO_IDENTITY} if self.train.precision == "auto" else {})

    def with_settings(self, settings: Mapping[str, object]) -> "Run":
        """The run with some of its settings changed."""
        changes = by_part(settings)
        return replace(
            self,
            model=_changed(self.model, changes["model"]),
            data=_changed(self.data, changes["data"]),
            train=_changed(self.train, changes["train"]),
        )

    @property
    def label(self) -> str:
        """The name a person sees: variant and seed."""
        return f"{self.variant} seed {self.seed}" if self.trial is None else f"{self.variant} trial {self.trial}"


@dataclass(frozen=True)
class Study:
    """A question and the variants that answer it.

    baseline   the variant that all others are compared with
    answers    what the question is about: "accuracy"; "failures", the share of runs that fail to learn, and accuracy beside
               it; "memory", peak memory of training against the batch, for which accuracy is beside the point
    pairs      variants that are there twice, {"2x": "2x tuned"}: the second ones are compared among each other too
    searches   whether tuning may change the network itself, to find the best one
    published  runs of others to lay beside these
    contrasts  pairs of variants, (one, other), that are compared beside the declared comparisons; exploratory
    seeds      runs per variant where the question needs another number than the protocol's; 0: the protocol's
    factors    fields of Run ("model.head") that vary together, where the study is a table of two factors
    margin     difference in test accuracy (a fraction) below which two variants count as equivalent
    targets    validation accuracy that counts as "trained", by protocol; the protocol's own where there is none.
               Declared before the runs, never taken from the runs that are compared
    protocols  those under which the question makes sense
    name, question  set by `load_study`: the file's name, and its docstring's first paragraph
    """

    baseline: str
    variants: Mapping[str, Variant]
    answers: str = "accuracy"
    pairs: Mapping[str, str] = field(default_factory=dict)
    searches: bool = False
    published: Published | None = None
    contrasts: tuple[tuple[str, str], ...] = ()
    seeds: int = 0
    factors: tuple[str, ...] = ()
    margin: float = 0.003
    targets: Mapping[str, float] = field(default_factory=dict)
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    name: str = ""
    question: str = ""

    def role(self, variant: str) -> str:
        """One of ROLES."""
        return "baseline" if variant == self.baseline else self.variants[variant].role

    def target(self, protocol: str) -> float:
        """Validation accuracy (a fraction) that counts as trained under the protocol."""
        return self.targets.get(protocol, PROTOCOLS[protocol].target)

    def expand(
        self,
        protocol: str,
        seeds: int | None = None,
        variants: Sequence[str] | None = None,
        overrides: Iterable[str] = (),
    ) -> tuple[Run, ...]:
        """All runs, every variant's first seed before any variant's second.

        seeds      how many; the protocol's own number by default
        variants   a subset, to which the baseline is added
        overrides  "train.lr=0.05": changes to every run, checked for name and type

        A control whose size cannot be told from another's (in tiny networks) is left out. Raises ValueError for names or
        values that do not exist, or if two variants come out as the same network.
        """
        base = choose(PROTOCOLS, protocol, "protocol")
        if protocol not in self.protocols:
            raise ValueError(
                f"study {self.name!r} does not run under protocol {protocol!r}: {', '.join(self.protocols)}"
            )
        num_seeds = (self.seeds or base.seeds) if seeds is None else seeds
        if not 1 <= num_seeds <= MAX_SEEDS:
            raise ValueError(f"--seeds {num_seeds}: must be 1 or more and at most {MAX_SEEDS}")
        chosen = list(self.variants) if variants is None else [self.baseline]
        for name in variants or ():
            choose(self.variants, name, f"variant of study {self.name!r}")
            if name not in chosen:
                chosen.append(name)
        changes = parse_overrides(overrides)
        resolved = self._distinct({name: self._resolve(base, name, changes) for name in chosen})
        return tuple(replace(run, seed=seed) for seed in range(num_seeds) for run in resolved)

    def _resolve(self, base: Protocol, name: str, overrides: Mapping[str, object]) -> Run:
        variant = self.variants[name]
        run = Run(
            study=self.name,
            protocol=base.name,
            variant=name,
            role=self.role(name),
            seed=0,
            model=_changed(base.model, variant.model),
            data=_changed(base.data, variant.data),
            train=_changed(base.train, variant.train),
        ).with_settings(overrides)
        if variant.match is None:
            return run
        from ablations.controls import matched  # counts parameters, for which it needs torch

        return matched(run, self._resolve(base, variant.match.variant, overrides), variant.match)

    def _distinct(self, runs: Mapping[str, Run]) -> list[Run]:
        """Without the controls that came out as a network that is there already; any other pair alike is an error."""
        kept: dict[str, Run] = {}
        for name, run in runs.items():
            if run.run_id not in kept:
                kept[run.run_id] = run
            elif self.variants[name].match is None:
                other = kept[run.run_id].variant
                raise ValueError(f"variants {other!r} and {name!r} are the same run once everything is resolved")
        return list(kept.values())


def study_names() -> list[str]:
    """Every study there is: one module of `ablations.studies` each."""
    import ablations.studies

    return sorted(module.name for module in pkgutil.iter_modules(ablations.studies.__path__))


def load_study(name: str) -> Study:
    """The study in `ablations/studies/<name>.py`. Raises ValueError naming the nearest if there is none."""
    choose(dict.fromkeys(study_names()), name, "study")
    module = importlib.import_module(f"ablations.studies.{name}")
    study: Study = module.STUDY
    question = (module.__doc__ or "").split("\n\n")[0]
    return replace(study, name=name, question=" ".join(question.split()))


def command_of(study: Study, runs: Sequence[Run], overrides: Sequence[str] = ()) -> str:
    """What makes these runs of a study, and all between, again: "python -m ablations.run heads --protocol quick --seeds 3"."""
    protocol, there = runs[0].protocol, {run.variant for run in runs}
    options = []
    if not study.pairs and {run.variant for run in study.expand(protocol, 1, overrides=overrides)} - there:
        options += ["--variants", ",".join(name for name in study.variants if name in there)]
    options += ["--seeds", str(1 + max(run.seed for run in runs))]
    return f"python -m ablations.run {asked(study, protocol, overrides, options)}"


def asked(study: Study, protocol: str, overrides: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """How commands are asked for a study: "heads --protocol quick"; for a tuned one by the name of what was tuned."""
    tuned = ["--tuned"] if study.pairs else []
    changes = [word for override in overrides for word in ("--set", override)]
    return shlex.join([study.name.removesuffix("-tuned"), "--protocol", protocol, *tuned, *options, *changes])


def _flat(model: Changes, data: Changes, train: Changes) -> dict[str, object]:
    parts = {"model": model, "data": data, "train": train}
    return {f"{part}.{name}": value for part, changes in parts.items() for name, value in changes.items()}


def require_settings(settings: object) -> None:
    """Raises ValueError if they are not {"train.lr": 0.05, ...}: fields of a run, with values of the fields' types."""
    if not isinstance(settings, dict):
        raise ValueError(f"{settings!r} must be fields of a run and their values")
    types = _types()
    for key, value in settings.items():
        wanted = choose(types, key, "field of a run")
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ValueError(f"{key}={value!r} must be {wanted.__name__}")


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
    types = _types()
    settings: dict[str, object] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r}: must be key=value, such as train.lr=0.05")
        settings[key] = _parse(key, text, choose(types, key, "--set key"))
    return settings


def _types() -> dict[str, type]:
    """The type of each field of a run: {"model.head": str, ...}."""
    specs = {"model": ModelSpec, "data": DataSpec, "train": TrainSpec}
    return {
        f"{part}.{key}": type_ for part, spec in specs.items() for key, type_ in typing.get_type_hints(spec).items()
    }


def _differences(spec: ModelSpec | DataSpec | TrainSpec) -> dict[str, object]:
    """The fields that are not at their default."""
    return {f.name: getattr(spec, f.name) for f in fields(spec) if getattr(spec, f.name) != f.default}


def _parse(key: str, text: str, wanted: type) -> object:
    if wanted is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if wanted is bool else text)
    except (ValueError, SyntaxError):
        value = text
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ValueError(f"--set {key}={text!r}: must be {'true or false' if wanted is bool else wanted.__name__}")
    return value


def _changed(spec: Spec, changes: Changes) -> Spec:
    names = {f.name: None for f in fields(spec)}
    for name in changes:
        choose(names, name, f"field of {type(spec).__name__}")
    values: Any = dict(changes)
    return replace(spec, **values)
