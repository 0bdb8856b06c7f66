"""Figures: tables in, matplotlib figures out. The only importer of seaborn.

One colour per variant throughout, from a palette that colour-blind readers can tell apart; the baseline is black, controls and
exploratory variants are dashed or hollow. Saved files are the same byte for byte for the same tables.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from ablations import stats
from ablations.study import Study
from ablations.summary import each_row

mpl.rcParams["svg.hashsalt"] = "nin-ablations"  # else element ids differ from one drawing to the next
WIDTH_INCHES = 8.0


@dataclass(frozen=True)
class Tables:
    """What figures are drawn from: `runs_frame`, `curves_frame` and `Summary.variants`, of the runs that are results."""

    study: Study
    protocol: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    variants: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """Variants in the study's order."""
        return list(self.variants["variant"])

    def is_primary(self, name: str) -> bool:
        """Baseline or confirmatory."""
        return self.study.role(name) in ("baseline", "confirmatory")

    def colour(self, name: str) -> str:
        """The variant's own, black for the baseline."""
        if name == self.study.baseline:
            return "black"
        others = [other for other in self.study.variants if other != self.study.baseline]
        palette: list[str] = sns.color_palette("colorblind").as_hex()
        return palette[others.index(name) % len(palette)]

    def collapsed(self, name: str) -> str:
        """ ", 1 of 3 collapsed", where some of the variant's runs never learned or diverged."""
        row = next(row for row in each_row(self.variants) if row.variant == name)
        count = row.collapsed + row.diverged
        return f", {count} of {row.n} collapsed" if count else ""

    @property
    def seeds(self) -> str:
        """How many runs a variant has, for titles."""
        low, high = self.variants["n"].min(), self.variants["n"].max()
        return f"{low} seeds" if low == high else f"{low} to {high} seeds"


