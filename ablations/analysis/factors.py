"""Main effects and interactions of a study that varies two factors together, in test accuracy and in the generalisation gap."""

from collections.abc import Mapping

import pandas as pd

from ablations.analysis import stats
from ablations.records import RunRecord
from ablations.runs import Run
from ablations.study import Study

Cells = dict[tuple[str, str], list[RunRecord]]  # by the levels of the two factors


def factor_effects(study: Study, by_variant: Mapping[str, list[RunRecord]]) -> pd.DataFrame:
    """Main effects and interactions of two factors against the baseline's levels, over the whole table of their levels.

    Columns are those of differences of test accuracy, with p, and the same with `gap_` for train minus test accuracy.

    Where the table has holes, over each 2 x 2 table around the baseline whose four cells were run. Variants that differ from
    the baseline in something else too are tables of their own, one for each such difference.
    """
    if len(study.factors) != 2 or study.baseline not in by_variant:
        return pd.DataFrame()
    baseline = by_variant[study.baseline][0].run
    base = _levels(study, baseline)
    settings: dict[str, Cells] = {}
    for name, group in by_variant.items():
        if study.role(name) != "control":
            cells = settings.setdefault(_setting(study, group[0].run, baseline), {})
            cells[_levels(study, group[0].run)] = group
    rows = []
    for setting, cells in settings.items():
        for table in _complete_tables(cells, base):
            accuracies = {levels: [r.test_accuracy for r in group] for levels, group in table.items()}
            gaps = {levels: [r.generalization_gap for r in group] for levels, group in table.items()}
            of_gaps = stats.two_way(gaps, base)
            for (a, b), of_accuracy in stats.two_way(accuracies, base).items():
                others = list(dict.fromkeys(key[a is not None] for key in table))
                is_interaction = a is not None and b is not None
                effect = (
                    f"interaction of {a} and {b}"
                    if is_interaction
                    else f"{a or b} instead of {base[0] if a is not None else base[1]}, over {' and '.join(others)}"
                )
                bound = 2.0 if is_interaction else 1.0  # the interaction is a difference of two differences
                accuracy = of_accuracy.interval.in_points(bound)
                of_gap = of_gaps[a, b]
                gap = {f"gap_{name}": value for name, value in of_gap.interval.in_points(2 * bound).items()}
                rows.append({"effect": effect + setting, **accuracy, "p": of_accuracy.p, **gap, "gap_p": of_gap.p})
    return pd.DataFrame(rows)


def _complete_tables(cells: Cells, base: tuple[str, str]) -> list[Cells]:
    levels_a, levels_b = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    if base not in cells or len(cells) == 1:
        return []
    if len(cells) == len(levels_a) * len(levels_b):
        return [dict(cells)]
    corners = [
        ((a, b), (a, base[1]), (base[0], b), base) for a in levels_a for b in levels_b if a != base[0] and b != base[1]
    ]
    return [{key: cells[key] for key in four} for four in corners if all(key in cells for key in four)]


def _levels(study: Study, run: Run) -> tuple[str, str]:
    """The levels of the two factors, read off the resolved run: "model.head" -> "head nin"."""
    one, other = (f"{factor.partition('.')[2]} {run.settings[factor]}" for factor in study.factors)
    return one, other


def _setting(study: Study, run: Run, baseline: Run) -> str:
    """Differences from the baseline other than the factors, such as "; train_fraction 0.1"; empty where nothing is."""
    ours, theirs = run.settings, baseline.settings
    differences = [
        f"{key.partition('.')[2]} {ours[key]}" for key in ours if key not in study.factors and ours[key] != theirs[key]
    ]
    return "".join(f"; {difference}" for difference in differences)
