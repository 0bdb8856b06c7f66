"""Records of runs, and the folder that keeps them: `<results>/<study>/<protocol>/runs/<run_id>.json`, and beside it
`weights/<run_id>.safetensors` where weights were requested. Results of data that have changed since, or without a memory that a
study is about, move to `superseded/`, which nothing reads.

Records are written whole or not at all; a reader never sees half of one. `runs_frame` and `curves_frame` make the tables
that plots, reports and people read.
"""

import base64
import json
import math
import time
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dacite
import numpy as np
from numpy.typing import NDArray

from ablations.runs import AUTO_IDENTITY, Run
from nin.files import TEMPORARY, write_atomically
from nin.history import Evaluation
from nin.text import one_line

if TYPE_CHECKING:
    import pandas as pd

RESULTS = ("finished", "diverged", "collapsed")  # outcomes that are kept; "failed" is tried again
TRIALS = ("paused", "pruned", "learned")  # statuses of tuning trials, which are never results
NAN = math.nan
ABANDONED_SEC = 3600.0  # after which no process is still writing one
OVERRIDES = "settings.json"  # what --set changed in published runs
PROVENANCE = "PROVENANCE.md"  # the mark of a folder of published results, which nothing is trained into


@dataclass(frozen=True)
class RunRecord:
    """One run and its result. Accuracies are fractions, losses mean cross-entropy in nats.

    status           one of RESULTS; "failed", where error says why and error_detail where (a traceback); one of TRIALS in tuning
    gflops           forward pass of one image, 2 per multiply-accumulate, in 10^9
    train_accuracy   in evaluation mode after the last step, on the first training images, as many as there are test images; a training
                     shorter than a pass has not seen all of them
    val_accuracy     the last point of the curve
    test_correct     which test images are right: bits, packed, base64 (`test_correctness` unpacks them)
    prediction_memory_bytes  of predicting one batch, as `nin.memory.prediction_memory` measures it; 0 if it was not measured
    shifted_accuracy  on the test images, each shifted by SHIFT pixels (`nin.shift`); nan if it was not measured
    train_seconds    training alone; wall_seconds also evaluation and preparation, of a resumed run only those since
    peak_memory_bytes  of training, as `nin.memory.training_memory` measures it; 0 if it was not measured
    environment      device, precision, versions, host and commit that the run was executed with
    """

    run: Run
    run_id: str
    status: str
    params_trunk: int
    params_head: int
    gflops: float
    environment: dict[str, str]
    error: str = ""
    error_detail: str = ""
    train_accuracy: float = NAN
    val_accuracy: float = NAN
    test_accuracy: float = NAN
    test_loss: float = NAN
    dead_classes: int = 0
    test_correct: str = ""
    test_examples: int = 0
    data_checksum: str = ""
    examples_seen: int = 0
    peak_memory_bytes: int = 0
    prediction_memory_bytes: int = 0
    shifted_accuracy: float = NAN
    train_seconds: float = NAN
    wall_seconds: float = NAN
    started_at: str = ""
    curve: list[Evaluation] = field(default_factory=list)

    @property
    def is_result(self) -> bool:
        """Return whether the outcome is kept; a failed run is tried again."""
        return self.status in RESULTS

    @property
    def learned(self) -> bool:
        """Return whether the run neither collapsed nor diverged, and predicts every class."""
        return self.status == "finished" and self.dead_classes == 0

    @property
    def precision(self) -> str:
        """The precision that the run was computed in. Records from before it was kept had what protocols asked for then."""
        requested = self.run.train.precision
        return self.environment.get("precision") or (AUTO_IDENTITY if requested == "auto" else requested)

    @property
    def params(self) -> int:
        """All trainable parameters."""
        return self.params_trunk + self.params_head

    @property
    def peak_memory_mb(self) -> float:
        """Peak memory of training in MB; nan if it was not measured."""
        return self.peak_memory_bytes / 1e6 if self.peak_memory_bytes else NAN

    @property
    def prediction_memory_mb(self) -> float:
        """Peak memory of predicting a batch in MB; nan if it was not measured."""
        return self.prediction_memory_bytes / 1e6 if self.prediction_memory_bytes else NAN

    @property
    def examples_given(self) -> int:
        """Training images that the run was to see. One that diverged saw fewer, and did not learn the faster for it."""
        if self.status != "diverged" or not self.curve:
            return self.examples_seen
        return self.run.train.images(self.curve[-1].images_per_epoch)

    @property
    def generalization_gap(self) -> float:
        """Train minus test accuracy, both in evaluation mode after the last step."""
        return self.train_accuracy - self.test_accuracy

    def reached(self, target: float) -> Evaluation | None:
        """Find the first evaluation with validation accuracy >= target; None if there is none, or the run collapsed."""
        points = () if self.status == "collapsed" else self.curve
        return next((point for point in points if point.val_accuracy >= target), None)

    def examples_to_target(self, target: float) -> float:
        """Training images seen when the target was `reached`; infinite if it was not."""
        point = self.reached(target)
        return float(point.examples) if point else math.inf

    def test_correctness(self) -> NDArray[np.bool_]:
        """(test_examples,) bool: which test images the trained network gets right."""
        packed = np.frombuffer(base64.b64decode(self.test_correct), dtype=np.uint8)
        return np.unpackbits(packed, count=self.test_examples).astype(bool)


