"""A study is one question: a table of variants, and the runs it becomes under a protocol.

Everything a run needs is resolved here, before anything is executed. Imports no torch, so studies can be listed at once.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from graphlib import CycleError, TopologicalSorter

from ablations.protocols import PROTOCOLS, Protocol
from ablations.runs import Changes, Run, by_part, flat, length_name, parse_overrides, settings_types
from nin.spec import DataSpec, Shape, changed, choose, hint, is_whole

# Characters that separate variants on the command line or mean something in Markdown and in matplotlib's texts; names that are paths
NO_NAME = re.compile(r"[,|\n*`<\[\]\\$]|^[_#>-]|^(\d+[.)]|\+) |^\s|\s$|^$|^\.{1,2}$")
LARGEST_MARGIN = 0.1  # a larger one was meant in points
MAX_SEEDS = 10_000  # runs of a variant; all are made before the first is executed
MEMORY = {"memory": "training", "prediction memory": "prediction"}  # task whose memory each kind of study measures
ANSWERS = ("accuracy", "failures", *MEMORY)
DECLARED = ("baseline", "confirmatory")  # the roles that a study's own comparisons are between
ROLES = (*DECLARED, "control", "exploratory")
FOUND = "found"  # in a study that `searches`, the variant that has what tuning found


@dataclass(frozen=True)
class Match:
    """Makes a control: one field of the variant's network is solved so that its size equals another variant's.

    variant  the variant whose size is matched
    by       "params" (all parameters) or "gflops" (of one image's forward pass)
    field    the `ModelSpec` field that is solved for: "width" or "hidden"
    """

    variant: str
    by: str
    field: str = "width"

    def __post_init__(self) -> None:
        choose(dict.fromkeys(("params", "gflops")), self.by, "size to match")
        choose(dict.fromkeys(("width", "hidden")), self.field, "field that is solved for")


@dataclass(frozen=True)
class Variant:
    """A variant: the changes it makes to the protocol's network, data and training.

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
        return flat(self.model, self.data, self.train)


@dataclass(frozen=True)
class Published:
    """Runs that others have published, to be laid beside a study's own.

    file         a CSV beside the study's file, one row per run, with columns network, train_loss (nats, mean over the last
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
class Study:
    """A question and the variants that answer it.

    baseline   the variant that all others are compared with
    answers    what the question is about: "accuracy"; "failures", the share of runs that fail to learn, and accuracy beside
               it; "memory", peak memory of training against the batch, or "prediction memory", of prediction, for both of which
               accuracy is beside the point, and variants are named "NETWORK BATCH"
    pairs      each variant's tuned counterpart, {"2x": "2x tuned"}; the tuned ones are compared with the tuned baseline as well
    searches   whether tuning may change the network itself, to find the best one
    published  runs of others to lay beside these
    contrasts  pairs of variants, (one, other), that are compared beside the declared comparisons; exploratory
    seeds      runs per variant where the question needs another number than the protocol's; 0: the protocol's
    factors    fields of Run ("model.head") that vary together, where the study is a table of two factors
    margin     difference in test accuracy (a fraction) below which two variants count as equivalent
    targets    validation accuracy that counts as "trained", by protocol; the protocol's own where there is none.
               Declared before the runs, never taken from the runs that are compared
    protocols  those under which the question makes sense
    left_out   variants that cannot be built for a protocol's images, or repeat another variant there, by protocol; not trained
               there unless named
    name, question  set by `load_study`: the file's name, and its docstring's first paragraph
    file       set by `load_study`: the study's file, where it is none of this package's own
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
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name: str = ""
    question: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.variants, Mapping) or not self.variants:
            raise ValueError(f"variants {self.variants!r}: must map names to Variant(...), one of them the baseline")
        choose(self.variants, self.baseline, "baseline")
        for name, variant in self.variants.items():
            if not isinstance(name, str):
                raise ValueError(f"variant {name!r}: the name must be a string")
            if not isinstance(variant, Variant):
                raise ValueError(
                    f"variant {name!r}: {variant!r} is not a Variant; write Variant(model={{'dropout': 0.1}})"
                )
            choose(dict.fromkeys(ROLES), variant.role, f"role of variant {name!r}")
            if variant.match:
                choose(self.variants, variant.match.variant, f"variant that {name!r} is matched with")
            if NO_NAME.search(name):
                raise ValueError(
                    f"variant {name!r}: the name must have no comma, bar, line break, *, `, <, [, ], backslash or $, not begin "
                    "with _, #, >, -, or as an item of a list does, not begin or end with a blank, and not be empty, '.' or '..'"
                )
            if variant.role == "baseline" and name != self.baseline:
                raise ValueError(f"variant {name!r}: has the role of the baseline, which is {self.baseline!r}")
            if "examples" in variant.train:
                raise ValueError(
                    f"variant {name!r}: train.examples is the training length, at which variants are compared; change train.epochs "
                    "where a protocol counts in epochs, or choose lengths (--lengths, --set train.examples)"
                )
            if name in ROLES:
                raise ValueError(f"variant {name!r}: is the name of a role, which --variants would take it for")
            batch_size = str(variant.train.get("batch_size"))
            if self.answers in MEMORY and name.rpartition(" ")[2] != batch_size:
                raise ValueError(
                    f"variant {name!r} of a study of memory: must end in its train.batch_size, {batch_size}"
                )
        matches = {name: [variant.match.variant] for name, variant in self.variants.items() if variant.match}
        try:
            TopologicalSorter(matches).prepare()
        except CycleError as error:
            raise ValueError(
                f"variant {error.args[1][0]!r}: is matched with itself, directly or by way of others"
            ) from None
        for protocol in {*self.protocols, *self.targets}:
            choose(PROTOCOLS, protocol, "protocol")
        for target in self.targets.values():
            if not isinstance(target, int | float) or not 0 < target < 1:
                raise ValueError(f"target {target!r}: must be a fraction above 0 and below 1; 0.85 is 85 %")
        choose(dict.fromkeys(ANSWERS), self.answers, "kind of answer")
        for pair in self.contrasts:
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"contrast {pair!r}: must be two variants, ('one', 'other')")
            for name in pair:
                choose(self.variants, name, "variant of a contrast")
            if pair[0] == pair[1]:
                raise ValueError(f"contrast {pair!r}: must be two different variants")
        for factor in self.factors:
            choose(settings_types(), factor, "factor")
        if len(self.factors) not in (0, 2):
            raise ValueError(f"factors {self.factors!r}: must be two fields, or none")
        if not is_whole(self.seeds) or not 0 <= self.seeds <= MAX_SEEDS:
            raise ValueError(
                f"seeds {self.seeds!r}: must be a whole number up to {MAX_SEEDS}; 0 is the protocol's own number"
            )
        if not isinstance(self.margin, int | float) or not 0 < self.margin < LARGEST_MARGIN:
            raise ValueError(
                f"margin {self.margin!r}: must be a fraction above 0 and below {LARGEST_MARGIN}; 0.003 is 0.3 points"
            )
        for protocol, names in self.left_out.items():
            choose(PROTOCOLS, protocol, "protocol")
            for name in names:
                choose(self.variants, name, "variant left out")
                if name == self.baseline:
                    raise ValueError(f"left_out: {name!r} is the baseline, which is always trained")
        if self.published:
            choose(PROTOCOLS, self.published.protocol, "protocol of published runs")

    @property
    def confirmatory(self) -> list[str]:
        """The variants that the study declares to compare with the baseline."""
        return [name for name in self.variants if self.role(name) == "confirmatory"]

    @property
    def compared(self) -> list[str]:
        """The variants that the answer is about: the confirmatory ones, in a tuned study those that were tuned, as tuned."""
        tuned = [name for name in self.pairs.values() if name != self.answering_baseline]
        return tuned if self.pairs else self.confirmatory

    @property
    def answering_baseline(self) -> str:
        """The variant that those are compared with: the baseline, in a tuned study as tuned."""
        return self.pairs.get(self.baseline, self.baseline)

    @property
    def answering(self) -> list[str]:
        """The variants that the answer is about, and their baseline."""
        return [self.answering_baseline, *self.compared]

    def trained(self, protocol: str) -> list[str]:
        """The variants that are trained under the protocol unless others are named."""
        return [name for name in self.variants if name not in self.left_out.get(protocol, ())]

    def role(self, variant: str) -> str:
        """One of ROLES."""
        return "baseline" if variant == self.baseline else self.variants[variant].role

    @property
    def cli_name(self) -> str:
        """The name in commands: the file or name of the study; for a tuned study the name of the original."""
        return self.file or self.name.removesuffix("-tuned")

    def declared_seeds(self, protocol: str) -> int:
        """Runs per variant under the protocol, where nobody asks for another number."""
        return self.seeds or choose(PROTOCOLS, protocol, "protocol").seeds

    def target(self, protocol: str) -> float:
        """Validation accuracy (a fraction) that counts as trained under the protocol."""
        return self.targets.get(protocol, PROTOCOLS[protocol].target)

    def named(self, wanted: Iterable[str], protocol: str) -> list[str]:
        """The variants of these names, in order.

        The name of a role ("control") stands for all variants that have it, but for those left out under the protocol.
        Raises ValueError for a name that does not exist.
        """
        found: dict[str, None] = {}
        for name in wanted:
            if name in self.variants:
                found[name] = None
            elif name in ROLES:
                found |= dict.fromkeys(other for other in self.trained(protocol) if self.role(other) == name)
            else:
                known = hint(name, [*self.variants, *ROLES])
                raise ValueError(f"study {self.name!r} has no variant or role {name!r}: {known}")
        return list(found)

    def expand(
        self,
        protocol: str,
        seeds: int | None = None,
        variants: Sequence[str] | None = None,
        overrides: Iterable[str] = (),
        lengths: Sequence[int] | None = None,
    ) -> tuple[Run, ...]:
        """All runs, every variant's first seed before any variant's second, and short trainings before long ones.

        seeds      how many; the protocol's own number by default
        variants   a subset, as `named` has it, to which the baseline is added
        overrides  "train.lr=0.05": changes to every run, checked for name and type
        lengths    those of the protocol's lengths of training that are asked for; all of them by default

        A control that comes out as the very network of another variant (in tiny networks) is left out. Raises ValueError for names or
        values that do not exist, or if two variants come out as the same network.
        """
        base = choose(PROTOCOLS, protocol, "protocol")
        if protocol not in self.protocols:
            raise ValueError(
                f"study {self.name!r} does not run under protocol {protocol!r}; it runs under {', '.join(self.protocols)}"
            )
        num_seeds = self.declared_seeds(protocol) if seeds is None else seeds
        if not is_whole(num_seeds) or not 1 <= num_seeds <= MAX_SEEDS:
            raise ValueError(f"--seeds {num_seeds!r}: must be 1 or more, at most {MAX_SEEDS}, and a whole number")
        wanted = self.trained(protocol) if variants is None else [self.baseline, *self.named(variants, protocol)]
        chosen = list(dict.fromkeys(wanted))
        changes = parse_overrides(overrides)
        shape_of = cache(_shape)  # of a folder it takes a look into every file
        resolved = [
            run
            for length in _chosen_lengths(base, lengths)
            for run in self._distinct(
                {name: self._resolve(base, name, {**_of_length(length), **changes}, shape_of) for name in chosen},
                changes,
            )
        ]
        _require_effect(resolved, changes, lengths)
        unique = {run.run_id: run for run in resolved}  # an override of the length leaves one
        return tuple(replace(run, seed=seed) for seed in range(num_seeds) for run in unique.values())

    def _resolve(
        self,
        base: Protocol,
        name: str,
        overrides: Mapping[str, object],
        shape_of: Callable[[DataSpec], tuple[Shape, int]],
    ) -> Run:
        variant = self.variants[name]
        try:
            model = changed(base.model, variant.model)
            data = changed(base.data, variant.data)
            train = changed(base.train, variant.train)
        except ValueError as error:
            raise ValueError(f"{self.cli_name}: variant {name!r}: {error}") from error
        run = Run(
            study=self.name,
            protocol=base.name,
            variant=name,
            role=self.role(name),
            seed=0,
            model=model,
            data=data,
            train=train,
        ).with_settings(overrides)
        if variant.match is None:
            return run
        from ablations.controls import matched  # counts parameters, for which it needs torch

        other = self._resolve(base, variant.match.variant, overrides, shape_of)
        return matched(run, other, variant.match.field, variant.match.by, shape_of)

    def _distinct(self, runs: Mapping[str, Run], overrides: Mapping[str, object]) -> list[Run]:
        """Drop controls that equal an existing network; any other pair of equal networks is an error."""
        kept: dict[str, Run] = {}
        for name, run in sorted(runs.items(), key=lambda item: self.variants[item[0]].match is not None):
            if run.run_id not in kept:
                kept[run.run_id] = run
            elif self.variants[name].match is None:
                other = kept[run.run_id].variant
                same = f"variants {other!r} and {name!r} are the same run"
                held = [
                    key for key in overrides if key in {**self.variants[other].settings, **self.variants[name].settings}
                ]
                raise ValueError(
                    f"--set {held[0]}: is what the study is about; {same}" if held else f"{self.cli_name}: {same}"
                )
        return [run for run in runs.values() if kept[run.run_id] is run]


