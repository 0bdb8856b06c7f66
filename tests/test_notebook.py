"""The lesson's notebook runs from its first cell to its last, and shows what the course shows."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "nin.ipynb"

# What the course's notebook prints for its network, but for the layer that flattens the pooled maps.
SHAPES = [
    *("(1, 96, 54, 54)", "(1, 96, 26, 26)", "(1, 256, 26, 26)", "(1, 256, 12, 12)"),
    *("(1, 384, 12, 12)", "(1, 384, 5, 5)", "(1, 384, 5, 5)", "(1, 10, 5, 5)", "(1, 10)"),
]
VGG_HEAD = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10  # parameters


def shown(cell: Any, kind: str) -> list[str]:
    """What a cell shows of that kind ("image/png"); "text" is what it prints."""
    if kind == "text":
        return ["".join(output["text"]) for output in cell.outputs if output.output_type == "stream"]
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


def test_the_notebook_is_short_and_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert 15 <= len(cells) <= 30
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the notebook's client, which is not ours
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    by_source = {cell.source: cell for cell in notebook.cells}

    def cell(beginning: str) -> Any:
        return next(cell for source, cell in by_source.items() if source.startswith(beginning))

    assert re.findall(r"\(1, .*\)", shown(cell('network = nin.build("nin-d2l")'), "text")[0]) == SHAPES
    assert "(96, 54, 54)" in shown(cell("nin.layers"), "text/html")[0]
    assert str(VGG_HEAD) in shown(cell("networks ="), "text/html")[0]
    assert len(shown(cell("network = nin.build(protocol"), "image/png")) == 1
    assert "data:image/png;base64," in shown(by_source["results"], "text/html")[0]
    for figure in ("results.figure", "trained ="):
        assert len(shown(cell(figure), "image/png")) == 1
    assert (tmp_path / "results/num_1x1/smoke/report.md").exists()