class Executed(NamedTuple):
    """A worker's result for a run: its record and, if requested, its weights in the format of `nin.weights`."""

    record: RunRecord
    weights: bytes = b""


def pack_correctness(correct: NDArray[np.bool_]) -> str:
    """The inverse of `RunRecord.test_correctness`."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


class Store:
    """The records of one study under one protocol; with `keep_weights`, a run is done when its weights are kept too."""

    def __init__(self, results: Path, study: str, protocol: str, keep_weights: bool = False) -> None:
        self.keep_weights = keep_weights
        self.folder = results / study / protocol
        self.runs_folder = self.folder / "runs"
        self.weights_folder = self.folder / "weights"
        self.checkpoints_folder = self.folder / "checkpoints"
        self.superseded_folder = self.folder / "superseded"

    @property
    def is_published(self) -> bool:
        """Return whether these are published results, which never count as finished runs."""
        return (self.folder / PROVENANCE).exists()

    def require_unpublished(self) -> None:
        """Raise ValueError for published results."""
        if self.is_published:
            raise ValueError(
                f"--results {self.folder.parents[1]}: published results, which are never added to; choose another folder"
            )

    def write(self, record: RunRecord, weights: bytes = b"") -> None:
        """Write `record` after its weights, if any, replacing an earlier one of the run; a result's checkpoint is removed.

        A result in another precision, which "auto" and "bf16" can have under one identity, is set aside with its own weights.

        weights  the content of a safetensors file (`nin.weights`)
        """
        with suppress(ValueError):  # what is damaged is replaced
            earlier = self.read(record.run_id)
            if earlier is not None and earlier.is_result and earlier.precision != record.precision:
                self.set_aside(earlier)
        if weights:
            write_atomically(self._weights_path(record.run_id), weights)
        write_atomically(self._path(record.run_id), json.dumps(asdict(record), indent=1))
        if record.is_result:
            self.drop_checkpoints([record.run_id])

    def checkpoint(self, run_id: str) -> Path:
        """Path of the run's checkpoint during training, written by the worker (`ablations.execution.worker`)."""
        return self.checkpoints_folder / f"{run_id}.pt"

    def drop_checkpoints(self, run_ids: Container[str]) -> None:
        """Remove these runs' checkpoints, also half-written ones."""
        for file in self.checkpoints_folder.glob("*.pt*"):
            if file.name.partition(".")[0] in run_ids:
                file.unlink(missing_ok=True)

    def drop_leftovers(self) -> None:
        """Remove what writes of processes that were killed have left in the folders of records and weights."""
        for folder in (self.runs_folder, self.weights_folder):
            for file in folder.glob(".*"):
                with suppress(OSError):  # another driver was faster
                    if TEMPORARY.fullmatch(file.name) and time.time() - file.stat().st_mtime > ABANDONED_SEC:
                        file.unlink()

    def set_aside(self, record: RunRecord) -> None:
        """Move a result that is to be trained again out of the way, with its weights, into a folder named after data and precision."""
        on_disk = self.read_all([record.run])[0].get(record.run_id)
        if on_disk is None or (on_disk.data_checksum, on_disk.started_at) != (record.data_checksum, record.started_at):
            return  # another driver was here
        folder = self.superseded_folder / f"{record.data_checksum[:12]}-{record.precision}"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self._path(record.run_id), self._weights_path(record.run_id)):
            with suppress(FileNotFoundError):
                path.replace(folder / path.name)

    def has_weights(self, run_id: str) -> bool:
        """Return whether the run's weights are kept."""
        return self._weights_path(run_id).exists()

    def read(self, run_id: str) -> RunRecord | None:
        """The record of that run, or None if there is none. Raises ValueError if it is damaged."""
        path = self._path(run_id)
        try:
            record = dacite.from_dict(RunRecord, json.loads(path.read_text()), dacite.Config(strict=True))
            _require_sound(record)
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError, RecursionError, dacite.DaciteError) as error:
            raise ValueError(f"{path} is damaged ({one_line(error)}): its run will be trained again") from error
        if record.run_id != run_id or record.run.run_id != run_id:
            raise ValueError(f"{path} is not the record of its own run: that run will be trained again")
        return record

    def read_all(self, runs: Iterable[Run]) -> tuple[dict[str, RunRecord], list[str]]:
        """Records of those of `runs` that have one, by run_id, and a line for each that is damaged.

        Each record gets the run object from `runs`: the study may have renamed the variant since. A record in another precision than
        the one that a run names is none of its own: only "auto" takes any.
        """
        records: dict[str, RunRecord] = {}
        damaged: list[str] = []
        for run in runs:
            try:
                record = self.read(run.run_id)
            except ValueError as error:
                damaged.append(str(error))
                continue
            if record is not None and run.takes(record.precision):
                records[run.run_id] = replace(record, run=run)
        return records, damaged

    def is_done(self, run: Run) -> bool:
        """Return whether everything to be kept of the run is there."""
        return self.has_result(run) and self.has_wanted_weights(run.run_id)

    def has_wanted_weights(self, run_id: str) -> bool:
        """Return whether the run's weights are there, if they are to be kept."""
        return not self.keep_weights or self.has_weights(run_id)

    def has_result(self, run: Run) -> bool:
        """Return whether the run has a record that is a result."""
        record = self.read_all([run])[0].get(run.run_id)
        return record is not None and record.is_result

    def stamp(self, run: Run) -> tuple[int, int]:
        """Inode and mtime (ns) of the run's record, which change whenever a process writes it; (0, 0) without a record."""
        try:
            status = self._path(run.run_id).stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def run_ids(self) -> list[str]:
        """The runs that have a record, whatever its state."""
        return sorted(path.stem for path in self.runs_folder.glob("*.json"))

    def _path(self, run_id: str) -> Path:
        return self.runs_folder / f"{run_id}.json"

    def _weights_path(self, run_id: str) -> Path:
        return self.weights_folder / f"{run_id}.safetensors"


