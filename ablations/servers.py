"""Serve results in a browser: MLflow's user interface and optuna-dashboard, on this machine alone. Standard library only.

    nin-ablations ui [--port 5000] [--results DIR]
    nin-ablations dashboard [--port 8080] [--results DIR]

`MLFLOW_TRACKING_URI` and `OPTUNA_STORAGE` name other databases.
"""

import argparse
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from nin.cli import OneLineParser
from nin.files import sqlite_url

HOST, UI_PORT, DASHBOARD_PORT = "127.0.0.1", 5000, 8080
FIRST_VIEW = "Accuracy and size"  # the saved view that links lead to
VIEWS = (  # in MLflow's tables
    "SELECT name, experiment_id, key, value FROM experiments JOIN experiment_tags USING (experiment_id) "
    "WHERE lifecycle_stage = 'active' AND key LIKE 'mlflow.sharedViewState.%' ORDER BY name, key"
)
MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"  # of a clone; a wheel has none


def server_command(server: str) -> str:
    """Say how a person starts a server ("ui", "dashboard"): by make in the folder of a clone, else by a command that is there."""
    if MAKEFILE.is_file() and Path.cwd() == MAKEFILE.parent:
        return f"make {server}"
    return f"{'nin-ablations' if shutil.which('nin-ablations') else 'python -m ablations.commands'} {server}"


def serve_ui(argv: Sequence[str]) -> int:
    """Print links to the comparisons, and become MLflow's server. Raises ValueError if there is no database yet."""
    arguments = _arguments(argv, "ui", "Serve MLflow's user interface.", UI_PORT)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _database(arguments.results / "mlflow.db", "ablations.run")
    if uri.startswith("sqlite:///"):
        print(*_links(Path(uri.removeprefix("sqlite:///")), arguments.port), sep="\n")
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    options = ["--workers", "1", "--host", HOST, "--port", str(arguments.port), "--backend-store-uri", uri]
    return _exec_python(["-m", "mlflow", "ui", *options], settings)


def serve_dashboard(argv: Sequence[str]) -> int:
    """Become optuna-dashboard. Raises ValueError if there is no database yet."""
    arguments = _arguments(argv, "dashboard", "Serve optuna-dashboard.", DASHBOARD_PORT)
    storage = os.environ.get("OPTUNA_STORAGE") or _database(arguments.results / "optuna.db", "ablations.tune")
    code = "import sys; from optuna_dashboard._cli import main; sys.argv[0] = 'optuna-dashboard'; main()"
    return _exec_python(["-c", code, "--host", HOST, "--port", str(arguments.port), storage], {})


def _links(database: Path, port: int) -> Iterator[str]:
    """Yield two lines per experiment and protocol, its name and the link; none where MLflow keeps its views in another way."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            rows = connection.execute(VIEWS).fetchall()
        named = [(name, experiment, key, json.loads(value)["name"]) for name, experiment, key, value in rows]
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return
    for name, experiment, key, view in named:
        if view.startswith(FIRST_VIEW):
            yield f"{name.removeprefix('nin-ablations/')}, {key.rpartition('.')[2]}:"
            yield f"  http://{HOST}:{port}/#/experiments/{experiment}/runs?viewStateShareKey={key.rpartition('.')[2]}"


def _arguments(argv: Sequence[str], name: str, description: str, port: int) -> argparse.Namespace:
    parser = OneLineParser(prog=f"nin-ablations {name}", description=description)
    parser.add_argument("--port", type=int, default=port, metavar="N", help=f"port on {HOST} (default: {port})")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="results folder (default: results)"
    )
    return parser.parse_args(argv)


def _database(file: Path, module: str) -> str:
    if not file.is_file():
        raise ValueError(f"there is no {file}: python -m {module} makes it, or name its folder with --results")
    return sqlite_url(file)


def _exec_python(arguments: list[str], settings: dict[str, str]) -> int:
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, **settings})
