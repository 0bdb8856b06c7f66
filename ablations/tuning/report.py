"""Write the report of a tuning: a table of variants, warnings, what more trials would find, figures, and the winners."""

import json
import math
import re
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ablations.analysis.expected_best import expected_best
from ablations.records import Store
from ablations.reporting.formatting import draws_text, listed, markdown_table
from ablations.reporting.html import report_page
from ablations.runs import value_text
from ablations.tuning.spaces import Range
from ablations.tuning.task import PRUNED_AT, Task, winners_of
from ablations.tuning.winners import Winner
from nin.files import write_atomically
from nin.text import counted

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

Plot = Callable[..., Any]  # of an Optuna study
Earlier = Callable[[Container[str]], Mapping[str, Winner]]
Adjust = Callable[["Figure", Task], None]

LEGEND_ROWS = 16
MIN_COMPLETE = 4  # complete trials needed for figures of hyperparameters
ACCURACY = "validation accuracy"
NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # of trials, in the table of the expected best
PUBLISHED = (  # beside the search for the best small network; from the data set's own table
    "Published on Fashion-MNIST, test accuracy: 95.4 % by DenseNet-BC with 768,000 parameters, 93.5 % by VGG-16 with 26 million."
)


@dataclass(frozen=True)
class TuningReport:
    """The report's path, and the winner of each variant."""

    path: Path
    winners: dict[str, Winner]


def write_tuning_report(
    tasks: Sequence[Task], store: Store, command: str, earlier: Earlier = lambda replaced: {}
) -> TuningReport:
    """Write report.md, report.html, tuned.json and figures/ into the store's folder.

    earlier  reads the winners that stay in tuned.json, given the names of those that are replaced: only when it is written, since
             another search may end meanwhile

    A search for small networks writes report-params.md or report-gflops.md, and their pages.
    """
    winners = winners_of(tasks)
    figures = [*_draw_expected_best(tasks, store.folder / "figures")]
    stems = _stems([task.run.variant for task in tasks])
    figures += [name for task in tasks for name in _draw(task, store.folder / "figures", stems[task.run.variant])]
    spent = {task.run.variant: _examples(task) for task in tasks}
    num_trials = {task.run.variant: len(task.trials.get_trials()) for task in tasks}
    are_alike = len(set(num_trials.values())) == 1
    trials = (
        f"Each variant had {counted(min(num_trials.values()), 'trial')}"
        if are_alike
        else f"Variants had different numbers of trials ({listed(f'{name} {num}' for name, num in num_trials.items())})"
    )
    equal = (
        "the same for every variant"
        if len(set(spent.values())) == 1
        else "not the same, as the numbers of trials"
        if not are_alike
        else "not the same: trials are pruned by their results, seed by seed"
        if tasks[0].is_paired
        else "not the same: a trial failed or diverged, or variants came to their number of trials in different steps"
    )
    rule = (
        f"worse than the best trial so far, seed by seed (Wilcoxon's signed-rank test, p below {PRUNED_AT:g})"
        if tasks[0].is_paired
        else "the worse half at a quarter and at half of the training"
    )
    run = tasks[0].run
    parts = [
        f"# {run.study}: Which hyperparameters suit each variant under {run.protocol}?",
        _answer(winners),
        f"{trials}, with {counted(tasks[0].seeds, 'seed')} a trial, from the same space. Trials are judged by {ACCURACY}; the test set "
        f"was not read. Training images spent, pruned trials included: "
        f"{', '.join(f'{name} {count:,}' for name, count in spent.items())}; {equal}.",
        markdown_table([_row(task, winners) for task in tasks]),
        f"*Pruned*: {rule}; never the variant's own setting. *Failed*: the worker raised or died, each time. *Collapsed*: not above "
        "chance when the trial ended; a pruned one might have been later. *Diverged*: a loss was not finite.",
        f"*Too large*: more than {tasks[0].most_params:,} parameters, which no winner has."
        if tasks[0].most_params
        else "",
        PUBLISHED if tasks[0].most_params and run.data.name == "fashion-mnist" else "",
        "\n".join(f"- {line}" for task in tasks for line in _warnings(task, winners)),
        *_winners_text(winners),
        *_expected_best_sections(tasks),
        *_pareto_fronts(tasks),
        "## Space",
        markdown_table([_range_row(key, each) for key, each in tasks[0].space.items()]),
        *(f"![{name}](figures/{name}.png)" for name in figures),
        f"Command: `{command}`",
    ]
    path = store.folder / f"report{tasks[0].objective.removeprefix('accuracy').replace(',', '-')}.md"
    with FileLock(store.folder / ".tuned.lock"):
        kept = earlier(winners) if winners else {}
        parts.insert(2, _kept_text({name: each for name, each in kept.items() if name not in num_trials}))
        write_atomically(path, "\n\n".join(part for part in parts if part) + "\n")
        write_atomically(path.with_suffix(".html"), report_page(parts, store.folder, {}, {}))
        if winners:  # last, since `--tuned` takes them from here and refers to the report
            content = {"variants": {name: asdict(winner) for name, winner in {**kept, **winners}.items()}}
            write_atomically(store.folder / "tuned.json", json.dumps(content, indent=1))
    return TuningReport(path, winners)


