"""Caveats of a study's answer: what is not trained, not decided, not tuned, or not covered by its tests could still change it."""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from ablations.analysis import sequential, stats
from ablations.analysis.circumstances import AddedSeeds
from ablations.analysis.moderated import ALPHA
from ablations.analysis.summary import Summary, each_row, failure_tests
from ablations.protocols import PROTOCOLS
from ablations.reporting.formatting import (
    agreeing,
    ends_text,
    few,
    listed,
    p_is,
    range_text,
    seeds_needed_text,
    seeds_text,
)
from ablations.reporting.plain import CLAIMS, Claim
from ablations.reporting.verdicts import failures
from ablations.runs import length_name
from ablations.study import DECLARED, FOUND, MEMORY, Study
from nin.text import counted

TITLE = "What could change this answer"
MIN_PLANNED = 3  # seeds: the spread of fewer says too little to plan by
MAX_RATIO = 1.5  # parameters of a variant by the baseline's, up to which the two count as of one size


class Caveat(NamedTuple):
    """Something that could change an answer, in a few words, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} ({self.why})"


def caveats(study: Study, protocol: str, summary: Summary) -> list[Caveat]:
    """List what could still change the answer; what weighs most comes first."""
    if study.answers in MEMORY:
        why = "peak memory includes copies of weights and workspace, whose size they decide"
        return [Caveat("another device, precision or range of batches", why)]
    if not len(summary.variants):
        return []
    return [
        *_length(study, protocol, summary),
        *_unequal(study, summary),
        *_missing(study, protocol, summary),
        *_seeds(study, summary),
        *([] if study.pairs else [*_images(summary.variants), *_size(study, summary.variants)]),  # of fixed settings
        *_tuning(study, summary),
        *_machines(study, summary),
        *_looks(study, summary),
        *([_added(summary.added)] if summary.added else []),
        *([_seen(summary.seen)] if summary.seen else []),
    ]


def caveats_text(found: Sequence[Caveat]) -> str:
    """The caveats as a list in Markdown under a line that introduces it; empty for none."""
    return "\n\n".join([f"{TITLE}:", "\n".join(f"- **{each.what}**: {each.why}" for each in found)]) if found else ""


def in_short(found: Iterable[Caveat]) -> str:
    """The caveats without their reasons, each once: "longer training; more seeds"."""
    return "; ".join(dict.fromkeys(each.what for each in found))


def _length(study: Study, protocol: str, summary: Summary) -> Iterator[Caveat]:
    if protocol == "quick":
        early = (
            "a run that is slow to start counts as failed"
            if study.answers == "failures"
            else "most of a difference, or the lack of one, can be training speed"
        )
        yield Caveat("longer training", f"this is an early look; after so few images, {early}")
    longer = [length for length in PROTOCOLS[protocol].lengths if summary.length and length > summary.length]
    if longer:
        lengths = listed(map(length_name, longer))
        yield Caveat(
            "longer training", f"trainings of {lengths} images, which the protocol asks for, are not compared yet"
        )
    change = summary.change
    changed = change[(change["role"] == "confirmatory") & (change["p_holm"] <= ALPHA)] if len(change) else change
    if len(changed) and not study.pairs:  # whose change is that of the fixed settings
        ends = (length_name(changed[end].iloc[0]) for end in ("shortest", "longest"))
        yield Caveat(
            "longer training",
            f"the difference of {few(changed['variant'])} from the baseline is not the same after {' as after '.join(ends)} "
            "training images",
        )


def _unequal(study: Study, summary: Summary) -> Iterator[Caveat]:
    """Data and training that differ between variants besides what the study is about."""
    if _varies_one_number(study):
        return
    fewest, most = summary.examples
    if fewest < most:
        yield Caveat("equal training", f"some variants train on {fewest:,} images, others on up to {most:,}")
    if _varies(study, "data.name"):
        yield Caveat("one data set", "variants are tested on different images, which may be harder or easier")


def _missing(study: Study, protocol: str, summary: Summary) -> Iterator[Caveat]:
    """Seeds, variants or controls that the study declares and has not trained yet, to the length of the verdicts."""
    table = summary.variants
    declared = study.declared_seeds(protocol)
    compared = table.loc[table["variant"].isin(study.answering), "n"]
    if len(compared) and compared.min() < declared and not summary.looks:  # after looks, decided comparisons lack none
        some = " of some variants" if compared.min() < compared.max() else ""
        yield Caveat("the missing seeds", f"{compared.min()} of {declared} declared{some} are trained")
    asked_for = study.trained(protocol)
    trained = set(table["variant"])
    untrained = [name for name in asked_for if name not in trained and study.role(name) in DECLARED]
    far = f" to {length_name(summary.length)} images" if len(summary.by_length) else ""
    if untrained:
        yield Caveat(
            "the missing variants", f"{few(untrained)} {agreeing(untrained, 'is', 'are')} not trained{far} yet"
        )
    controls = [name for name in asked_for if study.role(name) == "control" and name in (summary.distinct or asked_for)]
    lack = _lack_of_seeds(table.set_index("variant")["n"].reindex(controls, fill_value=0), declared, far)
    if lack:
        yield Caveat("controls of equal size or depth", f"{lack}, so size or depth may explain differences")


def _lack_of_seeds(controls: pd.Series, declared: int, far: str) -> str:
    """Say which controls lack seeds; empty if none does.

    controls  seeds by the control's name, 0 of one that is not trained
    """
    fewest, most = controls.min(), controls.max()
    if not fewest < declared:  # nan where there are no controls
        return ""
    if most <= 1:
        return f"none {'has more than one seed' if most else 'is'} trained{far} yet"
    if fewest == 0:
        absent, there = list(controls.index[controls == 0]), controls[controls > 0].min()
        others = f", and others have only {there} of {declared} declared seeds" if there < declared else ""
        return f"{few(absent)} {agreeing(absent, 'is', 'are')} not trained{far} yet{others}"
    if most >= declared:
        return f"some have only {fewest} of {declared} declared seeds{far}"
    return f"they have only {range_text(controls, str)} of {declared} declared seeds{far}"


def _seeds(study: Study, summary: Summary) -> Iterator[Caveat]:
    """Comparisons that more seeds could decide, by the tests of what the study is about."""
    if study.answers == "failures":
        yield from _undecided_rates(study, summary.variants)
        return
    yield from _undecided_effect(study, summary)
    if len(summary.published) and not (summary.published["p_location"] <= ALPHA).all():
        yield Caveat("more seeds", "not to differ significantly is not to be the same")
    if study.pairs:
        yield from _undecided_as_tuned(summary.tuned)
        return
    confirmatory = summary.variants[summary.variants["role"] == "confirmatory"]
    waiting = confirmatory["variant"][confirmatory["verdict"] == sequential.PENDING]
    if len(waiting):
        waits = agreeing(list(waiting), "waits", "wait")
        yield Caveat("more seeds", f"{few(waiting)} {waits} for the seeds of the next look")
    yield from _undecided(confirmatory, summary.looks)
    yield from _unconfirmed(confirmatory)


def _undecided_rates(study: Study, table: pd.DataFrame) -> Iterator[Caveat]:
    tests = failure_tests(study, table)
    unclear = [name for name, (_, p) in tests.items() if not p <= ALPHA]
    if not unclear:
        return
    num_runs = table.set_index("variant")["n"]
    most, base = int(num_runs[unclear].max()), int(num_runs[study.baseline])
    least = stats.fisher_p(most, most, 0, base) * len(tests)  # of the most that these can differ
    limit = f": with {counted(most, 'run')} against {base}, Fisher's exact test, corrected, can decide nothing"
    fail = agreeing(unclear, "fails", "fail")
    yield Caveat(
        "more seeds",
        f"whether {few(unclear)} {fail} more or less often than `{study.baseline}` is undecided{limit if least > ALPHA else ''}",
    )


def _undecided_effect(study: Study, summary: Summary) -> Iterator[Caveat]:
    """The effect that answers a study of two factors, if more seeds could show it."""
    if claim := _claim_of_an_effect(study, summary):
        factors = summary.factors
        of = "gap_" if claim.gap_first else ""
        for _, row in factors[(factors["effect"] == claim.effect) & ~(factors[f"{of}p"] <= ALPHA)].iterrows():
            ends = ends_text(row[f"{of}difference_low"], row[f"{of}difference_high"])
            of_gap = " of train minus test accuracy" if of else ""
            yield Caveat("more seeds", f"the interval of '{claim.effect}', {ends} points{of_gap}, includes 0")


def _claim_of_an_effect(study: Study, summary: Summary) -> Claim | None:
    """The claim that an effect of the study's two factors answers, where both were varied; None for other studies."""
    claim = CLAIMS.get(study.name)
    return claim if claim and claim.effect and len(summary.factors) else None


