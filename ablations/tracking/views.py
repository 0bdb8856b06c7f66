"""Saved views of an experiment in MLflow's interface: which runs, columns and charts a person sees first.

The interface keeps a view as a tag of the experiment: a name, two times, and its state as deflated JSON. This is the format of
MLflow 3.17; a version with another format ignores the tags.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.servers import FIRST_VIEW as FIRST

TAG = "mlflow.sharedViewState."
ACCURACY, TARGET, PARAMS, FLOPS = "test/accuracy", "convergence/examples_to_target", "params/total", "gflops"
COLUMNS = (ACCURACY, f"{ACCURACY}_sd", "num_seeds", TARGET, PARAMS, FLOPS, "peak_memory_mb", "train_seconds")
ALL_RUNS = 100  # in one chart; MLflow draws 10 unless told otherwise


def saved_views(protocol: str, made_at: int) -> dict[str, str]:
    """Tags by key: a view for each purpose, of the variants' runs under a protocol; `made_at` is in milliseconds since 1970."""
    accuracy_by_size = _chart(
        "SCATTER", "Test accuracy against parameters", xaxis=_axis(PARAMS), yaxis=_axis(ACCURACY), showAllRuns=True
    )
    first = [_bar(ACCURACY, "Test accuracy"), _bar(TARGET, "Examples to target"), _bar(PARAMS, "Parameters")]
    views: Mapping[str, Sequence[Mapping[str, Any]]] = {
        FIRST: [*first, accuracy_by_size],
        "Convergence": [
            _curve("val/accuracy", "Validation accuracy"),
            _bar(TARGET, "Examples to target"),
            _curve("train/loss", "Training loss"),
        ],
        "Parallel coordinates": [
            _chart(
                "PARALLEL",
                "Size, speed, accuracy",
                selectedParams=[],
                selectedMetrics=[PARAMS, FLOPS, TARGET, ACCURACY],
                showAllRuns=True,
            )
        ],
        "Accuracy against parameters": [accuracy_by_size, *first],
    }
    tags = {}
    for name, charts in views.items():
        envelope = {
            "name": f"{name} ({protocol})",
            "createdAt": made_at,
            "updatedAt": made_at,
            "state": _deflated(_state(protocol, name, charts)),
        }
        tags[TAG + view_id(protocol, name)] = json.dumps(envelope)
    return tags


def view_id(protocol: str, name: str = FIRST) -> str:
    """Name of a view in links; the first view has the protocol's alone, because links should be short."""
    return protocol if name == FIRST else f"{protocol}-{name.lower().replace(' ', '-')}"


def is_same_view(one: str, other: str) -> bool:
    """Return whether two tags hold the same view, whenever it was saved."""
    try:
        first, second = (json.loads(tag) for tag in (one, other))
        return bool(first["state"] == second["state"] and first["name"] == second["name"])
    except (ValueError, TypeError, KeyError):
        return False


def _state(protocol: str, name: str, charts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = [*(f"metrics.`{key}`" for key in COLUMNS), "tags.`set`"]
    section = {"uuid": f"section of {name}", "name": name, "columns": min(len(charts), 3), "cardHeight": 420}
    section |= {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {
        "searchFilter": f"tags.level='variant' and tags.protocol='{protocol}'",
        "orderByKey": f"metrics.`{ACCURACY}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {**chart, "uuid": f"{name} {place}", "metricSectionId": section["uuid"]}
            for place, chart in enumerate(charts)
        ],
        "compareRunSections": [section],
        "isAccordionReordered": True,
    }


def _chart(kind: str, title: str, **settings: object) -> dict[str, Any]:
    return {
        "type": kind,
        "displayName": title,
        "chartName": title,
        "runsCountToCompare": ALL_RUNS,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }


def _bar(metric: str, title: str) -> dict[str, Any]:
    return _chart("BAR", title, metricKey=metric)


def _curve(metric: str, title: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        title,
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        scaleType="linear",
        xAxisScaleType="linear",
        lineSmoothness=0,
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _deflated(state: Mapping[str, Any]) -> str:
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
