"""What the page on Python shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ablations
import nin

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
NETWORKS, STUDIES, POOLING = re.findall(r"```python\n(.*?)```", PAGE, re.S)
CALLED = re.compile(r"^\| `(\w+)\(", re.M)


def test_every_function_of_the_tables_is_exported() -> None:
    named = set(CALLED.findall(PAGE.split("## Studies")[0]))
    assert {"build", "fit", "layers"} <= named <= set(nin.__all__)
    assert {"Study", "Variant", "load_results", "run_study"} <= set(ablations.__all__)


def test_the_example_of_networks_runs_on_synthetic_images(tmp_path: Path) -> None:
    few = 'load_data("synthetic", train_examples=64, val_examples=50, test_examples=50)'
    code = re.sub(r'load_data\("fashion-mnist", .*?\)', few, NETWORKS).replace("epochs=2", "epochs=1")
    assert few in code
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert len(namespace["history"].to_frame()) == 2  # type: ignore[attr-defined]


def test_the_example_of_a_pooling_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from nin.pooling import POOLINGS

    exec(POOLING, {"__name__": "an_example"})
    try:
        assert torch.allclose(POOLINGS["power"]((3, 4, 4))(torch.full((2, 3, 4, 4), 2.0)), torch.full((2, 3), 2.0))
    finally:
        del POOLINGS["power"]


@pytest.mark.slow
def test_the_example_of_a_study_runs_as_a_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STUDIES)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/half_dropout/smoke/report.md").exists()
