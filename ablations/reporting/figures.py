"""Figures: tables in, matplotlib figures out. Saved files are the same byte for byte for the same tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from ablations.analysis.expected_best import expected_best, spread_of_best
from ablations.analysis.summary import each_row
from ablations.reporting.axes import (
    LINEAR_POINTS,
    WIDTH_INCHES,
    Tables,
    accuracy_limits,
    add_legend,
    beside_legend,
    curve_axes,
    difference_limits,
    difference_scale,
    length_limits,
    megabyte_ticks,
    name_curves,
    new_axes,
    new_figure,
    row_axes,
    short,
    side_by_side,
    size_limits,
    size_ticks,
    spread_out,
)
from ablations.reporting.formatting import signed_text
from ablations.reporting.verdicts import verdict_text
from ablations.runs import length_name
from ablations.study import MEMORY
from nin.files import write_atomically

mpl.rcParams["svg.hashsalt"] = "nin-ablations"  # else element ids differ from one drawing to the next


def learning_curves(tables: Tables) -> Figure:
    """Validation accuracy against training images, at the length of the verdicts: the mean over seeds, and a band from the lowest to
    the highest seed. A run that diverged stays in both at its last accuracy.
    """
    figure, panels = curve_axes(tables, f"Learning curves: mean of {tables.seeds}, band from lowest to highest")
    # Without the steep first tenth, which would leave no room for what tells variants apart.
    later = tables.curves[tables.curves["examples"] >= tables.budget / 10]
    low, high = later["val_accuracy"].min(), later["val_accuracy"].max()
    panels[0][0].set_ylim(low - 0.05 * (high - low) - 0.005, high + 0.05 * (high - low) + 0.005)
    for axes, names in panels:
        for name in names:
            seeds = tables.seed_curves(name)
            low, high = seeds.min(axis=1), seeds.max(axis=1)
            axes.plot(seeds.index, seeds.mean(axis=1), **tables.line(name), label=tables.label(name))
            axes.fill_between(seeds.index, low, high, color=tables.colour(name), alpha=0.15, linewidth=0)
        axes.axhline(tables.target, color="grey", linewidth=1, linestyle=":")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    name_curves(figure, panels)
    figure.supylabel(f"validation accuracy (dotted: target {tables.target:.0%})", fontsize=9)
    return figure


def reached_target(tables: Tables) -> Figure:
    """Fraction of seeds that have reached the target, against training images, one step line per variant. Where seeds missed
    it, the line ends in a cross at the end of training. Lines are shifted by up to 0.01, so that none hides another.
    """
    title = (
        f"Fraction of {tables.seeds} that reached {tables.target:.0%} validation accuracy; a cross where some missed it"
    )
    figure, panels = curve_axes(tables, title)
    for axes, names in panels:
        for offset, name in enumerate(names):
            times = np.sort(tables.runs[tables.runs["variant"] == name]["examples_to_target"])
            hits = times[np.isfinite(times)]
            shift = 0.004 * (offset - (len(names) - 1) / 2)
            fractions = np.array([0, *(np.arange(1, len(hits) + 1) / len(times)), len(hits) / len(times)]) + shift
            label = tables.label(name).replace(name, f"{name} ({len(hits)}/{len(times)})", 1)
            axes.step([0, *hits, tables.budget], fractions, where="post", **tables.line(name), label=label)
            if len(hits) < len(times):
                axes.plot(tables.budget, fractions[-1], "x", color=tables.colour(name), markersize=7, clip_on=False)
        axes.set_ylim(-0.05, 1.05)
    name_curves(figure, panels)
    figure.supylabel("fraction of seeds", fontsize=9)
    return figure


def accuracy_against_params(tables: Tables) -> Figure:
    """Test accuracy against the number of parameters, with the Pareto front of the means.

    A large triangle at the edge is a mean beyond the axis (its value is in the legend); a small one, an interval that extends
    beyond it.
    """
    return _accuracy_against(tables, "params", "parameters")


def accuracy_against_flops(tables: Tables) -> Figure:
    """Test accuracy against FLOPs of one image's forward pass, with the Pareto front of the means.

    A large triangle at the edge is a mean beyond the axis (its value is in the legend); a small one, an interval that extends
    beyond it.
    """
    return _accuracy_against(tables, "gflops", "GFLOP per image, forward")


def _accuracy_against(tables: Tables, column: str, size: str) -> Figure:
    title = f"Test accuracy against {size}: mean and 95 % interval, {tables.seeds}{_left_out(tables)}"
    tables = tables.of_sizes
    figure = new_figure(tables, title, height=beside_legend(tables, 4.4))
    axes = new_axes(figure)
    axes.set_xscale("log")
    moved = side_by_side(tables.variants[column])
    bottom, top = accuracy_limits(tables)
    axes.set(xlim=size_limits(moved), ylim=(bottom, top))
    size_ticks(axes)
    means, front = tables.variants["test_accuracy_mean"].to_numpy(), tables.front(column)
    edges = [*moved[front], axes.get_xlim()[1]]
    axes.step(edges, [*means[front], means[front[-1]]], where="post", color="dimgrey", linewidth=1.3, zorder=0)
    for x, row in zip(moved, each_row(tables.variants), strict=True):
        mean, marker = row.test_accuracy_mean, tables.marker(row.variant)
        label = tables.label(row.variant)
        if not bottom <= mean <= top:
            marker["marker"] = "v" if mean < bottom else "^"
            label = label.replace(row.variant, f"{row.variant}: {mean:.1%}", 1)
        low, high, colour = row.test_accuracy_low, row.test_accuracy_high, marker["color"]
        axes.plot([x, x], [low, high], color=colour, linewidth=1)
        _mark_cut(axes, x, low, high, colour)
        axes.plot(x, np.clip(mean, bottom, top), **marker, markersize=6, linestyle="", clip_on=False, label=label)
    note = "grey: Pareto front; points that would touch are set side by side; an arrow: extends beyond the axis"
    axes.set_xlabel(f"{size}, log scale\n({note})", fontsize=9)
    axes.set_ylabel("test accuracy", fontsize=9)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    add_legend(figure)
    return figure


def _left_out(tables: Tables) -> str:
    """The end of a title where only declared variants are shown."""
    shown, num = len(tables.of_sizes.variants), len(tables.variants)
    return f"; the {shown} declared of {num} variants" if shown < num else ""


def examples_to_target(tables: Tables) -> Figure:
    """Training images until the target, a dot per run; a run that missed it is a cross at the end of training."""
    title = f"Training images to {tables.target:.0%} validation accuracy: a dot per run, crosses missed it"
    figure, axes = row_axes(tables, title, [f"{row.hits}/{row.n} hit" for row in each_row(tables.variants)])
    for y, name in enumerate(tables.names):
        times = tables.runs[tables.runs["variant"] == name]["examples_to_target"].to_numpy()
        hit, heights = np.isfinite(times), spread_out(y, len(times))
        axes.plot(times[hit], heights[hit], "o", color=tables.colour(name), markersize=5)
        axes.plot(np.full(sum(~hit), tables.budget), heights[~hit], "x", color=tables.colour(name), markersize=6)
    axes.set_xlim(0, tables.budget * 1.04)
    axes.set_xlabel("training images seen", fontsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    return figure


def params_by_part(tables: Tables) -> Figure:
    """Parameters of trunk and head."""
    title = f"Parameters: trunk and head{_left_out(tables)}"
    tables = tables.of_sizes
    trunk, head = tables.variants["params_trunk"], tables.variants["params_head"]
    shares = [f"head {h / (t + h):.0%} of {t + h:,}" for t, h in zip(trunk, head, strict=True)]
    figure, axes = row_axes(tables, title, shares, with_failures=False)
    palette = sns.color_palette("colorblind")
    axes.barh(range(len(trunk)), trunk, color=palette[0], label="trunk", height=0.65)
    axes.barh(range(len(head)), head, left=trunk, color=palette[1], label="head", height=0.65)
    axes.set_xlabel("parameters", fontsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8, borderaxespad=0.1)
    return figure


def differences(tables: Tables) -> Figure:
    """Forest plot: difference from the baseline in points with 95 % intervals, the equivalence margin shaded. Intervals are
    not corrected for the number of comparisons, verdicts are. An interval that ends in an arrow extends beyond the axis; its
    numbers are beside it.
    """
    margin = 100 * tables.study.margin
    low, high = difference_limits(tables, margin)
    intervals = tables.variants[["difference_low", "difference", "difference_high"]].to_numpy(dtype=float)
    rows = each_row(tables.variants)
    notes = [", ".join(filter(None, [verdict_text(row), cut_text(row, low, high)])) for row in rows]
    title = f"Test accuracy minus {tables.study.baseline}'s: points, 95 % intervals, {tables.seeds}"
    figure, axes = row_axes(tables, title, notes)
    axes.axvspan(-margin, margin, color="grey", alpha=0.25, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    for y, (name, (start, estimate, end)) in enumerate(zip(tables.names, intervals, strict=True)):
        if math.isnan(estimate):
            continue
        colour = tables.colour(name)
        axes.plot([start, end], [y, y], color=colour, linewidth=1.6)
        if low <= estimate <= high:
            axes.plot(estimate, y, **tables.marker(name), markersize=6)
        if min(start, estimate) < low or estimate < low:
            axes.plot(low, y, "<", color=colour, markersize=6, clip_on=False)
        if max(end, estimate) > high or estimate > high:
            axes.plot(high, y, ">", color=colour, markersize=6, clip_on=False)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"points (grey: equivalent, within {margin:g}; hollow: not confirmatory)", fontsize=9)
    return figure


def cut_text(row: Any, low: float, high: float) -> str:
    """A row's difference with its interval if an axis from `low` to `high` cuts it off; else nothing."""
    if not any(value < low or value > high for value in (row.difference_low, row.difference, row.difference_high)):
        return ""
    digits = 0 if abs(row.difference) > LINEAR_POINTS else 2
    return signed_text(row.difference, row.difference_low, row.difference_high, digits)


