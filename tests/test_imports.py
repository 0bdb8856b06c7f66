"""Imports point one way, read from the source itself."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("nin", "ablations")
    for path in sorted((ROOT / package).rglob("*.py"))
}

# What a package or module must not import, not even inside a function.
NEVER = {
    "nin": ("ablations", "optuna", "seaborn"),
    **dict.fromkeys(
        [
            f"ablations.{name}"
            for name in ("execution", "tracking", "analysis", "reporting", "tuning", "session", "until_decided", "plan")
        ],
        ("argparse", "nin.cli.OneLineParser", "ablations.cli"),  # plain values below the command lines
    ),
    "nin.train": ("nin.heads", "nin.model", "nin.pooling", "nin.trunks"),
    "nin.data": ("nin.model", "nin.train", "nin.trunks"),
}

NIN_COMMANDS = ("bench", "cam", "export", "measure", "predict", "roofline", "shift")

# The only importers of a library, or of the parts of command lines.
ONLY = {
    "mlflow": (
        *("ablations.tracking.mlflow_log", "ablations.tracking.mlflow_tree"),
        *("nin.mlflow_database", "nin.serving", "nin.served"),
    ),
    "nin.cli": ("ablations", *(f"nin.{name}" for name in NIN_COMMANDS)),
    "optuna": ("ablations.tuning",),
    "ray": ("ablations.execution.engines.ray",),
    "seaborn": ("ablations.reporting.axes", "ablations.reporting.figures"),
    "torchvision": ("nin._torchvision",),
}

# The only importers within `nin`, whose networks are trained without tables.
ONLY_IN_NIN = {"pandas": ("nin.api", "nin.history")}

# All that a package imports when it is imported, beside the standard library. Listing studies loads no torch.
STUDY = ("nin.registry", "nin.settings", "nin.spec", "ablations.protocols", "ablations.runs", "ablations.study")
CATALOG = (*STUDY, "ablations.plugins", "ablations.studies")
NOTHING_ELSE_THAN = {
    "nin.spec": (),
    "nin.registry": ("nin.text",),
    "nin.settings": ("nin.spec",),
    "nin.history": (),
    "nin.text": (),
    "nin.out_of_memory": (),
    "nin.cli": ("nin.__version__", "nin.out_of_memory", "nin.spec", "nin.text"),
    "nin.sizes": ("nin.registry", "nin.spec"),
    "nin.measure": ("nin.cli", "nin.sizes", "nin.spec", "nin.text"),
    "nin.model_card": (),
    "nin.files": (),
    "nin.mlflow_database": ("nin.files",),
    "nin.serving": ("nin.files", "nin.mlflow_database", "nin.model_card"),
    "nin.export": ("nin.cli", "nin.files", "nin.mlflow_database", "nin.model_card", "nin.serving", "nin.text"),
    "nin.predict": ("nin.cli", "nin.text"),
    "nin.cam": ("nin.cli", "nin.text"),
    "ablations.plugins": ("nin.registry", "nin.text"),
    "ablations.protocols": STUDY,
    "ablations.runs": ("nin.registry", "nin.spec"),
    "ablations.study": STUDY,
    "ablations.studies": (*STUDY, "ablations.studies"),
    "ablations.catalog": CATALOG,
}

# From the commands down: a module imports from its own layer and those below, never from one above.
LAYERS = (
    ("ablations.commands",),
    ("ablations.run", "ablations.tune", "ablations.report", "ablations.publish"),
    ("ablations.answers", "ablations.api", "ablations.cli", "ablations.plan"),
    ("ablations.until_decided",),
    ("ablations.session",),
    ("ablations.tuning",),
    ("ablations.reporting",),
    ("ablations.execution",),
    ("ablations.tracking", "ablations.analysis"),
    ("ablations.looks", "ablations.records", "ablations.reproduce"),
    ("ablations.catalog",),
    ("ablations.studies",),
    ("ablations.study",),
    ("ablations.controls",),
    ("ablations.runs", "ablations.protocols"),
    ("ablations.plugins", "ablations.servers"),
    ("nin",),
)

# A package imports from those before it alone, never from its own row.
ROWS = (("nin.spec",), ("nin.blocks", "nin.pooling"), ("nin.heads", "nin.trunks"), ("nin.model",))


@cache  # each source is looked at for many reasons
def imports(source: str, only_at_import: bool = False, type_checking: bool = True) -> list[str]:
    """Full dotted names ("nin.spec.ModelSpec"); `only_at_import` leaves out functions and `if TYPE_CHECKING`.

    `type_checking=False` leaves out the latter alone.
    """
    nodes: list[ast.AST] = [ast.parse(source)]
    found: list[str] = []
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif only_at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif (
            (only_at_import or not type_checking)
            and isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)
    return found


def module_of(name: str) -> str:
    """The module of ours that an imported name ("nin.spec.ModelSpec") is in, or empty."""
    while name and name not in SOURCES:
        name = name.rpartition(".")[0]
    return name


def graph() -> dict[str, set[str]]:
    """The modules of ours that each module imports, also inside functions."""
    return {
        module: {module_of(name) for name in imports(path.read_text(), type_checking=False)} - {"", module}
        for module, path in SOURCES.items()
    }


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which leads back to itself through the others (strongly connected components)."""

    def reachable(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {module: reachable(module) for module in graph}
    groups = {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in graph
        if module in reach[module]
    }
    return [set(group) for group in groups]


def layer(module: str) -> int:
    return next(place for place, packages in enumerate(LAYERS) if within(module, packages))


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def modules_within(package: str) -> list[str]:
    return [module for module in SOURCES if within(module, (package,))]


def forbidden(module: str, names: tuple[str, ...]) -> list[str]:
    return [name for name in imports(SOURCES[module].read_text()) if within(name, names)]


def test_all_known_modules_are_visited() -> None:
    assert {"nin", *(f"nin.{name}" for name in ("spec", "history", "train", "measure", "data"))} <= SOURCES.keys()
    assert {package for row in ROWS for package in row} <= SOURCES.keys()
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
        ("class Module:\n  import mlflow", ["mlflow"]),
        ("def f():\n  import mlflow", []),
        ("class Module:\n  def f(self):\n    from mlflow import log_metric", []),
        ("if TYPE_CHECKING:\n  import mlflow\nelse:\n  import torch", ["torch"]),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, at_import: list[str]) -> None:
    assert imports(source, only_at_import=True) == at_import
    assert any(within(name, ("mlflow", "ablations")) for name in imports(source))


