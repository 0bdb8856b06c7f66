"""MLflow, and the only importer of it. Only the driver calls this, so a database has one writer.

Experiment `nin-ablations/<study>` holds one run per protocol (level "study"), under it one per variant with means over seeds as
curves, under each one per seed. So the UI compares variants, and a variant opens into its seeds. Steps are training examples.

Tracking never stops a study: the records on disk are the truth. Whatever MLflow raises is one warning, after which nothing more
is sent; `sync`, at the end of this call or of the next, logs what is missing, once.
"""

import functools
import logging
import math
import os
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from ablations.records import RunRecord
from ablations.study import Run, Study
from nin.history import Evaluation

if TYPE_CHECKING:
    from mlflow.entities import Run as LoggedRun

P = ParamSpec("P")
Tags = dict[str, str]

SEED, VARIANT, STUDY = "seed", "variant", "study"  # levels of the tree
PARENT = "mlflow.parentRunId"
ENDED = {"finished": "FINISHED", "diverged": "FINISHED", "collapsed": "FINISHED", "failed": "FAILED"}
DEFAULTS = {  # where the user has not said otherwise
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Tracker:
    """Tracks nothing. What the driver tells it is what `MlflowTracker` logs."""

    def run_started(self, run: Run) -> None:
        """A worker has begun the run."""

    def run_progressed(self, run: Run, point: Evaluation) -> None:
        """The run has reached its next evaluation."""

    def run_ended(self, record: RunRecord) -> None:
        """The run has ended, as a result or not."""

    def sync(self, records: Iterable[RunRecord]) -> None:
        """Log every record that is not logged yet, and the means over seeds of variants that have changed."""

    def add_files(self, folder: Path) -> None:
        """Keep the study's report, tables and figures as artifacts."""

    def close(self, status: str) -> None:
        """End what is still open: "FINISHED" or "KILLED"."""

    def links(self) -> list[str]:
        """Lines that say where to look."""
        return []


def open_tracker(results: Path, study: Study, protocol: str, warn: Callable[[str], None]) -> Tracker:
    """MLflow at MLFLOW_TRACKING_URI, else in `<results>/mlflow.db`; a no-op, with a warning, if that cannot be had."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results / 'mlflow.db'}"
    try:
        return MlflowTracker(uri, results, study, protocol, warn)
    except ImportError:
        warn("MLflow is not installed: runs are recorded on disk only")
    except Exception as error:
        warn(f"MLflow at {redacted(uri)} cannot be used ({_one_line(error)}): runs are recorded on disk only")
    return Tracker()


def redacted(text: str) -> str:
    """The text without the password of any URI in it."""
    return re.sub(r"(\w+://[^\s:/@]*):[^\s@]*@", r"\1:***@", text)


def guarded(method: Callable[P, None]) -> Callable[P, None]:
    """A method that turns whatever MLflow raises into one warning, and does nothing from then on."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        tracker: Any = args[0]
        if tracker.broken:
            return
        try:
            method(*args, **kwargs)
        except Exception as error:
            tracker.broken = True
            tracker.warn(
                f"MLflow stopped answering ({_one_line(error)}): training goes on, records are complete, "
                "and the next call of the same command brings MLflow up to date"
            )

    return call


class MlflowTracker(Tracker):
    """One study under one protocol in MLflow; found again and continued if it is there already."""

    def __init__(self, uri: str, results: Path, study: Study, protocol: str, warn: Callable[[str], None]) -> None:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri, self.study, self.protocol, self.warn = uri, study, protocol, warn
        self.broken = False
        self._target = study.target(protocol)
        self._client: MlflowClient = MlflowClient(tracking_uri=uri)
        artifacts = (results / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
        self._experiment = self._find_or_create_experiment(f"nin-ablations/{study.name}", artifacts)
        self._variants: dict[str, str] = {}  # MLflow's ids by variant; by run_id in the next two
        self._open: dict[str, str] = {}
        self._ended: set[str] = set()
        self._parent = self._find_tree()

    @guarded
    def run_started(self, run: Run) -> None:
        """A run of its own, visible from now on."""
        self._start(run)

    @guarded
    def run_progressed(self, run: Run, point: Evaluation) -> None:
        """One batch of metrics per evaluation."""
        self._log(self._open[run.run_id], point.examples, _curve_metrics(point))

    @guarded
    def run_ended(self, record: RunRecord) -> None:
        """The final metrics and the status; from the record's curve if the run is not there yet."""
        if record.run_id in self._ended:
            return
        if record.run_id not in self._open:
            self._start(record.run)
            for point in record.curve:
                self._log(self._open[record.run_id], point.examples, _curve_metrics(point))
        mlflow_id = self._open.pop(record.run_id)
        if record.is_result:
            self._log(mlflow_id, record.examples_seen, _final_metrics(record, self._target))
            self._log_dataset(mlflow_id, record)
        self._client.set_tag(mlflow_id, "status", record.status)
        self._client.set_tag(mlflow_id, "device", record.environment.get("device", ""))
        if record.error:
            self._client.set_tag(mlflow_id, "error", redacted(record.error))
        self._client.set_terminated(mlflow_id, ENDED[record.status])
        if record.is_result:
            self._ended.add(record.run_id)

    @guarded
    def sync(self, records: Iterable[RunRecord]) -> None:
        """Exactly one ended run for each result; a variant's means are made anew if its seeds are not those they were of."""
        by_variant: dict[str, list[RunRecord]] = defaultdict(list)
        for record in records:
            if record.is_result:
                self.run_ended(record)
                by_variant[record.run.variant].append(record)
        for variant, seeds in by_variant.items():
            self._log_means(variant, sorted(seeds, key=lambda record: record.run.seed))

    @guarded
    def add_files(self, folder: Path) -> None:
        """report.md, report.html, the tables, and the figures under figures/."""
        for path in sorted(folder.glob("*.*")):
            self._client.log_artifact(self._parent, str(path))
        if (folder / "figures").is_dir():
            self._client.log_artifacts(self._parent, str(folder / "figures"), "figures")

    @guarded
    def close(self, status: str) -> None:
        """No run is left open."""
        for mlflow_id in self._open.values():
            self._client.set_terminated(mlflow_id, "KILLED")
        for mlflow_id in [*self._variants.values(), self._parent]:
            self._client.set_terminated(mlflow_id, status)
        self._open.clear()

    def links(self) -> list[str]:
        """The study's page on a server, or how to start one on the local database."""
        if self.uri.startswith("http"):
            return [f"MLflow:  {redacted(self.uri).rstrip('/')}/#/experiments/{self._experiment}/runs/{self._parent}"]
        return [f"MLflow:  make ui, then http://127.0.0.1:5000/#/experiments/{self._experiment} ({redacted(self.uri)})"]

    def _find_or_create_experiment(self, name: str, artifacts: str | None) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find_tree(self) -> str:
        """Read what an earlier call has logged; close what it left open; return the study's own run."""
        parent = None
        for logged in self._search():
            tags, mlflow_id = logged.data.tags, logged.info.run_id
            match tags.get("level"):
                case "study":
                    parent = mlflow_id
                case "variant":
                    self._variants[tags["variant"]] = mlflow_id
                case "seed" if logged.info.status == "FINISHED":
                    self._ended.add(tags["run_id"])
                case "seed":  # failed, or its driver was killed: its next try takes its place
                    self._client.delete_run(mlflow_id)
        if parent is None:
            return self._create(f"{self.study.name} {self.protocol}", STUDY, None, {"question": self.study.question})
        self._client.update_run(parent, status="RUNNING")
        return str(parent)

    def _search(self) -> Iterable["LoggedRun"]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.protocol = '{self.protocol}'", max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, name: str, level: str, parent: str | None, tags: Mapping[str, str]) -> str:
        all_tags = {"level": level, "study": self.study.name, "protocol": self.protocol, **tags}
        if parent is not None:
            all_tags[PARENT] = parent
        return str(self._client.create_run(self._experiment, run_name=name, tags=all_tags).info.run_id)

    def _start(self, run: Run) -> None:
        tags = {
            "variant": run.variant,
            "role": run.role,
            "seed": str(run.seed),
            "run_id": run.run_id,
            "status": "running",
        }
        variant = self._variants.get(run.variant) or self._create_variant(run)
        self._open[run.run_id] = self._create(run.label, SEED, variant, tags)
        self._log_params(self._open[run.run_id], {**_params(run), "seed": run.seed})

    def _create_variant(self, run: Run) -> str:
        mlflow_id = self._create(run.variant, VARIANT, self._parent, {"variant": run.variant, "role": run.role})
        self._log_params(mlflow_id, _params(run))
        self._variants[run.variant] = mlflow_id
        return mlflow_id

    def _log_means(self, variant: str, records: list[RunRecord]) -> None:
        """Means over seeds, and the standard deviation of test accuracy, under the same names as a seed's own metrics."""
        seeds = " ".join(str(record.run.seed) for record in records)
        earlier = self._variants.get(variant)
        if earlier and self._client.get_run(earlier).data.tags.get("seeds") == seeds:
            return
        # Metrics cannot be taken back, so new means need a new run, to which the seeds' runs are moved.
        mlflow_id = self._create_variant(records[0].run)
        for logged in self._search():
            if logged.data.tags.get("level") == "seed" and logged.data.tags.get("variant") == variant:
                self._client.set_tag(logged.info.run_id, PARENT, mlflow_id)
        if earlier:
            self._client.delete_run(earlier)
        points: dict[int, list[dict[str, float]]] = defaultdict(list)
        for record in records:
            for point in record.curve:
                points[point.examples].append(_curve_metrics(point))
        for examples, metrics in points.items():
            self._log(mlflow_id, examples, _means(metrics))
        finals = _means([_final_metrics(record, self._target) for record in records])
        if len(records) > 1:
            finals["test/accuracy_sd"] = statistics.stdev(record.test_accuracy for record in records)
        finals["num_seeds"] = float(len(records))
        self._log(mlflow_id, max(record.examples_seen for record in records), finals)
        self._log_dataset(mlflow_id, records[0])
        self._client.set_tag(mlflow_id, "seeds", seeds)

    def _log(self, mlflow_id: str, examples: int, metrics: Mapping[str, float]) -> None:
        """One batch. What is not finite is left out: MLflow turns infinity into 1.8e308."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        finite = [Metric(key, value, now, examples) for key, value in metrics.items() if math.isfinite(value)]
        self._client.log_batch(mlflow_id, metrics=finite)

    def _log_params(self, mlflow_id: str, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(mlflow_id, params=[Param(key, str(value)) for key, value in params.items()])

    def _log_dataset(self, mlflow_id: str, record: RunRecord) -> None:
        """The data set as an input of the run: its name and checksum, no data."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name = record.run.data.name
        dataset = Dataset(
            name=name, digest=record.data_checksum[:36], source_type="local", source=f'{{"name": "{name}"}}'
        )
        self._client.log_inputs(mlflow_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _params(run: Run) -> dict[str, object]:
    """The resolved specification, flat: {"model.num_1x1": 2, ...}."""
    return {
        f"{part}.{key}": value
        for part in ("model", "data", "train")
        for key, value in asdict(getattr(run, part)).items()
    }


def _curve_metrics(point: Evaluation) -> dict[str, float]:
    return {
        "train/loss": point.train_loss,
        "train/accuracy": point.train_accuracy,
        "val/loss": point.val_loss,
        "val/accuracy": point.val_accuracy,
    }


def _final_metrics(record: RunRecord, target: float) -> dict[str, float]:
    """The same keys for every run. One that misses the target counts as `examples_seen`, with convergence/reached 0."""
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
        "convergence/examples_to_target": min(examples, float(record.examples_seen)),
        "convergence/reached": float(math.isfinite(examples)),
        "train_seconds": record.train_seconds,
    }


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(each[key] for each in metrics) for key in metrics[0]}


def _one_line(error: Exception) -> str:
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
