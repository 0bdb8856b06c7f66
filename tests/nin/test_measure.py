"""`python -m nin.measure` as a user types it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nin.measure import main
from nin.pooling import POOLINGS


def test_the_table_shows_shapes_parameters_and_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nin-d2l"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("96×54×54", "384×5×5", "614,656", "trunk 1,957,376 | head 34,790 | total 1,992,166", "1.525 GFLOP"):
        assert wanted in printed


def test_the_comparison_shows_the_first_fully_connected_layers_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("lenet", "48,000", "78%", "26,214,400", "56%", "102,760,448", "80%", "nin-d2l", "none"):
        assert wanted in printed


def test_any_field_input_and_number_of_classes_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nin-d2l", "--set", "head=alexnet", "--set", "model.num_1x1=0"]) == 0
    assert "trunk 1,511,488 | head 56,147,978" in capsys.readouterr().out
    assert main(["vgg16", "--input", "3x224x224", "--num-classes", "1000"]) == 0
    assert "total 138,357,544 parameters" in capsys.readouterr().out  # torchvision's
    assert main(["--compare", "nin-d2l", "--set", "num_1x1=4"]) == 0
    assert "2,438,274" in capsys.readouterr().out
    assert main(["--compare", "lenet", "nin-d2l", "--set", "num_1x1=4"]) == 0, "which one of them has"
    shown = capsys.readouterr().out
    assert "2,438,274" in shown
    assert shown.endswith("--set changes nothing of lenet: num_1x1\n")
    assert main(["nin-small", "--set", "class_relu=False", "--set", "width=0.25", "--set", "inner_kernel=3"]) == 0


def test_a_part_of_other_code_is_measured_with_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nin.registry.ADDITIONS", {})
    code = "from nin.pooling import POOLINGS, MaxPool\nPOOLINGS['mine_measured'] = MaxPool\n"
    (tmp_path / "mine.py").write_text(code)
    asked = ["nin-small", "--set", "pooling=mine_measured"]
    try:
        assert main([*asked, "--import", str(tmp_path / "mine.py")]) == 0
    finally:
        POOLINGS.pop("mine_measured", None)
    assert "total" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet", "--compare", "nin-cifr"], "unknown network 'nin-cifr': the nearest is 'nin-cifar'"),
        (["nin-d2l", "--set", "num1x1=3"], "unknown --set key 'num1x1': the nearest is 'num_1x1'"),
        (["nin-d2l", "--set", "num_1x1=two"], "num_1x1 must be a whole number"),
        (["nin-d2l", "--set", "num_1x1=-1"], "must be 0 or more"),
        (["lenet", "alexnet", "--set", "num_1x1=3"], "num_1x1: would change nothing in any of these networks"),
        (["nin-d2l", "--set", "class_relu=1"], "class_relu must be true or false"),
        (["nin-d2l", "--set", "head=alexnt"], "nearest is 'alexnet'"),
        (["nin-d2l", "--input", "3x32"], "must be channels, height and width"),
        (["nin-d2l", "--input", "1x0x32"], "must be channels, height and width"),
        (["nin-d2l", "--input", "1x99999999999999999999x32"], "each at most 4096"),
        (["nin-d2l", "--num-classes", "99999999999999999999"], "at most 1048576"),
        (["lenet", "nin-d2l", "--input", "1x28x28"], "28x28 px are too small for trunk 'nin'"),
    ],
)
def test_a_wrong_request_is_a_value_error_of_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == "", "the networks before the wrong one are not printed either"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nin-d2"], "nearest is 'nin-d2l'"),
        ([], "name a network"),
        (["nin-d2l", "--num-classes", "0"], "must be 1 or more"),
        (["nin-d2l", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nin.measure", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