def _undecided_as_tuned(tuned: pd.DataFrame) -> Iterator[Caveat]:
    if "verdict_tuned" in tuned:
        unclear = list(tuned["variant"][tuned["verdict_tuned"] == stats.INCONCLUSIVE])
        if unclear:
            yield Caveat("more seeds", f"{few(unclear)} {agreeing(unclear, 'is', 'are')} undecided as tuned")


def _undecided(confirmatory: pd.DataFrame, looks: Sequence[int]) -> Iterator[Caveat]:
    table = confirmatory[confirmatory["verdict"] == stats.INCONCLUSIVE]
    if not len(table):
        return
    names, fewest = list(table["variant"]), int(table["n"].min())
    if looks:
        are = agreeing(names, "is", "are")
        last = f"{few(names)} {are} undecided at the last look, at {looks[-1]} seeds"
        yield Caveat("more seeds", f"{last}; another study, with other seeds, could decide")
        return
    needed = range_text(table["seeds_if_seen"], seeds_needed_text) if table["seeds_if_seen"].notna().all() else ""
    yield Caveat(
        "more seeds",
        f"if differences are as seen, {needed} seeds in all would decide {few(names)} with 80 % power"
        if needed and fewest >= MIN_PLANNED
        else f"{few(names)} {agreeing(names, 'is', 'are')} undecided after {counted(fewest, 'seed')}",
    )


