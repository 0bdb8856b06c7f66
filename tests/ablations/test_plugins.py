"""Code outside the package: what it adds is known to every worker, and results of another version of it never mix."""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import call

from ablations import plugins
from ablations.catalog import load_study
from ablations.execution.worker import execute
from ablations.plugins import GROUP, SPAWNED_SCRIPT, Plugin, for_workers, install, load_file, load_plugins
from ablations.run import main
from ablations.study import Study, Variant
from nin.blocks import ACTIVATIONS, Activation
from nin.pooling import POOLINGS, AveragePool
from nin.registry import ADDITIONS, Registry
from nin.sizes import size
from nin.spec import ModelSpec

POOLING = """
from torch import Tensor
from nin.pooling import POOLINGS, GlobalPool

class RootMeanSquarePool(GlobalPool):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.square().mean(dim=(2, 3)).sqrt()

POOLINGS["rms"] = RootMeanSquarePool
"""
STUDY = '''"""Is the root mean square
a good pooling?

A second paragraph.
"""
from ablations.study import Study, Variant

STUDY = Study("average", {name: Variant(model={"pooling": name}) for name in ("average", "rms")})
'''
BRIEF = ["train.epochs=1", "data.train_examples=64", "data.val_examples=50", "data.test_examples=50"]
SETS = [word for override in BRIEF for word in ("--set", override)]


