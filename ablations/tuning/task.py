"""Tuning tasks: a variant's run, its search space, its trials in Optuna's storage, and the score of a trial."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from ablations.runs import Run
from ablations.study import Study
from ablations.tuning.spaces import Choice, Range, space_of
from ablations.tuning.storage import describe, one_line_errors
from ablations.tuning.winners import Winner, made_with
from nin.text import redacted

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SHARES = (0.25, 0.5, 1.0)  # of the whole training, at which the worse half ends
PRUNED_AT = 0.1  # p of Wilcoxon's test at which a trial ends
MAX_HALVED_SEEDS = 4  # per trial; with fewer seeds Wilcoxon's smallest p, 2^-n, is above PRUNED_AT
FIRST_SEED = 1000  # of tuning: trial k trains with seed 1000 + k, or all with the same from 1000 on; final runs with seeds from 0
MAX_PARAMS = 1_000_000  # of the network that `best` searches
OBJECTIVES = ("accuracy", "accuracy,params", "accuracy,gflops")
METRIC_NAMES = {"accuracy": "validation accuracy", "params": "parameters", "gflops": "GFLOP per image"}


@dataclass(frozen=True)
class Rung:
    """A rung of successive halving, where trials are compared.

    step   its name to Optuna
    share  of its training that a run has done there
    seeds  indices of the trial's seeds that train until there
    """

    step: int
    share: float
    seeds: range


def compares_seeds(objective: str, seeds: int) -> bool:
    """Return whether trials of so many seeds are compared seed by seed."""
    return objective == "accuracy" and seeds > MAX_HALVED_SEEDS


def rungs_of(objective: str, seeds: int) -> tuple[Rung, ...]:
    """List the rungs. With several objectives nothing is pruned: a small network that trains slowly is no worse for it."""
    if compares_seeds(objective, seeds):
        return tuple(Rung(k, SHARES[-1], range(k, k + 1)) for k in range(seeds))
    shares = SHARES if objective == "accuracy" else SHARES[-1:]
    return tuple(Rung(round(100 * share), share, range(seeds)) for share in shares)


@dataclass(frozen=True)
class Task:
    """A tuning task: a variant's run, its search space, and the storage of its trials."""

    run: Run
    space: Mapping[str, Range | Choice]
    trials: "OptunaStudy"
    objective: str
    num_trials: int
    seeds: int
    most_params: int = 0

    @property
    def is_paired(self) -> bool:
        """Return whether trials are compared seed by seed."""
        return compares_seeds(self.objective, self.seeds)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rungs of each of its trials."""
        return rungs_of(self.objective, self.seeds)

    def runs_of(self, trial: "FrozenTrial") -> list[Run]:
        """The runs of a trial, one per seed."""
        run = self.run.with_settings(trial.params)
        first = FIRST_SEED + (0 if self.is_paired else self.seeds * trial.number)
        return [replace(run, seed=first + k, trial=trial.number) for k in range(self.seeds)]

    def accuracy(self, trial: "FrozenTrial", step: int | None = None) -> float:
        """Validation accuracy of a trial so far, or at a rung's step, the mean over its seeds; nan before its first rung."""
        values = trial.intermediate_values
        if not values:
            return math.nan
        return sum(values.values()) / len(values) if self.is_paired else values[max(values) if step is None else step]

    def rank(self, trial: "FrozenTrial", step: int | None = None) -> float:
        """Accuracy by which trials are ordered: -infinity for one that diverged, has not reached a rung or is too large."""
        value = self.accuracy(trial, step)
        broken = not math.isfinite(value) or trial.user_attrs["outcome"] == "diverged"
        return -math.inf if broken or trial.constraints.get("params", 0.0) > 0 else value

    @property
    def is_done(self) -> bool:
        """Return whether it has its trials and all of them have ended: fewer may be asked for than an earlier call began."""
        trials = self.trials.get_trials(deepcopy=False)
        return len(trials) >= self.num_trials and all(trial.state.is_finished() for trial in trials)

    def num_ended(self) -> int:
        """Number of trials that have ended, in whatever state."""
        return sum(trial.state.is_finished() for trial in self.trials.get_trials(deepcopy=False))

    def own_setting(self) -> dict[str, object]:
        """The protocol's own values, for the first trial; if outside the space, the nearest end of a range, or the first choice."""
        own: dict[str, object] = {}
        for key, range_ in self.space.items():
            value = self.run.settings[key]
            if isinstance(range_, Range):
                assert isinstance(value, int | float)
                value = min(max(float(value), range_.low), range_.high)
            elif value not in range_.values:
                value = range_.values[0]
            own[key] = value
        return own


