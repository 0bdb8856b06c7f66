"""Log a study to MLflow as a tree of runs. Drivers call this, workers never.

Experiment `nin-ablations/<study>` holds one run per protocol and changes by `--set` (level "study"), under it one per variant with
means over seeds as curves, under each one per seed. So the UI compares variants, and a variant opens into its seeds. Steps of
curves are training images seen; what a run has only once is at step 0, which the UI draws as bars. The time of a metric is its
run's start plus training time: a curve over relative time leaves evaluations out, and a point that is sent twice is one point.

`sync`, at the end of this call or of a later one, logs what is missing, once.
"""

import colorsys
import importlib.util
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.records import RunRecord
from ablations.runs import Run
from ablations.servers import HOST, UI_PORT, server_command
from ablations.study import Study
from ablations.tracking.background import BackgroundTracker
from ablations.tracking.faults import outlook
from ablations.tracking.metrics import final_metrics
from ablations.tracking.mlflow_log import (
    MAX_DIGEST,
    Node,
    log_curve,
    log_data,
    log_metrics,
    log_params,
    mean_accuracies,
    mean_rows,
    parameters,
    set_tags,
    shared_parameters,
    short_digest,
)
from ablations.tracking.owners import driver_lives, driver_name, folder_id, is_of_another_driver
from ablations.tracking.tracker import Tracker
from ablations.tracking.views import is_same_view, saved_views, view_id
from nin.history import Evaluation
from nin.mlflow_database import DATABASES, load_mlflow, open_client, tracking_uri
from nin.text import reason, redacted

if TYPE_CHECKING:
    from mlflow.entities import Run as LoggedRun

IDENTITY = {"study": "study_id", "variant": "variant_id", "seed": "run_id"}  # the tag that tells runs of a level apart
PARENT, DESCRIPTION = "mlflow.parentRunId", "mlflow.note.content"
COLOUR, COMMIT = "mlflow.runColor", "mlflow.source.git.commit"
# As in the figures: seaborn's "colorblind", in the study's order
PALETTE = ["#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#FBAFE4", "#949494", "#ECE133", "#56B4E9"]
BLACK = "#000000"
GOLDEN = 0.381966  # of the circle of hues, from one colour beyond the palette to the next
ENDED = {"failed": "FAILED"}  # all else ends as "FINISHED"
UI = f"http://{HOST}:{UI_PORT}"  # where `make ui` listens, on the database that it opens unless told otherwise:
UI_DATABASE = "sqlite:///results/mlflow.db"


def open_tracker(
    results: Path, study: Study, protocol: str, warn: Callable[[str], None], overrides: Sequence[str] = ()
) -> Tracker:
    """Make a tracker of MLflow at MLFLOW_TRACKING_URI, else in `<results>/mlflow.db`; a no-op, with a warning, without MLflow.

    overrides  what the user changed in every run ("train.lr=0.05"), for tags and descriptions
    """
    if importlib.util.find_spec("mlflow") is None:
        warn("MLflow is not installed: runs are recorded on disk only")
        return Tracker()
    load_mlflow()
    uri = tracking_uri(results)

    def lost(error: Exception) -> None:
        first_sentence = reason(error).partition(". ")[0]
        warn(
            f"MLflow at {redacted(uri)} cannot be used ({first_sentence}): no result is lost, records are complete on disk; "
            f"{outlook(error, uri)}"
        )

    name = f"MLflow at {uri}"
    return BackgroundTracker(lambda: MlflowTracker(uri, results, study, protocol, overrides), lost, name)


