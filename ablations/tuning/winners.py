"""Read and write winners (`<results>/<study>-tuning/<protocol>/tuned.json`), and make the study that trains them."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ablations.execution.progress import warn
from ablations.reproduce import cli_arguments, results_option
from ablations.runs import Run, parse_overrides, require_settings
from ablations.study import MEMORY, Study, Variant
from nin.spec import TRAINER_VERSION
from nin.text import one_line

SUFFIX = " tuned"


@dataclass(frozen=True)
class Winner:
    """The best trial of a variant.

    trial   its number in the Optuna study
    value   its validation accuracy (a fraction)
    params  what it changes: {"train.lr": 0.03, ...}
    seeds   that it was trained with; final runs have others
    base    the variant's settings before tuning (`Run.settings`), to know whether they have changed since
    made_with  the digest of added code and the trainer's version, for the same (`made_with`); empty of a version without it
    trials  that its variant had; 0 of a version without it
    """

    trial: int
    value: float
    params: dict[str, object]
    seeds: list[int]
    base: dict[str, object]
    made_with: dict[str, object] = field(default_factory=dict)
    trials: int = 0


def made_with(run: Run) -> dict[str, object]:
    """Digest of added code and version of the trainer, which a result depends on besides the run's settings."""
    return {"code": run.code, "trainer": TRAINER_VERSION}


def tuning_name(study: str) -> str:
    """Name of a study's trials and of their folder."""
    return f"{study}-tuning"


def tuned_name(study: str) -> str:
    """Name of the study that trains the winners, and of its folder."""
    return f"{study}-tuned"


def tuned_path(results: Path, study: str, protocol: str) -> Path:
    """Path of the winners of a study under a protocol."""
    return results / tuning_name(study) / protocol / "tuned.json"


def require_tunable(study: Study) -> None:
    """Raise ValueError for a study whose question is not about accuracy."""
    if study.answers in MEMORY:
        raise ValueError(f"study {study.name!r} measures memory, so there is no accuracy to tune")
    if study.answers == "failures":
        raise ValueError(
            f"study {study.name!r} asks how often runs fail with its settings, so there is nothing to tune"
        )


def read_winners(study: Study, protocol: str, results: Path, overrides: Sequence[str] = ()) -> dict[str, Winner]:
    """The winners by variant. Raises ValueError if there are none or the file is damaged.

    overrides  what `--set` changes, for the command that would make them
    """
    require_tunable(study)
    path = tuned_path(results, study.name, protocol)
    if not path.exists():
        words = cli_arguments(study, protocol, overrides, results_option(results))
        raise ValueError(f"--tuned: there is no {path}; python -m ablations.tune {words} makes it")
    import dacite

    try:
        winners = {
            name: dacite.from_dict(Winner, winner, dacite.Config(strict=True))
            for name, winner in json.loads(path.read_text())["variants"].items()
        }
        for winner in winners.values():
            require_settings(winner.params)
        return winners
    except (ValueError, KeyError, TypeError, AttributeError, dacite.DaciteError) as error:
        raise ValueError(f"--tuned: {path} is damaged ({one_line(error)}); tune again") from error


def earlier_winners(
    study: Study, protocol: str, results: Path, overrides: Sequence[str] = (), replaced: Container[str] = ()
) -> dict[str, Winner]:
    """Winners that are there and still hold: of variants that are as they were when they were tuned. Empty if the file is damaged.

    Warns of those that do not hold, but for variants that are `replaced`.
    """
    try:
        found = read_winners(study, protocol, results)
    except ValueError:
        return {}
    known = [name for name in study.variants if name in found]
    now = {run.variant: run for run in study.expand(protocol, 1, known, overrides)}
    kept = {name: found[name] for name in known if name in now and not _stale_fields(found[name], now[name])}
    if dropped := ", ".join(name for name in found if name not in kept and name not in replaced):
        warn(
            f"{tuned_path(results, study.name, protocol)}: winners of {dropped} no longer hold (other settings or code, or no such "
            "variant) and are dropped; trials that are still in their storage give them again"
        )
    return kept


def load_tuned(study: Study, protocol: str, results: Path, overrides: Sequence[str] = ()) -> Study:
    """Load the winners under `results` and make the study that trains them (`with_winners`).

    Warns where variants had different numbers of trials, as in searches of some at a time.
    """
    winners = read_winners(study, protocol, results, overrides)
    numbers = {name: winner.trials for name, winner in winners.items() if winner.trials}
    if len(set(numbers.values())) > 1:
        warn(
            f"variants were not tuned alike: trials {', '.join(f'{name}: {number}' for name, number in numbers.items())}; more trials "
            "find better settings, so tune those with few of them up to the same number"
        )
    return with_winners(study, protocol, winners, overrides)


