"""Name the metrics that trackers log. Slashes make the sections of charts."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from ablations.records import RunRecord
from nin.history import Evaluation

Metrics = dict[str, float]


def curve_metrics(point: Evaluation) -> Metrics:
    """Metrics of one point of a learning curve."""
    return {
        "train/loss": point.train_loss,
        "train/accuracy": point.train_accuracy,
        "val/loss": point.val_loss,
        "val/accuracy": point.val_accuracy,
        "val/dead_classes": float(point.dead_classes),
    }


def final_metrics(record: RunRecord, target: float) -> Metrics:
    """Metrics of a whole run, the same keys for every run.

    Where the target was missed, `convergence/reached` is 0, and the images to it are all that the run was given.
    """
    examples = record.examples_to_target(target)
    return {
        "test/accuracy": record.test_accuracy,
        "test/loss": record.test_loss,
        "generalization_gap": record.generalization_gap,
        "dead_classes": float(record.dead_classes),
        "params/total": float(record.params),
        "params/trunk": float(record.params_trunk),
        "params/head": float(record.params_head),
        "gflops": record.gflops,
        "peak_memory_mb": record.peak_memory_mb,
        "convergence/examples_to_target": min(examples, float(record.examples_given)),
        "convergence/reached": float(math.isfinite(examples)),
        "train_seconds": record.train_seconds,
    }


def over_seeds(metrics: Sequence[Metrics]) -> Metrics:
    """Means, and the standard deviations of accuracies on data not trained on, if there are two seeds or more."""
    means = {key: fmean(each[key] for each in metrics) for key in metrics[0]}
    spread = {"val/accuracy", "test/accuracy"} & means.keys() if len(metrics) > 1 else ()
    return means | {f"{key}_sd": stdev(each[key] for each in metrics) for key in spread}
