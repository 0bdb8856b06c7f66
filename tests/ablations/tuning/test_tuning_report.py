"""What tuning came to: tables, warnings, figures."""

import json
import re
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from matplotlib.figure import Figure
from toys import toy_tasks, tune_toy

from ablations.records import Store
from ablations.tuning.report import write_tuning_report
from ablations.tuning.spaces import Range
from ablations.tuning.winners import Winner
from nin.spec import DataSpec


def test_a_search_for_small_networks_has_a_report_and_a_pareto_front_of_its_own(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 4, ["2x"])
    trials = optuna.create_study(directions=["maximize", "minimize"])
    task = replace(task, trials=trials, objective="accuracy,params")
    tune_toy(tmp_path, [task])
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert report.path.name == "report-params.md"
    assert report.winners == {}
    front = report.path.read_text().partition("## Pareto front")[2]
    best = max(trial.values[0] for trial in trials.get_trials())  # all are equally large
    assert f"| {100 * best:.2f} " in front
    assert (tmp_path / "toy-tuning/smoke/figures/2x-pareto-params.png").stat().st_size > 0


def test_a_pareto_front_is_drawn_without_diverged_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = toy_tasks(tmp_path, 4, ["2x"])
    task = replace(task, trials=optuna.create_study(directions=["maximize", "minimize"]), objective="accuracy,params")
    tune_toy(tmp_path, [task])
    task.trials.add_trial(
        optuna.trial.create_trial(values=[0.1, 1.0], user_attrs={"outcome": "diverged", "params": 1, "gflops": 0.1})
    )
    drawn: list[optuna.Study] = []
    original = optuna.visualization.matplotlib.plot_pareto_front
    monkeypatch.setattr(
        optuna.visualization.matplotlib,
        "plot_pareto_front",
        lambda study, **options: drawn.append(study) or original(study, **options),
    )
    write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    (study,) = drawn
    assert len(study.trials) == len(task.trials.trials) - 1
    assert min(trial.values[0] for trial in study.trials) > 0.1


def test_a_search_under_a_limit_says_what_is_too_large(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 8, ["2x"])
    task = replace(task, space={"model.width": Range(0.1, 1.0)}, most_params=100_000)
    tune_toy(tmp_path, [task])
    too_large = [trial for trial in task.trials.get_trials() if trial.constraints["params"] > 0]
    assert too_large
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert report.winners["2x"].trial not in {trial.number for trial in too_large}
    header, _, row = [line for line in report.path.read_text().splitlines() if line.startswith("|")][:3]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (header, row)), strict=True))
    assert cells["too large"] == str(len(too_large))
    assert cells["network parameters"] == "1,000"  # as `made_up` has it
    assert "DenseNet" not in report.path.read_text()  # whose accuracies are on other images
    page = report.path.with_suffix(".html").read_text()
    figures = {path.stem for path in (tmp_path / "toy-tuning/smoke/figures").glob("*.png")}
    assert set(re.findall(r'<figure id="(.*?)">', page)) == figures
    assert page.count('src="data:image/svg+xml;base64,') == len(figures)
    assert f"Best validation accuracy found: 2x {100 * report.winners['2x'].value:.2f} %." in page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of a report's time."""
    for draws in ("_draw", "_draw_expected_best"):
        monkeypatch.setattr(f"ablations.tuning.report.{draws}", lambda *_: [])


@pytest.mark.usefixtures("undrawn")
def test_a_search_on_the_real_images_has_what_others_have_published(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 1, ["2x"])
    task = replace(task, run=replace(task.run, data=DataSpec()), most_params=100_000)
    tune_toy(tmp_path, [task])
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert "95.4 % by DenseNet-BC" in report.path.read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_best_trial_that_collapsed_is_named(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 1, ["2x"])
    task = replace(task, space={"train.lr": Range(0.1, 1.0)})  # where nothing learns
    tune_toy(tmp_path, [task])
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert "- 2x: its best trial collapsed" in report.path.read_text()


def test_titles_of_figures_stay_apart_and_logarithmic_axes_are_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = set[str]()

    def look(figure: Figure, path: Path) -> None:
        figure.canvas.draw()
        drawn.add(path.name)
        ours = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
        for axes in figure.axes:
            assert not axes.title.get_text() or not ours.overlaps(axes.title.get_window_extent()), path.name
            low, high = axes.get_xlim()
            labelled = [t for t in axes.get_xticks() if low <= t <= high]
            assert axes.get_xscale() != "log" or len(labelled) > 1, path.name

    monkeypatch.setattr("ablations.reporting.figures.save", look)
    (task,) = toy_tasks(tmp_path, 13, ["2x"])
    tune_toy(tmp_path, [task])
    write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert drawn == {
        "expected-best",
        *(f"2x-{kind}" for kind in ("history", "rungs", "importances", "slice", "parallel")),
    }