def both_settings(
    study: Study, tuned: Study, protocol: str, variants: Sequence[str], results: Path, overrides: Sequence[str] = ()
) -> list[str]:
    """Variants of the tuned study that train these of the original, and the baseline, with default and tuned settings.

    Raises ValueError for a variant that has not been tuned, with the command that does it for these results and changes.
    """
    untuned = [name for name in variants if name not in tuned.pairs]
    if untuned:
        options = ["--variants", ",".join(untuned), *results_option(results)]
        words = cli_arguments(study, protocol, overrides, options)
        raise ValueError(f"--tuned: {', '.join(untuned)} has not been tuned: python -m ablations.tune {words}")
    return [both for name in (tuned.baseline, *variants) for both in dict.fromkeys((name, tuned.pairs[name]))]


def with_winners(
    study: Study,
    protocol: str,
    winners: Mapping[str, Winner],
    overrides: Sequence[str] = (),
) -> Study:
    """The study with each tuned variant twice: with its default settings, and with its tuned ones ("2x tuned").

    overrides  what `--set` changes in every run, as it did when the variants were tuned

    Raises ValueError if the baseline was not tuned, or if the study or a variant has changed since it was, naming the field.
    """
    studied = set[str]().union(*(variant.settings for variant in study.variants.values()))
    for name, winner in winners.items():
        if name not in study.variants:
            raise ValueError(f"--tuned: {name!r} was tuned but is no longer a variant of {study.name}; tune again")
        if not study.searches and (now_studied := sorted(studied & winner.params.keys())):
            raise ValueError(f"--tuned: {now_studied[0]} was tuned, but {study.name} now compares it; tune again")
    if study.baseline not in winners:
        raise ValueError(f"--tuned: the baseline {study.baseline!r} has not been tuned; tune it too")
    known = [name for name in study.variants if name in winners]
    runs = {run.variant: run for run in study.expand(protocol, 1, known, overrides)}
    for key in parse_overrides(overrides):
        if key in winners[study.baseline].params:
            raise ValueError(f"--set {key}: tuning has chosen this for each variant; tune again with the same --set")
    pairs: dict[str, str] = {}
    tuned: dict[str, Variant] = {}
    for name, winner in winners.items():
        if name not in runs:
            continue
        _require_same(name, winner, runs[name])
        pairs[name] = name
        if runs[name].settings != runs[name].settings | winner.params:
            pairs[name] += SUFFIX  # else its own setting has won, and is not trained twice
            tuned[pairs[name]] = _changed(study.variants[name], runs[name], winner)
    kept = {name: _by_itself(variant, runs[name], pairs) for name, variant in study.variants.items() if name in pairs}
    return replace(
        study,
        variants=kept | tuned,
        pairs=pairs,
        contrasts=(),
        factors=(),
        published=None,  # whose runs have the fixed settings
        left_out={},
        name=tuned_name(study.name),
        question=f"With each variant tuned: {study.question}",
    )


def _changed(variant: Variant, run: Run, winner: Winner) -> Variant:
    """The variant with the winner's hyperparameters; a control keeps the size that was solved for it."""
    return Variant.of(variant.settings | _solved_size(variant, run) | winner.params, role="exploratory")


def _by_itself(variant: Variant, run: Run, there: Container[str]) -> Variant:
    """The variant, with its size written down if the one that it was matched with is not there."""
    if variant.match is None or variant.match.variant in there:
        return variant
    return Variant.of(variant.settings | _solved_size(variant, run), role=variant.role)


def _solved_size(variant: Variant, run: Run) -> dict[str, object]:
    """The field that matching has solved for, with its value in the run; empty for a variant that is not matched."""
    if variant.match is None:
        return {}
    field = f"model.{variant.match.field}"
    return {field: run.settings[field]}


def _stale_fields(winner: Winner, run: Run) -> list[str]:
    """Fields of the variant, code and trainer that are not what they were when it was tuned.

    A field that is new since means what was there before.
    """
    now = run.settings | made_with(run)
    return [key for key, before in (winner.base | winner.made_with).items() if key not in now or now[key] != before]


def _require_same(name: str, winner: Winner, run: Run) -> None:
    before, now = winner.base | winner.made_with, run.settings | made_with(run)
    for key in _stale_fields(winner, run):
        is_now = f"is {now[key]!r}" if key in now else "is no more"
        again = f"{'give the same --set, or ' if key in winner.base else ''}tune again with another --storage"
        raise ValueError(
            f"--tuned: {name} has changed since it was tuned: {key} was {before[key]!r}, {is_now}; {again}"
        )
