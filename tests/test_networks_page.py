"""The numbers of the page on networks are those of the networks that protocols train."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.protocols import PROTOCOLS
from nin.sizes import size
from nin.spec import ModelSpec, Shape

PAGE = (Path(__file__).parent.parent / "docs" / "networks.md").read_text()
IMAGES: dict[str, Shape] = {"d2l": (1, 224, 224), "full": (1, 28, 28), "standard": (1, 28, 28), "paper": (3, 32, 32)}
PART = {"NiN": "nin", "AlexNet": "alexnet", "VGG": "vgg", "VGG-11": "vgg11"}


def row(name: str) -> list[str]:
    """Cells of the table row that begins with this name, without it."""
    (line,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE, re.M)
    return [cell.strip() for cell in line.split("|")]


def network(protocol: str, **changes: str) -> ModelSpec:
    return replace(PROTOCOLS[protocol].model, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("column", "protocol"), list(enumerate(["d2l", "full", "standard", "paper"])))
def test_parameters_and_flops_of_the_protocols_are_counted(column: int, protocol: str) -> None:
    counted = size(network(protocol), IMAGES[protocol], num_classes=10)
    assert row("parameters")[column] == f"{counted.params_trunk + counted.params_head:,}"
    assert row("GFLOP per image, forward")[column] == f"{counted.gflops:.3f}"


@pytest.mark.parametrize(
    ("column", "protocols"), [(0, ["d2l"]), (1, ["full"]), (2, ["quick", "standard"]), (3, ["paper"])]
)
def test_settings_of_the_protocols_are_those_of_their_table(column: int, protocols: list[str]) -> None:
    trains = [PROTOCOLS[name].train for name in protocols]
    assert row("learning rate")[column] == "; ".join(f"{train.lr:g}" for train in trains)
    assert row("learning rate of the last layer")[column] == "; ".join(
        f"{train.lr * train.last_lr_factor:g}" for train in trains
    )
    assert row("images a step")[column] == "; ".join(str(train.batch_size) for train in trains)
    assert {float(row("weight decay")[column])} == {train.weight_decay for train in trains}


@pytest.mark.parametrize("name", re.findall(r"^\| ((?:NiN|AlexNet|VGG-11) \+ \w+) \|", PAGE, re.M))
def test_parameters_of_every_trunk_and_head_are_counted(name: str) -> None:
    trunk, head = name.split(" + ")
    for column, protocol in enumerate(["standard", "d2l"]):
        counted = size(network(protocol, trunk=PART[trunk], head=PART[head]), IMAGES[protocol], num_classes=10)
        assert row(name)[column] == f"{counted.params_trunk + counted.params_head:,}"
