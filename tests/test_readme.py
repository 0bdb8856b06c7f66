"""README, pages of docs/ and CONTRIBUTING show commands and examples that work as they stand there.

A fence "```console (needs ...)" holds commands that need more than a test has: a GPU, a server, hours. All other commands are run,
on the smoke protocol.
"""

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from ablations.catalog import load_study
from ablations.execution.worker import execute
from ablations.study import Study
from nin import pooling
from nin.data import DATASETS, load
from nin.model import build_model
from nin.spec import DataSpec, ModelSpec

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results/reference/README.md", *ROOT.glob("docs/*.md")]
)
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
EXTENDING, FAULTS = TEXTS["docs/extending.md"], TEXTS["docs/faults.md"]
FENCE = re.compile(r"^```console( \(needs [^)]+\))?\n(.*?)^```", re.M | re.S)
RUN_SMALL = {  # the later of an option that is given twice counts
    "ablations.run": ["--protocol", "smoke", "--seeds", "1", "--set", "train.epochs=1"],
    "ablations.report": ["--protocol", "smoke", "--set", "train.epochs=1"],
    "ablations.tune": ["--protocol", "smoke", "--trials", "1", "--variants", "0x", "--set", "train.epochs=1"],
}
ELSEWHERE = {  # commands that other tests run, or that only set up a shell
    "make": "targets: test_every_target_of_make_exists; what they run are commands of this page",
    "source": "activates the virtual environment",
    ".venv/bin/python": "pytest itself",
    ".venv/bin/pre-commit": "installs a hook into this repository",
}


@dataclass(frozen=True)
class Shown:
    """A command of a page, and what it needs beyond a test ("" for nothing)."""

    page: str
    words: tuple[str, ...]
    needs: str = ""

    @property
    def module(self) -> str:
        """The module of `python -m MODULE`, else ""."""
        found = re.search(r"python -m (\S+)", " ".join(self.words))
        return found[1] if found else ""


def shown() -> Iterator[Shown]:
    for page, text in TEXTS.items():
        for needs, block in FENCE.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            for line in lines:
                if line.startswith("$ "):
                    yield Shown(page, tuple(shlex.split(line[2:], comments=True)), needs.strip(" ()"))


COMMANDS = list(shown())
RUN = [command for command in COMMANDS if not command.needs and command.words[0] not in ELSEWHERE]


def label(command: Shown) -> str:
    return f"{Path(command.page).stem}: {' '.join(command.words)}"


def test_every_command_is_python_or_marked_or_run_elsewhere() -> None:
    assert len(RUN) > 15
    assert [label(command) for command in RUN if command.words[:2] != ("python", "-m")] == []


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|\$ )make ([a-z][\w-]*)", "".join(TEXTS.values())))
    assert {"run", "test", "controls"} <= named <= targets


@pytest.mark.parametrize(
    "module", sorted({command.module for command in COMMANDS if command.module.startswith(("nin", "abl"))})
)
def test_every_option_shown_is_an_option(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(module).main
    with contextlib.suppress(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    for command in COMMANDS:
        if command.module == module and "roofline" not in command.words:
            assert {word for word in command.words if word.startswith("--")} <= known, label(command)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run in the order of their pages: a study that is deployed has to be trained first."""
    place = tmp_path_factory.mktemp("commands")
    (example,) = python_examples(EXTENDING, 'baseline="0.5"')
    (place / "my_study.py").write_text(example)
    return place


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", sorted({command.page for command in RUN}))
def test_commands_of_a_page_run_in_their_order(page: str, folder: Path) -> None:
    for command in RUN:
        if command.page != page or command.module == "pytest":
            continue
        is_index = command.words[2:] == ("ablations.report",)  # of all studies: it takes no options of one
        words = [*command.words[3:], *([] if is_index else RUN_SMALL.get(command.module, []))]
        if "--list" in words or "<name>" in words:
            words = [word.replace("<name>", "heads") for word in words]
        if "best" in words and "--variants" in words:
            words[words.index("--variants") + 1] = "nin"
        if "--quick" in words or "roofline" in words or "--answers" in words:
            continue  # measure for minutes, or write this repository's pages: tests of their own
        done = subprocess.run(
            [sys.executable, "-m", command.module, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, f"{label(command)}: {done.stderr}"


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page]):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def python_examples(text: str, containing: str) -> list[str]:
    return [dedent(code) for code in re.findall(r"```python\n(.*?)```", text, re.S) if containing in code]


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/extending.md", marks=pytest.mark.slow)])
def test_the_examples_of_studies_run(page: str) -> None:
    examples = python_examples(TEXTS[page], "STUDY = Study(")
    assert examples
    for example in examples:
        namespace: dict[str, object] = {}
        exec(example, namespace)
        study = namespace["STUDY"]
        assert isinstance(study, Study)
        brief = ["train.epochs=1", "data.train_examples=64", "data.val_examples=50", "data.test_examples=50"]
        runs = replace(study, name="example", question="?").expand("smoke", 1, overrides=brief)
        assert len(runs) == len(study.variants)
        assert all(execute(run).record.is_result for run in runs[:1])


@pytest.mark.slow
def test_the_example_of_python_runs_as_a_script(tmp_path: Path) -> None:
    (example,) = python_examples(TEXTS["README.md"], "run_study")
    (tmp_path / "script.py").write_text(example)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/num_1x1/smoke/report.md").exists()


def test_the_example_of_a_pooling_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = {**vars(pooling)}
    (example,) = python_examples(EXTENDING, "(GlobalPool)")
    exec(example, namespace)
    monkeypatch.setitem(pooling.POOLINGS, "example", namespace["RootMeanSquarePool"])
    x = torch.full((2, 3, 4, 4), -2.0)
    assert torch.equal(pooling.POOLINGS["example"]((3, 4, 4))(x), torch.full((2, 3), 2.0))
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pooling.POOLINGS["example"]((3, 4, 4))(dead).sum().backward()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()
    network = build_model(ModelSpec(layout="small", width=0.1, pooling="example"), (1, 28, 28), 10)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_example_of_a_data_set_that_is_read_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nin.sources.DATASETS", {**DATASETS})
    (example,) = python_examples(EXTENDING, 'DATASETS["cells"]')
    exec(example, {})
    arrays = {
        f"{part}_{kind}": np.zeros(shape, dtype)
        for part in ("train", "test")
        for kind, shape, dtype in (("images", (20, 1, 32, 32), np.uint8), ("labels", (20,), np.int64))
    }
    np.savez(tmp_path / "cells.npz", **arrays)
    data = load(DataSpec(name="cells", train_examples=0, val_examples=5, test_examples=0), tmp_path)
    assert (len(data.train.images), len(data.val.images), len(data.test.images)) == (15, 5, 20)
    assert (data.in_shape, data.num_classes) == ((1, 32, 32), 2)


@pytest.mark.slow
def test_the_example_of_a_data_set_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    (command,) = re.findall(r"run (\w+) (.*data\.name=folder:(\w+).*)\n```", EXTENDING)
    study, options, folder = command
    overrides = re.findall(r"--set (\S+)", options)
    (num_val,) = (int(value) for value in re.findall(r"data\.val_examples=(\d+)", options))
    for part, count in (("train", num_val // 2 + 20), ("test", 10)):
        for grey, kind in ((40, "cats"), (200, "dogs")):
            place = tmp_path / folder / part / kind
            place.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (40, 40), (grey, k % 256, grey)).save(place / f"{k}.png")
    monkeypatch.setenv("NIN_DATA", str(tmp_path))
    run = load_study(study).expand("quick", 1, overrides=overrides)[0]
    record = execute(run).record
    assert record.is_result
    assert record.examples_seen == 40 * run.train.epochs
    assert record.test_examples == 20


def test_every_test_that_is_named_exists() -> None:
    written = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", FAULTS)
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in written] == []
