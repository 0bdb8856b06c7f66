"""The look of figures: the variants' colours, the axes, and how far these reach.

One colour per variant throughout, from a palette that colour-blind readers can tell apart, with a dash and a marker for those
that share one; the baseline is black, controls and exploratory variants are dashed or hollow. Axes of results are scaled to
the variants whose runs all learned: one that collapsed is named, and shown at the edge with its number, so that it does not
squeeze the rest together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from ablations.analysis import stats
from ablations.analysis.summary import each_row
from ablations.reporting.formatting import unmarked, with_changes
from ablations.reporting.verdicts import failures
from ablations.study import DECLARED, Study
from nin.text import counted

TITLE_WIDTH = 110  # characters of a line
WIDTH_INCHES = 8.0
LEGEND_LINE_INCHES = 0.17
MAX_OVERLAID = 6  # variants in one pair of axes; more get a panel each, beside the baseline
PANELS_PER_ROW = 4
LINEAR_POINTS = 10.0  # points of accuracy: the largest difference for which an axis of differences is linear
MAX_POINTS = 20  # variants in a figure of sizes; of more, those that claims rest on
STEPS = [1, 2, 2.5, 5, 10]  # of ticks
FEW_POINTS = 12  # as many of one size may be set side by side without touching
MIN_SPAN = 1.5  # largest by smallest value on an axis of sizes: less is no difference worth an axis
LINES, OTHER_LINES = ("-", "-.", (0, (6, 1, 1, 1, 1, 1))), ("--", ":", (0, (4, 4)))  # one each time round the palette
MARKERS, OTHER_MARKERS = "oDp", "sPd"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """Data of the figures: `runs_frame` and `curves_frame` of the runs that are results, tables of a `Summary`."""

    study: Study
    protocol: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    variants: pd.DataFrame
    copies: int  # numbers that the baseline's training keeps of each weight (`memory.state_copies`)
    memory: pd.DataFrame = field(default_factory=pd.DataFrame)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    by_length: pd.DataFrame = field(default_factory=pd.DataFrame)
    length: int = 0  # as of a `Summary`
    overrides: Sequence[str] = ()  # what `--set` changed in all runs

    @property
    def names(self) -> list[str]:
        """Variants in the study's order."""
        return list(self.variants["variant"])

    @property
    def compared_by_length(self) -> list[str]:
        """Variants beside the baseline with results at some length of training, in the study's order."""
        there = set(self.by_length.get("variant", [])) - {self.study.baseline}
        return [name for name in self.study.variants if name in there]

    @property
    def target(self) -> float:
        """Validation accuracy (a fraction) that counts as trained."""
        return self.study.target(self.protocol)

    @property
    def budget(self) -> int:
        """Training images of the longest run, where misses are drawn."""
        return int(self.runs["examples_seen"].max())

    @property
    def seeds(self) -> str:
        """Number of runs per variant, for titles."""
        low, high = self.variants["n"].min(), self.variants["n"].max()
        return f"{low} to {high} seeds" if low != high else counted(low, "seed")

    @property
    def all_learned(self) -> "pd.Series[bool]":
        """Mark the rows of `variants` in which no run collapsed, diverged or lost classes."""
        return self.variants["impaired"] == 0

    @property
    def of_sizes(self) -> "Tables":
        """The part that figures of sizes show: all variants or, of more than MAX_POINTS, those that claims rest on."""
        if len(self.variants) <= MAX_POINTS:
            return self
        runs, variants = (table[table["variant"].map(self.is_primary)] for table in (self.runs, self.variants))
        return replace(self, runs=runs, variants=variants)

    def seed_curves(self, name: str) -> pd.DataFrame:
        """Validation accuracy by training images and seed, up to the end; a run that diverged stays at its last."""
        curves = self.curves[self.curves["variant"] == name]
        seeds = curves.pivot(index="examples", columns="seed", values="val_accuracy")
        return seeds.reindex(seeds.index.union([self.budget])).ffill()

    def front(self, column: str) -> NDArray[np.intp]:
        """Places of the variants on the Pareto front of mean test accuracy and a size, the smallest first."""
        sizes = self.variants[column].to_numpy()
        front = np.flatnonzero(stats.pareto_front(sizes, self.variants["test_accuracy_mean"]))
        return front[np.argsort(sizes[front])]

    def is_primary(self, name: str) -> bool:
        """Baseline or confirmatory."""
        return self.study.role(name) in DECLARED

    def colour(self, name: str) -> str:
        """The variant's own, black for the baseline."""
        palette: list[str] = sns.color_palette("colorblind").as_hex()
        return "black" if name == self.study.baseline else palette[self._place(name) % len(palette)]

    def line(self, name: str) -> dict[str, Any]:
        """Colour and dashes; no two of up to 30 variants have the same of both."""
        kinds = LINES if self.is_primary(name) else OTHER_LINES
        return {"color": self.colour(name), "linestyle": kinds[self._round(name) % len(kinds)], "linewidth": 1.6}

    def marker(self, name: str) -> dict[str, Any]:
        """Colour and shape of a point, hollow where no claim rests on it."""
        kinds, colour = MARKERS if self.is_primary(name) else OTHER_MARKERS, self.colour(name)
        face = colour if self.is_primary(name) else "white"
        return {"color": colour, "marker": kinds[self._round(name) % len(kinds)], "markerfacecolor": face}

    def label(self, name: str) -> str:
        """The name and, where runs did not learn, how many."""
        rows = self.variants[self.variants["variant"] == name]
        return ", ".join([name, *filter(None, map(failures, each_row(rows)))])

    def _place(self, name: str) -> int:
        return [other for other in self.study.variants if other != self.study.baseline].index(name)

    def _round(self, name: str) -> int:
        return 0 if name == self.study.baseline else self._place(name) // len(sns.color_palette("colorblind"))


