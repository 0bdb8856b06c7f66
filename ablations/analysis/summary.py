"""Summarise a study's records as tables: one row per variant, every number from `ablations.analysis.stats`.

Accuracies are fractions; differences, margins and detectable differences are in points (100 x fraction).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablations.analysis import circumstances, convergence, lengths, published, sequential, stats, variance
from ablations.analysis.circumstances import AddedSeeds
from ablations.analysis.factors import factor_effects
from ablations.analysis.interval import POINTS, UNKNOWN
from ablations.analysis.memory import memory_lines
from ablations.analysis.moderated import ROUNDING, welch_test
from ablations.analysis.tuned import beside_tuned
from ablations.looks import NO_LOOKS, Declaration
from ablations.records import RunRecord
from ablations.study import MEMORY, Study

TRAINING_FLOPS = 3  # of a forward pass: the backward pass costs about two more
OF_ONE_LOOK = (  # columns that hold for a fixed number of seeds alone
    *("p_holm", "p_equivalent", "difference_both_low", "difference_both_high", "p_both"),
    *("detectable", "seeds_if_seen", "seeds_if_margin"),
)
SWEEP_OFFSETS = (-0.10, -0.05, 0.0, 0.02, 0.05)  # targets around the declared one; those of 100 % or more are left out


@dataclass(frozen=True)
class Summary:
    """A study's results as tables.

    variants     one row per variant, in the columns of `summary.csv`
    target_sweep hits and restricted mean per variant and target
    controls     each control against the variant whose size it has, in points
    contrasts    the study's other comparisons, in points
    factors      main effects and interactions in points; empty unless the study has two factors
    tuned        each variant's difference to the baseline with default and with tuned settings, and which winners are the same
                 draw; empty unless the study has pairs
    published    our runs of each variant beside those that others have published; empty unless the study names some
    anchors      numbers of others on the study's question, from other data (`published.anchors`)
    by_length    test accuracy and difference to the baseline of each variant after each training length (`lengths.by_length`);
                 empty for one length
    change       by how much each difference changes from the shortest length to that of the verdicts (`lengths.change`); empty for
                 one
    length       training images after which all other tables hold, where there are several lengths; else 0
    memory       a line per network: peak memory of training against the batch; empty unless the study is about memory
    elsewhere    variants that answer, and controls, of which some run had another device than the baseline's of the same seed
    in_other_precision  the same, of which some run had another precision
    added        seeds beyond the declared number, if there are any; None after looks, which read none beyond their own
    looks        numbers of seeds at which comparisons were decided; empty where all runs were asked for at once
    seen         number of runs of declared comparisons that were there before the looks were declared
    distinct     variants under the protocol, without controls that would be identical to another; empty where that is not known
    """

    variants: pd.DataFrame
    target_sweep: pd.DataFrame
    controls: pd.DataFrame
    contrasts: pd.DataFrame
    factors: pd.DataFrame
    memory: pd.DataFrame
    tuned: pd.DataFrame
    published: pd.DataFrame
    anchors: pd.DataFrame
    by_length: pd.DataFrame
    change: pd.DataFrame
    length: int = 0
    elsewhere: tuple[str, ...] = ()
    in_other_precision: tuple[str, ...] = ()
    added: AddedSeeds | None = None
    looks: tuple[int, ...] = ()
    seen: int = 0
    distinct: tuple[str, ...] = ()

    @property
    def examples(self) -> tuple[int, int]:
        """Training images after which the verdicts hold: the fewest and the most that a variant was given."""
        if self.length:
            return self.length, self.length  # the last batch may go a few images beyond
        seen = self.variants["examples"] if len(self.variants) else pd.Series([0])
        return int(seen.min()), int(seen.max())


def each_row(table: pd.DataFrame) -> Iterator[Any]:
    """The table's rows, whose columns are attributes (of types that no checker can know)."""
    return iter(table.itertuples())


def pad_to_budget(record: RunRecord) -> tuple[list[int], list[float]]:
    """Images and validation accuracy of a learning curve; one that ended early stays at its last accuracy."""
    examples, accuracies = [p.examples for p in record.curve], [p.val_accuracy for p in record.curve]
    if examples and examples[-1] < record.examples_given:
        return [*examples, record.examples_given], [*accuracies, accuracies[-1]]
    return examples, accuracies


