"""What command lines say is one line, and tells nobody how to log in."""

import sqlite3
import time
from contextlib import closing
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy

from nin import cli
from nin.cli import exit_with, notice_if_slow, require_writable
from nin.files import sqlite_url
from nin.text import MAX_REASON_LENGTH, reason, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg2://me:secret@host/db", "postgresql+psycopg2://***@host/db"),
        ("(at http://me:sec@ret/@host:5000/x)", "(at http://***@host:5000/x)"),
        ("https://secret@host", "https://***@host"),
        (
            "postgresql://host/db?user=me&password=secret&sslmode=require",
            "postgresql://host/db?user=me&password=***&sslmode=require",
        ),
        ("sqlite:///results/mlflow.db", "sqlite:///results/mlflow.db"),
        ("sqlite:////home/ann@lab/optuna.db", "sqlite:////home/ann@lab/optuna.db"),
    ],
)
def test_no_password_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_librarys_error_is_a_reason_of_one_short_line_without_passwords() -> None:
    error = RuntimeError("no answer\nfrom postgresql://me:secret@host/db [SQL: SELECT 1]")
    assert reason(error) == "RuntimeError: no answer from postgresql://***@host/db"
    assert len(reason(ValueError("x" * 1000))) == MAX_REASON_LENGTH


def test_a_file_that_can_be_written_is_not_made_before_there_is_something_to_write(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "speed.json")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "old.json").write_text("{}")
    require_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "{}"


@pytest.mark.parametrize(
    "command",
    [
        *("ablations.run", "ablations.tune", "ablations.report", "ablations.publish"),
        *("nin.measure", "nin.bench", "nin.export", "nin.predict", "nin.cam"),
    ],
)
def test_every_command_tells_its_version(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        import_module(command).main(["--version"])
    assert capsys.readouterr().out == f"nin-ablations {version('nin-ablations')}\n"


@pytest.mark.parametrize("name", ["plain", "a%20b", "a%2Fb", "100%", "#1", "it's", 'a "b"', "é ü", "a&b=c"])
def test_a_databases_url_leads_to_the_file_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "trials.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as made:
        made.execute("CREATE TABLE here (x)")
    engine = sqlalchemy.create_engine(sqlite_url(file))
    assert sqlalchemy.inspect(engine).get_table_names() == ["here"]
    engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_ordinary_files_url_is_as_people_write_it() -> None:
    assert sqlite_url(Path("results/mlflow.db")) == "sqlite:///results/mlflow.db"
    assert sqlite_url(Path("/tmp/mlflow.db")) == "sqlite:////tmp/mlflow.db"


def test_what_takes_long_is_said_once_and_what_does_not_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with notice_if_slow("nobody"):
        pass
    monkeypatch.setattr(cli, "WAIT_NOTICE_SEC", 0.01)
    with notice_if_slow("postgresql://me:secret@host/db"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "waiting for postgresql://***@host/db; Ctrl-C ends the wait\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        ImportError("libarrow.so: failed to map segment from shared object"),
        ImportError("libx.so: cannot allocate memory in static TLS block"),
        RuntimeError("can't start new thread"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        SystemError("error return without exception set"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit, match="1"):
        exit_with(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: too little memory ({type(error).__name__}: ")
    assert line.endswith("; what was finished before is intact")


def test_a_mistake_of_ours_is_not_taken_for_that() -> None:
    def main() -> int:
        raise RuntimeError("expected a tensor")

    with pytest.raises(RuntimeError, match="expected a tensor"):
        exit_with(main)
