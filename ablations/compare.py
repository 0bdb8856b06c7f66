"""Two folders of results, run by run: is a run that both have identical, and how do runs of the same name differ?"""

import math
from dataclasses import asdict

from ablations.records import RunRecord, Store
from ablations.study import Run

ASIDE = {
    "environment",
    "train_seconds",
    "wall_seconds",
    "started_at",
    "curve",
    "error_detail",
    "run",
}  # times and places


def compare_folders(store: Store, other: Store) -> list[dict[str, object]]:
    """Two folders run by run: the same run_id, identical or what differs; else the same variant and seed, and its settings."""
    ours = {run_id: store.read(run_id) for run_id in store.run_ids()}
    theirs = {run_id: other.read(run_id) for run_id in other.run_ids()}
    by_label = {record.run.label: record for record in theirs.values() if record}
    rows: list[dict[str, object]] = []
    for run_id, record in ours.items():
        assert record is not None
        same, alike = theirs.get(run_id), by_label.get(record.run.label)
        if same is not None:
            kind, said = "same run", _result_differences(record, same)
        elif alike is not None:
            kind, said = "same variant, other settings", _settings_differences(record.run, alike.run)
        else:
            kind, said = "only here", ""
        partner = same or alike
        theirs_accuracy = f"{partner.test_accuracy:.4f}" if partner else ""
        rows.append(
            {
                "run": record.run.label,
                "": kind,
                "here": f"{record.test_accuracy:.4f}",
                "there": theirs_accuracy,
                "differs in": said,
            }
        )
    labels = {record.run.label for record in ours.values() if record}
    rows += [
        {"run": label, "": "only there", "here": "", "there": f"{record.test_accuracy:.4f}", "differs in": ""}
        for label, record in by_label.items()
        if label not in labels
    ]
    return sorted(rows, key=lambda row: str(row["run"]))


def _result_differences(ours: RunRecord, theirs: RunRecord) -> str:
    """Names of what is not identical in two records of one run, times and places aside."""
    a, b = asdict(ours), asdict(theirs)
    names_ = [key for key in a if key not in ASIDE and a[key] != b[key] and not (_is_nan(a[key]) and _is_nan(b[key]))]
    curves = [[{k: v for k, v in point.items() if k != "seconds"} for point in record["curve"]] for record in (a, b)]
    return ", ".join(names_ + (["curve"] if curves[0] != curves[1] else [])) or "nothing: identical"


def _settings_differences(ours: Run, theirs: Run) -> str:
    differences = []
    for part in ("model", "data", "train"):
        a, b = asdict(getattr(ours, part)), asdict(getattr(theirs, part))
        differences += [f"{part}.{key} {a[key]} / {b[key]}" for key in a if a[key] != b[key]]
    return ", ".join(differences) or "trainer version"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
