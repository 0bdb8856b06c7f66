"""Numbers of others to lay beside ours: whole runs of the same settings, and anchors from other data.

Both come as tables in the folder of the studies that they belong to.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import ablations.studies
from ablations.analysis import stats
from ablations.records import RunRecord
from ablations.study import Study

PUBLISHED = Path(ablations.studies.__path__[0])
ANCHORS = PUBLISHED / "published.csv"


def anchors(study: Study) -> pd.DataFrame:
    """Published numbers on the study's question, from other networks and other data; mostly single runs.

    Columns: group (rows that belong together), setting, measure, value (in %), data, source, note. Empty where there is nothing.
    """
    table = pd.read_csv(ANCHORS, comment="#", keep_default_na=False)
    is_ours = table["study"].str.split().map(lambda names: study.cli_name in names)
    return table[is_ours].drop(columns="study").reset_index(drop=True)


def published_runs(study: Study, protocol: str) -> pd.DataFrame:
    """Runs that others have published, a row each: variant, train_loss, test_accuracy; empty where the study names none."""
    file = PUBLISHED / study.published.file if study.published and study.published.protocol == protocol else None
    if study.published is None or file is None or not file.exists():
        return pd.DataFrame(columns=["variant", "train_loss", "test_accuracy"])
    table = pd.read_csv(file, comment="#")
    names = {network: variant for variant, network in study.published.networks.items()}
    return table.assign(variant=table["network"].map(names)).dropna(subset=["variant"])


def beside_published(study: Study, protocol: str, by_variant: Mapping[str, list[RunRecord]]) -> pd.DataFrame:
    """Our runs of each variant beside those that others have published; empty where the study names none."""
    rows: list[dict[str, object]] = []
    theirs_by_variant = published_runs(study, protocol).groupby("variant")
    for name, theirs in theirs_by_variant:
        group = by_variant.get(str(name), [])
        if not group or study.published is None:
            continue
        accuracy = np.array([r.test_accuracy for r in group])
        loss = np.array([r.curve[-1].train_loss for r in group])
        row: dict[str, object] = {"variant": name}
        for side, values in (("ours", accuracy), ("theirs", theirs["test_accuracy"].to_numpy())):
            row |= {f"n_{side}": len(values), f"median_{side}": np.median(values), f"mean_{side}": np.mean(values)}
            row[f"sd_{side}"] = np.std(values, ddof=1) if len(values) > 1 else math.nan
        finite = np.isfinite(loss)
        tests = {
            "p": stats.same_distribution(accuracy, theirs["test_accuracy"]),
            "p_loss": stats.same_distribution(loss[finite], theirs["train_loss"].dropna()),
        }
        row |= {f"{measure}_{test}": p for measure, each in tests.items() for test, p in each.items()}
        limit = study.published.failed_loss.get(str(name))
        if limit is not None:
            failed = [int((~(values < limit)).sum()) for values in (loss, theirs["train_loss"].to_numpy())]
            row |= {"failed_ours": failed[0], "failed_theirs": failed[1]}
            row["p_failed"] = stats.fisher_p(failed[0], len(group), failed[1], len(theirs))
        rows.append(row)
    return pd.DataFrame(rows)