def test_figures_of_variants_with_a_dot_in_their_names_are_kept_apart(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 2, ["2x"])
    tune_toy(tmp_path, [task])
    named = [replace(task, run=replace(task.run, variant=f"gap 0.{digit}")) for digit in (0, 5)]
    text = write_tuning_report(named, Store(tmp_path, "toy-tuning", "smoke"), "tune").path.read_text()
    linked = set(re.findall(r"\]\(figures/(.*?)\.png\)", text))
    assert {"gap_0.0-history", "gap_0.5-history"} <= linked
    assert {path.stem for path in (tmp_path / "toy-tuning/smoke/figures").glob("*.png")} == linked


def test_trials_that_all_score_alike_have_a_report_without_importances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = set[str]()
    monkeypatch.setattr("ablations.reporting.figures.save", lambda _, path: drawn.add(path.name))
    (task,) = toy_tasks(tmp_path, 20, ["2x"])
    task = replace(task, space={"train.lr": Range(0.1, 1.0)})  # where nothing learns
    tune_toy(tmp_path, [task])
    assert write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune").path.exists()
    assert "2x-slice" in drawn
    assert "2x-importances" not in drawn


def test_expected_best_accuracy_against_trials_ends_at_the_winner(tmp_path: Path) -> None:
    (task,) = toy_tasks(tmp_path, 6, ["2x"])
    tune_toy(tmp_path, [task])
    report = write_tuning_report([task], Store(tmp_path, "toy-tuning", "smoke"), "tune")
    table = report.path.read_text().partition("## Would more trials find more?")[2]
    header, _, row = [line for line in table.splitlines() if line.startswith("|")][:3]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (header, row)), strict=True))
    rising = [float(cells[column]) for column in ("1 trial", "2 trials", "5 trials", "6 trials")]
    ended = [task.accuracy(trial) for trial in task.trials.get_trials()]
    assert rising == sorted(rising)
    assert rising[0] == pytest.approx(100 * sum(ended) / len(ended), abs=0.006)
    assert rising[-1] == pytest.approx(100 * report.winners["2x"].value, abs=0.006)
    assert (tmp_path / "toy-tuning/smoke/figures/expected-best.png").stat().st_size > 0


@pytest.mark.usefixtures("undrawn")
def test_different_numbers_of_trials_are_said(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 8)
    tune_toy(tmp_path, [tasks[0]])
    tune_toy(tmp_path, [replace(tasks[1], num_trials=4)])
    text = write_tuning_report(tasks, Store(tmp_path, "num_1x1-tuning", "smoke"), "a command").path.read_text()
    first, second = (task.run.variant for task in tasks)
    assert f"Variants had different numbers of trials ({first} 8 and {second} 4), with 1 seed a trial" in text
    assert "; not the same, as the numbers of trials." in text


@pytest.mark.usefixtures("undrawn")
def test_winners_of_earlier_searches_are_in_the_report(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4)
    tune_toy(tmp_path, tasks)
    kept, own = Winner(0, 0.875, {}, [1000], {}, trials=7), tasks[0].run.variant
    report = write_tuning_report(
        tasks[:1], Store(tmp_path, "toy-tuning", "smoke"), "tune", lambda _: {"1x": kept, own: kept}
    )
    said = "Found by earlier searches, whose trials are not in this report: 1x 87.50 % (7 trials)."
    assert said in report.path.read_text()
    assert "1x" in json.loads((tmp_path / "toy-tuning/smoke/tuned.json").read_text())["variants"]


@pytest.mark.usefixtures("undrawn")
def test_a_tuning_says_how_many_winners_are_distinct(tmp_path: Path) -> None:
    tasks = toy_tasks(tmp_path, 4)  # all variants get the same draws, and the toy likes the same one for each
    tune_toy(tmp_path, tasks)
    report = write_tuning_report(tasks, Store(tmp_path, "toy-tuning", "smoke"), "tune")
    assert "2 variants have 1 winning setting: the same for" in report.path.read_text()