def difference_against_images(tables: Tables) -> Figure:
    """Difference in test accuracy from the baseline, with its 95 % interval, against the training images that each training had.
    The margin within which variants count as equivalent is shaded. Controls and exploratory variants are dashed and hollow. A
    symbol without a bar is a single run. If a difference exceeds ten points, the axis is logarithmic beyond one point. A
    triangle at the edge marks an interval that extends beyond it.
    """
    baseline = tables.study.baseline
    names = tables.compared_by_length
    figure = new_figure(tables, f"Difference from {baseline} against training length: 95 % intervals", height=4.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(2, 1))
    axes, last = new_axes(figure, grid[0]), new_axes(figure, grid[1])
    lengths = np.sort(tables.by_length["length"].unique()).astype(float)
    margin = 100 * tables.study.margin
    for panel in (axes, last):
        label = f"margin of {margin:g} points" if panel is axes else None
        panel.axhspan(-margin, margin, color="lightgrey", alpha=0.6, linewidth=0, label=label)
        panel.axhline(0, color="black", linewidth=1)
    cuts: list[tuple[Axes, float, Any]] = []
    for place, name in enumerate(names):
        rows = tables.by_length[tables.by_length["variant"] == name].sort_values("length")
        x = rows["length"] * 1.02 ** (
            place - (len(names) - 1) / 2
        )  # set apart, so that intervals do not hide each other
        cuts += [(axes, place_x, row) for place_x, row in zip(x, each_row(rows), strict=True)]
        axes.plot(x, rows["difference"], **tables.line(name), label=name)
        axes.plot(x, rows["difference"], **tables.marker(name), linestyle="", markersize=4)
        axes.vlines(x, rows["difference_low"], rows["difference_high"], color=tables.colour(name), linewidth=1)
    length = tables.length or lengths[-1]
    longest = tables.by_length[tables.by_length["length"] == length]
    there = longest[longest["variant"] != baseline]
    for place, row in enumerate(each_row(there)):
        last.plot(place, row.difference, **tables.marker(row.variant), linestyle="", markersize=5)
        last.vlines(place, row.difference_low, row.difference_high, color=tables.colour(row.variant))
        cuts.append((last, place, row))
    last.set_xticks(range(len(there)), there["variant"], rotation=45, ha="right", rotation_mode="anchor")
    last.set_xlim(-0.6, len(there) - 0.4)
    last.set_ylim(length_limits(longest, margin))
    last.set_title(f"after {length_name(round(length))} images, enlarged", fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: length_name(round(value))))
    beyond = difference_scale(axes, tables.by_length, margin)
    for panel, place_x, row in cuts:
        _mark_cut(panel, place_x, row.difference_low, row.difference_high, tables.colour(row.variant))
    axes.set_xlabel("training images, log scale; each length is a training of its own", fontsize=9)
    axes.set_ylabel(f"difference of test accuracy, points{beyond}", fontsize=9)
    add_legend(figure)
    return figure


