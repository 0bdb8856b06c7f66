"""A tracking server that several people share: MLflow over HTTP, its database a real PostgreSQL."""

from pathlib import Path

import pytest
from processes import PASSWORD, call, free_port, records
from test_unbreakable import NUM_RUNS, STUDY, assert_tracked_once, start, trained
from tracked_studies import server

pytestmark = pytest.mark.slow


def test_two_drivers_log_to_one_server_each_run_once(database: str, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with server(tmp_path, port, database):
        drivers = [
            start(*STUDY, "--workers", "1", cwd=tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_TIMEOUT="60")
            for _ in range(2)
        ]
        outputs = [driver.communicate() for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0, 0], outputs
        assert [line for _, errors in outputs for line in errors.splitlines() if "warning" in line] == []
        assert sum(len(trained(output)) for output, _ in outputs) == NUM_RUNS
        assert_tracked_once(tmp_path, NUM_RUNS, uri)


def test_the_database_itself_may_be_named_and_its_password_is_kept_secret(database: str, tmp_path: Path) -> None:
    done = call(*STUDY, cwd=tmp_path, MLFLOW_TRACKING_URI=database)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert len(records(tmp_path)) == NUM_RUNS
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []
