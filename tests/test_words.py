"""Words that users and readers meet first: help of the commands, and docstrings."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablations.protocols import PROTOCOLS

ROOT = Path(__file__).parent.parent
VAGUE = re.compile(r"(What|Whether|Where|Those|How|Which|When|Who)\b")
QUESTIONS = "ablations/studies/"  # a study's docstring is its question
COMMANDS = ["ablations.run", "ablations.tune", "ablations.report", "ablations.publish"]


def help_of(module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("module", COMMANDS)
def test_help_names_every_protocol_in_order(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{', '.join(PROTOCOLS)} (default: quick)" in help_of(module, capsys, monkeypatch).replace("- ", "-")


@pytest.mark.parametrize("module", COMMANDS)
def test_help_ends_with_three_examples_and_the_exit_statuses(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = help_of(module, capsys, monkeypatch).partition("examples: ")[2]
    assert examples.count(f"python -m {module} ") == 3
    assert examples.endswith("exit status: 0 success, 1 some runs failed, 2 invalid arguments, 130 interrupted")


@pytest.mark.parametrize("module", COMMANDS)
def test_help_says_the_default_of_every_option_that_takes_a_value(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_of(module, capsys, monkeypatch).partition("examples: ")[0].partition("options:")[2]
    options = re.split(r" (?=--[a-z])", text)
    with_value = [
        option for option in options if re.match(r"--[\w-]+ (?:[A-Z{])", option) and "--against" not in option
    ]
    assert len(with_value) >= 4
    assert [option for option in with_value if "default: " not in option] == []


def docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted([*(ROOT / "nin").rglob("*.py"), *(ROOT / "ablations").rglob("*.py")]):
        place = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield f"{place}: {getattr(node, 'name', 'module')}", text


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    found = list(docstrings())
    assert len(found) > 500
    assert [f"{name}: {text}" for name, text in found if VAGUE.match(text) and not name.startswith(QUESTIONS)] == []