def summarise(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    looks: Declaration = NO_LOOKS,
    distinct: Sequence[str] = (),
) -> Summary:
    """Tables of the runs that are results; those that failed are left to the report to name.

    looks     what was declared before the study was looked at; the decisions are then its verdicts
    distinct  as in `Summary`
    """
    results = [record for record in records if record.is_result]
    within = [record for record in results if not looks.seeds or record.run.length <= looks.length]
    length = lengths.of_verdicts(study, within)
    by_variant = lengths.by_variant(study, results, length)
    target = study.target(protocol)
    # Training images of the shortest run, up to which times to a target can be compared.
    shortest = min((record.examples_given for group in by_variant.values() for record in group), default=0)
    variants = _after_looks(study, by_variant, _variants(study, by_variant, target, shortest), looks)
    by_length = lengths.by_length(study, results)
    return Summary(
        variants=variants,
        target_sweep=_target_sweep(by_variant, target, shortest),
        controls=_controls(study, by_variant),
        contrasts=_contrasts(study, by_variant),
        factors=factor_effects(study, by_variant),
        memory=memory_lines(by_variant, MEMORY[study.answers]) if study.answers in MEMORY else pd.DataFrame(),
        tuned=beside_tuned(study, by_variant),
        published=published.beside_published(study, protocol, by_variant),
        anchors=published.anchors(study),
        by_length=_with_decisions(by_length, variants, length) if looks.seeds else by_length,
        change=lengths.change(study, within),
        length=length,
        elsewhere=circumstances.unlike_baseline(study, by_variant, lambda record: record.environment.get("device")),
        in_other_precision=circumstances.unlike_baseline(study, by_variant, lambda record: record.precision),
        added=None if looks.seeds else circumstances.added_seeds(study.declared_seeds(protocol), results),
        looks=looks.seeds,
        seen=circumstances.runs_before(looks.at, by_variant, study),
        distinct=tuple(distinct),
    )


def _variants(study: Study, by_variant: Mapping[str, list[RunRecord]], target: float, shortest: int) -> pd.DataFrame:
    confirmatory = [name for name in by_variant if study.role(name) == "confirmatory"]
    comparisons: dict[str, stats.Comparison] = {}
    p_logrank: dict[str, float] = {}
    p_failed: dict[str, float] = {}
    if study.baseline in by_variant:
        samples = {name: {r.run.seed: r.test_accuracy for r in group} for name, group in by_variant.items()}
        comparisons = stats.compare(samples, study.baseline, confirmatory, study.margin)
        times = {name: [r.examples_to_target(target) for r in group] for name, group in by_variant.items()}
        budgets = {name: [r.examples_given for r in group] for name, group in by_variant.items()}
        raw = [
            convergence.logrank(times[name], times[study.baseline], budgets[name], budgets[study.baseline])
            for name in confirmatory
        ]
        p_logrank = dict(zip(confirmatory, stats.holm(raw), strict=True))
        failed = {name: sum(not r.learned for r in group) for name, group in by_variant.items()}
        sizes = {name: len(group) for name, group in by_variant.items()}
        p_failed = {
            name: stats.fisher_p(failed[name], sizes[name], failed[study.baseline], sizes[study.baseline])
            for name in by_variant
            if name != study.baseline
        }
    precision = next(
        (group[0].precision for group in (by_variant.get(study.baseline), *by_variant.values()) if group), ""
    )
    table = pd.DataFrame(
        [
            _row(
                name,
                study.role(name),
                group,
                target,
                comparisons.get(name),
                p_logrank.get(name, math.nan),
                precision,
                shortest,
            )
            | _over_seeds_and_images(group, by_variant.get(study.baseline, []), comparisons.get(name))
            | _generalization(group, by_variant.get(study.baseline, []) if name != study.baseline else [])
            for name, group in by_variant.items()
        ]
    )
    if len(table):
        table["p_failed_to_learn"] = table["variant"].map(p_failed).astype(float)
    return table


