"""Every study there is, run for real on a few synthetic images; and the authors' recipes on small files in their formats."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_files import WRITERS

from ablations.catalog import load_study, study_names
from ablations.execution.worker import execute
from ablations.protocols import PROTOCOLS
from ablations.records import Store
from ablations.reporting.files import write_report
from ablations.session import Request, find_part
from ablations.studies import best
from ablations.study import MEMORY, Study
from ablations.tuning.session import TuningRequest, runs_to_tune
from nin.data import shape
from nin.sizes import size
from nin.spec import ModelSpec

# Studies that answer in a way of their own are run by default; the others are slow tests.
QUICK = ("num_1x1_head", "textbook")
MEMORY_STUDIES = ("batch_memory", "prediction_memory")
SHORT = ("train.epochs=1", "data.val_examples=100", "data.test_examples=100")


def run_briefly(study: Study, folder: Path, seeds: int = 1) -> str:
    """Runs every variant for a moment; the report's text."""
    brief = SHORT if study.answers in MEMORY else (*SHORT, "data.train_examples=64")
    store = Store(folder, study.name, "smoke")
    for run in study.expand("smoke", seeds, overrides=brief):
        store.write(execute(run).record)
    write_report(study, "smoke", store, brief)
    return (store.folder / "report.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in study_names()
        if name not in MEMORY_STUDIES
    ],
)
# Study precision asks for bf16 on every device.
@pytest.mark.filterwarnings("ignore:train.precision=bf16.*emulates:UserWarning")
@pytest.mark.usefixtures("undrawn")
def test_every_study_runs_and_reports(name: str, tmp_path: Path) -> None:
    text = run_briefly(load_study(name), tmp_path)
    assert text.startswith(f"# {name}: ")
    assert "Without results" not in text or "left out" in text  # in tiny networks controls coincide


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "heads" else pytest.mark.slow) for name in study_names()]
)
def test_every_network_can_be_built_for_the_images_of_every_protocol(name: str) -> None:
    study = load_study(name)
    for protocol in study.protocols:
        runs = study.expand(protocol, 1)
        assert all(size(run.model, *shape(run.data)).params for run in runs)
        assert {run.variant for run in runs}.isdisjoint(study.left_out.get(protocol, ()))


def test_a_variant_left_out_is_trained_where_it_is_named() -> None:
    heads = load_study("heads")
    runs = heads.expand("digits", 1, ["alexnet+nin"])
    assert "alexnet+nin" in {run.variant for run in runs}
    assert "alexnet+nin" not in {run.variant for run in heads.expand("digits", 1, ["confirmatory"])}
    assert "alexnet+nin" in {run.variant for run in heads.expand("quick", 1, ["confirmatory"])}


def test_a_role_is_trained_and_tuned_without_the_variants_left_out(tmp_path: Path) -> None:
    heads = load_study("heads")
    request = Request("digits", seeds=1, variants=["confirmatory"], results=tmp_path)
    trained = {run.variant for run in find_part(heads, request).runs}
    tuned = {run.variant for run in runs_to_tune(heads, TuningRequest("digits", results=tmp_path))}
    assert trained == tuned == {"nin+nin", "nin+alexnet", "nin+vgg", "vgg11+nin", "vgg11+vgg"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [("batch_memory", "training"), ("prediction_memory", "prediction")],
)
def test_memory_is_answered_by_a_line_for_each_network(name: str, task: str, tmp_path: Path) -> None:
    study = load_study(name)
    few = {name: variant for name, variant in study.variants.items() if name.endswith((" 1", " 2", " 64"))}
    text = run_briefly(replace(study, variants=few), tmp_path)
    sentence = "\n\n".join(text.split("\n\n")[1:3])
    assert f"peak memory of {task} **grows linearly with the batch**" in sentence
    assert all(f"{name} " in sentence for name in ("lenet", "alexnet", "vgg11", "nin"))
    assert "Convergence" not in text
    assert (tmp_path / f"{name}/smoke/figures/memory_against_batch.png").exists()


def test_pooling_compares_the_same_poolings_in_all_places(tmp_path: Path) -> None:
    from nin.pooling import POOLINGS

    models = [run.model for run in load_study("pooling").expand("quick", 1)]
    places = [("nin", False), ("nin", True), ("linear", False)]
    names = [{m.pooling for m in models if (m.head, m.class_relu) == place} for place in places]
    assert names[0] == names[1] == names[2]
    assert {"average", "max", "flatten"} <= names[0] <= set(POOLINGS)
    assert len(models) == 3 * len(names[0])


def test_dropout_is_asked_with_all_images_and_with_a_tenth_at_the_same_budget() -> None:
    runs = load_study("dropout").expand("quick", 1)
    cells = {(run.model.head, run.model.dropout, run.data.train_fraction) for run in runs}
    assert cells == {(h, d, f) for h in ("nin", "alexnet") for d in (0.0, 0.5) for f in (1.0, 0.1)}
    assert len({(run.train, run.data.train_examples) for run in runs}) == 1


PAPER = {
    "paper": ("cifar-10", "cifar", 1e-4),
    "paper-cifar-100": ("cifar-100", "cifar", 5e-4),
    "paper-svhn": ("svhn", "svhn", 1e-4),
    "paper-mnist": ("mnist", "mnist", 1e-4),
}


@pytest.mark.parametrize(
    ("protocol", "left_out"),
    [
        ("paper", "ZCA whitening"),
        ("paper-cifar-100", "ZCA whitening"),
        ("paper-svhn", "'extra'"),
        ("paper-mnist", "those of validation stay aside"),
    ],
)
def test_a_note_says_what_of_the_authors_recipe_is_left_out(protocol: str, left_out: str) -> None:
    assert left_out in PROTOCOLS[protocol].note
    assert "cosine" in PROTOCOLS[protocol].note


@pytest.mark.parametrize("protocol", PAPER)
def test_the_authors_recipes_run_on_their_data_sets(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, layout, weight_decay = PAPER[protocol]
    monkeypatch.setenv("NIN_DATA", str(tmp_path / "data"))
    WRITERS[name](tmp_path / "data", monkeypatch)
    brief = ["train.epochs=1", "data.val_examples=2", "model.width=0.1", "train.precision=float32"]
    run = load_study("num_1x1").expand(protocol, 1, ["0x"], brief)[0]
    assert (run.data.name, run.train.weight_decay, run.train.momentum) == (name, weight_decay, 0.9)
    assert run.model == replace(PROTOCOLS["paper"].model, layout=layout, width=0.1)
    assert run.model == ModelSpec(layout=layout, width=0.1, init="gaussian", class_block="wide")
    assert execute(run).record.examples_seen > 0


@pytest.mark.parametrize("content", ["{", "[1]", '{"width": 0.5}', '{"model.width": "wide"}'])
def test_a_damaged_preset_of_the_search_is_named_with_its_file(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best, "FOUND", tmp_path / "best.json")
    best.FOUND.write_text(content)
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        best._found()
    best.FOUND.write_text('{"model.width": 1, "train.lr": 0.05}')
    assert best._found()["found"].settings == {"model.width": 1, "train.lr": 0.05}
