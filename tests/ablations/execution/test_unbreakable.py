"""What may happen to a study, done to real processes: afterwards its records are those of one that nothing happened to."""

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from processes import call, command, records

STUDY = ["num_1x1", "--protocol", "smoke", "--variants", "0x,1x", "--set", "train.epochs=6"]
NUM_RUNS = 6
TINY = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--set", "train.epochs=2"]


def start(*arguments: str, cwd: Path, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
    )


def wait_for(driver: "subprocess.Popen[str]", words: str) -> None:
    assert driver.stdout is not None
    for line in driver.stdout:
        if words in line:
            return
    raise AssertionError(f"never said {words!r}: {driver.communicate()[1]}")


def workers_of(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        children = psutil.Process(driver.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def trained(output: str) -> list[str]:
    """Labels of the runs that a driver has brought to their end itself."""
    return re.findall(r"^\[\d+/\d+\] (.*): (?:finished|collapsed|diverged),", output, re.MULTILINE)


def assert_tracked_once(folder: Path, num_runs: int, uri: str | None = None) -> None:
    """MLflow has each run once, and nothing that is still running."""
    client = MlflowClient(uri or f"sqlite:///{folder / 'results' / 'mlflow.db'}")
    logged = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    seeds = [run.data.tags["run_id"] for run in logged if run.data.tags["level"] == "seed"]
    assert Counter(seeds) == dict.fromkeys(records(folder), 1)
    assert len(seeds) == num_runs
    assert {run.info.status for run in logged} == {"FINISHED"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = call(*STUDY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drivers_and_workers_killed_at_20_random_moments(undisturbed: Path, tmp_path: Path) -> None:
    """A study that comes to its end between two kills is looked at, and another begins."""
    moments = random.Random(20)
    victims = ["driver", "worker"] * 10
    moments.shuffle(victims)
    num_studies = 1
    driver = start(*STUDY, cwd=folder_of(tmp_path, num_studies))
    for victim in victims:
        if victim == "driver" and moments.random() < 0.3:
            time.sleep(moments.uniform(0, 8))  # also while it starts, or writes its report
        else:
            while not workers_of(driver):
                if driver.poll() is None:
                    time.sleep(0.1)
                    continue
                if driver.returncode == 0:
                    assert_complete(folder_of(tmp_path, num_studies), undisturbed)
                    num_studies += 1
                driver.communicate()
                driver = start(*STUDY, cwd=folder_of(tmp_path, num_studies))
            time.sleep(moments.uniform(0, 6))
        workers = workers_of(driver)
        process = moments.choice(workers) if victim == "worker" and workers else psutil.Process(driver.pid)
        process.kill()
        if process.pid == driver.pid:
            driver.communicate()
            driver = start(*STUDY, cwd=folder_of(tmp_path, num_studies))
    driver.kill()
    driver.communicate()
    folder = folder_of(tmp_path, num_studies)
    done = call(*STUDY, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(folder, undisturbed)


def folder_of(tmp_path: Path, number: int) -> Path:
    folder = tmp_path / str(number)
    folder.mkdir(exist_ok=True)
    return folder


def assert_complete(folder: Path, undisturbed: Path) -> None:
    assert records(folder) == records(undisturbed)
    assert_tracked_once(folder, NUM_RUNS)
    left = [path.name for path in (folder / "results").rglob("*") if ".pt" in path.name or ".claim" in path.name]
    assert left == []


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_where_its_driver_was_killed(tmp_path: Path) -> None:
    arguments = [*TINY, "--seeds", "1", "--set", "train.epochs=12", "--workers", "1"]
    driver = start(*arguments, cwd=tmp_path)
    folder = tmp_path / "results" / "num_1x1" / "smoke" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = workers_of(driver)
    driver.kill()
    driver.communicate()
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)  # they die with it
    (checkpoint,) = folder.glob("*.pt")
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not checkpoint.exists()
    assert "warning" not in done.stderr
    again = call(*arguments, "--results", "whole", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert records(tmp_path / "results") == records(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_one_line_and_the_record_is_the_same(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "num_1x1" / "smoke" / "checkpoints"
    folder.mkdir(parents=True)
    for run_id in records(undisturbed):
        (folder / f"{run_id}.pt").write_bytes(b"not a checkpoint")
    done = call(*STUDY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^warning: checkpoint .*\.pt is not used", done.stderr, re.MULTILINE)) == NUM_RUNS
    assert records(tmp_path) == records(undisturbed)


@pytest.mark.slow
def test_two_drivers_at_once_share_the_runs(undisturbed: Path, tmp_path: Path) -> None:
    drivers = [start(*STUDY, "--workers", "1", cwd=tmp_path) for _ in range(2)]
    outputs = [driver.communicate() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    each = [trained(output) for output, _ in outputs]
    assert all(each), each
    assert len(each[0] + each[1]) == len({*each[0], *each[1]}) == NUM_RUNS
    assert records(tmp_path) == records(undisturbed)
    assert_tracked_once(tmp_path, NUM_RUNS)


@pytest.mark.slow
def test_a_driver_waits_for_another_and_takes_over_when_that_is_killed(undisturbed: Path, tmp_path: Path) -> None:
    first = start(*STUDY, "--workers", str(NUM_RUNS), cwd=tmp_path)
    for _ in range(NUM_RUNS):
        wait_for(first, "started")
    second = start(*STUDY, cwd=tmp_path)
    wait_for(second, "waiting for")
    first.kill()
    first.communicate()
    output, errors = second.communicate()
    assert second.returncode == 0, output + errors
    assert trained(output)
    assert records(tmp_path) == records(undisturbed)
    assert_tracked_once(tmp_path, NUM_RUNS)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, silent_server: str) -> None:
    driver = start(*TINY, cwd=tmp_path, MLFLOW_TRACKING_URI=silent_server)
    wait_for(driver, "started")
    workers = workers_of(driver)
    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None
    while "re-run to continue" not in driver.stderr.readline():
        assert driver.poll() is None
    time.sleep(0.5)
    assert driver.poll() is None  # it waits for MLflow
    started = time.monotonic()
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=5)
    assert time.monotonic() - started < 5
    assert driver.returncode == 130
    assert "stopped at once" in errors
    assert "Traceback" not in errors
    psutil.wait_procs(workers, timeout=5)
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.slow
def test_a_failure_common_to_all_variants_stops_the_study_with_one_message(tmp_path: Path) -> None:
    done = call(*TINY, "--seeds", "5", "--time-limit", "0.2s", cwd=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith("waiting for MLflow")]  # on a busy machine
    assert len(said) == 1, done.stderr
    assert "the first run of each of the 2 variants failed: took longer than its time limit of 0.2 s" in said[0]
    assert 2 <= len(records(tmp_path)) < 10
    assert not list((tmp_path / "results").rglob("*.claim*"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
def test_a_folder_made_read_only_midway_is_one_line_and_the_next_call_goes_on(
    undisturbed: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine does not let root mount a disk")
    try:
        elsewhere = f"sqlite:///{tmp_path / 'mlflow.db'}"  # a file held open for writing keeps a disk writable
        driver = start(*STUDY, "--results", str(disk), cwd=tmp_path, MLFLOW_TRACKING_URI=elsewhere)
        wait_for(driver, "finished")
        deadline = time.monotonic() + 20
        while subprocess.run(["mount", "-o", "remount,ro", disk], check=False, capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.02)  # something was being written
        output, errors = driver.communicate()
        assert driver.returncode == 1, output + errors
        assert "Traceback" not in errors
        assert len([line for line in errors.splitlines() if line.startswith("error: Read-only file system")]) == 1
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        kept = records(disk)
        assert kept
        done = call(*STUDY, "--results", str(disk), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{NUM_RUNS} runs, {len(kept)} done" in done.stdout
        assert records(disk) == records(undisturbed)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_password_reaches_no_file_and_no_output(tmp_path: Path) -> None:
    uri = "http://user:sesame@127.0.0.1:9/?password=sesame"
    done = call(*TINY, "--seeds", "1", cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0
    assert "sesame" not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if b"sesame" in path.read_bytes()] == []
