"""What the README shows as examples works as it stands there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ablations.execution.worker import execute
from ablations.protocols import PROTOCOLS
from ablations.study import Study, load_study, study_names
from nin import pooling
from nin.model import build_model
from nin.spec import ModelSpec

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def example(containing: str) -> str:
    (found,) = (text for text in EXAMPLES if containing in text)
    return str(found)


def test_the_example_of_a_study_runs() -> None:
    namespace: dict[str, object] = {}
    exec(example("STUDY = Study("), namespace)
    study = namespace["STUDY"]
    assert isinstance(study, Study)
    brief = ["train.epochs=1", "data.train_examples=64", "data.val_examples=50", "data.test_examples=50"]
    runs = replace(study, name="example", question="?").expand("smoke", 1, overrides=brief)
    assert len(runs) == len(study.variants)
    assert all(execute(run).record.is_result for run in runs)


def test_the_example_of_a_pooling_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = {**vars(pooling)}
    exec(example("(GlobalPool)"), namespace)
    monkeypatch.setitem(pooling.POOLINGS, "rms", namespace["RootMeanSquarePool"])
    x = torch.full((2, 3, 4, 4), -2.0)
    assert torch.equal(pooling.POOLINGS["rms"]((3, 4, 4))(x), torch.full((2, 3), 2.0))
    network = build_model(ModelSpec(layout="small", width=0.1, pooling="rms"), (1, 28, 28), 10)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_example_of_a_data_set_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    (command,) = re.findall(r"run (\w+) (.*data\.name=folder:(\w+).*)\n```", README)
    study, options, folder = command
    overrides = re.findall(r"--set (\S+)", options)
    (num_val,) = (int(value) for value in re.findall(r"data\.val_examples=(\d+)", options))
    for part, count in (("train", num_val // 2 + 20), ("test", 10)):
        for grey, label in ((40, "cats"), (200, "dogs")):
            place = tmp_path / folder / part / label
            place.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (40, 40), (grey, k % 256, grey)).save(place / f"{k}.png")
    monkeypatch.setenv("NIN_DATA", str(tmp_path))
    run = load_study(study).expand("quick", 1, overrides=overrides)[0]
    record = execute(run).record
    assert record.is_result
    assert record.examples_seen == 40 * run.train.epochs
    assert record.test_examples == 20


def test_every_protocol_and_study_is_named() -> None:
    for name in [*PROTOCOLS, *study_names()]:
        assert re.search(rf"\b{name}\b", README), name


def test_every_test_that_is_named_exists() -> None:
    written = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", README)
    assert named
    assert [name for name in named if f"def {name}(" not in written] == []