def _shape(data: DataSpec) -> tuple[Shape, int]:
    from nin.data import shape  # which needs torch

    return shape(data)


def _require_effect(runs: Sequence[Run], changes: Mapping[str, object], lengths: Sequence[int] | None) -> None:
    """Raise ValueError for a change that would change nothing, or a choice of lengths that a change overrules."""
    if lengths is not None and "train.examples" in changes:
        raise ValueError("--set train.examples: is the length that --lengths chooses; give one of the two")
    for key, instead in (("train.epochs", "train.examples"), ("train.evals_per_epoch", "train.eval_every")):
        if key in changes and instead not in changes and any(run.settings[instead] for run in runs):
            raise ValueError(f"--set {key}: has no effect where {instead} counts in images; change that")
    if "train.momentum" in changes and not any(run.train.has_momentum for run in runs):
        raise ValueError("--set train.momentum: has no effect on optimizer adamw; add --set train.optimizer=sgd")


def _chosen_lengths(protocol: Protocol, wanted: Sequence[int] | None) -> Sequence[int]:
    """The requested lengths of the protocol, in ascending order; a single 0 where the protocol names none."""
    if wanted is None:
        return protocol.lengths or (0,)
    unknown = [length_name(length) for length in wanted if length not in protocol.lengths]
    if unknown:
        there = ", ".join(map(length_name, protocol.lengths))
        instead = f"choose from {there}" if there else "it trains for a number of epochs"
        raise ValueError(f"--lengths {','.join(unknown)}: protocol {protocol.name!r} has no such length; {instead}")
    return sorted(set(wanted))


def _of_length(length: int) -> Changes:
    return {"train.examples": length} if length else {}
