"""Comparison of the protocol's settings with those that tuning found for each variant."""

from collections.abc import Mapping

import pandas as pd

from ablations.analysis import stats
from ablations.analysis.interval import POINTS
from ablations.analysis.moderated import welch_test
from ablations.records import RunRecord
from ablations.runs import settings_text
from ablations.study import Study


def beside_tuned(study: Study, by_variant: Mapping[str, list[RunRecord]]) -> pd.DataFrame:
    """Compare variants at fixed and at tuned settings, each kind with its own baseline and corrected over its own comparisons.

    Variants whose winners are the same draw have the same number in `draw`; `setting` is what tuning has chosen.
    """
    pairs = {name: tuned for name, tuned in study.pairs.items() if name in by_variant and tuned in by_variant}
    if study.baseline not in pairs:
        return pd.DataFrame()
    rows: dict[str, dict[str, object]] = {name: {"variant": name} for name in pairs}
    for name, (draw, setting) in _draws(pairs, by_variant).items():
        rows[name] |= {"n": len(by_variant[pairs[name]]), "draw": draw, "setting": setting}
    others = [name for name in pairs if name != study.baseline]
    for kind, names in (("fixed", {name: name for name in pairs}), ("tuned", pairs)):
        samples = {name: {r.run.seed: r.test_accuracy for r in by_variant[names[name]]} for name in pairs}
        comparisons = stats.compare(samples, study.baseline, others, study.margin)
        for name, row in rows.items():
            accuracy = stats.mean_interval(list(samples[name].values()))
            row |= {f"{key}_{kind}": value for key, value in accuracy.as_accuracy("accuracy").items()}
            comparison = comparisons.get(name)
            if comparison is not None:
                columns = {
                    **comparison.difference.in_points(),
                    "p_holm": comparison.p_holm,
                    "p_equivalent": comparison.p_equivalent,
                    "detectable": POINTS * comparison.detectable,
                    "verdict": comparison.verdict,
                }
                row |= {f"{key}_{kind}": value for key, value in columns.items()}
    for name, row in rows.items():
        tuned, fixed = ([r.test_accuracy for r in by_variant[which]] for which in (pairs[name], name))
        gain = welch_test(tuned, fixed).interval.in_points()
        row |= {f"{key}_gain": value for key, value in gain.items()}
    return pd.DataFrame(list(rows.values()))


def _draws(pairs: Mapping[str, str], by_variant: Mapping[str, list[RunRecord]]) -> dict[str, tuple[int, str]]:
    """Number each variant's winner and list its settings; variants whose winners set the same share a number."""
    fixed = {name: by_variant[name][0].run.settings for name in pairs}
    tuned = {name: by_variant[other][0].run.settings for name, other in pairs.items()}
    changed = [key for key in next(iter(fixed.values())) if any(fixed[name][key] != tuned[name][key] for name in pairs)]
    settings = {name: tuple(tuned[name][key] for key in changed) for name in pairs}
    numbers = {setting: number for number, setting in enumerate(dict.fromkeys(settings.values()), 1)}
    return {
        name: (
            numbers[setting],
            settings_text(dict(zip(changed, setting, strict=True))),
        )
        for name, setting in settings.items()
    }
