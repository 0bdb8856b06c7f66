"""`nin-ablations COMMAND` is the module of that name, and starts the two servers."""

import re
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from processes import free_port

from ablations import commands, servers
from ablations.catalog import load_study
from ablations.tracking.mlflow_tree import open_tracker

ROOT = Path(__file__).parent.parent.parent


def test_the_installed_command_is_this_one() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"nin-ablations": "ablations.commands:main"}
    assert callable(commands.main)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.run([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert ("--port" in text) == (name in ("ui", "dashboard"))


def test_help_names_every_command_and_a_wrong_one_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run([]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", said, re.MULTILINE) for name in commands.COMMANDS)
    with pytest.raises(ValueError, match="unknown command 'rum': the nearest is 'run'"):
        commands.run(["rum"])


def test_a_command_passes_its_options_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["run", "--list"]) == 0
    assert "num_1x1 " in capsys.readouterr().out


def test_a_wheel_gives_no_advice_to_use_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert servers.server_command("ui") == "make ui"
    monkeypatch.setattr(servers, "MAKEFILE", tmp_path / "Makefile")
    monkeypatch.setattr(servers.shutil, "which", lambda name: None)
    assert (
        servers.server_command("dashboard") == "python -m ablations.commands dashboard"
    )  # runs without the script, too
    monkeypatch.setattr(servers.shutil, "which", lambda name: f"/bin/{name}")
    assert servers.server_command("dashboard") == "nin-ablations dashboard"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = open_tracker(tmp_path, load_study("num_1x1"), "smoke", lambda line: None)
    tracker.close("FINISHED")
    assert "nin-ablations ui, then" in "\n".join(tracker.links())


def test_the_links_that_ui_prints_are_those_of_the_runs(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, load_study("num_1x1"), "smoke", lambda line: None)
    tracker.close("FINISHED")
    (link,) = (line.strip() for line in tracker.links() if "viewStateShareKey" in line)
    assert list(servers._links(tmp_path / "mlflow.db", servers.UI_PORT)) == ["num_1x1, smoke:", f"  {link}"]


def test_a_database_that_is_otherwise_has_no_links(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert list(servers._links(tmp_path / "mlflow.db", servers.UI_PORT)) == []


@pytest.mark.parametrize(("name", "maker"), [("ui", "run"), ("dashboard", "tune")])
def test_a_server_without_a_database_says_what_makes_one(
    name: str, maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=rf"there is no .*\.db: python -m ablations\.{maker} makes it"):
        commands.run([name, "--results", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ui", "dashboard"])
def test_a_server_answers_at_its_port(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    import optuna

    optuna.create_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    open_tracker(tmp_path, load_study("num_1x1"), "smoke", lambda line: None).close("FINISHED")
    port = free_port()
    command = [sys.executable, "-m", "ablations.commands", name, "--port", str(port), "--results", str(tmp_path)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 120
            while True:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                try:
                    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status == 200
                    break
                except OSError:
                    time.sleep(0.5)
        finally:
            server.terminate()
