"""What is installed from a wheel, away from the clone, does what the clone does."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import record_of

from ablations.catalog import load_study
from ablations.records import Store

ROOT = Path(__file__).parent.parent
SOURCES = ("nin", "ablations", "pyproject.toml", "README.md", "LICENSE")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Calls a module of the wheel, from a folder, in an environment that has this one's dependencies but not the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:  # building leaves traces, which do not belong into the clone
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env/bin/python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [str(python), *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)

    where = call("-c", "import nin, ablations; print(nin.__file__, ablations.__file__)", cwd=folder).stdout
    assert all(path.startswith(str(packages)) for path in where.split())
    assert (packages / "nin/py.typed").exists()
    assert (packages / "ablations/py.typed").exists()
    return call


@pytest.mark.slow
def test_a_wheel_runs_a_study_from_an_empty_folder(installed: Command, tmp_path: Path) -> None:
    told = installed("-m", "ablations.run", "num_1x1", "--protocol", "smoke", cwd=tmp_path).stdout
    assert "report:  results/num_1x1/smoke/report.md" in told
    store = Store(tmp_path / "results", "num_1x1", "smoke")
    runs = load_study("num_1x1").expand("smoke")
    assert all(store.has_result(run) for run in runs)


@pytest.mark.slow
def test_a_wheel_keeps_published_runs(installed: Command, tmp_path: Path) -> None:
    store = Store(tmp_path / "results", "textbook", "d2l")
    for run in load_study("textbook").expand("d2l", 3):
        store.write(record_of(run, test_accuracy=0.8 + 0.01 * run.seed))
    installed("-m", "ablations.report", "textbook", "--protocol", "d2l", cwd=tmp_path)
    assert "## Beside published runs" in (store.folder / "report.md").read_text()


@pytest.mark.slow
def test_a_wheel_keeps_published_numbers(installed: Command, tmp_path: Path) -> None:
    code = "from ablations.analysis.published import ANCHORS; print(ANCHORS.read_text())"
    assert "CaffeNet" in installed("-c", code, cwd=tmp_path).stdout