def _require_sound(record: RunRecord) -> None:
    """Raise ValueError for records that no training produces, so that later code need not expect them."""
    if record.status not in (*RESULTS, *TRIALS, "failed"):
        raise ValueError(f"unknown status {record.status!r}")
    right = base64.b64decode(record.test_correct, validate=True)
    if len(right) != -(-record.test_examples // 8):
        raise ValueError(f"{len(right)} bytes do not say which of {record.test_examples} test images are right")
    if record.is_result and not record.curve:
        raise ValueError("it has no learning curve")
    seen = [0, *(point.examples for point in record.curve)]
    if any(before >= after for before, after in pairwise(seen)) or any(point.epoch <= 0 for point in record.curve):
        raise ValueError("the points of its learning curve do not follow each other")
    if record.is_result and record.run.trial is None:  # trials read no test set
        if not 0 <= record.test_accuracy <= 1:
            raise ValueError(f"test accuracy {record.test_accuracy} is not between 0 and 1")
        if record.test_examples:
            share = sum(byte.bit_count() for byte in right) / record.test_examples
            if abs(share - record.test_accuracy) > 1 / record.test_examples:
                raise ValueError(
                    f"test accuracy {record.test_accuracy} is not that of the images it has right, {share:.4f}"
                )


def runs_frame(records: Iterable[RunRecord], target: float) -> "pd.DataFrame":
    """One row per run, in the columns of `runs.csv`; `target` is a validation accuracy (a fraction)."""
    import pandas as pd

    return pd.DataFrame(
        {
            "study": record.run.study,
            "protocol": record.run.protocol,
            "variant": record.run.variant,
            "role": record.run.role,
            "length": record.run.length,
            "seed": record.run.seed,
            "run_id": record.run_id,
            "status": record.status,
            "params": record.params,
            "params_trunk": record.params_trunk,
            "params_head": record.params_head,
            "gflops": record.gflops,
            "train_accuracy": record.train_accuracy,
            "val_accuracy": record.val_accuracy,
            "test_accuracy": record.test_accuracy,
            "test_loss": record.test_loss,
            "generalization_gap": record.generalization_gap,
            "dead_classes": record.dead_classes,
            "learned": record.learned,
            "examples_seen": record.examples_seen,
            "examples_to_target": record.examples_to_target(target),
            "peak_memory_mb": record.peak_memory_mb,
            "prediction_memory_mb": record.prediction_memory_mb,
            "shifted_accuracy": record.shifted_accuracy,
            "train_seconds": record.train_seconds,
            "wall_seconds": record.wall_seconds,
            "device": record.environment.get("device", ""),
            "error": record.error,
        }
        for record in records
    )


def curves_frame(records: Iterable[RunRecord]) -> "pd.DataFrame":
    """One row per evaluation of each run, in the columns of `curves.csv`."""
    import pandas as pd

    return pd.DataFrame(
        {
            "run_id": record.run_id,
            "variant": record.run.variant,
            "length": record.run.length,
            "seed": record.run.seed,
            **asdict(point),
        }
        for record in records
        for point in record.curve
    )
