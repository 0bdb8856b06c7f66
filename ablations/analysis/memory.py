"""Lines through peak memory against the batch, beside what counting weights and activations says."""

from collections.abc import Mapping

import pandas as pd
from scipy.stats import linregress

from ablations.records import RunRecord
from nin.data import shape
from nin.memory import activation_bytes
from nin.spec import TrainSpec

MEASURES = {"training": "peak_memory_bytes", "prediction": "prediction_memory_bytes"}  # fields of RunRecord
MIN_BATCHES = 3  # through two points there is always a line


def state_copies(train: TrainSpec) -> int:
    """Numbers that training keeps of each weight: itself, its gradient, and what the optimiser has."""
    return 2 + (2 if train.optimizer == "adamw" else 1 if train.momentum else 0)


def memory_lines(by_variant: Mapping[str, list[RunRecord]], task: str) -> pd.DataFrame:
    """Least squares of peak memory (MB) on the batch, for each network: a fixed part and a slope per image, in MB.

    Beside them stands what counting alone says: weights in float32, for training also gradients and moments; and all activations
    of one image, of which prediction keeps few at a time.
    """
    measure = MEASURES[task]
    networks: dict[tuple[str, int], list[RunRecord]] = {}
    for name, group in by_variant.items():
        measured = [record for record in group if getattr(record, measure)]
        if measured:
            networks.setdefault((name.rpartition(" ")[0], measured[0].params), []).append(measured[0])
    rows = []
    for (network, params), records in networks.items():
        run = records[0].run
        batches = [record.run.train.batch_size for record in records]
        if len(batches) < MIN_BATCHES:
            continue
        peaks = [getattr(record, measure) / 1e6 for record in records]
        fit = linregress(batches, peaks)
        copies = 1 if task == "prediction" else state_copies(run.train)
        counted = activation_bytes(run.model, *shape(run.data), records[0].precision, is_training=task == "training")
        rows.append(
            {
                "network": network,
                "params": params,
                "batches": f"{min(batches)} to {max(batches)}",
                "fixed_mb": fit.intercept,
                "per_image_mb": fit.slope,
                "r_squared": fit.rvalue**2 if len(set(peaks)) > 1 else 0.0,  # a peak that stays the same does not grow
                "state_mb": copies * 4 * params / 1e6,
                "activations_mb": counted / 1e6,
            }
        )
    return pd.DataFrame(rows)