def _kept_text(kept: Mapping[str, Winner]) -> str:
    found = listed(
        f"{name} {100 * winner.value:.2f} % ({counted(winner.trials, 'trial')})" for name, winner in kept.items()
    )
    return f"Found by earlier searches, whose trials are not in this report: {found}." if kept else ""


def _answer(winners: dict[str, Winner]) -> str:
    if not winners:
        return "**No trial has won: none was complete, finite and small enough, or several objectives were asked for.**"
    best = listed(f"{name} {100 * winner.value:.2f} %" for name, winner in winners.items())
    return f"**Best {ACCURACY} found: {best}.**"


def _row(task: Task, winners: dict[str, Winner]) -> dict[str, object]:
    trials = task.trials.get_trials()
    outcomes = [trial.user_attrs.get("outcome", "") for trial in trials]
    row: dict[str, object] = {
        "variant": task.run.variant,
        "trials": len(trials),
        "complete": sum(trial.state.name == "COMPLETE" for trial in trials),
        "pruned": sum(trial.state.name == "PRUNED" for trial in trials),
        "failed": sum(trial.state.name == "FAIL" for trial in trials),
        "collapsed": outcomes.count("collapsed"),
        "diverged": outcomes.count("diverged"),
        "own setting, % (at)": _own_setting(task),
    }
    if task.objective != "accuracy":  # of several objectives there is no one winner
        return row
    winner = winners.get(task.run.variant)
    if task.most_params:
        row["too large"] = sum(trial.constraints.get("params", 0.0) > 0 for trial in trials)
        row["network parameters"] = f"{trials[winner.trial].user_attrs['params']:,}" if winner else ""
    return row | {
        "best, %": f"{100 * winner.value:.2f}" if winner else "",
        "trial": winner.trial if winner else "",
        "hyperparameters": _params_text(winner.params) if winner else "",
    }


def _own_setting(task: Task) -> str:
    """Accuracy of the trial with the protocol's own setting, and how much of its training is done."""
    own = task.trials.get_trials()[:1]
    if not own or not own[0].intermediate_values:
        return ""
    steps = own[0].intermediate_values
    return f"{100 * task.accuracy(own[0]):.2f} ({f'{len(steps)} seeds' if task.is_paired else f'{max(steps)} %'})"


def _warnings(task: Task, winners: dict[str, Winner]) -> list[str]:
    winner = winners.get(task.run.variant)
    if winner is None:
        return (
            [f"{task.run.variant}: no trial was complete, finite and small enough"]
            if task.objective == "accuracy"
            else []
        )
    best = task.trials.get_trials()[winner.trial]
    collapsed = [f"{task.run.variant}: its best trial collapsed"] if best.user_attrs["outcome"] == "collapsed" else []
    return collapsed + [
        f"{task.run.variant}: the best {key} {value_text(winner.params[key])} is at the edge of its range "
        f"({each.low:g} to {each.high:g}): better ones may lie beyond it"
        for key, each in task.space.items()
        if isinstance(each, Range) and each.is_at_edge(float(str(winner.params[key])))
    ]


