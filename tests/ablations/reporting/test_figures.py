"""Figures show every run, misses and failures included, and stay readable whatever the number and the sizes of variants."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import record_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from ablations.analysis.summary import summarise
from ablations.records import RunRecord, curves_frame, runs_frame
from ablations.reporting import figures as plots
from ablations.reporting.axes import Tables
from ablations.reporting.charts import charts_of, styles_of
from ablations.reporting.figures import FIGURES, figures_of
from ablations.runs import Run
from ablations.study import Study, Variant

BUDGET = 1024  # training images of a record from `builders`


def study_of(num: int, **roles: str) -> Study:
    """`num` variants, v0 the baseline; `roles` of others by name."""
    variants = {
        f"v{k}": Variant(model={"dropout": k / 100}, role=roles.get(f"v{k}", "confirmatory")) for k in range(num)
    }
    return Study(baseline="v0", variants=variants, name="made-up", question="?")


def plain(run: Run) -> RunRecord:
    noise = np.random.default_rng([run.seed, ord(run.variant[-1])]).normal(0, 0.01)
    return record_of(run, test_accuracy=float(0.8 + noise))


def tables_of(study: Study, record: Callable[[Run], RunRecord] = plain, seeds: int = 3) -> Tables:
    records = [record(run) for run in study.expand("smoke", seeds)]
    summary = summarise(study, "smoke", records)
    runs = runs_frame(records, study.target("smoke"))
    return Tables(study, "smoke", runs, curves_frame(records), summary.variants, copies=3)


def of_variant(name: str, **changes: object) -> Callable[[Run], RunRecord]:
    """Records that are plain, but for one variant's."""
    return lambda run: replace(plain(run), **changes) if run.variant == name else plain(run)  # type: ignore[arg-type]


def collapsed(name: str) -> Callable[[Run], RunRecord]:
    return of_variant(name, status="collapsed", test_accuracy=0.1)


def lines(figure: Figure) -> list[Line2D]:
    return [line for axes in figure.axes for line in axes.lines]


def crosses(figure: Figure) -> list[Line2D]:
    return [line for line in lines(figure) if line.get_marker() == "x" and len(line.get_xdata())]


def shows_data(figure: Figure) -> bool:
    return len(figure.axes) > 0 and all(axes.has_data() for axes in figure.axes)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("num", [1, pytest.param(13, marks=pytest.mark.slow)])
def test_a_figure_is_drawn_of_any_number_of_variants(name: str, num: int) -> None:
    figure = FIGURES[name](tables_of(study_of(num)))
    title = figure.get_suptitle()
    assert "made-up, protocol smoke" in title


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_of_a_single_seed(name: str) -> None:
    assert shows_data(FIGURES[name](tables_of(study_of(3), seeds=1)))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_if_every_run_collapsed(name: str) -> None:
    tables = tables_of(study_of(3), lambda run: record_of(run, status="collapsed", test_accuracy=0.1))
    assert shows_data(FIGURES[name](tables))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_without_the_baseline(name: str) -> None:
    study = study_of(8)
    records = [plain(run) for run in study.expand("smoke", 2) if run.variant != "v0"]
    summary = summarise(study, "smoke", records).variants
    tables = Tables(study, "smoke", runs_frame(records, 0.5), curves_frame(records), summary, copies=3)
    assert shows_data(FIGURES[name](tables))


@pytest.mark.parametrize("name", ["learning_curves", "differences"])
def test_a_figure_drawn_twice_is_the_same_file(tmp_path: Path, name: str) -> None:
    tables = tables_of(study_of(8))
    for folder in ("a", "b"):
        plots.save(FIGURES[name](tables), tmp_path / folder / name)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a/{name}.{suffix}").read_bytes() == (tmp_path / f"b/{name}.{suffix}").read_bytes()


