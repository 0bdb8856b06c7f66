"""Ray: the same events and the same records as from this machine's own workers, also when a node is lost."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import call, command, records

HERE = Path(__file__).parents[1]
SMALL = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--set", "train.epochs=12"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, list[str]]]:
    """What was told of each run, by task and the run's label."""
    tasks = ["succeed", "raise_once", "kill_once", "hang_once", "warn"]
    done = subprocess.run(
        [sys.executable, HERE / "ray_tasks.py", *tasks],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [
        line for line in done.stdout.splitlines() if line.startswith("{")
    ]  # Ray says something of lost workers, too
    return dict(zip(tasks, map(json.loads, lines), strict=True))


def test_every_run_starts_progresses_and_ends_once(told: dict[str, dict[str, list[str]]]) -> None:
    assert list(told["succeed"].values()) == [["Started", *["Progressed"] * 4, "Ended"]] * 4


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("raise_once", "Failed RuntimeError: the first run fails"),
        ("kill_once", "Failed WorkerCrashedError: "),  # after Ray has tried it again
        ("hang_once", "Failed took longer than its time limit of 15 s"),
    ],
)
def test_a_run_that_goes_wrong_fails_alone(told: dict[str, dict[str, list[str]]], task: str, error: str) -> None:
    events = told[task].copy()
    wrong = events.pop("0x seed 0")
    assert wrong[0] == "Started"
    assert wrong[-1].startswith(error)
    assert ("in raise_once" in wrong[-1]) == (task == "raise_once")
    assert [each[-1] for each in events.values()] == ["Ended"] * 3
    assert [len([e for e in each if e.startswith(("Ended", "Failed"))]) for each in told[task].values()] == [1] * 4


def test_a_warning_is_told(told: dict[str, dict[str, list[str]]]) -> None:
    assert ["Warned" in events for events in told["warn"].values()] == [True] * 4


@pytest.fixture
def two_nodes() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, HERE / "ray_two_nodes.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:  # leaving ends its input, and that the cluster
        yield cluster


def test_a_node_killed_midway_costs_no_run_and_records_are_those_of_local_workers(
    two_nodes: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert two_nodes.stdin is not None
    assert two_nodes.stdout is not None
    address = two_nodes.stdout.readline().strip()
    assert re.fullmatch(r"[\d.]+:\d+", address)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    arguments = [*SMALL, "--engine", "ray", "--address", address, "--results", "ray"]
    driver = subprocess.Popen(
        command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert driver.stdout is not None
    lines = 0
    while lines < 2:
        lines += "started" in driver.stdout.readline()
    time.sleep(2)
    two_nodes.stdin.write("kill\n")
    two_nodes.stdin.flush()
    assert two_nodes.stdout.readline() == "killed\n"
    output, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, output + errors
    done = call(*SMALL, "--results", "local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "ray") == records(tmp_path / "local")
    assert not list((tmp_path / "ray").rglob("*.pt*"))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense", "auto"])
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path, address: str) -> None:
    done = call(*SMALL, "--engine", "ray", "--address", address, cwd=tmp_path)
    assert done.returncode == 2
    assert "no Ray cluster answers there" in done.stderr
    assert "Traceback" not in done.stderr


def test_trials_that_tune_come_out_as_those_of_local_workers(tmp_path: Path) -> None:
    """Every rung has an engine of its own, all on one cluster."""
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--trials", "2", "--workers", "2"]
    for engine in ("ray", "local"):
        options = [*arguments, "--engine", engine, "--results", engine]
        done = call(*options, cwd=tmp_path, module="ablations.tune")
        assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "ray")) == 4
    assert records(tmp_path / "ray") == records(tmp_path / "local")
