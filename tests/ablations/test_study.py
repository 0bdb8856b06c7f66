"""A study becomes runs: which, in what order, and under what identity."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import ablations.runs
from ablations.catalog import load_study, study_names
from ablations.execution.driver import costs_of
from ablations.protocols import PROTOCOLS
from ablations.reproduce import reproduce_command
from ablations.runs import parse_length, parse_overrides
from ablations.study import Match, Published, Study, Variant
from nin.data import shape
from nin.sizes import size
from nin.spec import DataSpec, ModelSpec, TrainSpec

TWO = Study(baseline="a", variants={"a": Variant(), "b": Variant(model={"num_1x1": 0})}, name="two")


def test_num_1x1_varies_the_number_of_1x1_convolutions_from_0_to_4() -> None:
    confirmatory = [
        run for run in load_study("num_1x1").expand("d2l", seeds=1) if run.role in ("baseline", "confirmatory")
    ]
    assert {run.variant: run.model.num_1x1 for run in confirmatory} == {"0x": 0, "1x": 1, "2x": 2, "3x": 3, "4x": 4}


@pytest.mark.parametrize("name", study_names())
def test_every_study_asks_a_question_and_has_its_baseline(name: str) -> None:
    study = load_study(name)
    assert study.question.endswith("?")
    assert study.baseline in study.variants


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "num_1x1")) for name in study_names()]
)
def test_every_study_expands_under_each_of_its_protocols(name: str) -> None:
    study = load_study(name)
    for protocol in study.protocols:
        runs = study.expand(protocol)
        assert len({run.run_id for run in runs}) == len(runs)
        own = {name for name, variant in study.variants.items() if variant.match is None}
        own -= set(study.left_out.get(protocol, ()))
        assert own <= {run.variant for run in runs} <= set(study.variants)
        assert {run.seed for run in runs} == set(range(study.seeds or PROTOCOLS[protocol].seeds))


def test_every_variants_first_seed_comes_before_any_second() -> None:
    assert [run.seed for run in TWO.expand("smoke", seeds=3)] == [0, 0, 1, 1, 2, 2]


def test_a_chosen_variant_brings_the_baseline_along() -> None:
    assert {run.variant for run in load_study("num_1x1").expand("quick", variants=["4x"])} == {"2x", "4x"}


def test_a_change_that_would_change_nothing_is_refused() -> None:
    study = load_study("num_1x1")
    for change, instead in (("train.epochs=2", "train.examples"), ("train.evals_per_epoch=1", "train.eval_every")):
        with pytest.raises(ValueError, match=f"has no effect where {instead} counts in images"):
            study.expand("standard", 1, ["0x"], [change])
    with pytest.raises(ValueError, match="give one of the two"):
        study.expand("standard", 1, ["0x"], ["train.examples=20000"], [40_000])
    with pytest.raises(ValueError, match=r"train\.momentum: has no effect on optimizer adamw"):
        study.expand("smoke", 1, ["0x"], ["train.momentum=0.5"])
    assert study.expand("smoke", 1, ["0x"], ["train.momentum=0.5", "train.optimizer=sgd"])[0].train.momentum == 0.5
    runs = study.expand("standard", 1, ["0x"], ["train.examples=0", "train.epochs=2"])
    assert [(run.variant, run.train.epochs) for run in runs] == [("2x", 2), ("0x", 2)]


def test_a_control_of_a_size_that_cannot_be_reached_is_refused() -> None:
    variants = {
        "2x": Variant(),
        "fc": Variant(model={"head": "alexnet"}),
        "2x@fc": Variant(match=Match("fc", "params", "hidden")),  # whose head has no hidden layer
        "fc@2x": Variant(model={"head": "alexnet"}, match=Match("2x", "params", "width")),  # whose head alone is larger
    }
    study = Study(baseline="2x", variants=variants, name="sizes")
    with pytest.raises(
        ValueError, match=r"'2x@fc' cannot have the params of 'fc', 1,722,106: with any hidden it has 113,146"
    ):
        study.expand("quick", 1, ["2x@fc"])
    with pytest.raises(
        ValueError, match=r"'fc@2x' cannot have the params of '2x', 113,146: with any width it has .* or more"
    ):
        study.expand("quick", 1, ["fc@2x"])


def test_controls_are_left_out_in_whatever_order_they_are_named() -> None:
    heads = load_study("heads")
    for names in (["nin+alexnet", "nin+alexnet@params"], ["nin+alexnet@params", "nin+alexnet"]):
        assert {run.variant for run in heads.expand("smoke", 1, names)} == {"nin+nin", "nin+alexnet"}


def test_d2l_is_the_textbooks_setting() -> None:
    run = next(run for run in load_study("num_1x1").expand("d2l") if run.variant == "2x")
    assert run.model == ModelSpec()
    assert (run.train.lr, run.train.batch_size, run.train.epochs, run.train.momentum) == (0.1, 128, 10, 0.0)
    assert (run.train.optimizer, run.train.schedule, run.train.weight_decay) == ("sgd", "none", 0.0)
    assert (run.data.name, run.data.image_size, run.data.val_examples, run.data.normalize) == (
        "fashion-mnist",
        224,
        0,
        False,
    )


def test_run_id_depends_on_what_is_trained_and_on_nothing_else() -> None:
    run = TWO.expand("smoke", seeds=1)[0]
    assert replace(run, study="other", protocol="other", variant="other", role="control").run_id == run.run_id
    changed = [
        replace(run, seed=1),
        replace(run, model=replace(run.model, dropout=0.4)),
        replace(run, data=replace(run.data, split="other")),
        replace(run, train=replace(run.train, lr=0.123)),
    ]
    assert len({run.run_id, *(other.run_id for other in changed)}) == 5


def test_run_id_outlives_new_fields_that_are_at_their_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version of the code, which did not know of a field, gave the same run the same identity."""
    run = TWO.expand("smoke", seeds=1)[0]
    assert run.model.activation == ModelSpec().activation
    known = ablations.runs.fields
    monkeypatch.setattr(ablations.runs, "fields", lambda spec: [f for f in known(spec) if f.name != "activation"])
    older = run.run_id
    monkeypatch.undo()
    assert run.run_id == older


