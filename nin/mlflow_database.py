"""Load MLflow with the defaults of this project, and open its database or server."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nin.files import sqlite_url

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # what a tracking URI starts with if no server is in between
DEFAULTS = {  # where the user has not said otherwise
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def load_mlflow() -> None:
    """Import MLflow with its log lines and telemetry off.

    In the main thread: numpy, pandas and scipy come with it, and two threads had better not import those at once.
    """
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic", "psycopg", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # as errors, they log the traceback of what they raise


def tracking_uri(results: Path) -> str:
    """Return MLFLOW_TRACKING_URI, else the URI of `<results>/mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(results / "mlflow.db")


def open_client(uri: str) -> "MlflowClient":
    """Open a client of the database or server, making the database if it is a new one of SQLite's. Raises whatever MLflow raises."""
    from mlflow import MlflowClient

    make_database(uri)
    _reach_database(uri)
    return MlflowClient(tracking_uri=uri)


def make_database(uri: str) -> None:
    """Create a new SQLite database completely or not at all: MLflow cannot open one whose creation was interrupted."""
    from filelock import FileLock
    from mlflow import MlflowClient
    from sqlalchemy import make_url

    database = make_url(uri).database if uri.startswith("sqlite") else None
    if not database or Path(database).exists() or not Path(database).parent.is_dir():  # which FileLock would make
        return
    path = Path(database)
    new = path.with_name(f".{path.name}.new")
    with FileLock(path.with_name(f".{path.name}.lock")):  # whose folder may be another than that of the results
        if path.exists():
            return
        new.unlink(missing_ok=True)  # of one who was killed
        try:
            _reach_database(sqlite_url(new))
            MlflowClient(tracking_uri=sqlite_url(new)).search_experiments(max_results=1)
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)


def _reach_database(uri: str) -> None:
    """Raise at once if the database is unreachable; MLflow itself would retry for minutes."""
    if uri.startswith(DATABASES):
        from sqlalchemy import create_engine

        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()
