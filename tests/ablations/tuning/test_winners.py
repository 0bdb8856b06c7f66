"""Winners are trained beside the fixed settings as long as they are still valid."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
from builders import record_of
from toys import NUM_1X1, toy_tasks, tune_toy

from ablations import run
from ablations.analysis.summary import summarise
from ablations.answers import answer_row
from ablations.catalog import load_study
from ablations.records import Store
from ablations.reporting.answer import grounds
from ablations.reporting.caveats import caveats
from ablations.reporting.files import Report
from ablations.reporting.plain import NOT_ANSWERED, plain_answer
from ablations.tuning.report import write_tuning_report
from ablations.tuning.winners import Winner, earlier_winners, load_tuned, read_winners, tuned_path, with_winners


def winner(name: str = "2x", protocol: str = "smoke", **params: object) -> Winner:
    *_, own = (each for each in NUM_1X1.expand(protocol, 1) if each.variant == name)
    return Winner(3, 0.9, params, [1003], own.settings)


def test_winners_are_trained_beside_the_fixed_settings() -> None:
    study = with_winners(NUM_1X1, "smoke", {"2x": winner(**{"train.lr": 0.01}), "0x": winner("0x")})
    runs = {each.variant: each for each in study.expand("smoke", 1)}
    assert set(runs) == {"2x", "2x tuned", "0x"}  # of 0x its own setting has won
    assert (runs["2x"].train.lr, runs["2x tuned"].train.lr) == (0.005, 0.01)
    assert study.pairs == {"2x": "2x tuned", "0x": "0x"}


def test_what_a_search_of_networks_found_is_trained_beside_the_baseline() -> None:
    best = load_study("best")
    (own,) = best.expand("smoke", 1, ["nin"])
    study = with_winners(best, "smoke", {"nin": Winner(3, 0.9, {"model.width": 0.2}, [1003], own.settings)})
    assert {each.variant for each in study.expand("smoke", 1)} == {"nin", "nin tuned"}


def test_a_search_that_found_nothing_better_says_so() -> None:
    study = with_winners(NUM_1X1, "smoke", {name: winner(name) for name in ("2x", "0x")})
    records = [record_of(run, test_accuracy=0.5 + 0.01 * run.seed) for run in study.expand("smoke", 3)]
    words = grounds(study, "smoke", summarise(study, "smoke", records))
    assert words.startswith("For no variant did tuning find a better setting than its own, so no result changes. ")
    assert "that tuning found" not in words


def test_failures_at_the_fixed_setting_are_not_those_of_the_tuned_answer() -> None:
    study = with_winners(NUM_1X1, "smoke", {name: winner(name, **{"train.lr": 0.01}) for name in ("2x", "0x")})

    def answer(fails: str) -> str:
        records = [
            record_of(run, status="collapsed", test_accuracy=0.1, dead_classes=9)
            if run.variant == fails
            else record_of(run, test_accuracy=0.5 + 0.01 * run.seed)
            for run in study.expand("smoke", 3)
        ]
        return plain_answer(study, summarise(study, "smoke", records)).answer

    assert "collapsed" not in answer("0x")
    assert "but 3 of 3 collapsed" in answer("0x tuned")


def test_a_tuned_study_whose_tuned_baseline_is_missing_is_not_answered() -> None:
    study = with_winners(NUM_1X1, "smoke", {name: winner(name, **{"train.lr": 0.01}) for name in ("2x", "0x")})
    records = [
        record_of(run, test_accuracy=0.5 + 0.1 * (run.variant == "0x") + 0.001 * run.seed)
        for run in study.expand("smoke", 3)
        if run.variant != "2x tuned"
    ]
    assert plain_answer(study, summarise(study, "smoke", records)).answer == NOT_ANSWERED


def test_failures_and_machines_of_a_tuned_study_are_those_of_its_tuned_runs() -> None:
    study = with_winners(NUM_1X1, "smoke", {name: winner(name, **{"train.lr": 0.01}) for name in ("2x", "0x")})

    def words(odd: str) -> tuple[str, str, tuple[str, ...]]:
        records = [
            record_of(
                run,
                status="diverged" if (run.variant, run.seed) == (odd, 0) else "finished",
                test_accuracy=0.5 + 0.1 * (run.model.num_1x1 == 0) + 0.001 * run.seed,
                environment={"device": "cpu (other)" if run.variant == odd else "cpu (test)"},
            )
            for run in study.expand("smoke", 3)
        ]
        summary = summarise(study, "smoke", records)
        return plain_answer(study, summary).answer, grounds(study, "smoke", summary), summary.elsewhere

    for name in ("2x", "0x"):
        answer, numbers, elsewhere = words(name)
        assert "diverged" not in answer + numbers
        assert elsewhere == ()
    answer, numbers, elsewhere = words("2x tuned")
    assert "1 of 3 diverged with `2x tuned`" in answer
    assert "`2x tuned` (1 of 3 diverged)" in numbers
    assert elsewhere == ("0x tuned",), "whose baseline ran elsewhere"


def test_numbers_and_caveats_of_a_tuned_study_are_those_of_its_tuned_runs() -> None:
    study = with_winners(
        NUM_1X1, "digits", {name: winner(name, protocol="digits", **{"train.lr": 0.01}) for name in ("2x", "0x")}
    )
    ahead = {("0x", 10_000): 0.1, ("0x tuned", 10_000): 0.1, ("0x tuned", 40_000): 0.1}  # the fixed lead disappears
    records = [
        record_of(
            run,
            test_accuracy=0.5 + ahead.get((run.variant, run.length), 0.0) + 0.01 * Random(run.run_id).random(),
        )
        for run in study.expand("digits", 5)
        if run.seed < 2 or run.variant in ("2x", "0x")
    ]
    summary = summarise(study, "digits", records)
    assert summary.change.set_index("variant").loc["0x", "p_holm"] < 0.05
    found = caveats(study, "digits", summary)
    assert [each for each in found if each.what == "longer training"] == []
    assert answer_row(study, "digits", Report(Path(), "", "", found, summary, records, [])).n == "2"


def test_what_is_not_about_accuracy_is_not_said_to_want_tuning(tmp_path: Path) -> None:
    for name in ("batch_memory", "init_lr"):
        with pytest.raises(ValueError, match=r"no accuracy to tune|nothing to tune"):
            load_tuned(load_study(name), "smoke", tmp_path)
    with pytest.raises(ValueError, match=r"ablations\.tune num_1x1 --protocol smoke .*--set train\.lr=0\.5 makes it"):
        load_tuned(NUM_1X1, "smoke", tmp_path, ["train.lr=0.5"])


def test_a_control_keeps_its_size_without_the_variant_that_it_was_matched_with() -> None:
    name = "2x@3x-params"
    own = {each.variant: each for each in NUM_1X1.expand("smoke", 1)}
    study = with_winners(NUM_1X1, "smoke", {"2x": winner(), name: winner(name, **{"train.lr": 0.01})})
    runs = {each.variant: each for each in study.expand("smoke", 1)}
    assert set(runs) == {"2x", name, f"{name} tuned"}
    assert {each.model.width for each in runs.values()} == {own["2x"].model.width, own[name].model.width}


def test_winners_of_an_earlier_search_stay_as_long_as_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = winner("1x", **{"train.lr": 0.01})
    stale.base["train.epochs"] = 7
    found = {"2x": winner(), "0x": winner("0x"), "1x": stale}
    path = tuned_path(tmp_path, "num_1x1", "smoke")
    assert earlier_winners(NUM_1X1, "smoke", tmp_path) == {}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"variants": {name: asdict(each) for name, each in found.items()}}))
    assert earlier_winners(NUM_1X1, "smoke", tmp_path) == {"2x": found["2x"], "0x": found["0x"]}
    assert "winners of 1x no longer hold" in capsys.readouterr().err
    assert set(earlier_winners(NUM_1X1, "smoke", tmp_path, replaced=["1x"])) == {"2x", "0x"}
    assert capsys.readouterr().err == ""
    (task,) = toy_tasks(tmp_path, 4, ["3x"])
    tune_toy(tmp_path, [task])
    write_tuning_report([task], Store(tmp_path, "num_1x1-tuning", "smoke"), "", lambda _: {"2x": found["2x"]})
    assert set(read_winners(NUM_1X1, "smoke", tmp_path)) == {"2x", "3x"}


def test_a_winner_of_another_setting_is_refused_by_the_field() -> None:
    stale = winner(**{"train.lr": 0.01})
    stale.base["train.epochs"] = 7
    with pytest.raises(ValueError, match=r"2x has changed since it was tuned: train.epochs was 7, is 3"):
        with_winners(NUM_1X1, "smoke", {"2x": stale})


def test_a_winner_of_other_code_is_refused() -> None:
    stale = replace(winner(), made_with={"code": "0" * 16})
    with pytest.raises(
        ValueError,
        match=r"2x has changed since it was tuned: code was '0000000000000000', is ''; tune again with another --st",
    ):
        with_winners(NUM_1X1, "smoke", {"2x": stale})


def test_winners_of_unequal_searches_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tuned_path(tmp_path, "num_1x1", "smoke")
    path.parent.mkdir(parents=True)
    for trials, said in ((4, "variants were not tuned alike: trials 2x: 12, 0x: 4"), (12, "")):
        found = {"2x": replace(winner(), trials=12), "0x": replace(winner("0x"), trials=trials), "1x": winner("1x")}
        path.write_text(json.dumps({"variants": {name: asdict(each) for name, each in found.items()}}))
        load_tuned(NUM_1X1, "smoke", tmp_path)
        assert said in capsys.readouterr().err
    assert "tuned alike" not in capsys.readouterr().err


def test_winners_tuned_with_set_are_trained_with_the_same_set() -> None:
    changed = ["train.epochs=2"]
    own = next(each for each in NUM_1X1.expand("smoke", 1, ["2x"], changed))
    found = {"2x": Winner(3, 0.9, {"train.lr": 0.01}, [1003], own.settings)}
    study = with_winners(NUM_1X1, "smoke", found, changed)
    assert {each.train.epochs for each in study.expand("smoke", 1, None, changed)} == {2}
    with pytest.raises(ValueError, match=r"train.epochs was 2, is 3"):
        with_winners(NUM_1X1, "smoke", found)
    with pytest.raises(ValueError, match=r"train.lr: tuning has chosen this"):
        with_winners(NUM_1X1, "smoke", found, [*changed, "train.lr=0.005"])


def test_a_winner_is_refused_when_the_study_has_changed() -> None:
    ours = winner(**{"train.lr": 0.01})
    with pytest.raises(ValueError, match=r"'9x' was tuned but is no longer a variant of num_1x1"):
        with_winners(NUM_1X1, "smoke", {"2x": ours, "9x": ours})
    with pytest.raises(ValueError, match=r"model.num_1x1 was tuned, but num_1x1 now compares it"):
        with_winners(NUM_1X1, "smoke", {"2x": winner(**{"model.num_1x1": 3})})
    ours.base["model.gone"] = 1
    with pytest.raises(ValueError, match=r"model.gone was 1, is no more"):
        with_winners(NUM_1X1, "smoke", {"2x": ours})


def damaged(**fields: object) -> str:
    return json.dumps({"variants": {"2x": {**asdict(winner()), **fields}}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no"),
        ("{", "is damaged"),
        ('{"variants": {"2x": {"a": 1}}}', "is damaged"),
        (damaged(params={"lr": 0.1}), "is damaged.*unknown field of a run 'lr'"),
        (damaged(params={"train.lr": "high"}), "is damaged.*train.lr='high' must be a number"),
        (damaged(params=[1]), "is damaged"),
        (damaged(base=None), "is damaged"),
        (damaged(seeds="1000"), "is damaged"),
    ],
)
def test_tuned_without_winners_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "num_1x1-tuning" / "smoke" / "tuned.json"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=said):
        run.main(["num_1x1", "--protocol", "smoke", "--tuned", "--results", str(tmp_path)])