class MlflowTracker(Tracker):
    """Track one study under one protocol in MLflow, continuing what is there. Raises whatever MLflow raises."""

    def __init__(self, uri: str, results: Path, study: Study, protocol: str, overrides: Sequence[str] = ()) -> None:
        from filelock import FileLock

        self._uri, self._study, self._protocol, self._overrides = uri, study, protocol, overrides
        self._target = study.target(protocol)
        self._study_id = " ".join([protocol, *sorted(overrides)])
        self._nodes: dict[tuple[str, str], Node] = {}  # by level and identity
        self._open: dict[str, Node] = {}  # by run_id: seeds that this tracker has started and not ended
        # Of two drivers at once, only one may create the tables and the tree, or log what is missing.
        results.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(results / ".mlflow.lock")
        with self._lock:
            self._folder = folder_id(results)
            self._client = open_client(uri)
            self._experiment = self._find_or_create_experiment(f"nin-ablations/{study.name}", results)
            if not self._experiment:
                raise ValueError("the answer names no experiment")  # of a web server that says "{}" to everything
            self._save_views()
            self._read()

    def run_started(self, run: Run) -> None:
        """Create the run, replacing an earlier attempt; continue one that was only paused."""
        if run.run_id in self._open:
            return
        earlier = self._nodes.get(("seed", run.run_id))
        if earlier is None or not (earlier.status == "FINISHED" or is_of_another_driver(earlier)):
            self._open[run.run_id] = self._start(run, _now())

    def run_progressed(self, run: Run, point: Evaluation) -> None:
        """Log the evaluation, in one batch of metrics."""
        if run.run_id in self._open:
            log_curve(self._client, self._open[run.run_id], [point])

    def run_ended(self, record: RunRecord) -> None:
        """Log the final metrics and status, or the whole run if it is missing; do nothing if it has already ended."""
        node, ended, result = self._open.pop(record.run_id, None), _now(), _digest_of([record])
        if node is None:
            earlier = self._nodes.get(("seed", record.run_id))
            ended_so = ("FINISHED", ENDED.get(record.status))
            is_same = (
                earlier
                and earlier.data in ("", record.data_checksum[:MAX_DIGEST])
                and earlier.tags.get("result") in (None, result)  # none: of a version without it
            )
            if earlier and ((is_same and earlier.status in ended_so) or is_of_another_driver(earlier)):
                return
            started, ended = _times(record)
            node = self._start(record.run, started)
        log_curve(self._client, node, record.curve)
        if record.is_result and record.run.trial is None:  # of a trial there is only its curve
            log_metrics(self._client, node, [(final_metrics(record, self._target), 0, record.train_seconds)])
            log_data(self._client, node, [record])
        device, commit = record.environment.get("device", ""), record.environment.get("commit", "")
        tags = {"status": record.status, "error": record.error, "device": device, "precision": record.precision}
        set_tags(self._client, node, tags | {COMMIT: commit, "result": result})
        self._end(node, ENDED.get(record.status, "FINISHED"), ended)

    def sync(self, records: Iterable[RunRecord]) -> None:
        """Log every record once; recompute a variant's means when its results have changed."""
        with self._lock:
            self._read()
            variants: dict[str, list[RunRecord]] = defaultdict(list)
            for record in records:
                self.run_ended(record)
                self._resume(self._nodes.get(("variant", _variant_id(record.run))))
                if record.is_result and record.run.trial is None:
                    variants[_variant_id(record.run)].append(record)
            self._resume(self._parent)
            for variant_id, results in variants.items():
                self._log_means(variant_id, sorted(results, key=lambda record: record.run.seed))
            self._log_summary([record for results in variants.values() for record in results])

    def add_files(self, folder: Path) -> None:
        """Log the report, tables and figures/ to the study's run, with the answer as its description, and records to their runs."""
        self._add_records(folder)
        files = [path for kind in ("*.md", "*.html", "*.csv") for path in sorted(folder.glob(kind))]
        figures = [path for kind in ("*.png", "*.svg") for path in sorted((folder / "figures").glob(kind))]
        digest = short_digest(path.read_bytes() for path in files + figures)
        if self._parent.tags.get("files") == digest:
            return
        for path in files:
            self._client.log_artifact(self._parent.mlflow_id, str(path))
        for path in figures:
            self._client.log_artifact(self._parent.mlflow_id, str(path), "figures")
        report = folder / "report.md"
        blocks = report.read_text().split("\n\n")[1:] if report.exists() else []  # after the title
        opening = takewhile(lambda block: not block.startswith(("![", "## ")), blocks)
        set_tags(
            self._client, self._parent, {"files": digest, DESCRIPTION: "\n\n".join([self._study.question, *opening])}
        )

    def _add_records(self, folder: Path) -> None:
        for (level, run_id), node in self._nodes.items():
            path = folder / "runs" / f"{run_id}.json"
            if level != "seed" or not path.exists():
                continue
            digest = short_digest([path.read_bytes()])
            if node.tags.get("record") != digest:
                self._client.log_artifact(node.mlflow_id, str(path))
                set_tags(self._client, node, {"record": digest})

    def close(self, status: str) -> None:
        """End the runs that are open."""
        for node in self._open.values():
            self._interrupt(node)
        self._open.clear()
        for (level, _), node in self._nodes.items():
            if level != "seed" and node.is_running:
                self._end(node, status, _now())

    def links(self) -> list[str]:
        """Say how to reach the view of the variants: on the server, or on one to be started on the database."""
        page = f"#/experiments/{self._experiment}/runs?viewStateShareKey={view_id(self._protocol)}"
        if self._uri.startswith("http"):
            return [f"MLflow:  {redacted(re.sub(r'://.*@', '://', self._uri)).rstrip('/')}/{page}"]
        database = "" if self._uri == UI_DATABASE else f"MLFLOW_TRACKING_URI='{redacted(self._uri)}' "
        serve = f"{database}{server_command('ui')}"
        return [f"MLflow:  {serve}, then", f"         {UI}/{page}"]  # a line of its own survives 80 columns

    def _find_or_create_experiment(self, name: str, results: Path) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # A server knows where its artifacts go; a bare database would have them in the working directory.
            bare = self._uri.startswith(DATABASES)
            place = (results / "mlartifacts").resolve().as_uri() if bare else None
            tags = {DESCRIPTION: self._study.question, "mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _save_views(self) -> None:
        """Tag the experiment so that its page offers views of this protocol's variants."""
        there = self._client.get_experiment(self._experiment).tags
        for key, value in saved_views(self._protocol, _now()).items():
            if not is_same_view(there.get(key, ""), value):
                self._client.set_experiment_tag(self._experiment, key, value)

    def _read(self) -> None:
        """Read the runs that MLflow holds. End seeds that a dead driver left open; keep one of any duplicates."""
        ours = {node.mlflow_id: node for node in self._open.values()}
        copies: dict[tuple[str, str], list[Node]] = defaultdict(list)
        for logged in self._search():
            tags, info = logged.data.tags, logged.info
            if tags.get("folder", self._folder) != self._folder:
                continue  # of other results on the same server
            level = tags.get("level", "")
            identity = tags.get(IDENTITY.get(level, ""))
            if identity is None and level == "study":
                identity = tags.get("protocol")  # of a version that had one for all changes
            if identity is None:
                continue  # somebody else's
            node = Node(info.run_id, tags, info.status, info.start_time, bool(logged.data.metrics))
            inputs = logged.inputs.dataset_inputs if logged.inputs else []
            node.data = inputs[0].dataset.digest if level == "seed" and inputs else ""
            node = ours.get(node.mlflow_id, node)
            if level == "seed" and node.is_running and node.mlflow_id not in ours and driver_lives(node) is False:
                self._interrupt(node)
            copies[level, identity].append(node)
        self._nodes.clear()
        for key, nodes in copies.items():  # oldest first, and sorting keeps that among equals
            nodes.sort(key=lambda node: (node.status != "FINISHED", node.mlflow_id not in ours))
            self._nodes[key], *surplus = nodes
            for node in surplus:
                self._delete(node)
            if "folder" not in self._nodes[key].tags:  # of a version without it: the first folder that comes owns it
                set_tags(self._client, self._nodes[key], {"folder": self._folder})
        if ("study", self._study_id) not in self._nodes:
            tags = {"level": "study", "study_id": self._study_id, DESCRIPTION: self._study.question}
            params = {"protocol": self._protocol, "baseline": self._study.baseline, "target": self._target}
            params |= {"variants": len(self._study.variants), "margin": self._study.margin}
            self._create(f"{self._study.name} {self._study_id}", _now(), tags, params)

    def _search(self) -> "Iterator[LoggedRun]":
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.protocol = '{self._protocol}'",
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    @property
    def _parent(self) -> Node:
        return self._nodes["study", self._study_id]

    def _start(self, run: Run, started: int) -> Node:
        variant = self._nodes.get(("variant", _variant_id(run))) or self._create_variant(run)
        for node in (self._parent, variant):
            if not node.is_running:
                self._set_running(node)
        tags = {"level": "seed", PARENT: variant.mlflow_id, **self._tags(run), "status": "running"}
        tags |= {"seed": str(run.seed), "run_id": run.run_id}
        return self._create(run.label, started, tags, parameters(run) | {"seed": run.seed})

    def _create_variant(self, run: Run) -> Node:
        tags = {"level": "variant", PARENT: self._parent.mlflow_id, **self._tags(run)}
        name = run.name if run.trial is None else run.label
        return self._create(name, _now(), tags, parameters(run))

    def _tags(self, run: Run) -> dict[str, str]:
        others = [name for name in self._study.variants if name != self._study.baseline]
        colour = BLACK if run.role == "baseline" else _colour(others.index(run.variant))
        tags = {"variant": run.variant, "variant_id": _variant_id(run), "role": run.role, COLOUR: colour}
        if self._overrides:
            tags["set"] = " ".join(self._overrides)
            tags[DESCRIPTION] = f"`--set {' '.join(self._overrides)}`"
        return tags if run.trial is None else {**tags, "trial": str(run.trial)}

    def _create(self, name: str, started: int, tags: Mapping[str, str], params: Mapping[str, object]) -> Node:
        """Create a run, replacing one with the same identity."""
        tags = {
            "study": self._study.name,
            "protocol": self._protocol,
            "driver": driver_name(),
            "folder": self._folder,
            **tags,
        }
        info = self._client.create_run(self._experiment, started, tags, name).info
        log_params(self._client, info.run_id, params)
        key = tags["level"], tags[IDENTITY[tags["level"]]]
        if key in self._nodes:
            self._delete(self._nodes[key])
        self._nodes[key] = Node(info.run_id, tags, info.status, started)
        return self._nodes[key]

    def _resume(self, node: Node | None) -> None:
        """Let a study or variant go on that an interruption has ended, for `close` to end it."""
        if node is not None and node.status == "KILLED":
            self._set_running(node)

    def _set_running(self, node: Node) -> None:
        self._client.update_run(node.mlflow_id, "RUNNING")
        node.status = "RUNNING"

    def _adopt(self, node: Node, parent: Node) -> None:
        if node.tags.get(PARENT) != parent.mlflow_id:
            set_tags(self._client, node, {PARENT: parent.mlflow_id})

    def _end(self, node: Node, status: str, ended: int) -> None:
        self._client.set_terminated(node.mlflow_id, status, ended)
        node.status = status

    def _interrupt(self, node: Node) -> None:
        set_tags(self._client, node, {"status": "interrupted"})
        self._end(node, "KILLED", _now())

    def _delete(self, node: Node) -> None:
        if node.is_running:
            self._end(node, "KILLED", _now())
        self._client.delete_run(node.mlflow_id)

    def _log_means(self, variant_id: str, records: Sequence[RunRecord]) -> None:
        """Log a variant's means over seeds once; if its results have changed, to a new run."""
        made_of = _digest_of(records)
        variant = self._nodes.get(("variant", variant_id))
        if variant is None or (variant.has_metrics and variant.tags.get("means_of") != made_of):
            variant = self._create_variant(records[0].run)  # a new one, because metrics cannot be taken back
        self._adopt(variant, self._parent)
        for (level, _), node in self._nodes.items():
            if level == "seed" and node.tags.get("variant_id") == variant_id:
                self._adopt(node, variant)
        if variant.has_metrics:
            return
        log_metrics(self._client, variant, mean_rows(records, self._target))
        for node in (variant, self._parent):
            log_data(self._client, node, records)
        set_tags(self._client, variant, {"means_of": made_of})
        variant.has_metrics = True

    def _log_summary(self, records: Sequence[RunRecord]) -> None:
        """Log each variant's mean test accuracy, and the settings that all runs share, to the study's run."""
        made_of = short_digest(sorted(f"{record.run_id} {record.started_at}".encode() for record in records))
        if not records or self._parent.tags.get("summary_of") == made_of:
            return
        # At the time of now, since MLflow shows the latest value of a step
        seconds = (_now() - self._parent.started) / 1000
        log_metrics(self._client, self._parent, [(mean_accuracies(records), 0, seconds)])
        if "summary_of" not in self._parent.tags:  # parameters cannot be changed
            log_params(self._client, self._parent.mlflow_id, shared_parameters(records))
        set_tags(self._client, self._parent, {"summary_of": made_of})


def _colour(place: int) -> str:
    """Return the colour of the variant in that place after the baseline: the palette's, then others, no two alike."""
    if place < len(PALETTE):
        return PALETTE[place]
    turn, light = divmod(place - len(PALETTE), 2)
    channels = colorsys.hls_to_rgb((0.05 + turn * GOLDEN) % 1, (0.35, 0.6)[light], 0.65)
    return "#" + "".join(f"{round(255 * channel):02X}" for channel in channels)


def _digest_of(records: Iterable[RunRecord]) -> str:
    """Tell results apart from earlier ones of the same runs."""
    return short_digest(f"{record.run_id} {record.status} {record.started_at}".encode() for record in records)


def _variant_id(run: Run) -> str:
    """Identity of a variant under these overrides, equal for all seeds: the run_id of seed 0."""
    return replace(run, seed=0).run_id


def _times(record: RunRecord) -> tuple[int, int]:
    """Start and end of a run that is over, in milliseconds since 1970."""
    if not record.started_at:
        return _now(), _now()
    started = round(1000 * datetime.fromisoformat(record.started_at).timestamp())
    # A trial has no wall time.
    seconds = record.train_seconds if math.isnan(record.wall_seconds) else record.wall_seconds
    return started, started + round(1000 * seconds)


def _now() -> int:
    return time.time_ns() // 1_000_000
