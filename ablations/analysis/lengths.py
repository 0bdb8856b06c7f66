"""Compare variants after several lengths of training, as tables.

A variant that trains faster is ahead after few images whether or not it is better in the end. So the verdict is that of the
longest training of several seeds, and beside it stands how the difference changes from the shortest to that one, paired by seed.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from ablations.analysis import circumstances, stats
from ablations.analysis.interval import UNKNOWN
from ablations.records import RunRecord
from ablations.study import Study

Accuracies = dict[str, dict[int, float]]  # by variant and seed


def of_verdicts(study: Study, results: Sequence[RunRecord]) -> int:
    """The length whose verdicts are the study's: the longest that the baseline and a declared comparison share several seeds of.

    Where no length has that, the longest that both share a seed of, then the longest that the baseline and any variant have. 0 where
    runs are of epochs, not of a length.
    """
    table = _by_length(results)

    def rank(length: int) -> tuple[int, bool, int]:
        found = table[length]
        baseline = found.get(study.answering_baseline, {}).keys()
        shared = max((len(baseline & found.get(name, {}).keys()) for name in study.compared), default=0)
        return min(shared, 2), bool(baseline) and len(found) > 1, length

    return max(table, key=rank, default=0)


def by_variant(study: Study, results: Sequence[RunRecord], length: int) -> dict[str, list[RunRecord]]:
    """Group the results of that length by variant, in the study's order, by seed; a variant without any is left out."""
    groups: dict[str, list[RunRecord]] = {name: [] for name in study.variants}
    for record in sorted(results, key=lambda record: record.run.seed):
        if record.run.length == length:
            groups[record.run.variant].append(record)
    return {name: group for name, group in groups.items() if group}


def by_length(study: Study, results: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per length and variant: test accuracy (a fraction) and the difference to the baseline in points, with intervals.

    impaired         runs that did not learn
    other_precision  whether some run had another precision than the baseline's of the same seed

    Comparisons are those of the study, corrected by Holm within each length. Empty for a single length.
    """
    table = _by_length(results)
    if len(table) < 2:
        return pd.DataFrame()
    impaired = Counter((record.run.length, record.run.variant) for record in results if not record.learned)
    rows = []
    for length, accuracies in table.items():
        odd = circumstances.unlike_baseline(study, by_variant(study, results, length), lambda record: record.precision)
        samples = {name: accuracies[name] for name in study.variants if name in accuracies}
        compared = _compared(study, samples)
        for name, sample in samples.items():
            mean = stats.mean_interval(list(sample.values()))
            comparison = compared.get(name)
            rows.append(
                {
                    "length": length,
                    "variant": name,
                    "role": study.role(name),
                    "n": len(sample),
                    "impaired": impaired[length, name],
                    "other_precision": name in odd,
                    **mean.as_accuracy("test_accuracy"),
                    **(comparison.difference if comparison else UNKNOWN).in_points(),
                    "p_holm": comparison.p_holm if comparison else math.nan,
                    "verdict": comparison.verdict if comparison else "",
                }
            )
    return pd.DataFrame(rows)


def change(study: Study, results: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per variant: its difference to the baseline at the length of the verdicts minus that at the shortest, in points.

    Of seeds that were trained to both lengths. The same test as that of the verdicts, of what each variant gains by the longer
    training against what the baseline gains; p is corrected by Holm over the confirmatory comparisons. Empty for a single
    length.
    """
    table = _by_length(results)
    shortest, last = min(table, default=0), of_verdicts(study, results)
    if shortest == last:
        return pd.DataFrame()
    gains = {
        name: {seed: there[seed] - accuracy for seed, accuracy in sample.items() if seed in there}
        for name, sample in table[shortest].items()
        if (there := table[last].get(name, {}))
    }
    ordered = {name: gains[name] for name in study.variants if gains.get(name)}
    rows = [
        {
            "variant": name,
            "role": study.role(name),
            "n": len(ordered[name]),
            "shortest": shortest,
            "longest": last,
            **comparison.difference.in_points(bound=2.0),
            "p": comparison.p,
            "p_holm": comparison.p_holm,
        }
        for name, comparison in _compared(study, ordered).items()
    ]
    return pd.DataFrame(rows)


def _by_length(results: Sequence[RunRecord]) -> Mapping[int, Accuracies]:
    """Test accuracies by length, shortest first, variant and seed."""
    table: dict[int, Accuracies] = defaultdict(lambda: defaultdict(dict))
    for record in sorted(results, key=lambda record: record.run.length):
        table[record.run.length][record.run.variant][record.run.seed] = record.test_accuracy
    return table


def _compared(study: Study, samples: Accuracies) -> dict[str, stats.Comparison]:
    if study.baseline not in samples:
        return {}
    confirmatory = [name for name in samples if study.role(name) == "confirmatory"]
    return stats.compare(samples, study.baseline, confirmatory, study.margin, checks=False)
