"""Quick databases, reports without figures, and a real PostgreSQL for what several machines share (skipped where there is none)."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PASSWORD, free_port
from toy_engine import Toy

from ablations.tracking.tracker import Tracker
from nin import mlflow_database
from nin.files import sqlite_url


@pytest.fixture(scope="session", autouse=True)
def new_databases_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy a database that MLflow has made once, because it takes seconds for each. Commands in other processes make their own."""
    original = tmp_path_factory.mktemp("database") / "mlflow.db"
    make = mlflow_database.make_database

    def copy(uri: str) -> None:
        path = Path(uri.removeprefix("sqlite:///"))
        if not uri.startswith("sqlite:///") or path.exists() or not path.parent.is_dir():
            return make(uri)
        make(sqlite_url(original))
        shutil.copyfile(original, path)
        return None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mlflow_database, "make_database", copy)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which have tests of their own and take most of a report's time."""
    monkeypatch.setattr("ablations.reporting.figures.FIGURES", {})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Toy:
    """Let sessions execute runs by an engine that trains nothing, and track nothing."""
    engine = Toy()
    monkeypatch.setattr("ablations.session.make_engine", lambda *_, **__: engine)
    monkeypatch.setattr("ablations.session.open_tracker", lambda *_: Tracker())
    return engine


def program(name: str) -> str:
    """Where it is; Debian keeps PostgreSQL's out of the path."""
    found = shutil.which(name) or next((str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    if found is None:
        pytest.skip(f"PostgreSQL is not installed: there is no {name}")
    return found


@pytest.fixture
def database(postgresql: str, request: pytest.FixtureRequest) -> str:
    """The URI of a new one."""
    import psycopg

    name = f"d{abs(hash(request.node.name))}"
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgresql}/{name}"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URI of a server, on this machine only, for a user with a password."""
    pytest.importorskip("psycopg")
    initdb, postgres, isready = program("initdb"), program("postgres"), program("pg_isready")
    as_user: list[str] = []
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        (Path(folder) / "password").write_text(PASSWORD)
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
            try:
                for path in (folder, f"{folder}/password"):
                    shutil.chown(path, "postgres", "postgres")
            except LookupError:
                pytest.skip("this is root, and there is no user postgres to run PostgreSQL as")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data, port = f"{folder}/data", free_port()
        options = ["-D", data, "-U", "mlflow", "-A", "scram-sha-256", "--pwfile", f"{folder}/password", "--no-sync"]
        subprocess.run([*as_user, initdb, *options], check=True, capture_output=True, cwd=folder)
        process = subprocess.Popen(
            [*as_user, postgres, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while subprocess.run([isready, "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # which waits for no client
            process.wait()