def _winners_text(winners: dict[str, Winner]) -> list[str]:
    """Count distinct winners: the same draw for several variants need not suit each."""
    if len(winners) < 2:
        return []
    text = draws_text({name: tuple(sorted(winner.params.items())) for name, winner in winners.items()})
    return [f"{text[0].upper()}{text[1:]}."]


def _by_number_of_trials(task: Task) -> list[float]:
    """Accuracies of the trials that have ended; of one that diverged or is too large, which cannot win, 0."""
    ended = [trial for trial in task.trials.get_trials() if trial.state.name in ("COMPLETE", "PRUNED")]
    return [max(task.rank(trial), 0.0) for trial in ended] if task.objective == "accuracy" else []


def _expected_best_sections(tasks: Sequence[Task]) -> list[str]:
    rows = []
    for task in tasks:
        accuracies = _by_number_of_trials(task)
        best = list(expected_best(accuracies)) if accuracies else []
        row: dict[str, object] = {"variant": task.run.variant}
        rows.append(row | {counted(n, "trial"): f"{100 * best[n - 1]:.2f}" for n in _shown(len(best))})
    if not any(len(row) > 1 for row in rows):
        return []
    return [
        "## Would more trials find more?",
        f"Expected best {ACCURACY} (%) after so many trials, by the unbiased estimator of Tang et al. (2020): where it still rises at "
        "the end, more trials would find better settings. Trials are taken for random draws, though later ones learn from earlier "
        "ones; a pruned one counts with the accuracy at which it ended.",
        markdown_table(rows),
    ]


def _shown(num: int) -> list[int]:
    return sorted({*(n for n in NUMBERS if n < num), num} - {0})


def _draw_expected_best(tasks: Sequence[Task], folder: Path) -> list[str]:
    """Draw expected best accuracy against the number of trials; return the figure's name, or nothing without trials."""
    from ablations.reporting.figures import expected_best_against_trials, save

    accuracies = {task.run.variant: values for task in tasks if (values := _by_number_of_trials(task))}
    if not accuracies:
        return []
    run = tasks[0].run
    save(
        expected_best_against_trials(f"{run.study} under {run.protocol}", ACCURACY, accuracies),
        folder / "expected-best",
    )
    return ["expected-best"]


def _pareto_fronts(tasks: Sequence[Task]) -> list[str]:
    """Tabulate the trials of a search for small networks that no other beats in both accuracy and size."""
    rows = [
        {
            "variant": task.run.variant,
            "trial": trial.number,
            f"{ACCURACY}, %": f"{100 * trial.values[0]:.2f}",
            "network parameters": f"{trial.user_attrs['params']:,}",
            "GFLOP/image": f"{trial.user_attrs['gflops']:.4f}",
            "hyperparameters": _params_text(trial.params),
        }
        for task in tasks
        if task.objective != "accuracy"
        for trial in sorted(task.trials.best_trials, key=lambda trial: trial.values[1])
        if trial.user_attrs["outcome"] != "diverged"
    ]
    return ["## Pareto front", markdown_table(rows)] if rows else []


def _range_row(key: str, each: Any) -> dict[str, object]:
    if isinstance(each, Range):
        return {
            "hyperparameter": key,
            "values": f"{each.low:g} to {each.high:g}" + (", logarithmic" if each.log else ""),
        }
    return {"hyperparameter": key, "values": ", ".join(str(value) for value in each.values)}


def _examples(task: Task) -> int:
    return sum(int(trial.user_attrs.get("examples", 0)) for trial in task.trials.get_trials())


def _stems(variants: Sequence[str]) -> dict[str, str]:
    """Beginnings of the names of the variants' figures: for "2x (wide)" "2x__wide_", and no two the same."""
    stems: dict[str, str] = {}
    for name in variants:
        stem = re.sub(r"[^\w.@+=-]", "_", name)
        while stem in stems.values():
            stem += "_"
        stems[name] = stem
    return stems


