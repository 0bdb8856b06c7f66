"""Prepare data before runs execute: load it once, describe it, and find results that rest on other data."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from ablations.execution.progress import say, warn
from ablations.execution.worker import load_cached, network_size
from ablations.records import RunRecord
from ablations.runs import Run, by_part, parse_overrides
from nin.data import ImageData, shape
from nin.registry import added, naming_additions
from nin.sizes import NetworkSize, require_effect, unread_fields
from nin.sources import can_change
from nin.spec import DataSpec


def prepare(runs: Sequence[Run], console: Console) -> dict[str, NetworkSize]:
    """Load the data of runs, so that workers find it, and print notes on it; returns network sizes by run_id.

    Raises ValueError for a run that names or combines what cannot be built.
    """
    sizes: dict[Run, NetworkSize] = {}
    seen = set[str]()
    variants: dict[Hashable, Run] = {}
    for run in dict.fromkeys(replace(run, seed=0) for run in runs):
        with naming_additions(f"variant {run.variant!r}", added(run.settings)):
            data = load_cached(run.data, "cpu")
            sizes[run] = network_size(run, data)
            same = list(_same_network(run, data, variants))
        summary, remarks = data.notes[:1], [*data.remarks, *_remarks(run, data), *same]
        for line in (line for line in summary if line not in seen):
            say(console, line)
        for line in (line for line in remarks if line not in seen):
            warn(line)
        seen.update([*summary, *remarks])
    return {run.run_id: sizes[replace(run, seed=0)] for run in runs}


def _remarks(run: Run, data: ImageData) -> list[str]:
    num_images = len(data.train.labels)
    if run.train.batch_size <= num_images:
        return []
    return [
        f"train.batch_size={run.train.batch_size:,} is more than the {num_images:,} training images of {data.name}: "
        "every step takes all of them"
    ]


def _same_network(run: Run, data: ImageData, variants: dict[Hashable, Run]) -> Iterator[str]:
    """Say so if the run's network and training are those of another variant, but for fields that have no effect on it.

    variants  the first run of each network and training so far; the run's is added
    """
    unread = unread_fields(run.model, data.in_shape, data.num_classes)
    parts = {name: value for name, value in vars(run.model).items() if name not in unread}
    other = variants.setdefault((run.study, *parts.items(), run.data, run.train.effective), run)
    names = [key for key, value in run.settings.items() if other.settings[key] != value]
    if other.variant != run.variant:
        yield (
            f"variants {other.variant!r} and {run.variant!r} of {run.study} are the same network and training: {', '.join(names)} "
            f"would change nothing in trunk {run.model.trunk!r} with head {run.model.head!r}, or in this training"
        )


def require_effects(runs: Iterable[Run], overrides: Iterable[str]) -> None:
    """Raise ValueError for a change of the network ("model.num_1x1=3") that changes none of the runs."""
    changes = by_part(parse_overrides(overrides))["model"]
    networks = {run.model: run.data for run in runs} if changes else {}
    require_effect(changes, ((model, *shape(data)) for model, data in networks.items()))


def of_other_data(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Select results that were trained on other data than the name stands for now.

    A data set that cannot be loaded any more is a warning: its results are all that is left.
    """
    load_cached.cache_clear()  # in a notebook, files may have changed since the last call
    by_data: dict[DataSpec, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.is_result and record.data_checksum and can_change(record.run.data.name):
            by_data[record.run.data.for_seed(record.run.seed)].append(record)
    found: list[RunRecord] = []
    unknown = set[str]()
    for spec, results in by_data.items():
        try:
            checksum = load_cached(spec, "cpu").checksum
        except ValueError as error:
            if spec.name not in unknown:
                warn(f"cannot check whether existing results match {spec.name} as it is now: {error}")
            unknown.add(spec.name)
        else:
            found += [record for record in results if record.data_checksum != checksum]
    return found