def find_or_create_task(
    study: Study,
    run: Run,
    storage: "BaseStorage",
    url: str,
    *,
    overrides: Sequence[str],
    objective: str,
    num_trials: int,
    seeds: int,
    data: str = "",
) -> Task:
    """Open the variant's Optuna study, or create it. Raises ValueError if it was tuned with other settings.

    data  the checksum of data that may change under its name, such as a folder's
    """
    import optuna

    directions: list[Literal["minimize", "maximize"]]
    directions = ["maximize"] if objective == "accuracy" else ["maximize", "minimize"]
    kind = "" if objective == "accuracy" else f"/{objective}"
    name = f"{study.name}/{run.protocol}/{run.variant}{kind}"
    space = space_of(study, run, overrides, with_sizes=bool(kind))
    settings = {
        "base": run.settings,
        "space": json.loads(json.dumps({key: asdict(each) for key, each in space.items()})),
        "seeds_per_trial": seeds,
        "data": data,
        **made_with(run),
    }
    with one_line_errors(url, "nothing in it was changed"):
        trials = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        is_ours = "settings" in trials.user_attrs
        if not is_ours and (
            trials.get_trials(deepcopy=False) or [d.name.lower() for d in trials.directions] != directions
        ):
            raise ValueError(
                f"--storage {redacted(url)}: its study {name} is another program's, and is left as it is; "
                "choose another --storage"
            )
        if not is_ours:
            trials.set_user_attr("settings", settings)
            names = [METRIC_NAMES[part] for part in objective.split(",")]
            describe(trials, f"{study.question}\n\nVariant {run.variant}, protocol {run.protocol}.", names)
        before = trials.user_attrs["settings"]
    for key in ("data", "code", "trainer"):
        before.setdefault(key, settings[key])  # of trials from before it was kept
    for key, now in settings.items():
        if before.get(key) != now:
            raise ValueError(
                f"--storage {redacted(url)}: {name} was tuned with another {key} ({_difference(before.get(key), now)}); "
                "choose another --storage or --results"
            )
    most_params = MAX_PARAMS if study.searches else 0
    return Task(run, space, trials, objective, num_trials, seeds, most_params)


def winners_of(tasks: Sequence[Task]) -> dict[str, Winner]:
    """The best complete trial of each variant: the most accurate on the validation images, within the constraint."""
    winners = {}
    for task in tasks:
        trials = task.trials.get_trials()
        complete = [t for t in trials if t.state.name == "COMPLETE" and task.rank(t) > -math.inf]
        if complete and task.objective == "accuracy":
            best = max(complete, key=lambda trial: (task.rank(trial), -trial.number))
            seeds = [int(seed) for seed in best.user_attrs["seeds"]]
            params, value = dict(best.params), task.accuracy(best)
            run = task.run
            winners[run.variant] = Winner(best.number, value, params, seeds, run.settings, made_with(run), len(trials))
    return winners


def _difference(before: object, now: object) -> str:
    """The first thing in which two nested settings differ, such as "train.epochs: 4, now 5"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *before]:
            if before.get(key) != now.get(key):
                inner = _difference(before.get(key), now.get(key))
                return f"{key}{'.' if isinstance(now.get(key), dict) else ': '}{inner}"
    return f"{before}, now {now}"
