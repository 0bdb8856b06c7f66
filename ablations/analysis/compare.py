"""Compare two results folders run by run: list differences of shared runs, and of runs with the same name."""

import json
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import zip_longest

from ablations.records import RunRecord, Store
from ablations.runs import Run

ASIDE = {"run", "environment", "train_seconds", "wall_seconds", "started_at", "error_detail"}  # times and places
IDENTICAL = "nothing: identical"
# What of an environment can change a result, by what a person calls it
REASONS = {
    "precision": "precision",
    "device": "processor",
    "threads": "threads",
    "torch": "torch",
    "cuda": "CUDA",
    "plugins": "added code",
    "commit": "commit",
}
Row = dict[str, object]


def compare_folders(store: Store, other: Store) -> tuple[list[Row], list[str]]:
    """Compare two folders run by run; return a row per run, and a line for each difference in machine or versions.

    Rows are of the same run_id, identical or what differs; else of the same variant and seed, and their settings. A run that only one
    folder has is a row of its own, and so is a record that cannot be read. Lines are of runs that both folders have: "torch: 2.12 /
    2.13 (30 runs)".
    """
    ours, rows = _read(store, "here")
    theirs, more = _read(other, "there")
    pairs = [(ours.pop(run_id), theirs.pop(run_id)) for run_id in sorted(ours.keys() & theirs.keys())]
    rows += more + [_same_run(here, there) for here, there in pairs]
    counts = Counter(difference for pair in pairs for difference in _environment_differences(*pair))
    lines = [f"{name}: {here} / {there} ({count} runs)" for (name, here, there), count in counts.most_common()]
    by_label: dict[str, tuple[list[RunRecord], list[RunRecord]]] = defaultdict(lambda: ([], []))
    for side, records in enumerate((ours, theirs)):
        for record in records.values():
            by_label[record.run.label][side].append(record)
    for alike in by_label.values():
        for left, right in zip_longest(*alike):
            if left and right:
                differences = _settings_differences(left.run, right.run)
                rows.append(_row("same variant, other settings", left, right, differences))
            else:
                rows.append(_row("only here" if left else "only there", left, right, ""))
    return sorted(rows, key=_by_variant_and_seed), lines


def _same_run(here: RunRecord, there: RunRecord) -> Row:
    """Return the row of a run that both folders have.

    If precisions differ, it names only them. If results differ, it also names hardware and versions that differ, the likely cause.
    """
    others = ", ".join(name for name, _, _ in _environment_differences(here, there))
    if here.precision != there.precision:
        return _row("same run, another precision", here, there, f"precision {here.precision} / {there.precision}")
    differences = _result_differences(here, there)
    if differences == IDENTICAL:
        return _row("same run", here, there, differences)
    why = f"another {others}" if others else "same processor and versions"
    return _row("same run", here, there, f"{differences} ({why})")


def _environment_differences(here: RunRecord, there: RunRecord) -> list[tuple[str, str, str]]:
    """List what can change a result and differs: its name, here, there."""
    ours, theirs = ({**side.environment, "precision": side.precision} for side in (here, there))
    known = [(name, ours.get(key) or "unknown", theirs.get(key) or "unknown") for key, name in REASONS.items()]
    return [(name, left, right) for name, left, right in known if left != right]


def _read(store: Store, side: str) -> tuple[dict[str, RunRecord], list[Row]]:
    """The folder's records by run_id, and a row for each that cannot be read."""
    records: dict[str, RunRecord] = {}
    unreadable: list[Row] = []
    for run_id in store.run_ids():
        try:
            record = store.read(run_id)
        except ValueError as error:
            cause = str(error).removeprefix(f"{store.runs_folder / run_id}.json is ").partition(":")[0]
            unreadable.append({"run": run_id, "": f"unreadable {side}", "here": "", "there": "", "differs in": cause})
        else:
            if record is not None:
                records[run_id] = record
    return records, unreadable


def _row(kind: str, here: RunRecord | None, there: RunRecord | None, differences: str) -> Row:
    record = here or there
    assert record is not None
    accuracies = [f"{side.test_accuracy:.4f}" if side else "" for side in (here, there)]
    return {
        "run": record.run.label,
        "": kind,
        "here": accuracies[0],
        "there": accuracies[1],
        "differs in": differences,
    }


def _by_variant_and_seed(row: Row) -> tuple[str, int]:
    """ "2x seed 10" comes after "2x seed 9"."""
    variant, _, seed = str(row["run"]).rpartition(" seed ")
    return variant, int(seed) if variant else -1


def _result_differences(here: RunRecord, there: RunRecord) -> str:
    """Names of what is not identical in two records of one run, apart from times and machines."""
    ours, theirs = _results(here), _results(there)
    return ", ".join(key for key in ours if ours[key] != theirs[key]) or IDENTICAL


def _results(record: RunRecord) -> dict[str, str]:
    """Every field but times and machines, as JSON, in which nan equals nan."""
    fields = asdict(record)
    for point in fields["curve"]:
        del point["seconds"]
    return {key: json.dumps(value) for key, value in fields.items() if key not in ASIDE}


def _settings_differences(here: Run, there: Run) -> str:
    ours, theirs = here.settings, there.settings
    differences = [f"{key} {ours[key]} / {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    return ", ".join(differences) or ("added code" if here.code != there.code else "version of the trainer")