@pytest.mark.parametrize(
    ("module", "names"),
    [
        pytest.param(module, NEVER[package], id=f"{module}-as-{package}")
        for package in NEVER
        for module in modules_within(package)
    ],
)
def test_module_never_imports_what_it_must_not_know(module: str, names: tuple[str, ...]) -> None:
    assert forbidden(module, names) == []


@pytest.mark.parametrize("library", ONLY)
def test_library_has_few_importers(library: str) -> None:
    importers = [module for module in SOURCES if forbidden(module, (library,))]
    assert [module for module in importers if not within(module, ONLY[library])] == []


@pytest.mark.parametrize(("library", "importers"), [("mlflow", ["nin.served"]), ("optuna", []), ("ray", [])])
def test_library_is_loaded_where_it_is_used(library: str, importers: list[str]) -> None:
    """So that a study runs on a machine without it."""
    found = [
        module
        for module, path in SOURCES.items()
        if any(within(name, (library,)) for name in imports(path.read_text(), only_at_import=True))
    ]
    assert found == importers


@pytest.mark.parametrize("library", ONLY_IN_NIN)
def test_library_has_few_importers_in_nin(library: str) -> None:
    importers = [module for module in modules_within("nin") if forbidden(module, (library,))]
    assert set(importers) == set(ONLY_IN_NIN[library])


@pytest.mark.parametrize("library", ["mlflow", "seaborn", "torchvision"])
def test_library_is_imported_where_it_should_be(library: str) -> None:
    assert all(forbidden(module, (library,)) for module in ONLY[library])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        pytest.param(module, NOTHING_ELSE_THAN[package], id=module)
        for package in NOTHING_ELSE_THAN
        for module in modules_within(package)
    ],
)
def test_module_is_imported_with_nothing_else(module: str, names: tuple[str, ...]) -> None:
    imported = imports(SOURCES[module].read_text(), only_at_import=True)
    others = [name for name in imported if name.split(".")[0] not in sys.stdlib_module_names]
    assert [name for name in others if not within(name, names)] == []


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_networks_are_built_from_the_specification_up(row: int) -> None:
    later = tuple(package for other in ROWS[row:] for package in other)
    for module in ROWS[row]:
        assert forbidden(module, later) == []


def test_no_module_leads_back_to_itself() -> None:
    assert circles(graph()) == []


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}, [{"b", "c"}]),
    ],
)
def test_circles_are_found(edges: dict[str, set[str]], found: list[set[str]]) -> None:
    assert circles(edges) == found


@pytest.mark.parametrize("module", [module for module in SOURCES if module != "ablations"])
def test_module_imports_nothing_from_a_layer_above(module: str) -> None:
    above = [name for name in graph()[module] if name != "ablations" and layer(name) < layer(module)]
    assert above == []


def test_commands_import_no_command() -> None:
    for command in LAYERS[0]:
        assert not graph()[command] & set(LAYERS[0])


def test_worker_loads_no_statistics_and_no_tables() -> None:
    """Each of many workers would load them anew: they take seconds, and memory."""
    loaded = (
        "import sys, ablations.execution.worker; print({'scipy.stats', 'statsmodels', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("command", [["run", "--list"], ["run", "--help"], ["tune", "--help"], ["publish", "--help"]])
def test_help_and_lists_load_no_torch_and_no_tables(command: list[str]) -> None:
    module, option = command
    ended = "import atexit, sys; atexit.register(lambda: print({'torch', 'pandas', 'scipy'} & sys.modules.keys()))"
    run = f"from nin.cli import exit_with; from ablations import {module}; sys.argv[1:] = [{option!r}]; exit_with({module}.main)"
    done = subprocess.run([sys.executable, "-c", f"{ended}; {run}"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