def new_figure(tables: Tables, title: str, height: float) -> Figure:
    """An empty figure whose title ends with the study and the protocol."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    changes = f", {unmarked(with_changes(tables.overrides))}" if tables.overrides else ""
    place = f"{tables.study.name}, protocol {tables.protocol}{changes}"
    figure.suptitle(f"{title}\n{fill(place, TITLE_WIDTH)}", fontsize=10, x=0.01, ha="left")
    return figure


def new_axes(figure: Figure, *position: int | SubplotSpec, share: Axes | None = None) -> Axes:
    """Axes with a light grid."""
    with sns.axes_style("whitegrid"):
        axes = figure.add_subplot(*position, sharex=share, sharey=share)
    axes.tick_params(labelsize=8)
    return axes


def add_legend(figure: Figure) -> None:
    """A legend at the right of all axes."""
    figure.legend(loc="outside right center", frameon=False, fontsize=8)


def beside_legend(tables: Tables, least: float) -> float:
    """Height in inches of a figure that is no lower than a legend of all variants."""
    return max(least, 1 + LEGEND_LINE_INCHES * len(tables.names))


def curve_axes(tables: Tables, title: str) -> tuple[Figure, list[tuple[Axes, list[str]]]]:
    """Axes over training images with the variants to draw in them: all in one, or each beside the baseline in a panel."""
    names, baseline = tables.names, tables.study.baseline
    if len(names) <= MAX_OVERLAID:
        figure = new_figure(tables, title, height=4.2)
        panels = [(new_axes(figure), names)]
    else:
        first = [baseline] if baseline in names else []
        others = [name for name in names if name != baseline]
        num_rows = math.ceil(len(others) / PANELS_PER_ROW)
        figure = new_figure(tables, title + (f"; black: {baseline}" if first else ""), height=0.9 + 1.5 * num_rows)
        panels = []
        for place, name in enumerate(others):
            axes = new_axes(figure, num_rows, PANELS_PER_ROW, place + 1, share=panels[0][0] if panels else None)
            is_lowest = place + PANELS_PER_ROW >= len(others)  # of its column
            axes.tick_params(labelleft=place % PANELS_PER_ROW == 0, labelbottom=is_lowest)
            panels.append((axes, [*first, name]))
    panels[0][0].xaxis.set_major_locator(MaxNLocator(4 if len(panels) > 1 else 8, steps=STEPS))
    panels[0][0].xaxis.set_major_formatter(FuncFormatter(short))
    figure.supxlabel("training images seen", fontsize=9)
    return figure, panels


def name_curves(figure: Figure, panels: Sequence[tuple[Axes, list[str]]]) -> None:
    """A legend where all curves share axes; else a title over each panel."""
    if len(panels) == 1:
        add_legend(figure)
        return
    for axes, _ in panels:
        label = axes.get_legend_handles_labels()[1][-1]
        axes.set_title(label.replace(", ", "\n", 1), fontsize=7.5, pad=3)


def row_axes(tables: Tables, title: str, notes: Sequence[str], with_failures: bool = True) -> tuple[Figure, Axes]:
    """One row per variant, the first on top, with a note at the right that also says how many runs failed to learn."""
    figure = new_figure(tables, title, height=1.2 + 0.32 * len(tables.names))
    axes = new_axes(figure)
    labels = [name if tables.is_primary(name) else f"{name} ({tables.study.role(name)})" for name in tables.names]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    for y, (row, note) in enumerate(zip(each_row(tables.variants), notes, strict=True)):
        if row.variant == tables.study.baseline:
            axes.get_yticklabels()[y].set_fontweight("bold")
        text = ", ".join(filter(None, [note, failures(row) if with_failures else ""]))
        axes.annotate(text, (1.025, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    return figure, axes


def accuracy_limits(tables: Tables) -> tuple[float, float]:
    """Ends of the accuracy axis: over all runs, so that wide intervals of few seeds do not squeeze the means together.

    Runs that failed to learn and are far from the rest are left out, unless most would be out of view then.
    """
    clear = tables.runs[tables.runs["variant"].isin(tables.variants["variant"][tables.all_learned])]
    low, high = tables.runs["test_accuracy"].min(), tables.runs["test_accuracy"].max()
    if 2 * len(clear) > len(tables.runs):
        core_low, core_high = clear["test_accuracy"].min(), clear["test_accuracy"].max()
        if high - low > 3 * (core_high - core_low):
            low, high = core_low, core_high
    margin = max(0.15 * (high - low), 0.005)
    return max(0.0, low - margin), min(1.0, high + margin)


def difference_limits(tables: Tables, margin: float) -> tuple[float, float]:
    """Over the intervals of variants that all learned, but for those several times as wide as is usual."""
    shown = tables.variants[tables.variants["difference"].notna()]
    clear = shown[tables.all_learned.loc[shown.index]]
    table = clear if len(clear) else shown
    low, high = -1.5 * margin, 1.5 * margin
    if len(table):
        means = table["difference"]
        halves = (table["difference_high"] - means).dropna()
        reach = max(2 * margin, 3 * halves.median() if len(halves) else 0.0)
        low = min(low, max(min(means.min(), table["difference_low"].min()), means.min() - reach))
        high = max(high, min(max(means.max(), table["difference_high"].max()), means.max() + reach))
    padding = 0.04 * (high - low)
    return low - padding, high + padding


def length_limits(table: pd.DataFrame, margin: float) -> tuple[float, float]:
    """Ends of the axis of differences: all of them and the margin, and intervals as far as they leave these readable."""
    differences = np.append(table["difference"].dropna(), [-margin, margin])
    low, high = float(differences.min()), float(differences.max())
    reach = (high - low) / 2
    lowest, highest = table["difference_low"].min(), table["difference_high"].max()  # nan of single seeds
    return (
        max(low - reach, float(np.nanmin([low, lowest]))) - 0.05 * (high - low),
        min(high + reach, float(np.nanmax([high, highest]))) + 0.05 * (high - low),
    )


def difference_scale(axes: Axes, table: pd.DataFrame, margin: float) -> str:
    """Scale the axis of differences (points) to all of them; return what its label has to add.

    Where one difference is over LINEAR_POINTS, the axis is logarithmic beyond a point, so that it does not squeeze the rest together.
    """
    if not table["difference"].abs().max() > LINEAR_POINTS:
        axes.set_ylim(length_limits(table, margin))
        return ""
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_locator(FixedLocator([-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    ends = table[["difference", "difference_low", "difference_high"]].to_numpy(dtype=float)
    axes.set_ylim(1.2 * min(float(np.nanmin(ends)), -1.0), 1.2 * max(float(np.nanmax(ends)), 1.0))
    return "\n(log scale beyond one point)"


def size_limits(sizes: Array) -> tuple[float, float]:
    """The ends of a log axis of these sizes, at least MIN_SPAN apart."""
    low, high = float(np.log10(sizes.min())), float(np.log10(sizes.max()))
    padding = max(0.05 * (high - low), (math.log10(MIN_SPAN) - (high - low)) / 2)
    return 10 ** (low - padding), 10 ** (high + padding)


def side_by_side(sizes: "pd.Series[Any]") -> Array:
    """The sizes, those that would lie on each other moved apart on a log axis by as little as can be.

    By less where there are many: they may touch, but stay near their own size.
    """
    x = np.log10(sizes.to_numpy(dtype=float))
    order = np.argsort(x, kind="stable")
    step = 0.022 * min(1.0, FEW_POINTS / len(x))  # of the axis
    steps = step * max(float(np.ptp(x)), math.log10(MIN_SPAN)) * np.arange(len(x))
    apart = np.empty_like(x)
    apart[order] = isotonic_regression(x[order] - steps).x + steps
    return np.asarray(10**apart)


def spread_out(y: float, num: int) -> Array:
    """Heights around y for dots that would else cover each other."""
    return np.asarray(y + 0.12 * (np.arange(num) - (num - 1) / 2) * min(1, 5 / max(num, 1)), dtype=float)


def size_ticks(axes: Axes) -> None:
    """Few enough to stay apart, whether the axis spans a tenth of a decade or three."""
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    ticks = MaxNLocator(7, steps=STEPS).tick_values(low, high)
    wide = LogLocator(subs=(1, 2, 5) if decades < 3 else (1,))
    axes.xaxis.set_major_locator(wide if decades > 0.8 else FixedLocator([t for t in ticks if low <= t <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short))


def megabyte_ticks(axes: Axes) -> None:
    """As many ticks as a log axis of megabytes has room for."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def short(value: float, _: object = None) -> str:
    """A number of images or parameters on an axis, such as "40k"."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
