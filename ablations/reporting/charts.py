"""Charts of report.html as plain values, which `page/script.js` draws: the figures whose numbers are worth pointing at.

A chart is of one of three kinds. "rows" has a row per variant with points and an interval. "lines" has a curve per variant over
training images. "scatter" has a point per variant. Colours, dashes and shapes are those of the figures.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from ablations.analysis.summary import each_row
from ablations.reporting.axes import (
    MAX_OVERLAID,
    Tables,
    accuracy_limits,
    difference_limits,
    side_by_side,
    size_limits,
)
from ablations.reporting.figures import cut_text, figures_of
from ablations.reporting.formatting import count_text, difference_text, interval_text, seeds_compared
from ablations.reporting.verdicts import failures, verdict_text
from ablations.runs import length_name

Chart = dict[str, Any]
DASHES = {"-": "", "--": "6 4", ":": "2 3", "-.": "8 3 2 3"}  # matplotlib's names as SVG has them
DIGITS = 4  # of numbers that are drawn


def charts_of(tables: Tables) -> dict[str, Chart]:
    """Charts by the name of the figure in whose place they stand."""
    return {name: CHARTS[name](tables) for name in figures_of(tables) if name in CHARTS}


def styles_of(tables: Tables) -> dict[str, Chart]:
    """Drawing style of each variant: colour (empty for the baseline, which has the text's), dashes, shape, hollow or not."""
    return {
        name: {
            "colour": "" if name == tables.study.baseline else tables.colour(name),
            "dash": _dash(tables.line(name)["linestyle"]),
            "shape": tables.marker(name)["marker"],
            "hollow": not tables.is_primary(name),
            "label": tables.label(name),
        }
        for name in dict.fromkeys([*tables.names, *tables.compared_by_length])
    }


def _differences(tables: Tables) -> Chart:
    margin = 100 * tables.study.margin
    low, high = difference_limits(tables, margin)
    rows = []
    for row in each_row(tables.variants):
        tip = f"{row.variant}: {difference_text(row)} points\n{verdict_text(row)}, n = {seeds_compared(row)}"
        rows.append(
            {
                "variant": row.variant,
                "note": ", ".join(filter(None, [verdict_text(row), cut_text(row, low, high), failures(row)])),
                "tip": tip,
                "interval": _numbers([row.difference_low, row.difference_high]),
                "points": [] if math.isnan(row.difference) else [{"x": _number(row.difference), "tip": tip}],
            }
        )
    return {
        "kind": "rows",
        "label": f"points of test accuracy minus {tables.study.baseline}'s (shaded: equivalent, within {margin:g})",
        "limits": _numbers([low, high]),
        "band": _numbers([-margin, margin]),
        "zero": True,
        "rows": rows,
    }


def _examples_to_target(tables: Tables) -> Chart:
    rows = []
    for row in each_row(tables.variants):
        runs = tables.runs[tables.runs["variant"] == row.variant]
        points = [
            {
                "x": _number(min(run.examples_to_target, tables.budget)),
                "tip": f"{row.variant} seed {run.seed}: "
                + (
                    count_text(run.examples_to_target) if math.isfinite(run.examples_to_target) else "missed the target"
                ),
                "shape": "o" if math.isfinite(run.examples_to_target) else "x",
            }
            for run in each_row(runs)
        ]
        tip = (
            f"{row.variant}: median {count_text(row.examples_to_target_median)} images, {row.hits} of {row.n} seeds hit"
        )
        rows.append({"variant": row.variant, "note": f"{row.hits}/{row.n} hit", "tip": tip, "points": points})
    return {
        "kind": "rows",
        "label": f"training images to {tables.target:.0%} validation accuracy",
        "limits": [0, _number(1.04 * tables.budget)],
        "rows": rows,
    }


def _generalization_gap(tables: Tables) -> Chart:
    rows = []
    for row in each_row(tables.variants):
        runs = tables.runs[tables.runs["variant"] == row.variant]
        points = [
            {
                "x": _number(100 * run.generalization_gap),
                "tip": f"{row.variant} seed {run.seed}: {100 * run.generalization_gap:+.2f} points",
                "shape": "o" if run.learned else "x",
            }
            for run in each_row(runs)
            if math.isfinite(run.generalization_gap)
        ]
        mean = 100 * row.generalization_gap_mean
        tip = f"{row.variant}: mean {mean:+.2f} points, n = {row.n}"
        rows.append(
            {"variant": row.variant, "note": f"{mean:+.1f}", "tip": tip, "points": points, "mean": _number(mean)}
        )
    gaps = 100 * tables.runs["generalization_gap"].dropna()
    low, high = (min(0.0, float(gaps.min())), max(0.0, float(gaps.max()))) if len(gaps) else (-1.0, 1.0)
    padding = 0.04 * (high - low) or 1.0
    return {
        "kind": "rows",
        "label": "train minus test accuracy, points",
        "limits": _numbers([low - padding, high + padding]),
        "zero": True,
        "rows": rows,
    }


def _learning_curves(tables: Tables) -> Chart:
    series = []
    for name in tables.names:
        seeds = 100 * tables.seed_curves(name)
        series.append(
            {
                "variant": name,
                "line": _points(seeds.index, seeds.mean(axis=1)),
                "band": [
                    _numbers(each) for each in zip(seeds.index, seeds.min(axis=1), seeds.max(axis=1), strict=True)
                ],
                "seeds": [{"seed": int(str(seed)), "line": _points(seeds.index, seeds[seed])} for seed in seeds],
            }
        )
    return {
        "kind": "lines",
        "x": {"label": "training images seen"},
        "y": {"label": "validation accuracy, %", "line": _number(100 * tables.target), "name": "target"},
        "shown": _shown(tables, tables.names),
        "series": series,
    }


def _difference_against_images(tables: Tables) -> Chart:
    baseline, table, margin = tables.study.baseline, tables.by_length, 100 * tables.study.margin
    names = tables.compared_by_length
    series = []
    for name in names:
        rows = table[(table["variant"] == name) & table["difference"].notna()].sort_values("length")
        bars = zip(rows["length"], rows["difference_low"], rows["difference_high"], strict=True)
        series.append(
            {
                "variant": name,
                "line": _points(rows["length"], rows["difference"]),
                "bars": [_numbers(each) for each in bars],
            }
        )
    lengths = sorted(table["length"].unique())
    return {
        "kind": "lines",
        "x": {
            "label": "training images, log scale; each length is a training of its own",
            "log": True,
            "ticks": [[int(length), length_name(int(length))] for length in lengths],
        },
        "y": {"label": f"points of test accuracy minus {baseline}'s", "band": _numbers([-margin, margin])},
        "shown": _shown(tables, names),
        "series": series,
    }


def _accuracy_against_params(tables: Tables) -> Chart:
    return _accuracy_against(tables, "params", "parameters", lambda params: f"{params:,.0f} parameters")


def _accuracy_against_flops(tables: Tables) -> Chart:
    return _accuracy_against(tables, "gflops", "GFLOP per image, forward", lambda gflops: f"{gflops:.4f} GFLOP")


def _accuracy_against(tables: Tables, column: str, size: str, text: Callable[[float], str]) -> Chart:
    tables = tables.of_sizes
    table = tables.variants
    moved = side_by_side(table[column])
    low, high = (100 * limit for limit in accuracy_limits(tables))
    front = tables.front(column)
    points = []
    for x, row in zip(moved, each_row(table), strict=True):
        accuracy = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, " %")
        points.append(
            {
                "variant": row.variant,
                "x": _number(x),
                "y": _number(100 * row.test_accuracy_mean),
                "interval": _numbers([100 * row.test_accuracy_low, 100 * row.test_accuracy_high]),
                "tip": f"{tables.label(row.variant)}: {accuracy}, n = {row.n}\n{text(getattr(row, column))}",
            }
        )
    return {
        "kind": "scatter",
        "x": {"label": f"{size}, log scale", "limits": _numbers(size_limits(moved))},
        "y": {"label": "test accuracy, %", "limits": _numbers([low, high])},
        "front": _points(moved[front], 100 * table["test_accuracy_mean"].to_numpy()[front]),
        "points": points,
    }


CHARTS: dict[str, Callable[[Tables], Chart]] = {
    "differences": _differences,
    "difference_against_images": _difference_against_images,
    "learning_curves": _learning_curves,
    "accuracy_against_params": _accuracy_against_params,
    "accuracy_against_flops": _accuracy_against_flops,
    "examples_to_target": _examples_to_target,
    "generalization_gap": _generalization_gap,
}


def _shown(tables: Tables, names: Sequence[str]) -> list[str]:
    """Variants whose curves are visible at first: all, or where they are many the baseline and the confirmatory ones."""
    return [name for name in names if len(names) <= MAX_OVERLAID or tables.is_primary(name)]


def _dash(linestyle: str | tuple[int, tuple[int, ...]]) -> str:
    return DASHES[linestyle] if isinstance(linestyle, str) else " ".join(str(length) for length in linestyle[1])


def _points(x: "Iterable[float] | pd.Index[Any]", y: Iterable[float]) -> list[list[float]]:
    pairs = ([_number(float(a)), _number(float(b))] for a, b in zip(x, y, strict=True))
    return [[a, b] for a, b in pairs if a is not None and b is not None]


def _numbers(values: Iterable[float]) -> list[float] | None:
    """Numbers for JSON, which knows no infinity; None unless all are finite."""
    numbers = [_number(float(value)) for value in values]
    return None if None in numbers else [number for number in numbers if number is not None]


def _number(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS + 2}g}")
    return int(rounded) if rounded.is_integer() else rounded
