"""Log metrics, parameters, tags and data sets of runs in MLflow."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from ablations.records import RunRecord
from ablations.runs import Run
from ablations.tracking.metrics import Metrics, curve_metrics, final_metrics, over_seeds
from nin.history import Evaluation
from nin.text import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000  # metrics in one request, the most that MLflow takes
MAX_TAG = 5000  # characters
MAX_DIGEST = 36  # characters of a data set's checksum

Row = tuple[Metrics, int, float]  # metrics after so many examples and seconds of training


@dataclass
class Node:
    """A run in MLflow, as far as it is known here. `started` is in milliseconds since 1970; `data` is its checksum's start."""

    mlflow_id: str
    tags: dict[str, str]
    status: str
    started: int
    has_metrics: bool = False
    logged: set[int] = field(default_factory=set)  # points of the curve that were sent, by examples
    data: str = ""

    @property
    def is_running(self) -> bool:
        """Return whether MLflow holds the run as running."""
        return self.status == "RUNNING"


def log_curve(client: "MlflowClient", node: Node, points: Iterable[Evaluation]) -> None:
    """Log the points that have not been sent."""
    new = [point for point in points if point.examples not in node.logged]
    log_metrics(client, node, [(curve_metrics(point), point.examples, point.seconds) for point in new])
    node.logged.update(point.examples for point in new)


def log_metrics(client: "MlflowClient", node: Node, rows: Iterable[Row]) -> None:
    """Log metrics; those that are not finite are left out, because MLflow has no infinity."""
    from mlflow.entities import Metric

    metrics = [
        Metric(key, value, node.started + round(1000 * seconds), examples)
        for row, examples, seconds in rows
        for key, value in row.items()
        if math.isfinite(value)
    ]
    for first in range(0, len(metrics), BATCH):
        client.log_batch(node.mlflow_id, metrics=metrics[first : first + BATCH])


def log_params(client: "MlflowClient", mlflow_id: str, params: Mapping[str, object]) -> None:
    """Log parameters, which MLflow never changes."""
    from mlflow.entities import Param

    client.log_batch(mlflow_id, params=[Param(key, str(value)) for key, value in params.items()])


def log_data(client: "MlflowClient", node: Node, records: Iterable[RunRecord]) -> None:
    """Log data sets as inputs of a run: name and checksum, no data."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = [InputTag("mlflow.data.context", "training")]
    client.log_inputs(
        node.mlflow_id,
        [
            DatasetInput(Dataset(name, checksum[:MAX_DIGEST], "local", json.dumps({"name": name})), context)
            for name, checksum in {(record.run.data.name, record.data_checksum) for record in records}
        ],
    )


def set_tags(client: "MlflowClient", node: Node, tags: Mapping[str, str]) -> None:
    """Set the tags that are not empty, without credentials and cut to what MLflow takes."""
    from mlflow.entities import RunTag

    given = {key: redacted(value)[:MAX_TAG] for key, value in tags.items() if value}
    client.log_batch(node.mlflow_id, tags=[RunTag(key, value) for key, value in given.items()])
    node.tags |= given


def parameters(run: Run) -> dict[str, object]:
    """The run's settings, with the precision that was requested; the tag "precision" names the one that was used."""
    return {**run.settings, "train.precision": run.train.precision}


def shared_parameters(records: Sequence[RunRecord]) -> dict[str, object]:
    """The settings that all these runs share."""
    first, *others = (parameters(record.run) for record in records)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def mean_rows(records: Sequence[RunRecord], target: float) -> list[Row]:
    """Means over seeds, under the names of a seed's own metrics; at each point, over the seeds that have come so far."""
    points: dict[int, list[Evaluation]] = defaultdict(list)  # by examples
    for point in (point for record in records for point in record.curve):
        points[point.examples].append(point)
    curve = [
        (over_seeds([curve_metrics(point) for point in each]), examples, fmean(point.seconds for point in each))
        for examples, each in points.items()
    ]
    finals = over_seeds([final_metrics(record, target) for record in records])
    return [*curve, ({**finals, "num_seeds": len(records)}, 0, finals["train_seconds"])]


def mean_accuracies(records: Sequence[RunRecord]) -> Metrics:
    """Mean test accuracy of each variant, and the number of runs."""
    accuracies: dict[str, list[float]] = defaultdict(list)
    for record in records:
        accuracies[_metric_name(record.run.name)].append(record.test_accuracy)
    means = {f"test_accuracy/{name}": fmean(each) for name, each in accuracies.items()}
    return {**means, "num_runs": len(records)}


def _metric_name(name: str) -> str:
    """The name in characters that MLflow takes."""
    return re.sub(r"[^\w. -]+", " ", name)


def short_digest(parts: Iterable[bytes]) -> str:
    """Return 16 hexadecimal digits that differ if the parts do."""
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]
