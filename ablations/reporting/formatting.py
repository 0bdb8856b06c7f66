"""Numbers, intervals and lists as a report has them."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from ablations.analysis.planning import MAX_PLANNED_SEEDS
from nin.text import counted

MAX_NAMES = 4  # variants named in a line; more are counted


def markdown_table(rows: Sequence[dict[str, object]]) -> str:
    """A table in Markdown, with the rows' keys as headings."""
    return str(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))


def figure_line(name: str, figures: Sequence[tuple[str, str]]) -> str:
    """A figure and its caption in Markdown; empty for a figure that was not drawn. `figures` are names and captions."""
    caption = dict(figures).get(name)
    return f"![{name}](figures/{name}.png)\n\n*{caption}*" if caption else ""


def interval_text(estimate: float, low: float, high: float, scale: float = 1, unit: str = "", digits: int = 2) -> str:
    """For example "80.12 % (78.00 to 82.24)"; without ends where there are none."""
    if math.isnan(estimate):
        return "–"
    if math.isnan(low):
        return f"{scale * estimate:z.{digits}f}{unit}"
    return f"{scale * estimate:z.{digits}f}{unit} ({scale * low:z.{digits}f} to {scale * high:z.{digits}f})"


def signed_text(difference: float, low: float, high: float, digits: int = 2) -> str:
    """A difference in points with its interval, such as "+4.62 (+2.43 to +6.80)"; without ends where there are none."""
    if math.isnan(difference):
        return "–"
    interval = "" if math.isnan(low) else f" ({ends_text(low, high, digits)})"
    return f"{difference:+z.{digits}f}{interval}"


def ends_text(low: float, high: float, digits: int = 2) -> str:
    """The ends of a difference's interval, such as "+2.43 to +6.80"."""
    return f"{low:+z.{digits}f} to {high:+z.{digits}f}"


def seeds_compared(row: Any) -> int:
    """Count the seeds that a row's difference is of: those of its last look or, without looks, of its runs."""
    return int(row.compared_seeds or row.n)


def difference_text(row: Any) -> str:
    """A row's difference in points with its interval, such as "+4.62 (+2.43 to +6.80)"."""
    return signed_text(row.difference, row.difference_low, row.difference_high)


def accuracy_text(row: Any, unit: str = "") -> str:
    """A row's mean test accuracy in % with its interval, marked where some of its runs did not train."""
    text = interval_text(row.test_accuracy_mean, row.test_accuracy_low, row.test_accuracy_high, 100, unit)
    return text if row.mean_is_reliable else f"{text}, unreliable"


def p_text(p: float) -> str:
    """ "0.0123", "< 0.0001", or a dash for nan."""
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def p_is(p: float) -> str:
    """ "p = 0.0123", or "p < 0.0001"."""
    return f"p {text}" if (text := p_text(p)).startswith("<") else f"p = {text}"


def detectable_text(values: pd.Series, digits: int) -> str:
    """ "0.4 points", or "0.3 to 0.5 points, by variant"; values above 100 are cut to 100."""
    ends = range_text(values.clip(upper=100), f"{{:.{digits}f}}".format)
    return f"{ends} points{', by variant' if ' to ' in ends else ''}"


def range_text(values: "pd.Series[Any]", text: Callable[[float], str]) -> str:
    """The least and the largest value as `text` has them, "11 to 13", or one of them where both read alike."""
    low, high = text(values.min()), text(values.max())
    return low if low == high else f"{low} to {high}"


def count_text(value: float) -> str:
    """ "12,345", the sign of infinity, or a dash for nan."""
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:,.0f}"


def megabytes_text(value: float) -> str:
    """ "1,234 MB", or three digits of less than a hundred."""
    return f"{value:,.0f} MB" if value >= 100 else f"{value:.3g} MB"


def known_text(value: float, text: Callable[[float], str]) -> str:
    """The text of a number; empty for nan."""
    return "" if math.isnan(value) else text(value)


def number_text(value: float) -> str:
    """Three digits of a number."""
    return count_text(value) if not math.isfinite(value) else f"{value:.3g}"


def listed(items: Iterable[object]) -> str:
    """ "a, b and c", in their order or, of a set, sorted; "none" of nothing."""
    words = [str(item) for item in (sorted(items, key=str) if isinstance(items, set) else items)]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "none"


def with_changes(overrides: Sequence[str]) -> str:
    """ "with `train.lr=0.05`", what `--set` changed in all runs; empty for nothing."""
    return f"with {named(overrides)}" if overrides else ""


def named(names: Iterable[str]) -> str:
    """ "`a`, `b` and `c`"."""
    return listed(f"`{name}`" for name in names)


def few(variants: Iterable[str]) -> str:
    """ "`a`, `b` and `c`", or "5 variants" of many."""
    names = list(variants)
    return named(names) if len(names) <= MAX_NAMES else f"{len(names)} variants"


def seeds_needed_text(num: float) -> str:
    """ "12", or "more than 1,000" where planning counted no further."""
    return f"{num:.0f}" if math.isfinite(num) else f"more than {MAX_PLANNED_SEEDS:,}"


def agreeing(names: Sequence[str], one: str, several: str) -> str:
    """The form of a word that agrees with so many names."""
    return one if len(names) == 1 else several


def minutes_text(minutes: float) -> str:
    """Minutes with one digit, and "< 0.1" where that digit would read as nothing."""
    return "< 0.1" if 0 < minutes < 0.05 else f"{minutes:.1f}"


def duration_text(minutes: float) -> str:
    """ "less than a minute", "about 12.3 minutes", and hours from two on."""
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.1f} minutes" if minutes < 120 else f"about {minutes / 60:.1f} hours"


def seeds_text(seeds: Sequence[int]) -> str:
    """ "0, 1 and 2", or "0 to 9" of many without a gap."""
    whole = len(seeds) > 3 and seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{seeds[0]} to {seeds[-1]}" if whole else listed(seeds)


def draws_text(draws: Mapping[str, Hashable]) -> str:
    """ "5 variants have 3 winning settings: the same for `2x`, `1x` and `3x`", given the draw that won for each variant."""
    variants_by_draw = defaultdict[Hashable, list[str]](list)
    for name, draw in draws.items():
        variants_by_draw[draw].append(name)
    shared = [named(names) for names in variants_by_draw.values() if len(names) > 1]
    if not shared:
        return f"all winners of {len(draws)} variants are distinct"
    num = len(variants_by_draw)
    return f"{len(draws)} variants have {counted(num, 'winning setting')}: the same for {'; another for '.join(shared)}"


def unmarked(text: str) -> str:
    """Leave out Markdown's marks of bold and code, for where they would be read as they are."""
    return text.replace("**", "").replace("`", "")


def marked(p: str, role: str) -> str:
    """The text of a p-value, in brackets where it is not corrected, and none for the baseline."""
    if role == "baseline" or not p:
        return ""
    return p if role == "confirmatory" else f"[{p}]"