def failure_tests(study: Study, table: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Share of failed runs minus the baseline's, and Fisher's exact p corrected by Holm, of each confirmatory variant.

    table  `Summary.variants`
    """
    base, others = table[table["variant"] == study.baseline], table[table["role"] == "confirmatory"]
    if not len(base) or not len(others):
        return {}
    differences = others["impaired"] / others["n"] - (base["impaired"] / base["n"]).iloc[0]
    corrected = stats.holm(list(others["p_failed_to_learn"]))
    return dict(zip(others["variant"], zip(differences, corrected, strict=True), strict=True))


def _over_seeds_and_images(
    ours: list[RunRecord], baseline: list[RunRecord], comparison: stats.Comparison | None
) -> dict[str, float]:
    """The difference to the baseline with an interval over other seeds and other test images, in points.

    Of seeds that both have; nan where the networks were not tested on the same images, or where the comparison is of all runs and
    the seeds are not the same. `error_seeds` and `error_images` are standard errors from either source alone.
    """
    ends = dict.fromkeys(
        ("difference_both_low", "difference_both_high", "p_both", "error_seeds", "error_images"), math.nan
    )
    ours_by_seed, base_by_seed = (
        {r.run.seed: r.test_correctness() for r in group if r.test_correct} for group in (ours, baseline)
    )
    shared = [seed for seed in ours_by_seed if seed in base_by_seed]
    num_images = {len(correct[seed]) for correct in (ours_by_seed, base_by_seed) for seed in shared}
    is_of_all = comparison is not None and comparison.method == "welch"
    tested_on = {(record.run.data.name, record.run.data.test_split) for record in (*ours, *baseline)}
    if comparison is None or len(num_images) != 1 or len(tested_on) > 1:
        return ends
    if is_of_all and ours_by_seed.keys() != base_by_seed.keys():
        return ends
    both = variance.seeds_and_images(
        [ours_by_seed[seed] for seed in shared], [base_by_seed[seed] for seed in shared], comparison
    )
    interval = both.difference.in_points()
    return {
        "difference_both_low": interval["difference_low"],
        "difference_both_high": interval["difference_high"],
        "p_both": both.p,
        "error_seeds": POINTS * both.seeds,
        "error_images": POINTS * both.images,
    }


def _generalization(ours: list[RunRecord], baseline: list[RunRecord]) -> dict[str, float]:
    """Train minus test accuracy, and accuracy on shifted test images: means as fractions, differences to the baseline in points.

    With 95 % intervals, those of differences by Welch's test; nan where something was not measured or there is no baseline.
    """
    columns: dict[str, float] = {}
    for measure, least in (("generalization_gap", -1.0), ("shifted_accuracy", 0.0)):  # the highest of both is 1
        values, base = ([getattr(record, measure) for record in group] for group in (ours, baseline))
        mean = stats.mean_interval(values)
        difference = welch_test(values, base).interval if base and np.isfinite([*values, *base]).all() else UNKNOWN
        columns |= {
            f"{measure}_mean": mean.estimate,
            f"{measure}_low": max(mean.low, least),
            f"{measure}_high": min(mean.high, 1.0),
        }
        columns |= {f"{measure}_{name}": value for name, value in difference.in_points(bound=1.0 - least).items()}
    return columns


def _row(
    name: str,
    role: str,
    group: list[RunRecord],
    target: float,
    comparison: stats.Comparison | None,
    p_logrank: float,
    precision: str,
    shortest: int,
) -> dict[str, object]:
    """One variant's columns, but for those that need the baseline's runs.

    precision  the baseline's, in which memory is compared where the variant has a run in it
    shortest   training images of the shortest run of any variant
    """
    first = group[0]
    accuracy = variance.trained([r.test_accuracy for r in group], [r.learned for r in group])
    to_target = convergence.summarise_times([r.examples_to_target(target) for r in group], shortest)
    loss = stats.mean_interval([r.test_loss for r in group])
    against = comparison or stats.NO_COMPARISON
    welch = against.welch.in_points()
    seconds = [point.seconds if (point := r.reached(target)) else math.inf for r in group]
    curves = [pad_to_budget(r) for r in group]
    own_final = [  # of a run that never learned, its own final accuracy says nothing
        convergence.time_to_own_final(*curve) if r.learned else math.inf for r, curve in zip(group, curves, strict=True)
    ]
    area = [convergence.area_under_curve(*curve) for curve in curves]
    return {
        "variant": name,
        "role": role,
        "n": len(group),
        "examples": max(r.examples_given for r in group),
        "params": first.params,
        "params_trunk": first.params_trunk,
        "params_head": first.params_head,
        "gflops": first.gflops,
        **accuracy.overall.as_accuracy("test_accuracy"),
        "mean_is_reliable": accuracy.reliable,
        "share_trained": accuracy.share.estimate,
        "share_trained_low": accuracy.share.low,
        "share_trained_high": accuracy.share.high,
        **accuracy.accuracy.as_accuracy("trained_accuracy"),
        **against.difference.in_points(),
        "p": against.p,
        "p_holm": against.p_holm,
        "test": against.method,
        "p_welch": against.p_welch,
        "p_welch_equivalent": against.p_welch_equivalent,
        "difference_welch_low": welch["difference_low"],
        "difference_welch_high": welch["difference_high"],
        "p_dunnett": against.p_dunnett,
        "p_sign_flip": against.p_sign_flip,
        "p_equivalent": against.p_equivalent,
        "prob_better": against.prob_better,
        "verdict": against.verdict,
        "detectable": POINTS * against.detectable,
        "seeds_if_seen": against.seeds_if_seen,
        "seeds_if_margin": against.seeds_if_margin,
        "hits": to_target.hits,
        "examples_to_target_median": to_target.median,
        "examples_to_target_restricted_mean": to_target.restricted_mean.estimate,
        "p_logrank_holm": p_logrank,
        "tflops_to_target_median": to_target.median * TRAINING_FLOPS * first.gflops / 1000,
        "seconds_to_target_median": convergence.median_time(seconds),
        "area_under_curve_mean": float(np.mean(area)),
        "examples_to_99_percent_of_final_median": convergence.median_time(own_final),
        "collapsed": sum(r.status == "collapsed" for r in group),
        "diverged": sum(r.status == "diverged" for r in group),
        "peak_memory_mb": next((r.peak_memory_mb for r in group if r.precision == precision), first.peak_memory_mb),
        "impaired": sum(not r.learned for r in group),
        "dead_classes_mean": float(np.mean([r.dead_classes for r in group])),
        "runs_with_dead_classes": sum(r.dead_classes > 0 for r in group),
        "test_loss_mean": loss.estimate,
        "test_loss_low": max(loss.low, 0.0),
        "test_loss_high": loss.high,
    }


def _after_looks(
    study: Study, by_variant: Mapping[str, list[RunRecord]], table: pd.DataFrame, looks: Declaration
) -> pd.DataFrame:
    """The table with the decisions of a group-sequential design as verdicts, and differences corrected for the looks.

    compared_seeds  seeds of the last look that a comparison took part in, whose runs alone decided it; 0 without looks
    """
    table["compared_seeds"] = 0
    if not looks.seeds or study.baseline not in by_variant:
        return table
    samples = {name: {r.run.seed: r.test_accuracy for r in group} for name, group in by_variant.items()}
    table = table.set_index("variant", drop=False)
    decisions = sequential.decide(samples, study.baseline, looks.variants, looks.seeds, study.margin)
    for name in decisions.keys() & by_variant.keys():  # the others have no row, but count among the tests
        decision = decisions[name]
        table.loc[name, "verdict"] = decision.verdict
        table.loc[name, "compared_seeds"] = decision.num_seeds
        table.loc[name, "test"] = decision.method
        table.loc[name, list(OF_ONE_LOOK)] = math.nan
        difference = decision.seen if math.isnan(decision.corrected.estimate) else decision.corrected
        for column, value in difference.in_points().items():
            table.loc[name, column] = value
    return table.reset_index(drop=True)


def _with_decisions(by_length: pd.DataFrame, variants: pd.DataFrame, length: int) -> pd.DataFrame:
    """The table by length with the verdicts after looks, and the seeds they are of, at the length that they are of."""
    if not len(by_length):
        return by_length
    decided = variants[variants["role"] == "confirmatory"].set_index("variant")
    rows = (by_length["length"] == length) & by_length["variant"].isin(decided.index)
    columns = ["verdict", "p_holm", "difference", "difference_low", "difference_high"]
    by_length.loc[rows, columns] = decided.loc[by_length.loc[rows, "variant"], columns].to_numpy()
    by_length.loc[rows, "n"] = decided.loc[by_length.loc[rows, "variant"], "compared_seeds"].to_numpy()
    return by_length


def _target_sweep(by_variant: Mapping[str, list[RunRecord]], target: float, shortest: int) -> pd.DataFrame:
    rows = []
    for name, group in by_variant.items():
        for step in (target + offset for offset in SWEEP_OFFSETS if 0 < target + offset < 1 - ROUNDING):
            summary = convergence.summarise_times([r.examples_to_target(step) for r in group], shortest)
            rows.append(
                {
                    "variant": name,
                    "target": step,
                    "hits": f"{summary.hits}/{summary.num}",
                    "restricted_mean": summary.restricted_mean.estimate,
                }
            )
    return pd.DataFrame(rows)


def _controls(study: Study, by_variant: Mapping[str, list[RunRecord]]) -> pd.DataFrame:
    """Differences at equal size: each variant minus the control of its size.

    size_off  relative deviation from the wanted size (0.01: 1 %): channels are whole, and few in a tiny network
    """
    rows = []
    for name, group in by_variant.items():
        match = study.variants[name].match
        if match and match.variant in by_variant:
            wanted, found = (getattr(r[0], match.by) for r in (by_variant[match.variant], group))
            rows.append(_minus(match.variant, name, by_variant) | {"size_off": abs(found / wanted - 1)})
    return pd.DataFrame(rows)


def _contrasts(study: Study, by_variant: Mapping[str, list[RunRecord]]) -> pd.DataFrame:
    pairs = [pair for pair in study.contrasts if all(name in by_variant for name in pair)]
    return pd.DataFrame([_minus(one, other, by_variant) for one, other in pairs])


def _minus(one: str, other: str, by_variant: Mapping[str, list[RunRecord]]) -> dict[str, object]:
    ours, theirs = ([r.test_accuracy for r in by_variant[name]] for name in (one, other))
    test = welch_test(ours, theirs)
    return {"comparison": f"{one} minus {other}", **test.interval.in_points(), "p": test.p}
