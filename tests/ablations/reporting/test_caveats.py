"""A report says what could still change its answer, and nothing that could not."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import record_of, smoke_runs

from ablations.analysis.summary import summarise
from ablations.catalog import load_study
from ablations.looks import NO_LOOKS, Declaration
from ablations.records import RunRecord
from ablations.reporting.answer import grounds
from ablations.reporting.caveats import Caveat, caveats, caveats_text, in_short
from ablations.reporting.provenance import what_was_run
from ablations.runs import Run
from ablations.study import Match, Study, Variant

WITH_CONTROLS = load_study("num_1x1")
NUM_1X1 = replace(  # without controls, whose widths take a second to find
    WITH_CONTROLS, variants={name: each for name, each in WITH_CONTROLS.variants.items() if not each.match}
)
OWN = ["0x", "1x", "3x", "4x"]


def clear(run: Run) -> RunRecord:
    """Every variant differs from the baseline by points, with a spread of a hundredth of one."""
    noise = np.random.default_rng([run.seed, run.model.num_1x1]).normal(0, 1e-4)
    return record_of(run, test_accuracy=0.7 + 0.03 * run.model.num_1x1 + float(noise))


def found(
    study: Study = NUM_1X1,
    record: Callable[[Run], RunRecord] = clear,
    protocol: str = "smoke",
    seeds: int = 2,
    variants: list[str] | None = None,
    distinct: Sequence[str] = (),
    looks: Declaration = NO_LOOKS,
) -> dict[str, str]:
    """Caveats of made-up runs, reasons by what could change."""
    records = [record(run) for run in study.expand(protocol, seeds, variants)]
    listed = caveats(study, protocol, summarise(study, protocol, records, looks, distinct))
    return {what: "; ".join(each.why for each in listed if each.what == what) for what, _ in listed}


def test_clear_results_of_all_declared_runs_leave_only_the_shared_learning_rate() -> None:
    assert list(found()) == ["tuning each variant"]


def test_quick_is_an_early_look() -> None:
    assert "early look" in found(protocol="quick", seeds=3)["longer training"]
    assert "longer training" not in found()


def test_seeds_variants_and_controls_that_are_not_trained_are_named() -> None:
    listed = found(WITH_CONTROLS, seeds=1, variants=["0x", "1x"])
    assert listed["the missing seeds"] == "1 of 2 declared are trained"
    assert listed["the missing variants"] == "`3x` and `4x` are not trained yet"
    assert listed["controls of equal size or depth"].startswith("none is trained yet")


def test_controls_of_one_seed_do_not_count() -> None:
    heads = replace(load_study("heads"), left_out={})
    controls = ["nin+alexnet@params"]
    assert found(heads, seeds=1, variants=controls)["controls of equal size or depth"].startswith(
        "none has more than one seed trained yet"
    )
    assert "controls of equal size or depth" not in found(heads, seeds=2, variants=controls)


def test_controls_with_fewer_seeds_than_declared_are_named() -> None:
    controls = ["3x3", "0x@2x-params"]
    more = replace(
        WITH_CONTROLS, seeds=3, contrasts=(), variants={n: WITH_CONTROLS.variants[n] for n in ("2x", *controls)}
    )
    assert found(more, seeds=2, variants=controls)["controls of equal size or depth"].startswith(
        "they have only 2 of 3 declared seeds, so size"
    )
    runs = more.expand("smoke", 3, controls)
    few = [clear(run) for run in runs if run.seed < 2 or run.variant in ("2x", controls[0])]
    assert dict(caveats(more, "smoke", summarise(more, "smoke", few)))["controls of equal size or depth"].startswith(
        "some have only 2 of 3 declared seeds, so size"
    )
    assert "controls of equal size or depth" not in found(more, seeds=3, variants=controls)


def test_a_control_that_is_not_trained_is_named_and_one_that_would_repeat_another_variant_is_not() -> None:
    kept = {name: WITH_CONTROLS.variants[name] for name in ("2x", "3x3", "0x@2x-params")}
    study = replace(WITH_CONTROLS, contrasts=(), variants=kept)
    named = found(study, variants=["3x3"])["controls of equal size or depth"]
    assert named.startswith("`0x@2x-params` is not trained yet")
    assert "controls of equal size or depth" not in found(study, variants=["3x3"], distinct=["2x", "3x3"])


def test_a_search_that_has_found_nothing_yet_has_tuned_nothing() -> None:
    assert "tuning the baseline too" not in found(
        replace(made_up(b=Variant(model={"dropout": 0.1})), searches=True), better
    )


def test_a_control_that_the_protocol_leaves_out_is_not_missing() -> None:
    heads = load_study("heads")
    assert heads.left_out["smoke"] == ("nin+alexnet@params",)
    assert "controls of equal size or depth" not in found(heads)
    assert "controls of equal size or depth" in found(replace(heads, left_out={}), variants=heads.confirmatory)


def test_a_baseline_that_is_not_trained_is_missing() -> None:
    records = [clear(run) for run in smoke_runs(seeds=2, variants=OWN) if run.variant != "2x"]
    listed = dict(caveats(NUM_1X1, "smoke", summarise(NUM_1X1, "smoke", records)))
    assert listed["the missing variants"] == "`2x` is not trained yet"


def test_variants_that_are_trained_to_shorter_lengths_alone_are_missing_at_the_longest() -> None:
    runs = NUM_1X1.expand("digits", 10, ["0x", "1x"])
    records = [clear(run) for run in runs if run.variant != "1x" or run.length == 10_000]
    listed = dict(caveats(NUM_1X1, "digits", summarise(NUM_1X1, "digits", records)))
    assert listed["the missing variants"] == "`1x`, `3x` and `4x` are not trained to 40k images yet"
    assert listed["controls of equal size or depth"].startswith("none is trained to 40k images yet")
    facts = what_was_run(NUM_1X1, "digits", records, [], [])
    assert "; some variants lack some of these runs (see below)" in facts
    assert "Without results for some seeds or training lengths: 1x." in facts


def test_seeds_that_only_some_variants_have_are_said_to_be_of_some() -> None:
    records = [clear(run) for run in smoke_runs(seeds=2, variants=OWN) if (run.variant, run.seed) != ("4x", 1)]
    listed = dict(caveats(NUM_1X1, "smoke", summarise(NUM_1X1, "smoke", records)))
    assert listed["the missing seeds"] == "1 of 2 declared of some variants are trained"


def test_an_undecided_comparison_says_how_many_seeds_would_decide_it() -> None:
    def noisy(run: Run) -> RunRecord:
        noise = np.random.default_rng([run.seed, run.model.num_1x1]).normal(0, 0.02)
        return clear(run) if run.variant != "3x" else record_of(run, test_accuracy=0.76 + float(noise))

    summary = summarise(NUM_1X1, "smoke", [noisy(run) for run in NUM_1X1.expand("smoke", 3)])
    row = summary.variants.set_index("variant").loc["3x"]
    assert row["verdict"] == "inconclusive"
    needed = f"{row['seeds_if_seen']:.0f}" if np.isfinite(row["seeds_if_seen"]) else "more than 1,000"
    assert f"{needed} seeds in all would decide `3x` with 80 % power" in found(record=noisy, seeds=3)["more seeds"]


def test_a_verdict_that_welchs_test_does_not_confirm_is_named() -> None:
    def paired(run: Run) -> RunRecord:
        shift = 0.02 * run.seed  # the same for every variant: pairing removes it, Welch's test does not
        return record_of(run, test_accuracy=clear(run).test_accuracy + shift)

    why = found(record=paired, seeds=3, variants=["1x"])["another statistical test"]
    assert "does not confirm that `1x` is worse (p = " in why


def test_a_verdict_that_other_test_images_might_undo_is_named() -> None:
    records = [clear(run) for run in smoke_runs(seeds=2, variants=OWN)]
    summary = summarise(NUM_1X1, "smoke", records)
    table = summary.variants.assign(difference_both_low=-1.0, difference_both_high=1.0)
    listed = caveats(NUM_1X1, "smoke", replace(summary, variants=table))
    assert (
        Caveat(
            "another test set",
            "over seeds and test images together, the interval of `0x`, `1x`, `3x` and `4x` includes 0",
        )
        in listed
    )


def test_runs_that_did_not_learn_are_named_where_the_learning_rate_is() -> None:
    def diverged(run: Run) -> RunRecord:
        return replace(clear(run), status="diverged") if run.variant == "4x" else clear(run)

    assert ", and some runs of `4x` did not learn; one that" in found(record=diverged)["tuning each variant"]


def test_too_few_runs_for_fishers_test_are_said_to_decide_nothing() -> None:
    study = Study(
        baseline="a",
        variants={name: Variant(model={"dropout": p}) for name, p in (("a", 0.0), ("b", 0.5))},
        answers="failures",
        name="made-up",
    )
    assert found(study, seeds=3)["more seeds"] == (
        "whether `b` fails more or less often than `a` is undecided: with 3 runs against 3, Fisher's exact test, corrected, can "
        "decide nothing"
    )
    assert found(study, seeds=5)["more seeds"].endswith("is undecided")
    more = replace(study, variants={**study.variants, "few": Variant(model={"dropout": 0.7})})
    records = [clear(run) for run in more.expand("smoke", 9) if run.variant != "few" or run.seed == 0]
    (caveat,) = (
        each for each in caveats(more, "smoke", summarise(more, "smoke", records)) if each.what == "more seeds"
    )
    assert caveat.why.endswith("is undecided"), "one variant with a single run says nothing of the others"
    three = replace(study, variants={**study.variants, "c": Variant(model={"dropout": 0.9})})
    assert found(three, seeds=4)["more seeds"].endswith("can decide nothing")  # 2 x 0.029, by Holm


def made_up(**variants: Variant) -> Study:
    return Study(baseline="a", variants={"a": Variant(), **variants}, name="made-up")


def better(run: Run, params: int = 1000) -> RunRecord:
    noise = np.random.default_rng([run.seed, *run.variant.encode()]).normal(0, 1e-4)
    better = run.variant != "a"
    return record_of(run, test_accuracy=0.7 + 0.1 * better + float(noise), params_trunk=params if better else 1000)


def test_a_larger_network_that_is_better_asks_for_a_comparison_at_equal_size() -> None:
    study = made_up(b=Variant(model={"activation": "maxout2"}))

    def larger(run: Run) -> RunRecord:
        return better(run, 3200)

    size = found(study, larger)["a comparison at equal size"]
    assert size == "`b` has 3.0 times the baseline's parameters"
    assert "a comparison at equal size" not in found(study, better)
    matched = {"m": Variant(role="control", match=Match("b", "params"))}
    assert "a comparison at equal size" not in found(replace(study, variants={**study.variants, **matched}), larger)
    other = {"c": Variant(model={"activation": "gelu"}), "m": Variant(role="control", match=Match("c", "params"))}
    of_another = found(replace(study, variants={**study.variants, **other}), larger)
    assert "`b` and `c`" not in of_another["a comparison at equal size"]
    assert "`b`" in of_another["a comparison at equal size"], "a control of another variant says nothing of this one"
    of_widths = made_up(b=Variant(model={"width": 0.5}))  # where size is the question
    assert "a comparison at equal size" not in found(of_widths, larger)


def test_a_study_that_varies_the_learning_rate_shares_none() -> None:
    assert "tuning each variant" in found(made_up(b=Variant(model={"dropout": 0.1})), better)
    assert "tuning each variant" not in found(made_up(b=Variant(train={"lr": 0.1})), better)


def test_a_search_has_tuned_only_what_it_found() -> None:
    assert "tuning the baseline too" in found(
        replace(made_up(found=Variant(model={"dropout": 0.1})), searches=True), better
    )


def test_pairs_of_runs_from_two_kinds_of_machine_are_named() -> None:
    def elsewhere(run: Run) -> RunRecord:
        return replace(clear(run), environment={"device": f"cpu ({'a' if run.variant == '3x' else 'b'})"})

    why = found(record=elsewhere)["all runs on one kind of machine"]
    assert why.startswith("some runs of `3x` were made on another kind")
    assert "precision" not in why
    assert "all runs on one kind of machine" not in found()


def test_controls_in_another_precision_are_named() -> None:
    def elsewhere(run: Run) -> RunRecord:
        kind, precision = ("a", "float32") if run.variant == "3x3" else ("b", "bf16")
        return replace(clear(run), environment={"device": f"cpu ({kind})", "precision": precision})

    variants = ["confirmatory", "control"]
    why = found(record=elsewhere, variants=variants)["all runs on one kind of machine"]
    assert why.endswith("some of these were made in another precision; both can shift accuracy")


def test_a_study_of_precision_does_not_name_the_precisions_it_compares() -> None:
    def elsewhere(run: Run) -> RunRecord:
        precision = run.train.precision
        return replace(clear(run), environment={"device": f"cpu ({precision})", "precision": precision})

    why = found(load_study("precision"), record=elsewhere)["all runs on one kind of machine"]
    assert "another kind of machine" in why
    assert "in another precision" not in why


def test_too_few_seeds_to_plan_by_give_no_number() -> None:
    def noisy(run: Run) -> RunRecord:
        noise = np.random.default_rng([run.seed, run.model.num_1x1]).normal(0, 0.02)
        return record_of(run, test_accuracy=0.8 + float(noise))

    assert found(record=noisy, seeds=2)["more seeds"] == "`0x`, `1x`, `3x` and `4x` are undecided after 2 seeds"


def test_looks_at_comparisons_are_said_not_to_decide_an_effect_of_factors() -> None:
    dropout = load_study("dropout")
    looks = Declaration((2, 4), dropout.confirmatory)
    assert found(dropout, looks=looks)["fresh seeds"].startswith(
        "seeds were added to decide other comparisons; the p of '"
    )
    assert "fresh seeds" not in found(dropout)
    assert "fresh seeds" not in found(looks=Declaration((2, 4), NUM_1X1.confirmatory)), "comparisons are its answer"


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        (("02", "02"), "seeds 2 and 3, beyond the 2 declared, were asked for by hand; if results were known"),
        (
            ("02", "05"),
            "seeds 2 and 3, beyond the 2 declared, were added by hand after 2026-01-02; if results were known",
        ),
    ],
)
def test_seeds_beyond_those_declared_make_p_values_too_small(starts: tuple[str, str], said: str) -> None:
    def started(run: Run) -> RunRecord:
        return replace(clear(run), started_at=f"2026-01-{starts[run.seed > 1]}T10:00:00+00:00")

    assert found(record=started, seeds=4)["fresh seeds"].startswith(said)
    assert "fresh seeds" not in found(record=started, seeds=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((), ["the division into", "the choice of a part"]),
        (("data.train_examples=0",), ["the division into"]),
        (("data.split=by-seed",), []),
        (
            ("data.val_examples=0", "data.label_noise=0.2"),
            ["the choice of labels that are redrawn", "the choice of a part"],
        ),
    ],
)
def test_what_no_interval_covers_is_named(changes: tuple[str, ...], said: list[str]) -> None:
    """Labels and parts are drawn by the split, with or without validation images."""
    records = [clear(run) for run in NUM_1X1.expand("smoke", 2, overrides=changes)]
    (fact,) = re.findall(r"None covers .*", what_was_run(NUM_1X1, "smoke", records, changes, []))
    sources = ["the division into", "the choice of labels that are redrawn", "the choice of a part"]
    assert [source for source in sources if source in fact] == said
    assert "the choice of hyperparameters" in fact


def test_a_tuned_study_whose_runs_all_failed_has_a_report() -> None:
    study = replace(NUM_1X1, pairs={"2x": "2x"})
    records = [replace(clear(run), status="failed", error="lost") for run in study.expand("smoke", 1)]
    assert "no results" in grounds(study, "smoke", summarise(study, "smoke", records))


def test_runs_that_diverged_were_given_all_images() -> None:
    def diverges(run: Run) -> RunRecord:
        record = clear(run)
        if run.variant != "0x":
            return record
        return replace(record, status="diverged", curve=record.curve[:1], examples_seen=record.curve[0].examples)

    records = [diverges(run) for run in NUM_1X1.expand("smoke", 2)]
    diverged = next(record for record in records if record.run.variant == "0x")
    table = summarise(NUM_1X1, "smoke", records).variants.set_index("variant")
    assert table.loc["0x", "examples"] == diverged.examples_given > diverged.examples_seen


def test_training_and_data_that_differ_between_variants_are_named() -> None:
    base = Variant(model={"num_1x1": 1})
    shorter = Variant(model={"num_1x1": 0}, train={"epochs": 1})
    other = Variant(model={"num_1x1": 0}, data={"name": "digits", "test_examples": 200})

    def given(run: Run) -> RunRecord:
        return replace(clear(run), examples_seen=512 * run.train.epochs)

    short, elsewhere = (Study(name="s", baseline="a", variants={"a": base, "b": each}) for each in (shorter, other))
    assert found(short, given)["equal training"] == "some variants train on 512 images, others on up to 1,536"
    assert "one data set" in found(elsewhere, given)
    assert not {"equal training", "one data set"} & found(NUM_1X1, given).keys()
    only_length = replace(short, variants={"a": Variant(), "b": Variant(train={"epochs": 1})})
    assert "equal training" not in found(only_length, given)  # it is the question

    records = [given(run) for run in short.expand("smoke", 2)]
    table = summarise(short, "smoke", records).variants.set_index("variant")
    assert table.loc["a", "examples_to_target_restricted_mean"] <= 512  # beyond which `b` says nothing
    assert not np.isnan(table.loc["b", "difference_both_low"])
    table = summarise(elsewhere, "smoke", [given(run) for run in elsewhere.expand("smoke", 2)]).variants
    assert table.set_index("variant")["difference_both_low"].isna().all()


def test_a_list_says_why_and_a_line_only_what() -> None:
    listed = [Caveat("more seeds", "three are few"), Caveat("more seeds", "Welch's test"), Caveat("tuning", "none was")]
    assert caveats_text(listed).endswith(
        ":\n\n- **more seeds**: three are few\n- **more seeds**: Welch's test\n- **tuning**: none was"
    )
    assert in_short(listed) == "more seeds; tuning"
    assert caveats_text([]) == ""


def test_lengths_that_the_protocol_asks_for_and_nobody_trained_are_longer_trainings() -> None:
    def of_lengths(*lengths: int) -> list[str]:
        records = [clear(run) for run in NUM_1X1.expand("digits", 3, ["0x"], lengths=lengths)]
        found = caveats(NUM_1X1, "digits", summarise(NUM_1X1, "digits", records))
        return [each.why for each in found if each.what == "longer training"]

    why = "trainings of 40k images, which the protocol asks for, are not compared yet"
    assert of_lengths(10_000) == [why]
    assert why not in of_lengths(10_000, 40_000)