def _unconfirmed(confirmatory: pd.DataFrame) -> Iterator[Caveat]:
    """Verdicts that rest on the pairing and the shared variances of the primary test."""
    columns = {stats.BETTER: "p_welch", stats.WORSE: "p_welch", stats.EQUIVALENT: "p_welch_equivalent"}
    each = [
        f"that `{row.variant}` is {row.verdict} ({p_is(p)})"
        for column in dict.fromkeys(columns.values())
        for row in each_row(confirmatory)
        if columns.get(row.verdict) == column and not (p := getattr(row, column)) < ALPHA
    ]
    if each:
        yield Caveat(
            "another statistical test",
            f"Welch's test, corrected, does not confirm {listed(each)}. It does not pair runs, and estimates variances from the two "
            "variants alone, so with few seeds it finds less, but a variant that varies more than the others does not mislead it",
        )


def _images(table: pd.DataFrame) -> Iterator[Caveat]:
    """Verdicts that hold for other seeds, but perhaps not on other test images."""
    claimed = table[table["verdict"].isin([stats.BETTER, stats.WORSE]) & (table["role"] == "confirmatory")]
    names = claimed["variant"][(claimed["difference_both_low"] < 0) & (claimed["difference_both_high"] > 0)]
    if len(names):
        yield Caveat(
            "another test set", f"over seeds and test images together, the interval of {few(names)} includes 0"
        )


def _tuning(study: Study, summary: Summary) -> Iterator[Caveat]:
    if study.pairs:
        if len(summary.tuned) and summary.tuned["draw"].nunique() < len(summary.tuned):
            yield Caveat(
                "more trials of tuning",
                "several variants have the same winning setting, so tuning has not yet found what suits each",
            )
    elif study.searches and FOUND in study.variants:
        yield Caveat("tuning the baseline too", f"only `{FOUND}` is tuned")
    elif (
        study.answers == "accuracy" and not len(summary.published) and not _varies(study, "train.lr", "train.optimizer")
    ):
        if not (summary.variants["role"] == "confirmatory").any():
            return
        failed = [row.variant for row in each_row(summary.variants) if failures(row)]
        lost = f", and some runs of {few(failed)} did not learn" if failed else ""
        yield Caveat(
            "tuning each variant",
            f"all variants share the protocol's learning rate, which was tuned for none of them{lost}; one that trains slowly may be "
            "behind for that reason alone",
        )


