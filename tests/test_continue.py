"""`results/continue.sh` with a Python that trains nothing and notes what it was asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ablations import run, tune
from ablations.catalog import load_study
from ablations.cli import names
from ablations.protocols import PROTOCOLS

SCRIPT = Path(__file__).parent.parent / "results" / "continue.sh"
RECORD = Path("heads/standard/runs/0123456789abcdef.json")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one published record, where `python` notes its arguments in the file `asked`."""
    published = tmp_path / "results/reference" / RECORD
    published.parent.mkdir(parents=True)
    published.write_text("published")
    (published.parent.parent / "looks.json").write_text("declared")
    shutil.copy(SCRIPT, tmp_path / "results")
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/bash\necho "$@" >> "{tmp_path}/asked"\n')
    python.chmod(0o755)
    return tmp_path


def continued(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    script = [str(project / "results/continue.sh"), *arguments]
    return subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("part", "num_commands"), [("cpu", 8), ("gpu", 5)])
def test_every_command_is_one_and_has_the_time_that_is_left(project: Path, part: str, num_commands: int) -> None:
    done = continued(project, part, "10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Nothing is left to train.\n")
    asked = [line.split() for line in (project / "asked").read_text().splitlines()]
    assert len(asked) == num_commands
    for _, module, *arguments in asked:
        if module != "nin.bench":
            parser = {"ablations.run": run._parser, "ablations.tune": tune._parser}[module]()
            options = parser.parse_args(arguments)
            assert 0 < options.budget <= 600
            for name in (
                names(",".join(options.study) if isinstance(options.study, list) else options.study, "study") or ()
            ):
                load_study(name).expand(options.protocol, 1, options.variants and options.variants.split(","))
                assert options.protocol in PROTOCOLS


def test_published_records_are_copied_and_own_ones_kept(project: Path) -> None:
    assert continued(project, "cpu", "1").returncode == 0
    own = project / "results" / RECORD
    assert own.read_text() == "published"
    assert (own.parent.parent / "looks.json").read_text() == "declared"
    own.write_text("own")
    assert continued(project, "cpu", "1").returncode == 0
    assert own.read_text() == "own"


def test_a_copy_that_was_cut_off_is_made_again(project: Path) -> None:
    """As on a full disk: `cp` has written a part and failed."""
    copy = project / "bin/cp"
    copy.write_text(
        '#!/bin/bash\nhead -c 3 "$1" > "${@: -1}/${1##*/}" 2>/dev/null || head -c 3 "$1" > "${@: -1}"\nexit 1\n'
    )
    copy.chmod(0o755)
    assert continued(project, "cpu", "1").returncode == 1
    copy.unlink()
    assert continued(project, "cpu", "1").returncode == 0
    assert (project / "results" / RECORD).read_text() == "published"


def test_nothing_is_trained_when_the_time_is_up(project: Path) -> None:
    done = continued(project, "cpu", "0")
    assert (done.returncode, done.stdout) == (0, "The time is up; call again to continue.\n")
    assert not (project / "asked").exists()


@pytest.mark.slow
def test_time_that_is_up_in_the_last_command_is_not_the_end(project: Path) -> None:
    python = project / "bin/python"
    python.write_text(f'{python.read_text()}[[ "$*" == *--tuned* ]] && sleep 4\ntrue\n')
    script = project / "results/continue.sh"
    script.write_text(script.read_text().replace("60 * minutes", "3 * minutes"))
    done = continued(project, "cpu", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("The time is up; call again to continue.\n")
    assert "--tuned" in (project / "asked").read_text()


@pytest.mark.parametrize("arguments", ["", "cpu", "tpu 1", "cpu 2h", "cpu 08", "cpu 1 1"])
def test_other_arguments_are_refused(arguments: str, project: Path) -> None:
    done = continued(project, *arguments.split())
    assert (done.returncode, done.stderr) == (2, "usage: results/continue.sh cpu|gpu MINUTES\n")
    assert not (project / "results" / RECORD).exists()
