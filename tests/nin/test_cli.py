"""What command lines say is one line, and tells nobody how to log in."""

from importlib import import_module
from importlib.metadata import version

import pytest

from nin.cli import LONGEST_REASON, reason, redacted


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
    ],
)
def test_no_password_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_librarys_error_is_a_reason_of_one_short_line_without_passwords() -> None:
    error = RuntimeError("no answer\nfrom postgresql://me:secret@host/db [SQL: SELECT 1]")
    assert reason(error) == "RuntimeError: no answer from postgresql://***@host/db"
    assert len(reason(ValueError("x" * 1000))) == LONGEST_REASON


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