def learning_curves(tables: Tables) -> Figure:
    """Validation accuracy against training images; the mean over seeds, and a band from the lowest to the highest seed."""
    figure, axes = _figure(tables, f"Learning curves: mean of {tables.seeds}, band from lowest to highest", legend=True)
    for name in tables.names:
        points = (
            tables.curves[tables.curves["variant"] == name]
            .groupby("examples")["val_accuracy"]
            .agg(["mean", "min", "max"])
        )
        style = "-" if tables.is_primary(name) else "--"
        axes.plot(
            points.index,
            points["mean"],
            style,
            color=tables.colour(name),
            label=name + tables.collapsed(name),
            linewidth=1.8,
        )
        if tables.is_primary(name):
            axes.fill_between(
                points.index, points["min"], points["max"], color=tables.colour(name), alpha=0.12, linewidth=0
            )
    target = tables.study.target(tables.protocol)
    axes.axhline(target, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"target {target:.0%}", (0.99, target), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    _images_axis(axes)
    axes.set(ylabel="validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(axes)
    return figure


def accuracy_against_params(tables: Tables) -> Figure:
    """Test accuracy against the number of parameters, with the Pareto front."""
    return _accuracy_against(tables, "params", "parameters")


def accuracy_against_flops(tables: Tables) -> Figure:
    """Test accuracy against FLOPs of one image's forward pass, with the Pareto front."""
    return _accuracy_against(tables, "gflops", "GFLOP per image, forward")


def _accuracy_against(tables: Tables, column: str, label: str) -> Figure:
    figure, axes = _figure(
        tables, f"Test accuracy against {label}: mean and 95 % interval, {tables.seeds}", legend=True
    )
    table = tables.variants.sort_values(column)
    front = table[stats.pareto_front(table[column], table["test_accuracy_mean"])]
    axes.step(front[column], front["test_accuracy_mean"], where="post", color="grey", linewidth=0.8, zorder=0)
    for row in each_row(tables.variants):
        x, mean = getattr(row, column), row.test_accuracy_mean
        ends = [[mean - row.test_accuracy_low], [row.test_accuracy_high - mean]]
        colour = tables.colour(row.variant)
        axes.errorbar(
            x,
            mean,
            yerr=None if math.isnan(row.test_accuracy_low) else ends,
            fmt="o" if tables.is_primary(row.variant) else "s",
            color=colour,
            markerfacecolor=colour if tables.is_primary(row.variant) else "white",
            capsize=2,
            elinewidth=1,
            label=row.variant + tables.collapsed(row.variant),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=_log_ticks(table[column].max() / table[column].min())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"{label} (log scale; grey: Pareto front)", ylabel="test accuracy")
    axes.set_ylim(*_limits(tables.variants["test_accuracy_mean"], tables.runs["test_accuracy"]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(axes)
    return figure


def examples_to_target(tables: Tables) -> Figure:
    """Training images until the target, a dot per run; a run that missed it is a cross at its budget."""
    target = tables.study.target(tables.protocol)
    figure, axes = _figure(
        tables, f"Training images to {target:.0%} validation accuracy: a dot per run, crosses missed it", rows=True
    )
    for y, name in enumerate(tables.names):
        runs = tables.runs[tables.runs["variant"] == name]
        hit = np.isfinite(runs["examples_to_target"])
        colour = tables.colour(name)
        axes.plot(runs["examples_to_target"][hit], _spread(y, int(hit.sum())), "o", color=colour, markersize=5)
        axes.plot(runs["examples_seen"][~hit], _spread(y, int((~hit).sum())), "x", color=colour, markersize=6)
    _variant_rows(
        axes, tables, [f"{row.hits}/{row.n} hit{tables.collapsed(row.variant)}" for row in each_row(tables.variants)]
    )
    _images_axis(axes)
    axes.set_xlim(0, tables.runs["examples_seen"].max() * 1.04)
    return figure


def params_by_part(tables: Tables) -> Figure:
    """Parameters of trunk and head."""
    figure, axes = _figure(tables, "Parameters: trunk and head", rows=True)
    palette = sns.color_palette("colorblind")
    rows = range(len(tables.names))
    trunk, head = tables.variants["params_trunk"], tables.variants["params_head"]
    axes.barh(rows, trunk, color=palette[0], label="trunk", height=0.65)
    axes.barh(rows, head, left=trunk, color=palette[1], label="head", height=0.65)
    share = [f"head {h / (t + h):.0%} of {t + h:,}" for t, h in zip(trunk, head, strict=True)]
    _variant_rows(axes, tables, share)
    axes.set(xlabel="parameters")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.02 - 1.3 / figure.get_figheight()), ncols=2, frameon=False)
    return figure


def differences(tables: Tables) -> Figure:
    """Forest plot: difference to the baseline in points with 95 % intervals, the equivalence margin shaded."""
    margin = 100 * tables.study.margin
    figure, axes = _figure(
        tables, f"Test accuracy minus {tables.study.baseline}'s: points, 95 % intervals, {tables.seeds}", rows=True
    )
    axes.axvspan(-margin, margin, color="grey", alpha=0.2, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    notes = []
    for y, row in enumerate(each_row(tables.variants)):
        notes.append((row.verdict or "baseline") + tables.collapsed(row.variant))
        if row.variant == tables.study.baseline or math.isnan(row.difference):
            continue
        colour = tables.colour(row.variant)
        if not math.isnan(row.difference_low):
            axes.plot([row.difference_low, row.difference_high], [y, y], color=colour, linewidth=1.6)
        face = colour if tables.is_primary(row.variant) else "white"
        axes.plot(row.difference, y, "o", color=colour, markerfacecolor=face, markersize=6)
    _variant_rows(axes, tables, notes)
    axes.set(
        xlabel=f"points of test accuracy (grey: equivalence margin, {margin:g} points either way; hollow: not confirmatory)"
    )
    return figure


def reached_target(tables: Tables) -> Figure:
    """Fraction of seeds that have reached the target, against training images: one step line per variant."""
    target = tables.study.target(tables.protocol)
    figure, axes = _figure(
        tables, f"Fraction of {tables.seeds} that reached {target:.0%} validation accuracy", legend=True
    )
    budget = tables.runs["examples_seen"].max()
    for offset, name in enumerate(tables.names):
        times = np.sort(tables.runs[tables.runs["variant"] == name]["examples_to_target"])
        hits = times[np.isfinite(times)]
        x = [0, *hits, budget]
        y = [0, *(np.arange(1, len(hits) + 1) / len(times)), len(hits) / len(times)]
        style = "-" if tables.is_primary(name) else "--"
        label = f"{name} ({len(hits)}/{len(times)}{tables.collapsed(name)})"
        shifted = np.asarray(y) + 0.004 * (offset - len(tables.names) / 2)  # lines that coincide stay visible
        axes.step(x, shifted, style, where="post", color=tables.colour(name), label=label, linewidth=1.6)
    _images_axis(axes)
    axes.set(ylabel="fraction of seeds", ylim=(-0.05, 1.05))
    _legend(axes)
    return figure


def generalization_gap(tables: Tables) -> Figure:
    """Train minus test accuracy after the last step, both in evaluation mode: a dot per run, a bar at the mean."""
    figure, axes = _figure(
        tables, "Generalisation gap: train minus test accuracy; a dot per run, a bar at the mean", rows=True
    )
    for y, name in enumerate(tables.names):
        runs = tables.runs[tables.runs["variant"] == name]
        gaps = 100 * runs["generalization_gap"]
        usual = (runs["status"] == "finished").to_numpy()
        dots = np.asarray(_spread(y, len(gaps)))
        axes.plot(gaps[usual], dots[usual], "o", color=tables.colour(name), markersize=5, alpha=0.8)
        axes.plot(gaps[~usual], dots[~usual], "x", color=tables.colour(name), markersize=6)
        axes.plot([gaps.mean()] * 2, [y - 0.3, y + 0.3], color=tables.colour(name), linewidth=2)
    axes.axvline(0, color="black", linewidth=0.8)
    _variant_rows(axes, tables, [f"{100 * gap:+.1f}" for gap in tables.variants["generalization_gap_mean"]])
    axes.set(xlabel="points (crosses: collapsed or diverged)")
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
}


def save(figure: Figure, path: Path) -> None:
    """Write `path` as PNG and SVG (its suffix is added), each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        temporary = path.with_name(f".{path.name}{suffix}")
        try:
            figure.savefig(temporary, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=metadata)
            temporary.replace(path.with_suffix(suffix))
        finally:
            temporary.unlink(missing_ok=True)


def _figure(tables: Tables, title: str, legend: bool = False, rows: bool = False) -> tuple[Figure, Axes]:
    with sns.axes_style("whitegrid"):
        height = 1.4 + 0.36 * len(tables.names) if rows else max(4.2, 0.24 * len(tables.names) + 1.0)
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        axes = figure.add_subplot()
    axes.set_title(f"{title}\n{tables.study.name}, protocol {tables.protocol}", fontsize=10, loc="left")
    axes.tick_params(labelsize=9)
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def _variant_rows(axes: Axes, tables: Tables, notes: list[str]) -> None:
    """One row per variant, the first on top, with a note at the right."""
    labels = [name if tables.is_primary(name) else f"{name} ({tables.study.role(name)})" for name in tables.names]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    for y, note in enumerate(notes):
        axes.annotate(note, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)


def _images_axis(axes: Axes) -> None:
    axes.set(xlabel="training images seen")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _log_ticks(ratio: float) -> tuple[float, ...]:
    """Ticks in each decade of a logarithmic axis whose ends are in that ratio: as many as have room for their labels."""
    if ratio < 5:
        return (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    return (1, 2, 5) if ratio < 500 else (1,)


def _spread(y: float, count: int) -> list[float]:
    """Heights around y for dots that would else cover each other."""
    return [y + 0.12 * (k - (count - 1) / 2) * min(1, 5 / max(count, 1)) for k in range(count)]


def _limits(means: pd.Series, runs: pd.Series) -> tuple[float, float]:
    """An axis over all runs, so that wide intervals of few seeds do not squeeze the means together."""
    low, high = min(means.min(), runs.min()), max(means.max(), runs.max())
    margin = max(0.15 * (high - low), 0.005)
    return max(0.0, low - margin), min(1.0, high + margin)
