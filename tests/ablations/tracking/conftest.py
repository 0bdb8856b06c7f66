"""A database that is made once a file, and a study of the test's own in it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from tracked_studies import Tracked, study_of


@pytest.fixture(scope="module", autouse=True)
def in_a_quick_local_database() -> Iterator[None]:
    def do_not_wait_for_the_disk(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", do_not_wait_for_the_disk)
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", do_not_wait_for_the_disk)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def tracked(results: Path, request: pytest.FixtureRequest) -> Iterator[Tracked]:
    """A study of the test's own. Fails if MLflow was lost and the test has not taken note of it."""
    tracked = study_of(results, request.node.name)
    yield tracked
    assert tracked.warnings == []
