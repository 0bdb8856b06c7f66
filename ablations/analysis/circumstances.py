"""Circumstances of runs that weaken a comparison: other machines, added seeds, results that were there before they were asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ablations.records import RunRecord
from ablations.study import Study


@dataclass(frozen=True)
class AddedSeeds:
    """Seeds beyond the number that a study, or its protocol, declares: a choice that may have followed a look at results.

    declared  number of seeds
    seeds     those beyond it
    after     date of the last declared run, if every added run started on a later day; else empty
    """

    declared: int
    seeds: tuple[int, ...]
    after: str


def unlike_baseline(
    study: Study, by_variant: Mapping[str, list[RunRecord]], circumstance: Callable[[RunRecord], str | None]
) -> tuple[str, ...]:
    """Name the variants that answer, and controls, of which some run differs in this from the baseline's of the same seed.

    A run of which it is not known differs from none.
    """
    expected = {record.run.seed: circumstance(record) for record in by_variant.get(study.answering_baseline, [])}
    judged = {*study.compared, *(name for name in study.variants if study.role(name) == "control" and not study.pairs)}
    return tuple(
        name
        for name, group in by_variant.items()
        if name in judged
        and any((ours := circumstance(r)) and (expected.get(r.run.seed) or ours) != ours for r in group)
    )


def added_seeds(declared: int, results: Sequence[RunRecord]) -> AddedSeeds | None:
    """Return the seeds of results beyond the declared number, if there are any."""
    added = sorted({r.run.seed for r in results if r.run.seed >= declared})
    if not added:
        return None
    days = [r.started_at[:10] for r in results if r.run.seed < declared]
    last = max(days, default="")
    is_later = last and all(r.started_at[:10] > last for r in results if r.run.seed >= declared)
    return AddedSeeds(declared, tuple(added), last if is_later else "")


def runs_before(moment: str, by_variant: Mapping[str, list[RunRecord]], study: Study) -> int:
    """Count the runs of declared comparisons and the baseline that started before the moment (ISO 8601, UTC), as far as known."""
    compared = (study.baseline, *study.confirmatory)
    results = [record for name in compared for record in by_variant.get(name, ())]
    return sum(bool(record.started_at) and record.started_at < moment for record in results)