@pytest.fixture(autouse=True)
def nothing_stays_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("_loaded", "_imports", "_sources"):
        monkeypatch.setattr(plugins, name, {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules, additions = set(sys.modules), dict(ADDITIONS)
    yield
    for registry in (POOLINGS, ACTIVATIONS):
        for name in [name for field, name in ADDITIONS if field == registry.field]:
            del registry[name]
    ADDITIONS.update(additions)
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.FILE_MODULE) or name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_study.py"
    path.write_text(STUDY + POOLING)
    return path


def test_a_study_in_any_file_is_named_after_it(study_file: Path) -> None:
    study = load_study(str(study_file))
    assert (study.name, study.question) == ("my_study", "Is the root mean square a good pooling?")
    assert study.file == str(study_file)
    assert [run.code for run in study.expand("smoke", 1)] == ["", ADDITIONS["model.pooling", "rms"].digest]


def test_the_file_of_a_study_of_the_package_is_that_study() -> None:
    import ablations.studies.dropout

    assert load_study(Path(ablations.studies.dropout.__file__)) == load_study("dropout")


def test_what_lies_beside_a_study_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "my_poolings.py").write_text(POOLING)
    (tmp_path / "my_study.py").write_text(STUDY + "import my_poolings\n")
    load_study(tmp_path / "my_study.py")
    assert [plugin.module for plugin in for_workers()] == [f"{plugins.FILE_MODULE}my_study", "my_poolings"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("x = 1\n", "sets no STUDY"),
        ("STUDY = 3\n", "sets no STUDY"),
        ("x = 1\nSTUDY = Study(\n", "my_study.py:2: SyntaxError: '(' was never closed"),
        ("x = 1\n\nprint(y)\n", "my_study.py:3: NameError: name 'y' is not defined"),
        ("def f():\n    return 1 / 0\n\nf()\n", "my_study.py:2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "my_study.py:1: SystemExit: 3"),
        ("import json\njson.loads('{')\n", "my_study.py:2: JSONDecodeError: Expecting property name"),
        ("x = '\0'\n", "my_study.py:1: SyntaxError: source code string cannot contain null bytes"),
        (
            STUDY.replace("Variant(model={", "dict(model={"),
            "my_study.py:8: variant 'average': {'model': {'pooling': 'average'}} is not a Variant; write Variant(",
        ),
        (
            STUDY.replace('"pooling": name', '"poling": name'),
            "my_study.py: variant 'average': unknown field of ModelSpec 'poling'",
        ),
        (STUDY.replace('Study("average"', 'Study("avarage"'), "my_study.py:8: unknown baseline 'avarage'"),
        (STUDY.replace("model={", 'role="test", model={'), "my_study.py:8: unknown role of variant 'average' 'test'"),
        (
            STUDY + POOLING.replace('"rms"', '"max"'),
            "my_study.py:17: pooling 'max' exists already; choose another name",
        ),
        (b"\xff\xfe\x00", "cannot be read (it is no text)"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_is_written(
    content: str | bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("my_study.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"my_study\.py") as error:
        main(["my_study.py", "--protocol", "smoke"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("results").exists()


@pytest.mark.parametrize("name", ["num_1x1.py", "my study.py", "heads-tuned.py", "heads-tuning.py"])
def test_a_file_whose_name_is_taken_or_no_folders_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(STUDY)
    with pytest.raises(ValueError, match="rename the file"):
        load_study(tmp_path / name)


def test_a_name_is_added_once_but_by_its_own_module_anew() -> None:
    registry = Registry("shape", "model.shape", {"square": 1})
    with pytest.raises(ValueError, match="shape 'square' exists already; choose another name"):
        registry["square"] = 2
    for value in (3, 4):
        registry["circle"] = value
    with pytest.raises(ValueError, match="shape 'circle' exists already"):
        exec("registry['circle'] = 5", {"registry": registry, "__name__": "another"})
    assert registry == {"square": 1, "circle": 4}
    del registry["circle"]
    assert ("model.shape", "circle") not in ADDITIONS


def test_a_file_that_is_a_study_and_a_module_adds_its_names_once(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(study_file.parent)
    monkeypatch.chdir(study_file.parent)
    study = load_study(Path(study_file.name))
    pooling = POOLINGS["rms"]
    load_plugins(["my_study"])
    assert POOLINGS["rms"] is pooling
    assert study.expand("smoke", 1)
    sent = for_workers()
    del sys.modules["my_study"]
    plugins._imports.clear()
    study_file.write_text(study_file.read_text() + "\n")
    with pytest.raises(ValueError, match=r"was added by this file as module .*, and it has changed since"):
        load_plugins(["my_study"])
    for plugin in sent:
        sys.modules.pop(plugin.module, None)
    monkeypatch.chdir("/")  # of a worker on another machine, say
    install(sent)


def test_no_name_goes_past_the_check() -> None:
    registry = Registry("shape", "model.shape", {"square": 1})
    calls: list[Callable[[], object]] = [
        lambda: registry.update(square=2),
        lambda: registry.setdefault("circle", 2),
        lambda: registry.__ior__({"square": 2}),
    ]
    for add in calls:
        with pytest.raises(ValueError, match="shape: add names one by one"):
            add()
    assert registry == {"square": 1}


def test_what_was_added_at_a_prompt_is_refused_before_anything_runs() -> None:
    exec("POOLINGS['mine'] = AveragePool", {"POOLINGS": POOLINGS, "AveragePool": AveragePool, "__name__": "__main__"})
    with pytest.raises(ValueError, match="pooling 'mine' was added in a notebook or at a prompt"):
        load_study("num_1x1").expand("smoke", overrides=["model.pooling=mine"])
    assert load_study("num_1x1").expand("smoke")  # of which no run uses it
    assert "__main__" not in [plugin.module for plugin in for_workers()]


def test_runs_of_another_version_of_the_file_are_other_runs(study_file: Path) -> None:
    def run_ids() -> list[str]:
        return [run.run_id for run in load_study(study_file).expand("smoke", 1)]

    first = run_ids()
    assert run_ids() == first
    study_file.write_text(study_file.read_text() + "# another version\n")
    average, rms = run_ids()
    assert average == first[0]  # uses nothing of the file
    assert rms != first[1]


def test_a_new_version_of_a_pooling_is_counted_anew(tmp_path: Path) -> None:
    """A control is made as large as another network, whose code may have changed since it was last counted."""
    counted = []
    for num_params in (1, 1001):
        weights = f"self.weights = nn.Parameter(torch.zeros({num_params}))"
        (tmp_path / "my_pooling.py").write_text(
            "import torch\nfrom torch import nn\nfrom nin.pooling import POOLINGS, AveragePool\n\n"
            "class WeightedPool(AveragePool):\n    def __init__(self, in_shape):\n        super().__init__(in_shape)\n"
            f"        {weights}\n\nPOOLINGS['weighted'] = WeightedPool\n"
        )
        load_file(tmp_path / "my_pooling.py")
        counted.append(size(ModelSpec(layout="small", pooling="weighted"), (1, 28, 28), 10).params_head)
    assert counted[1] - counted[0] == 1000


def test_a_worker_refuses_code_that_is_not_what_its_run_was_made_with(study_file: Path) -> None:
    run = load_study(study_file).expand("smoke", 1, overrides=BRIEF)[1]
    study_file.write_text(study_file.read_text() + "# another version\n")
    load_file(study_file)
    with pytest.raises(ValueError, match="has changed since it was loaded"):
        execute(run)


def test_a_worker_says_why_a_name_is_not_there(study_file: Path) -> None:
    """As of a script that adds it in its `main()`, which no worker calls."""
    run = load_study(study_file).expand("smoke", 1, overrides=BRIEF)[1]
    del POOLINGS["rms"]
    with pytest.raises(ValueError, match="add it there at the top level, outside functions and `if __name__"):
        execute(run)


def test_a_record_keeps_the_hash_of_the_file(study_file: Path) -> None:
    average, rms = load_study(study_file).expand("smoke", 1, overrides=BRIEF)
    assert execute(rms).record.environment["plugins"] == f"my_study.py {rms.code}"
    assert "plugins" not in execute(average).record.environment


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("mistake", "place", "message"),
    [
        ("x_NCHW.no_such()", "my_study", "'no_such'"),
        ("x_NCHW.unflatten(1, (7, 7))", "my_study", "unflatten"),  # which a function of torch raises
        ("None", "", "'NoneType'"),  # which is noticed elsewhere
    ],
)
def test_a_mistake_in_an_added_pooling_is_one_line_with_its_place(
    mistake: str,
    place: str,
    message: str,
    also: list[str],
    study_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(study_file.parent)
    study_file.write_text(re.sub("return .*", f"return {mistake}", study_file.read_text()))
    with pytest.raises(ValueError, match=rf"variant 'rms' with pooling 'rms': .*{place}\.py:\d+: ") as error:
        main([f"./{study_file.name}", "--protocol", "smoke", "--results", str(tmp_path / "r"), *also])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_worker_needs_only_what_it_is_sent(study_file: Path) -> None:
    """As on another machine, where the file does not exist."""
    load_study(study_file)
    sent = for_workers()
    study_file.unlink()
    code = (
        "import json, sys\nfrom ablations.plugins import *\nfrom nin.pooling import POOLINGS\n"
        "install([Plugin(**plugin) for plugin in json.loads(sys.argv[1])])\nprint(POOLINGS['rms'].__name__)"
    )
    arguments = [sys.executable, "-c", code, json.dumps([vars(plugin) for plugin in sent])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "RootMeanSquarePool\n"


def test_a_worker_that_goes_on_takes_over_a_new_version() -> None:
    for width in (1, 2):
        install([Plugin("my_sent_module", "my_sent_module.py", f"WIDTH = {width}")])
    assert sys.modules["my_sent_module"].WIDTH == 2


def test_a_worker_that_has_imported_the_script_does_not_do_so_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SPAWNED_SCRIPT, sys)
    install([Plugin(SPAWNED_SCRIPT, "script.py", "raise AssertionError")])


def test_a_module_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("from my_package.poolings import *")
    (package / "poolings.py").write_text(POOLING)
    (tmp_path / "my_module.py").write_text(POOLING.replace('"rms"', '"quadratic"'))
    load_plugins(["my_package", "my_module"])
    assert {"rms", "quadratic"} <= POOLINGS.keys()
    by_module = {plugin.module: plugin for plugin in for_workers()}
    assert by_module["my_package"] == Plugin("my_package")  # installed on other machines, or sent as a folder
    assert by_module["my_module"].source == (tmp_path / "my_module.py").read_text()
    assert plugins.package_folders() == [str(package)]
    before = ADDITIONS["model.pooling", "rms"].digest
    (package / "__init__.py").write_text("from my_package.poolings import *  # another version")
    exec("POOLINGS['rms'] = AveragePool", {**vars(sys.modules["my_package.poolings"]), "AveragePool": AveragePool})
    assert ADDITIONS["model.pooling", "rms"].digest != before  # any file of a package makes another version of it


def test_a_module_is_found_in_the_working_directory_also_by_an_installed_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own.py").write_text(POOLING.replace('"rms"', '"my_own"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    load_plugins(["my_own"])
    assert "my_own" in POOLINGS


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("my_missing", "--import my_missing: there is no module of that name, here or installed"),
        ("my_broken", "my_broken.py:2: NameError: name 'y' is not defined"),
        ("my_taken", "my_taken.py:2: pooling 'max' exists already"),
        ("my_broken.py", "--import 'my_broken.py': name a module, as in `import my_module`"),
        ("./my_broken", "--import './my_broken': name a module"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_one_line(
    module: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_broken.py").write_text("x = 1\nprint(y)\n")
    (tmp_path / "my_taken.py").write_text("from nin.pooling import POOLINGS\nPOOLINGS['max'] = POOLINGS['average']\n")
    with pytest.raises(ValueError, match=module) as error:
        main(["num_1x1", "--protocol", "smoke", "--import", module])
    assert message in str(error.value)


def test_installed_packages_offer_modules_as_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_offer.py").write_text(
        "from nin.blocks import ACTIVATIONS, Activation\n"
        "ACTIVATIONS['none'] = Activation(after=lambda channels: [], between=lambda channels: [])\n"
    )
    entry = importlib.metadata.EntryPoint("mine", "my_offer", GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == GROUP else [])
    load_plugins()
    assert isinstance(ACTIVATIONS["none"], Activation)
    assert [plugin.module for plugin in for_workers()] == ["my_offer"]


def test_a_command_is_written_down_with_what_it_loads(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablations.reproduce import reproduce_command

    monkeypatch.syspath_prepend(study_file.parent)
    (study_file.parent / "my_module.py").write_text("")
    load_plugins(["my_module"])
    study = load_study(study_file)
    command = reproduce_command(study, study.expand("smoke", 2))
    assert command == f"python -m ablations.run {study_file} --protocol smoke --seeds 2 --import my_module"


def test_published_runs_lie_beside_the_file(study_file: Path) -> None:
    named = 'published=Published("theirs.csv", {"rms": "theirs"}, "smoke"))'
    study_file.write_text(STUDY.replace("Study, Var", "Published, Study, Var").replace("\n)\n", f"\n, {named}\n"))
    text = study_file.read_text().rstrip().removesuffix(")") + f", {named}\n"
    study_file.write_text(text)
    with pytest.raises(ValueError, match=r"the file of published runs .*theirs\.csv does not exist"):
        load_study(study_file)
    theirs = study_file.with_name("theirs.csv")
    theirs.write_text("# theirs\nnetwork,test_accuracy\ntheirs,0.7\n")
    with pytest.raises(
        ValueError, match=r"theirs\.csv: has no column 'train_loss'; it needs network, train_loss, test"
    ):
        load_study(study_file)
    for run in ("0.4,85", "0.4,", "much,0.7"):
        theirs.write_text(f"network,train_loss,test_accuracy\ntheirs,{run}\n")
        with pytest.raises(ValueError, match="needs a test_accuracy between 0 and 1"):
            load_study(study_file)
    theirs.write_text("network,train_loss,test_accuracy\ntheirs,0.4,0.7\ntheirs,,0.6\n")
    study = load_study(study_file)
    assert study.published is not None
    assert study.published.file == str(theirs)


@pytest.mark.parametrize("variants", [{}, ["a", "b"], None])
def test_variants_that_are_no_variants_are_refused(variants: Any) -> None:
    with pytest.raises(ValueError, match=r"variants .*: must map names to Variant\(\.\.\.\)"):
        Study("a", variants)


def test_a_name_of_a_variant_is_a_string() -> None:
    names: Any = {"a": Variant(), 1: Variant()}
    with pytest.raises(ValueError, match="variant 1: the name must be a string"):
        Study("a", names)


def test_listing_studies_loads_no_torch(tmp_path: Path) -> None:
    arguments = [sys.executable, "-X", "importtime", "-m", "ablations.run", "--list"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ablations.study" in modules
    assert not modules & {"torch", "pandas", "mlflow", "scipy", "rich"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_study_outside_the_package_runs_on_several_workers(engine: str, study_file: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    folder = study_file.parent
    (folder / "my_module.py").write_text(POOLING)
    study_file.write_text(STUDY)
    options = ["--protocol", "smoke", "--seeds", "2", "--workers", "2", "--engine", engine, *SETS]
    done = call("./my_study.py", "--import", "my_module", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in folder.glob("results/my_study/smoke/runs/*.json")]
    assert sorted(record["run"]["variant"] for record in records) == ["average", "average", "rms", "rms"]
    used = {record["run"]["variant"]: record["environment"].get("plugins", "") for record in records}
    assert used["average"] == ""
    assert used["rms"].startswith("my_module ")