def _size(study: Study, table: pd.DataFrame) -> Iterator[Caveat]:
    """Variants that are better and much larger, where no control is of their kind or size and size is not the question itself."""
    base = table[table["role"] == "baseline"]
    if not len(base) or _varies_one_number(study):
        return
    better = table[(table["role"] == "confirmatory") & (table["verdict"] == stats.BETTER)]
    better = better[~better["variant"].isin(_controlled(study, set(table["variant"])))]
    ratios = better["params"] / base["params"].iloc[0]
    large = ratios[ratios > MAX_RATIO]
    if len(large):
        times = range_text(large, "{:.1f}".format)
        names = list(better["variant"][large.index])
        yield Caveat(
            "a comparison at equal size",
            f"{few(names)} {agreeing(names, 'has', 'have')} {times} times the baseline's parameters",
        )


def _machines(study: Study, summary: Summary) -> Iterator[Caveat]:
    if summary.elsewhere:
        other = () if _varies(study, "train.precision") else summary.in_other_precision
        too = "these" if other == summary.elsewhere else few(other)
        precision = f", and some of {too} were made in another precision; both can shift accuracy" if other else ""
        yield Caveat(
            "all runs on one kind of machine",
            f"some runs of {few(summary.elsewhere)} were made on another kind of machine than the baseline's run of the same seed, "
            f"which rounds in another way{precision}",
        )


def _varies(study: Study, *settings: str) -> bool:
    """Tell whether the study's own variants change one of these settings."""
    return any(setting in variant.settings for variant in study.variants.values() for setting in settings)


def _controlled(study: Study, trained: Container[str]) -> set[str]:
    """Variants for which a control is trained: one that has their size, or is their kind of network at another size."""
    found = set[str]()
    for name_of_control, control in study.variants.items():
        if control.match and name_of_control in trained:
            solved = control.match.field
            kind = {key: value for key, value in control.settings.items() if key != solved}
            found.add(control.match.variant)
            found |= {name for name, each in study.variants.items() if not each.match and each.settings == kind}
    return found


def _varies_one_number(study: Study) -> bool:
    """Tell whether the declared variants differ in one setting, which is a number."""
    declared = [study.variants[name].settings for name in (study.baseline, *study.confirmatory)]
    settings = dict.fromkeys(key for each in declared for key in each)
    varied = [key for key in settings if len({repr(each.get(key)) for each in declared}) > 1]
    return len(varied) == 1 and all(isinstance(each.get(varied[0], 0), int | float) for each in declared)


def _looks(study: Study, summary: Summary) -> Iterator[Caveat]:
    """Looks decide on comparisons alone, so they mislead where an effect of factors is the answer."""
    if summary.looks and (claim := _claim_of_an_effect(study, summary)):
        yield Caveat(
            "fresh seeds",
            f"seeds were added to decide other comparisons; the p of '{claim.effect}' does not allow for the looks at them",
        )


def _seen(num_runs: int) -> Caveat:
    """Looks that were declared over results make false verdicts likelier than 5 %."""
    were = "was" if num_runs == 1 else "were"
    return Caveat(
        "fresh seeds",
        f"{counted(num_runs, 'run')} {were} there before it was declared at how many seeds to test (*looks*); if verdicts on them "
        "were known then, a false verdict is likelier than 5 %",
    )


def _added(added: AddedSeeds) -> Caveat:
    """Seeds that were added after a look at the results make p-values too small."""
    seeds, were = ("seeds", "were") if len(added.seeds) > 1 else ("seed", "was")
    when = f"added by hand after {added.after}" if added.after else "asked for by hand"
    return Caveat(
        "fresh seeds",
        f"{seeds} {seeds_text(added.seeds)}, beyond the {added.declared} declared, {were} {when}; if results were known "
        "when they were added, p-values are too small",
    )