def _draw(task: Task, folder: Path, stem: str) -> list[str]:
    """Draw Optuna's figures of one variant, those that there are enough trials for; return their names, which begin with `stem`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from ablations.reporting.figures import save

    scores = [tuple(trial.values) for trial in task.trials.get_trials() if trial.state.name == "COMPLETE"]
    widths = {"slice": 3.0 * len(task.space), "parallel": max(9.0, 1.4 * len(task.space))}
    title = f"{task.run.study} under {task.run.protocol}: {task.run.variant}, {len(scores)} complete trials"
    drawn = []
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("ignore")  # of experimental features, and of layouts
        for kind, (plot, adjust) in _plots(task, scores).items():
            axes = plot(task.trials)
            figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
            if adjust:
                adjust(figure, task)
            figure.set_size_inches(widths.get(kind, 9.0), 4.5)
            figure.suptitle(title, fontsize=10, x=0.01, ha="left", y=1.06 if kind == "parallel" else None)
            name = f"{stem}-{kind}"
            save(figure, folder / name)
            plt.close(figure)
            drawn.append(name)
    return drawn


def _plots(task: Task, scores: Sequence[tuple[float, ...]]) -> dict[str, tuple[Plot, Adjust | None]]:
    """Optuna's plots by kind, each with the function that adjusts its figure; without those that need more complete trials.

    scores  of the complete trials
    """
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as draw

    if task.objective != "accuracy":
        names = [ACCURACY, *task.objective.split(",")[1:]]
        return {f"pareto-{names[1]}": (partial(_plot_pareto_front, names), None)}
    plots: dict[str, tuple[Plot, Adjust | None]] = {}
    if scores:
        plots["history"] = partial(draw.plot_optimization_history, target_name=ACCURACY), None
        plots["rungs"] = draw.plot_intermediate_values, _adjust_rungs
    if len(scores) >= MIN_COMPLETE:
        if len(set(scores)) > 1:  # of equal scores Optuna computes no importance
            evaluator = FanovaImportanceEvaluator(seed=0)
            plots["importances"] = (
                partial(draw.plot_param_importances, evaluator=evaluator, target_name=ACCURACY),
                None,
            )
        plots["slice"] = partial(draw.plot_slice, target_name=ACCURACY), _adjust_slice
        plots["parallel"] = partial(draw.plot_parallel_coordinate, target_name=ACCURACY), _adjust_parallel
    return plots


def _plot_pareto_front(names: Sequence[str], trials: "optuna.Study") -> Any:
    """Draw the trials that did not diverge, as the table has them: the accuracy of a diverged one is not that of its network."""
    import optuna
    from optuna.visualization import matplotlib as draw

    drawn = optuna.create_study(directions=trials.directions)
    drawn.add_trials(trial for trial in trials.get_trials() if trial.user_attrs.get("outcome") != "diverged")
    return draw.plot_pareto_front(drawn, target_names=list(names))


def _adjust_rungs(figure: "Figure", task: Task) -> None:
    axes = figure.axes[0]
    axes.set(xlabel="seed" if task.is_paired else "% of the training", ylabel=ACCURACY)
    # In one column many trials would be higher than the axes.
    columns = math.ceil(len(axes.get_lines()) / LEGEND_ROWS)
    axes.legend(ncols=columns, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))


def _adjust_slice(figure: "Figure", task: Task) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    for axes in figure.axes:
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        for label in axes.get_xticklabels():  # level, those of neighbours would run into each other
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def _adjust_parallel(figure: "Figure", task: Task) -> None:
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import ListedColormap

    for each in figure.axes:
        each.grid(False)  # each brings one, which would hide the lines
    axes = figure.axes[0]
    axes.set_title(axes.get_title(), loc="left")  # above the middle there may be a legend
    axes.set_title("")
    for lines in axes.collections:  # the palest would be white
        lines.set_cmap(ListedColormap(mpl.colormaps["Blues"](np.linspace(0.3, 1.0, 256))))


def _params_text(params: Mapping[str, object]) -> str:
    """ "train.lr 0.03, data.augment flip" from {"train.lr": 0.03, "data.augment": "flip"}."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in params.items())