def test_no_half_drawn_figure_goes_by_a_figures_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver of the same study may be taking the files to MLflow meanwhile."""
    seen: list[Path] = []

    def savefig(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn(figure, *arguments, **options)
        seen.extend([*tmp_path.glob("*.png"), *tmp_path.glob("*.svg")])

    drawn = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", savefig)
    plots.save(Figure(), tmp_path / "empty")
    assert [path.name for path in seen] == ["empty.png"]  # which was whole before the SVG was begun


# --- telling variants apart


def test_thirty_variants_differ_in_colour_or_in_dash_and_marker() -> None:
    tables = tables_of(study_of(30, v3="control", v13="control", v14="exploratory"), seeds=1)
    for a, b in combinations(tables.names, 2):
        assert tables.line(a) != tables.line(b)
        assert tables.marker(a) != tables.marker(b)


def test_the_baseline_is_black_and_what_is_not_confirmatory_is_hollow_and_dashed() -> None:
    tables = tables_of(study_of(4, v2="control", v3="exploratory"), seeds=1)
    assert tables.colour("v0") == "black"
    assert [tables.marker(name)["markerfacecolor"] == "white" for name in tables.names] == [False, False, True, True]
    assert [tables.line(name)["linestyle"] for name in tables.names] == ["-", "-", "--", "--"]


def test_many_curves_have_a_panel_each_beside_the_baseline() -> None:
    for name in ("learning_curves", "reached_target"):
        figure = FIGURES[name](tables_of(study_of(13)))
        assert len(figure.axes) == 12
        assert all("black" in [line.get_color() for line in axes.lines] for axes in figure.axes)


@pytest.mark.parametrize(
    ("name", "ratio"),
    [(name, 60.0) for name in FIGURES]
    + [("accuracy_against_params", ratio) for ratio in (1.0, 1.004, 1.3, 4.9, 20_000.0)],
)
@pytest.mark.slow
def test_labels_of_an_axis_do_not_overlap(name: str, ratio: float) -> None:
    spread = np.geomspace(1, ratio, num=14)

    def sized(run: Run) -> RunRecord:
        factor = spread[int(run.variant[1:])]
        return replace(plain(run), params_trunk=int(90_000 * factor), gflops=0.02 * factor)

    figure = FIGURES[name](tables_of(study_of(14), sized, seeds=2))
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = [label for label in axis.get_ticklabels() if label.get_visible() and label.get_text()]
            boxes = [label.get_window_extent() for label in shown]
            inside = [box for box in boxes if axes.get_window_extent().expanded(1.6, 1.6).overlaps(box)]
            assert not any(a.overlaps(b) for a, b in combinations(inside, 2)), [label.get_text() for label in shown]


# --- misses, failures and what is far off


def test_a_run_that_missed_the_target_is_a_cross_at_the_budget() -> None:
    figure = plots.examples_to_target(tables_of(study_of(3), lambda run: record_of(run, test_accuracy=0.3)))
    assert [list(line.get_xdata()) for line in crosses(figure)] == [[BUDGET] * 3] * 3
    assert words(figure).count("0/3 hit") == 3


def test_a_run_that_diverged_early_is_not_drawn_as_a_fast_one() -> None:
    def diverges(run: Run) -> RunRecord:
        record = plain(run)
        if run.variant != "v1":
            return record
        return replace(record, status="diverged", curve=record.curve[:1], examples_seen=256, test_accuracy=0.1)

    tables = tables_of(study_of(3), diverges)
    for figure in (plots.examples_to_target(tables), plots.reached_target(tables)):
        assert {x for line in crosses(figure) for x in line.get_xdata()} == {BUDGET}


def test_a_mean_curve_does_not_rise_because_a_run_left_it() -> None:
    def one_diverges(run: Run) -> RunRecord:
        record = record_of(run, test_accuracy=0.8)
        if (run.variant, run.seed) != ("v1", 0):
            return record
        return replace(record, status="diverged", curve=[replace(record.curve[0], val_accuracy=0.1)], examples_seen=256)

    figure = plots.learning_curves(tables_of(study_of(2), one_diverges, seeds=2))
    drawn = next(line for line in lines(figure) if str(line.get_label()).startswith("v1"))
    assert list(drawn.get_ydata()) == pytest.approx([(0.1 + 0.8 * k / 4) / 2 for k in (1, 2, 3, 4)])
    bands = [band for band in figure.axes[0].collections if isinstance(band, FillBetweenPolyCollection)]
    assert bands[1].get_datalim(figure.axes[0].transData).ymin == pytest.approx(0.1)


def test_the_curve_of_runs_that_all_diverged_goes_on_to_the_end_in_figure_and_chart() -> None:
    def diverges(run: Run) -> RunRecord:
        record = record_of(run, test_accuracy=0.8)
        if run.variant != "v1":
            return record
        return replace(record, status="diverged", curve=[replace(record.curve[0], val_accuracy=0.1)], examples_seen=256)

    tables = tables_of(study_of(2), diverges, seeds=2)
    drawn = next(line for line in lines(plots.learning_curves(tables)) if str(line.get_label()).startswith("v1"))
    assert (drawn.get_xdata()[-1], drawn.get_ydata()[-1]) == (BUDGET, pytest.approx(0.1))
    (series,) = (each for each in charts_of(tables)["learning_curves"]["series"] if each["variant"] == "v1")
    assert series["line"][-1] == [BUDGET, 10]


def test_a_run_without_a_generalisation_gap_has_no_point_in_the_chart() -> None:
    def unmeasured(run: Run) -> RunRecord:
        return replace(plain(run), train_accuracy=math.nan) if (run.variant, run.seed) == ("v1", 0) else plain(run)

    rows = charts_of(tables_of(study_of(2), unmeasured, seeds=3))["generalization_gap"]["rows"]
    assert {row["variant"]: len(row["points"]) for row in rows} == {"v0": 3, "v1": 2}


def test_the_fraction_that_reached_the_target_ends_at_hits_of_n() -> None:
    def one_hits(run: Run) -> RunRecord:
        return record_of(run, test_accuracy=0.8 if run.seed == 0 else 0.3)

    figure = plots.reached_target(tables_of(study_of(8), one_hits, seeds=4))
    for axes in figure.axes:
        drawn = axes.get_lines()[-2]  # the variant's own, before its cross
        assert drawn.get_ydata()[-1] == pytest.approx(1 / 4, abs=0.01)
    assert "v1 (1/4)" in words(figure)


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("params_by_part", "memory_against_params")])
@pytest.mark.parametrize("num", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_every_figure_of_results_names_collapsed_runs(name: str, num: int) -> None:
    figure = FIGURES[name](tables_of(study_of(num), collapsed("v2")))
    assert any("3 of 3 collapsed" in text for text in words(figure))


def test_a_run_that_diverged_is_not_called_collapsed() -> None:
    tables = tables_of(study_of(3), of_variant("v1", status="diverged"))
    assert tables.label("v1") == "v1, 3 of 3 diverged"
    assert tables.label("v2") == "v2"


def test_a_collapsed_variant_does_not_squeeze_the_rest_together_and_its_number_is_given() -> None:
    tables = tables_of(study_of(5), collapsed("v2"))
    learned = tables.variants[tables.variants["variant"] != "v2"]
    forest = plots.differences(tables)
    low, high = forest.axes[0].get_xlim()
    assert np.ptp(learned["difference"].dropna()) > 0.1 * (high - low)
    assert min(learned["difference_low"].min(), -0.3) < 0 < high
    assert any(line.get_marker() == "<" for line in lines(forest))
    assert any(text.startswith(f"worse, {tables.variants['difference'][2]:+.0f} (") for text in words(forest))
    scatter = plots.accuracy_against_params(tables)
    bottom, top = scatter.axes[0].get_ylim()
    assert np.ptp(learned["test_accuracy_mean"]) > 0.1 * (top - bottom)
    assert bottom > 0.5
    assert "v2: 10.0%, 3 of 3 collapsed" in words(scatter)


def test_where_most_failed_to_learn_all_are_in_view() -> None:
    tables = tables_of(study_of(5), lambda run: plain(run) if run.variant == "v1" else collapsed(run.variant)(run))
    bottom, top = plots.accuracy_against_params(tables).axes[0].get_ylim()
    assert bottom < 0.1 < 0.8 < top


def test_every_column_of_panels_says_what_its_axis_is() -> None:
    figure = plots.learning_curves(tables_of(study_of(11)))  # ten panels: 4, 4 and 2
    FigureCanvasAgg(figure).draw()
    labelled = [any(label.get_visible() for label in axes.get_xticklabels()) for axes in figure.axes]
    assert labelled == [False] * 6 + [True] * 4


def tables_by_length(study: Study, records: list[RunRecord]) -> Tables:
    """Tables of runs under `digits`, which has two lengths."""
    summary = summarise(study, "digits", records)
    longest = [record for record in records if record.run.length == summary.length]
    runs, curves = runs_frame(longest, study.target("digits")), curves_frame(longest)
    return Tables(study, "digits", runs, curves, summary.variants, copies=3, by_length=summary.by_length)


def test_figure_and_chart_by_length_have_the_variants_of_the_shorter_ones_too() -> None:
    study = study_of(3)
    records = [plain(run) for run in study.expand("digits", 3) if run.variant != "v2" or run.length == 10_000]
    tables = tables_by_length(study, records)
    drawn = {line.get_label() for line in plots.difference_against_images(tables).axes[0].get_lines()}
    series = {each["variant"] for each in charts_of(tables)["difference_against_images"]["series"]}
    assert series == {"v1", "v2"} <= drawn
    assert series <= styles_of(tables).keys()


@pytest.mark.parametrize(("accuracy", "scale"), [(0.75, "linear"), (0.1, "symlog")])
def test_a_variant_that_fails_in_short_trainings_does_not_squeeze_the_lengths_together(
    accuracy: float, scale: str
) -> None:
    study = study_of(3)
    records = [plain(run) for run in study.expand("digits", 3)]
    records = [
        replace(each, test_accuracy=accuracy) if (each.run.variant, each.run.length) == ("v1", 10_000) else each
        for each in records
    ]
    tables = tables_by_length(study, records)
    axes = plots.difference_against_images(tables).axes[0]
    assert axes.get_yscale() == scale
    assert ("log scale beyond one point" in axes.get_ylabel()) == (scale == "symlog")
    low, high = axes.get_ylim()
    assert low <= tables.by_length["difference_low"].min()
    assert high >= tables.by_length["difference_high"].max()


def test_only_variants_trained_to_the_longest_are_enlarged() -> None:
    study = study_of(3)
    records = [plain(run) for run in study.expand("digits", 3) if (run.variant, run.length) != ("v2", 40_000)]
    tables = tables_by_length(study, records)
    whole, enlarged = plots.difference_against_images(tables).axes
    assert [label.get_text() for label in enlarged.get_xticklabels()] == ["v1"]
    assert {line.get_label() for line in whole.lines} >= {"v1", "v2"}


def test_the_equivalence_margin_is_always_in_view() -> None:
    low, high = plots.differences(tables_of(study_of(2))).axes[0].get_xlim()
    assert low < -0.3
    assert high > 0.3


def test_networks_of_equal_size_are_set_side_by_side_and_little_further() -> None:
    figure = plots.accuracy_against_params(tables_of(study_of(6)))
    points = sorted(float(line.get_xdata()[0]) for line in lines(figure) if str(line.get_label()).startswith("v"))
    assert len(set(points)) == 6
    assert points[0] > 1100 / 1.1
    assert points[-1] < 1100 * 1.1


def test_points_of_many_networks_of_a_size_stay_near_it() -> None:
    def sized(run: Run) -> RunRecord:
        return replace(plain(run), params_trunk=99_900 if run.variant != "v39" else 199_900)

    figure = plots.accuracy_against_params(tables_of(study_of(40), sized, seeds=1))
    points = sorted(float(line.get_xdata()[0]) for line in lines(figure) if str(line.get_label()).startswith("v"))
    assert len(set(points)) == 40
    assert points[0] > 100_000 / 1.11
    assert points[38] < 100_000 * 1.11


def test_networks_of_nearly_one_size_have_no_figures_of_sizes() -> None:
    def sized(largest: int) -> Tables:
        return tables_of(
            study_of(3), lambda run: replace(plain(run), params_trunk=largest if run.variant == "v2" else 9_900)
        )

    assert "accuracy_against_params" not in figures_of(sized(10_000))
    assert "memory_against_params" not in figures_of(sized(10_000))
    assert {"accuracy_against_params", "memory_against_params"} <= figures_of(sized(12_000)).keys()
    assert "accuracy_against_flops" not in figures_of(sized(12_000))  # of which all have as many


def test_what_weights_alone_take_is_in_view_however_far_below_the_memory() -> None:
    def measured(run: Run) -> RunRecord:
        return replace(plain(run), params_trunk=100_000 * (1 + int(run.variant[1:])), peak_memory_bytes=500_000_000)

    axes = plots.memory_against_params(tables_of(study_of(3), measured)).axes[0]
    line = next(line for line in axes.lines if line.get_color() == "dimgrey")
    low, high = axes.get_ylim()
    assert low < min(line.get_ydata()) < 500 < high


def test_without_the_baseline_no_variant_is_called_one() -> None:
    study = study_of(3, v2="control")
    records = [plain(run) for run in study.expand("smoke", 2) if run.variant != "v0"]
    summary = summarise(study, "smoke", records).variants
    figure = plots.differences(
        Tables(study, "smoke", runs_frame(records, 0.5), curves_frame(records), summary, copies=3)
    )
    assert words(figure).count("not compared") == 2
    assert "baseline" not in words(figure)


def test_the_front_holds_what_no_cheaper_network_beats() -> None:
    accuracies = {"v0": 0.80, "v1": 0.70, "v2": 0.85, "v3": 0.82}

    def sized(run: Run) -> RunRecord:
        record = record_of(run, test_accuracy=accuracies[run.variant])
        return replace(record, params_trunk=10_000 * 2 ** int(run.variant[1:]))

    figure = plots.accuracy_against_params(tables_of(study_of(4), sized))
    front = next(line for line in lines(figure) if line.get_drawstyle() == "steps-post")
    assert list(front.get_ydata()) == pytest.approx([0.80, 0.85, 0.85])


def test_many_exploratory_variants_are_left_out_of_figures_of_sizes() -> None:
    roles = {f"v{k}": "exploratory" for k in range(3, 22)}
    figure = plots.accuracy_against_params(tables_of(study_of(22, **roles), seeds=1))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["v0", "v1", "v2"]
    assert "the 3 declared of 22 variants" in figure.get_suptitle()
    bars = plots.params_by_part(tables_of(study_of(22, **roles), seeds=1))
    assert [text.get_text() for text in bars.axes[0].get_yticklabels()] == ["v0", "v1", "v2"]
    all_there = plots.accuracy_against_params(tables_of(study_of(20, **roles), seeds=1))
    assert len(all_there.legends[0].get_texts()) == 20