def test_run_id_is_the_same_in_another_process() -> None:
    code = "from ablations.catalog import *; print([r.run_id for r in load_study('num_1x1').expand('quick', variants=['1x'])])"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert printed[0].stdout == printed[1].stdout != ""


def test_overrides_apply_to_every_run_and_win_over_the_variant() -> None:
    runs = TWO.expand("smoke", overrides=["train.lr=1", "data.normalize=false", "model.init=xavier"])
    assert {run.train.lr for run in runs} == {1.0}
    assert {run.data.normalize for run in runs} == {False}
    assert {run.model.init for run in runs} == {"xavier"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "nearest is 'train.lr'"),
        ("lr=1", "unknown --set key"),
        ("train.lr", "must be key=value"),
        ("train.lr=fast", "must be a number"),
        ("train.batch_size=0.5", "must be a whole number"),
        ("train.batch_size=0", "must be 1 or more"),
        ("train.lr=-1", "must be greater than 0"),
        ("train.lr=nan", "must be"),
        ("model.dropout=1.0", "below 1"),
        ("data.normalize=1", "true or false"),
        ("model.class_block=narow", "'narrow' or 'wide'"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TWO.expand("smoke", overrides=[override])


def test_overriding_the_studied_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' and 'b' are the same run"):
        TWO.expand("smoke", overrides=["model.num_1x1=1"])


def test_a_wrong_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="nearest is 'num_1x1'"):
        load_study("num_1x")
    with pytest.raises(ValueError, match="nearest is 'quick'"):
        TWO.expand("quik")
    with pytest.raises(ValueError, match="nearest is '4x'"):
        load_study("num_1x1").expand("smoke", variants=["4xx"])
    with pytest.raises(ValueError, match="--seeds 0"):
        TWO.expand("smoke", seeds=0)


@pytest.mark.parametrize(("field", "value"), [("seeds", "3"), ("seeds", True), ("seeds", -1), ("margin", "x")])
def test_a_field_of_the_wrong_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} {value!r}: must be"):
        replace(TWO, **{field: value})


def test_parse_overrides_knows_every_field_of_every_specification() -> None:
    for part, spec in {"model": ModelSpec(), "data": DataSpec(), "train": TrainSpec()}.items():
        for key, value in asdict(spec).items():
            text = json.dumps(value) if isinstance(value, bool) else value
            assert parse_overrides([f"{part}.{key}={text}"]) == {f"{part}.{key}": value}


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        (name, protocol)
        for name in study_names()
        for protocol in ("quick", "full", "d2l")
        if protocol in load_study(name).protocols
        and any(variant.match for variant in load_study(name).variants.values())
    ],
)
def test_controls_match_the_size_they_name_within_1_percent(name: str, protocol: str) -> None:
    study = load_study(name)
    sizes = {run.variant: size(run.model, *shape(run.data)) for run in study.expand(protocol, seeds=1)}
    controls = [control for control, variant in study.variants.items() if variant.match and control in sizes]
    assert controls
    for control in controls:
        variant = study.variants[control]
        if variant.match:
            wanted = getattr(sizes[variant.match.variant], variant.match.by)
            assert getattr(sizes[control], variant.match.by) == pytest.approx(wanted, rel=0.01), control


