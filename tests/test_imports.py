"""Imports point one way, read from the source itself: rooms that do not exist yet are not checked."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("nin", "ablations")
    for path in sorted((ROOT / package).rglob("*.py"))
}

# What a room must not import, not even inside a function.
NEVER = {
    "nin": ("ablations", "optuna", "seaborn"),
    "nin.train": ("nin.heads", "nin.model", "nin.pooling", "nin.trunks"),
    "nin.data": ("nin.model", "nin.train", "nin.trunks"),
}

# The only importers of a library.
ONLY = {
    "mlflow": ("ablations.tracking.mlflow_tree", "nin.export"),
    "optuna": ("ablations.tuning",),
    "ray": ("ablations.execution.engines.ray",),
    "seaborn": ("ablations.reporting.figures",),
    "torchvision": ("nin._torchvision",),
}

# The only importers within `nin`, whose networks are trained without tables.
ONLY_IN_NIN = {"pandas": ("nin.api", "nin.history")}

# All that a room imports when it is imported, beside the standard library. Listing studies loads no torch.
STUDIES = ("nin.settings", "nin.spec", "ablations.protocols", "ablations.runs", "ablations.studies", "ablations.study")
NOTHING_ELSE_THAN = {
    "nin.spec": (),
    "nin.settings": ("nin.spec",),
    "nin.history": (),
    "nin.cli": ("nin.__version__",),
    "nin.sizes": ("nin.spec",),
    "nin.measure": ("nin.cli", "nin.sizes", "nin.spec"),
    "nin.export": ("nin.cli",),
    "nin.predict": ("nin.cli",),
    "nin.cam": ("nin.cli",),
    "ablations.protocols": STUDIES,
    "ablations.runs": ("nin.spec",),
    "ablations.study": STUDIES,
    "ablations.studies": STUDIES,
}

# A room imports from those before it alone, never from its own row.
ROWS = (("nin.spec",), ("nin.blocks", "nin.pooling"), ("nin.heads", "nin.trunks"), ("nin.model",))


def imports(source: str, only_at_import: bool = False) -> Iterator[str]:
    """Full dotted names ("nin.spec.ModelSpec"); `only_at_import` leaves out functions and `if TYPE_CHECKING`."""
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif only_at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif only_at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)


def within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{room}.") for room in rooms)


def rooms_within(room: str) -> list[str]:
    return [module for module in SOURCES if within(module, (room,))]


def forbidden(module: str, names: tuple[str, ...]) -> list[str]:
    return [name for name in imports(SOURCES[module].read_text()) if within(name, names)]


def test_all_known_rooms_are_visited() -> None:
    assert {"nin", *(f"nin.{name}" for name in ("spec", "history", "train", "measure", "data"))} <= SOURCES.keys()
    assert {room for row in ROWS for room in row} <= SOURCES.keys()
    assert {
        "ablations.study",
        "ablations.studies.num_1x1",
        "ablations.tracking.mlflow_tree",
        "ablations.reporting.figures",
    } <= SOURCES.keys()


@pytest.mark.parametrize(
    ("source", "at_import"),
    [
        ("import mlflow.entities", ["mlflow.entities"]),
        ("from ablations.analysis import stats", ["ablations.analysis.stats"]),
        ("try:\n  import mlflow\nfinally:\n  pass", ["mlflow"]),
        ("class Room:\n  import mlflow", ["mlflow"]),
        ("def f():\n  import mlflow", []),
        ("class Room:\n  def f(self):\n    from mlflow import log_metric", []),
        ("if TYPE_CHECKING:\n  import mlflow\nelse:\n  import torch", ["torch"]),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, at_import: list[str]) -> None:
    assert list(imports(source, only_at_import=True)) == at_import
    assert any(within(name, ("mlflow", "ablations")) for name in imports(source))


@pytest.mark.parametrize(
    ("module", "names"),
    [pytest.param(module, NEVER[room], id=f"{module}-as-{room}") for room in NEVER for module in rooms_within(room)],
)
def test_module_never_imports_what_it_must_not_know(module: str, names: tuple[str, ...]) -> None:
    assert forbidden(module, names) == []


@pytest.mark.parametrize("library", ONLY)
def test_library_has_few_importers(library: str) -> None:
    importers = [module for module in SOURCES if forbidden(module, (library,))]
    assert [module for module in importers if not within(module, ONLY[library])] == []


@pytest.mark.parametrize("library", ONLY_IN_NIN)
def test_library_has_few_importers_in_nin(library: str) -> None:
    importers = [module for module in rooms_within("nin") if forbidden(module, (library,))]
    assert set(importers) == set(ONLY_IN_NIN[library])


@pytest.mark.parametrize("library", ["mlflow", "seaborn", "torchvision"])
def test_library_is_imported_where_it_should_be(library: str) -> None:
    assert all(forbidden(module, (library,)) for module in ONLY[library])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        pytest.param(module, NOTHING_ELSE_THAN[room], id=module)
        for room in NOTHING_ELSE_THAN
        for module in rooms_within(room)
    ],
)
def test_module_is_imported_with_nothing_else(module: str, names: tuple[str, ...]) -> None:
    imported = imports(SOURCES[module].read_text(), only_at_import=True)
    others = [name for name in imported if name.split(".")[0] not in sys.stdlib_module_names]
    assert [name for name in others if not within(name, names)] == []


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_networks_are_built_from_the_specification_up(row: int) -> None:
    later = tuple(room for other in ROWS[row:] for room in other)
    for module in ROWS[row]:
        assert forbidden(module, later) == []