def _mark_cut(axes: Axes, x: float, low: float, high: float, colour: str) -> None:
    """A small triangle at each edge of the axes that the interval at x extends beyond."""
    bottom, top = axes.get_ylim()
    for is_beyond, edge, arrow in ((low < bottom, bottom, "v"), (high > top, top, "^")):
        if is_beyond:
            axes.plot(x, edge, arrow, color=colour, markersize=4, clip_on=False)


def generalization_gap(tables: Tables) -> Figure:
    """Train minus test accuracy after the last step, both in evaluation mode: a dot per run, a bar at the mean."""
    gaps = [f"{100 * gap:+.1f}" for gap in tables.variants["generalization_gap_mean"]]
    title = "Generalisation gap: train minus test accuracy; a dot per run, a bar at the mean"
    figure, axes = row_axes(tables, title, gaps)
    for y, name in enumerate(tables.names):
        runs, colour = tables.runs[tables.runs["variant"] == name], tables.colour(name)
        points, heights = 100 * runs["generalization_gap"].to_numpy(), spread_out(y, len(runs))
        learned = runs["learned"].to_numpy(dtype=bool)
        axes.plot(points[learned], heights[learned], "o", color=colour, markersize=5, alpha=0.8)
        axes.plot(points[~learned], heights[~learned], "x", color=colour, markersize=6)
        axes.plot([points.mean()] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("points (crosses: collapsed, diverged or lost classes)", fontsize=9)
    return figure


def memory_against_params(tables: Tables) -> Figure:
    """Peak memory of training, at the protocol's batch, against the number of parameters; the line is what weights, gradients and
    the optimiser's state alone take, with the baseline's optimiser.
    """
    title = f"Peak memory of training against parameters{_left_out(tables)}"
    tables = tables.of_sizes
    figure = new_figure(tables, title, height=beside_legend(tables, 4.2))
    axes = new_axes(figure)
    params, memory = tables.variants["params"], tables.variants["peak_memory_mb"]
    moved = side_by_side(params)
    axes.set(xscale="log", yscale="log", xlim=size_limits(moved))
    size_ticks(axes)
    num_bytes = 4 * tables.copies
    ends = np.array(axes.get_xlim())
    alone = 1e-6 * num_bytes * ends
    axes.plot(ends, alone, color="dimgrey", linewidth=1.3, zorder=0)
    for x, row in zip(moved, each_row(tables.variants), strict=True):
        axes.plot(x, row.peak_memory_mb, **tables.marker(row.variant), markersize=6, linestyle="", label=row.variant)
    if memory.notna().any():
        axes.set_ylim(*size_limits(np.array([*memory.dropna(), *alone])))
    axes.set_xlabel(
        f"parameters, log scale\n(grey: {num_bytes} bytes each; points that would touch are set side by side)",
        fontsize=9,
    )
    axes.set_ylabel("MB, log scale", fontsize=9)
    megabyte_ticks(axes)
    add_legend(figure)
    return figure


def memory_against_batch(tables: Tables) -> Figure:
    """Peak memory against the batch, a dot per measurement, with each network's fitted line (a line is curved on logarithmic axes
    where its fixed part matters).
    """
    task = MEMORY[tables.study.answers]
    column = {"training": "peak_memory_mb", "prediction": "prediction_memory_mb"}[task]
    figure = new_figure(tables, f"Peak memory of {task} against the batch", height=4.2)
    axes = new_axes(figure)
    palette = sns.color_palette("colorblind").as_hex()
    networks = tables.memory.reset_index(drop=True)
    for place, line in enumerate(each_row(networks)):
        names = tables.runs["variant"].str.rpartition(" ")
        runs = tables.runs[(names[0] == line.network) & tables.runs[column].notna()]
        batches = runs["variant"].str.rpartition(" ")[2].astype(int)
        fit = np.linspace(batches.min(), batches.max(), 500)
        label = f"{line.network}: {line.fixed_mb:.3g} + {line.per_image_mb:.3g} MB per image"
        axes.plot(fit, line.fixed_mb + line.per_image_mb * fit, color=palette[place % len(palette)], linewidth=1.2)
        marker = "oDsp^v"[place % 6]
        axes.plot(batches, runs[column], marker, color=palette[place % len(palette)], markersize=5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    megabyte_ticks(axes)
    axes.set_xlabel("images in a batch, log scale", fontsize=9)
    axes.set_ylabel("MB, log scale", fontsize=9)
    add_legend(figure)
    return figure


def beside_published(tables: Tables) -> Figure:
    """Test accuracy of every run: ours, and below them in grey those that others have published; a bar at the median."""
    figure, axes = row_axes(
        tables, "Test accuracy beside published runs: a dot per run, a bar at the median", [""] * len(tables.names)
    )
    for y, name in enumerate(tables.names):
        for table, middle, colour in (
            (tables.runs, y - 0.2, tables.colour(name)),
            (tables.published, y + 0.2, "grey"),
        ):
            values = np.sort(100 * table[table["variant"] == name]["test_accuracy"].to_numpy(dtype=float))
            if not len(values):
                continue
            heights = middle + 0.06 * (np.arange(len(values)) % 5 - 2)
            axes.plot(values, heights, "o", color=colour, markersize=3, alpha=0.6)
            axes.plot([np.median(values)] * 2, [middle - 0.18, middle + 0.18], color=colour, linewidth=2)
    axes.set_xlabel("test accuracy, % (colour: ours, grey: published)", fontsize=9)
    return figure


FIGURES: dict[str, Callable[[Tables], Figure]] = {
    "differences": differences,
    "learning_curves": learning_curves,
    "accuracy_against_params": accuracy_against_params,
    "accuracy_against_flops": accuracy_against_flops,
    "examples_to_target": examples_to_target,
    "reached_target": reached_target,
    "generalization_gap": generalization_gap,
    "params_by_part": params_by_part,
    "memory_against_params": memory_against_params,
}


def expected_best_against_trials(place: str, measure: str, accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Expected best accuracy against the number of trials, a line per variant with a band of one standard deviation.

    accuracies  of each variant's trials, as fractions (`ablations.analysis.expected_best`)
    """
    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    title = f"{place}: expected best, band of one standard deviation"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    axes = new_axes(figure)
    for colour, (name, values) in zip(sns.color_palette("husl", len(accuracies)), accuracies.items(), strict=True):
        best, spread, trials = expected_best(values), spread_of_best(values), range(1, len(values) + 1)
        axes.plot(trials, best, color=colour, label=name, marker="o", markersize=3)
        axes.fill_between(trials, best - spread, best + spread, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="trials", ylabel=f"expected best {measure}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    add_legend(figure)
    return figure


LENGTH_FIGURES: dict[str, Callable[[Tables], Figure]] = {"difference_against_images": difference_against_images}
PUBLISHED_FIGURES: dict[str, Callable[[Tables], Figure]] = {"beside_published": beside_published}
MEMORY_FIGURES: dict[str, Callable[[Tables], Figure]] = {"memory_against_batch": memory_against_batch}
SIZE_FIGURES = {accuracy_against_params: "params", accuracy_against_flops: "gflops", memory_against_params: "params"}
# Of the largest to the smallest size in a figure of sizes. Points of nearer ones would be set side by side, all off their places.
LEAST_RATIO = 1.1


def figures_of(tables: Tables) -> dict[str, Callable[[Tables], Figure]]:
    """Select the figures that concern the study's question and have data."""
    if tables.study.answers in MEMORY:
        return MEMORY_FIGURES if len(tables.memory) else {}
    figures = LENGTH_FIGURES if len(tables.by_length) else {}
    figures = figures | FIGURES | (PUBLISHED_FIGURES if len(tables.published) else {})
    left_out = set[Callable[[Tables], Figure]]()
    if tables.variants["peak_memory_mb"].isna().all():
        left_out.add(memory_against_params)
    if (tables.variants["role"] == "baseline").all():
        left_out.add(differences)
    for draw, column in SIZE_FIGURES.items():
        sizes = tables.of_sizes.variants[column]
        if sizes.max() < LEAST_RATIO * sizes.min():
            left_out.add(draw)
    return {name: draw for name, draw in figures.items() if draw not in left_out}


def save(figure: Figure, path: Path) -> None:
    """Write `path` as PNG and SVG (its suffix is added), each whole or not at all, both in the layout of the first."""
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        image = BytesIO()
        figure.savefig(image, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=metadata)
        write_atomically(path.with_name(path.name + suffix), image.getvalue())  # the name may have a dot of its own
        figure.set_layout_engine("none")  # keeps the layout, which takes as long as drawing