def test_the_shape_of_a_data_set_is_looked_up_once_for_all_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder of images, it takes a look into every file."""
    asked: list[DataSpec] = []
    monkeypatch.setattr("nin.data.shape", lambda data: asked.append(data) or shape(data))
    runs = load_study("num_1x1").expand("smoke")
    costs_of(runs)
    assert {run.role for run in runs} > {"control"}
    assert len(asked) == len(set(asked)) == 1


def test_controls_are_not_confirmatory() -> None:
    roles = {run.variant: run.role for run in load_study("num_1x1").expand("full", seeds=1)}
    assert roles["2x"] == "baseline"
    assert roles["0x"] == "confirmatory"
    assert roles["2x@4x-gflops"] == roles["3x3@2x-params"] == "control"


def test_listing_studies_loads_no_torch() -> None:
    code = "import sys; from ablations.catalog import *; [load_study(n) for n in study_names()]; print('torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout == "False\n"


@pytest.mark.parametrize(
    ("seeds", "variants", "overrides", "options"),
    [
        (2, None, [], "--seeds 2"),
        (1, ["xavier 0.01 0"], [], "--variants 'xavier 0.01 0,xavier 0.1 0' --seeds 1"),
        (3, None, ["train.epochs=1"], "--seeds 3 --set train.epochs=1"),
    ],
)
def test_the_command_that_makes_runs_again(
    seeds: int, variants: list[str] | None, overrides: list[str], options: str
) -> None:
    study = load_study("init_lr")
    command = reproduce_command(study, study.expand("smoke", seeds, variants, overrides), overrides)
    assert command == f"python -m ablations.run init_lr --protocol smoke {options}"


def test_the_command_names_the_lengths_that_were_trained_unless_a_change_sets_the_length() -> None:
    study = load_study("num_1x1_head")
    shorter = study.expand("digits", 2, lengths=[10_000])
    assert reproduce_command(study, shorter).endswith(" --lengths 10k --seeds 2")
    changed = ["train.examples=2000"]
    command = reproduce_command(study, study.expand("digits", 2, overrides=changed), changed)
    assert command.endswith("num_1x1_head --protocol digits --seeds 2 --set train.examples=2000")


def test_the_command_of_a_study_with_looks_has_them() -> None:
    study = load_study("num_1x1")
    command = reproduce_command(study, study.expand("smoke", 8), looks=(5, 8, 12))
    assert command.endswith("--until-decided --seeds 5 --max-seeds 12")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": "failurs"}, "unknown kind of answer 'failurs': the nearest is 'failures'"),
        ({"factors": ("model.drop",)}, "unknown factor 'model.drop'"),
        ({"contrasts": (("a", "c"),)}, "unknown variant of a contrast 'c'"),
        ({"targets": {"quik": 0.9}}, "unknown protocol 'quik'"),
        ({"targets": {"smoke": 85}}, "target 85: must be a fraction above 0 and below 1; 0.85 is 85 %"),
        ({"targets": {"smoke": "0.8"}}, "target '0.8': must be a fraction"),
        ({"contrasts": (("a", "a"),)}, "must be two different variants"),
        ({"left_out": {"smoke": ("a",)}}, "'a' is the baseline, which is always trained"),
        ({"variants": {"a": Variant(), "b": Variant(role="baseline")}}, "'b': has the role of the baseline, which is"),
        ({"variants": {"a": Variant(), "b": Variant(train={"examples": 9})}}, "train.examples is the training length"),
        *(
            ({"variants": {"a": Variant(), name: Variant()}}, "the name must have no comma, bar")
            for name in (
                "b,c",
                "3*3 s2*",
                "#1",
                "> 3",
                "1. a",
                "- a",
                "_a",
                "$x$",
                "[a]",
                "",
                " ",
                ".",
                "..",
                "-b",
                " b",
                "b ",
            )
        ),
        ({"variants": {"a": Variant(), "control": Variant()}}, "'control': is the name of a role"),
        ({"contrasts": ("ab",)}, "must be two variants"),
        ({"contrasts": (("a", "b", "a"),)}, "must be two variants"),
        ({"factors": ("model.head",)}, "must be two fields, or none"),
        ({"margin": -1}, "must be a fraction above 0"),
        ({"margin": 0.3}, "0.003 is 0.3 points"),
        ({"left_out": {"smoke": ("c",)}}, "unknown variant left out 'c'"),
        ({"variants": {"a": Variant(), "b": Variant(match=Match("b", "params"))}}, "is matched with itself"),
        (
            {"variants": {"a": Variant(match=Match("b", "params")), "b": Variant(match=Match("a", "params"))}},
            "is matched with itself, directly or by way of others",
        ),
        ({"published": Published("runs.csv", {}, "smok")}, "unknown protocol of published runs 'smok'"),
        ({"answers": "memory"}, "must end in its train.batch_size"),
    ],
)
def test_what_an_author_gets_wrong_is_named_before_anything_is_trained(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TWO, **changes)  # type: ignore[arg-type]


def test_the_command_of_a_tuned_study_asks_for_the_study_that_was_tuned() -> None:
    tuned = replace(load_study("init_lr"), name="init_lr-tuned", pairs={"xavier 0.1 0": "xavier 0.1 0"})
    command = reproduce_command(tuned, tuned.expand("smoke", 1))
    assert command == "python -m ablations.run init_lr --protocol smoke --tuned --seeds 1"


LENGTHS = replace(PROTOCOLS["smoke"], name="long", lengths=(1_000, 2_500))


def test_a_protocol_of_several_lengths_asks_after_each_shorter_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "long", LENGTHS)
    study = replace(TWO, protocols=("long",))
    runs = study.expand("long", 2)
    assert [(run.seed, run.length, run.variant) for run in runs] == [
        (seed, length, variant) for seed in (0, 1) for length in (1_000, 2_500) for variant in "ab"
    ]
    assert [run.label for run in runs[:3]] == ["a 1k seed 0", "b 1k seed 0", "a 2,500 seed 0"]
    assert len({run.run_id for run in runs}) == len(runs)
    assert {run.length for run in study.expand("long", 1, lengths=[2_500])} == {2_500}
    assert len(study.expand("long", 1, overrides=["train.examples=500"])) == 2


def test_a_length_that_the_protocol_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "long", LENGTHS)
    with pytest.raises(ValueError, match=r"--lengths 40k: protocol 'long' has no such length; choose from 1k, 2,500"):
        replace(TWO, protocols=("long",)).expand("long", lengths=[40_000])
    with pytest.raises(ValueError, match="it trains for a number of epochs"):
        TWO.expand("smoke", lengths=[40_000])


@pytest.mark.parametrize(("text", "length"), [("40k", 40_000), ("160000", 160_000), ("1,500", 1_500), (" 2K ", 2_000)])
def test_lengths_are_read_in_thousands_or_in_full(text: str, length: int) -> None:
    assert parse_length(text) == length


@pytest.mark.parametrize("text", ["", "k", "0", "-4k", "4.5k", "many"])
def test_what_is_no_length_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="must be training images seen"):
        parse_length(text)


def test_a_run_of_one_length_keeps_the_identity_it_always_had() -> None:
    """The baseline of `num_1x1` under `quick`, as it was first published."""
    assert load_study("num_1x1").expand("quick", 1, ["0x"])[1].run_id in published_ids("num_1x1")


def published_ids(study: str) -> set[str]:
    folder = Path(__file__).parents[2] / "results" / "reference" / study / "quick" / "runs"
    return {path.stem for path in folder.glob("*.json")}


def test_the_name_of_a_role_is_all_variants_that_have_it() -> None:
    study = load_study("num_1x1")
    assert study.named(["confirmatory"], "quick") == ["0x", "1x", "3x", "4x"]
    assert study.named(["4x", "control", "4x"], "quick")[:2] == ["4x", "0x@2x-params"]
    assert {run.role for run in study.expand("quick", 1, ["confirmatory"])} == {"baseline", "confirmatory"}
    with pytest.raises(ValueError, match="study 'num_1x1' has no variant or role 'contro': the nearest is 'control'"):
        study.named(["contro"], "quick")


def test_auto_and_bf16_are_one_run_and_float32_another() -> None:
    by_precision = {
        precision: load_study("num_1x1").expand("quick", 1, ["0x"], [f"train.precision={precision}"])[0]
        for precision in ("auto", "bf16", "float32", "float16")
    }
    ids = {precision: run.run_id for precision, run in by_precision.items()}
    assert ids["auto"] == ids["bf16"]
    assert len(set(ids.values())) == 3
    assert by_precision["auto"].settings == by_precision["bf16"].settings


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "smoke"])
def test_protocols_leave_the_precision_to_the_device(protocol: str) -> None:
    assert PROTOCOLS[protocol].train.precision == "auto"
