"""Faults of MLflow that last are told from outages: said at once, with what mends them. Each is made, not imitated."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from builders import record_of
from mlflow import MlflowClient

from ablations.study import Study, Variant
from ablations.tracking.faults import outlook
from ablations.tracking.mlflow_tree import open_tracker
from ablations.tracking.owners import FOLDER_ID

# SQLAlchemy, of how MLflow uses it.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

STUDY = Study(
    "average", {name: Variant(model={"pooling": name}) for name in ("average", "max")}, question="Which?", name="a"
)
AT_ONCE = 30.0  # seconds; what MLflow tries again for takes minutes


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's that is as it should be."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert track(folder) == []
    return folder / "mlflow.db"


def track(results: Path, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """Have one run tracked; the lines that are said. `meanwhile` is called when the run has begun."""
    results.mkdir(exist_ok=True)
    lines: list[str] = []
    tracker = open_tracker(results, STUDY, "smoke", lines.append)
    record = record_of(STUDY.expand("smoke", 1)[0])
    tracker.run_started(record.run)
    meanwhile()
    for point in record.curve:
        tracker.run_progressed(record.run, point)
    tracker.run_ended(record)
    tracker.sync([record])
    started = time.monotonic()
    tracker.close("FINISHED")
    if any("waiting will not help" in line for line in lines):
        assert time.monotonic() - started < AT_ONCE
    return lines


def of_schema(database: Path, revision: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        connection.commit()


def as_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "older": (lambda path: of_schema(path, "7f2a7d5fae7d"), "`mlflow db upgrade 'sqlite:///{path}'`; if a newer one"),
    "newer": (lambda path: of_schema(path, "ffffffffffff"), "`mlflow db upgrade 'sqlite:///{path}'`; if a newer one"),
    "a text": (lambda path: path.write_text("no database\n" * 100), "move the file away, and a new one is made"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "the file is damaged: move it away"),
    "a folder": (as_folder, "or the path is a folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_database_that_cannot_be_used_is_one_line_that_says_what_mends_it(
    fault: str, database: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(database, path)
    spoil, remedy = FAULTS[fault]
    spoil(path)
    before = None if path.is_dir() else path.read_bytes()
    (line,) = track(tmp_path)
    assert "no result is lost, records are complete on disk; waiting will not help: " in line
    assert remedy.format(path=path) in line
    assert "once it can" not in line
    assert "\n" not in line
    assert before is None or path.read_bytes() == before  # it is the user's, and left as it is
    assert capfd.readouterr() == ("", "")


NAMES_NOTHING = {
    "file:./mlruns": "set MLFLOW_TRACKING_URI to a database, such as sqlite:///mlflow.db, or MLFLOW_ALLOW_FILE_STORE=true",
    "foo://bar": "set MLFLOW_TRACKING_URI to a database or an MLflow server",
    "http://127.0.0.1:99999": "set MLFLOW_TRACKING_URI to a database or an MLflow server",
    "sqlite:////nowhere/mlflow.db": "its folder is missing",
}


@pytest.mark.parametrize("uri", NAMES_NOTHING)
def test_an_address_that_mlflow_cannot_use_is_one_line_that_says_what_to_set(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (line,) = track(tmp_path / "results")
    assert line.startswith(f"MLflow at {uri} cannot be used (")
    assert NAMES_NOTHING[uri] in line
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.fixture
def web_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that gives one answer to everything."""
    status, body = request.param

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "web_server",
    [
        *((200, b"<html>Hello</html>"), (200, b"{}"), (404, b"<html>Not found</html>"), (405, b"")),
        *((404, b'{"detail":"Not Found"}'), (501, b"Unsupported method")),
    ],
    indirect=True,
    ids=["page", "empty answer", "404", "405", "404 of FastAPI", "501"],
)
def test_a_server_that_is_no_mlflow_is_named_as_such(
    web_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", web_server)
    (line,) = track(tmp_path)
    assert line.startswith(f"MLflow at {web_server} cannot be used (")
    assert "what listens there is no MLflow server" in line
    assert "<html>" not in line


@pytest.mark.parametrize(
    "said",
    [
        "no route to host",
        "database is locked",
        "Connection refused",
        "error code 503",
        "the database system is starting up",
    ],
)
def test_an_outage_is_made_up_for_by_the_same_command(said: str) -> None:
    assert outlook(OSError(said), "here") == "once it can, the same command brings MLflow up to date"


def test_a_fault_that_is_said_has_no_password(tmp_path: Path) -> None:
    error = RuntimeError("Detected out-of-date database schema")
    assert "sesame" not in outlook(error, "postgresql://me:sesame@host/db")


@pytest.mark.parametrize("what", ["experiment", "runs"])
def test_what_is_deleted_while_a_run_is_under_way_is_made_again_in_the_same_call(
    what: str, database: Path, tmp_path: Path
) -> None:
    shutil.copy(database, tmp_path / "mlflow.db")
    shutil.copy(database.parent / FOLDER_ID, tmp_path)  # the same results, whose runs come back with the experiment
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(f"nin-ablations/{STUDY.name}")
    assert experiment is not None

    def seeds() -> list[str]:
        return [run.info.status for run in client.search_runs([experiment.experiment_id], "tags.level = 'seed'")]

    def delete() -> None:
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)
        if what == "experiment":
            client.delete_experiment(experiment.experiment_id)

    for run in client.search_runs([experiment.experiment_id]):  # that the database came with
        client.delete_run(run.info.run_id)
    begun = time.monotonic()

    def delete_when_there() -> None:
        while seeds() != ["RUNNING"]:
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        delete()

    lines = track(tmp_path, delete_when_there)
    assert [line.rpartition("; ")[2] for line in lines] == ["the deleted runs are logged again when the study ends"]
    assert seeds() == ["FINISHED"]


def test_a_run_that_another_program_has_set_is_not_written_to(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(database, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    theirs = client.create_run(client.create_experiment("theirs")).info.run_id
    before = client.get_run(theirs).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    assert track(tmp_path) == []
    assert client.get_run(theirs).to_dictionary() == before
