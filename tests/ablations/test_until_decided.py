"""Seeds are added in looks that are declared before the first run, to what is not decided."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import record_of, text_of
from rich.console import Console
from toy_engine import Toy

from ablations.answers import answer_row, headline
from ablations.catalog import load_study
from ablations.looks import Declaration, Looks
from ablations.plan import plan_studies
from ablations.records import RunRecord, Store
from ablations.reporting.caveats import in_short
from ablations.reporting.files import read_report, write_report
from ablations.runs import Run
from ablations.session import Request, find_part, run_studies
from ablations.study import Variant
from ablations.until_decided import LEAST_BUDGET, run_until_decided, wanted_looks

NUM_1X1 = load_study("num_1x1")


class Scripted(Toy):
    """Runs come out as the test says: accuracies by variant, and a little from seed to seed."""

    def __init__(self, accuracies: dict[str, float]) -> None:
        super().__init__()
        self.accuracies = accuracies

    def record(self, run: Run) -> RunRecord:
        spread = 0.004 * ((7 * run.seed + 3 * len(run.variant)) % 5 - 2) if run.variant != "2x" else 0.0
        return record_of(run, test_accuracy=self.accuracies[run.variant] + spread)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, toy: Toy) -> Scripted:
    engine = Scripted({"2x": 0.8, "0x": 0.9, "1x": 0.803, "3x": 0.5})
    monkeypatch.setattr("ablations.session.make_engine", lambda *_, **__: engine)
    return engine


def until_decided(results: Path, max_seeds: int = 12) -> Request:
    return Request("smoke", seeds=5, variants=["0x", "1x", "3x"], results=results, max_seeds=max_seeds)


def test_seeds_are_added_to_what_is_undecided_and_to_the_baseline_alone(scripted: Scripted, tmp_path: Path) -> None:
    outcome = run_until_decided(NUM_1X1, until_decided(tmp_path), Console(quiet=True))
    seeds = {name: sum(run.variant == name for run in scripted.executed) for name in scripted.accuracies}
    assert seeds["0x"] == seeds["3x"] == 5
    assert seeds["1x"] == seeds["2x"] > 5
    table = outcome.reports["num_1x1"].summary.variants.set_index("variant")
    assert (table.loc["0x", "verdict"], table.loc["3x", "verdict"]) == ("better", "worse")
    assert (table.loc["0x", "compared_seeds"], table.loc["0x", "n"]) == (5, 5)
    assert outcome.num_runs == len(scripted.executed), "runs of all looks, each once"
    assert "decided at 5 seeds" in outcome.reports["num_1x1"].grounds


def test_looks_are_declared_before_the_first_run_and_stay_as_they_are(scripted: Scripted, tmp_path: Path) -> None:
    run_until_decided(NUM_1X1, until_decided(tmp_path), Console(quiet=True))
    store = Store(tmp_path, "num_1x1", "smoke")
    declared = Looks(store.folder, NUM_1X1).declaration()
    assert (declared.seeds[0], declared.seeds[-1], declared.variants) == (5, 12, ("0x", "1x", "3x"))
    trained = len(scripted.executed)
    run_until_decided(NUM_1X1, until_decided(tmp_path), Console(quiet=True))
    assert len(scripted.executed) == trained
    with pytest.raises(ValueError, match=r"looks at 5, .* were declared .* go on with --seeds 5 --max-seeds 12 and"):
        run_until_decided(NUM_1X1, until_decided(tmp_path, 20), Console(quiet=True))


def test_a_change_of_the_length_holds_in_every_look(scripted: Scripted, tmp_path: Path) -> None:
    asked = replace(until_decided(tmp_path), protocol="digits", overrides=["train.examples=5000"])
    run_until_decided(NUM_1X1, asked, Console(quiet=True))
    assert {run.train.examples for run in scripted.executed} == {5000}
    assert max(run.seed for run in scripted.executed) >= 5


@pytest.mark.parametrize(
    ("variants", "lengths", "said"),
    [
        (["0x"], None, r"1x and 3x in .* would be decided on as well, .*: name all, or choose another --results"),
        (["0x", "1x", "3x"], [10_000], r"decides at the longest length in .*, 40k, which --lengths leaves out"),
    ],
)
def test_looks_are_refused_that_would_decide_on_more_than_is_asked_for(
    scripted: Scripted, tmp_path: Path, variants: list[str], lengths: list[int] | None, said: str
) -> None:
    before = replace(until_decided(tmp_path), protocol="digits", seeds=2, max_seeds=0, lengths=[40_000])
    run_studies([NUM_1X1], before, Console(quiet=True))
    trained = len(scripted.executed)
    with pytest.raises(ValueError, match=said):
        run_until_decided(
            NUM_1X1, replace(before, max_seeds=12, variants=variants, lengths=lengths), Console(quiet=True)
        )
    assert len(scripted.executed) == trained


def test_looks_at_a_shorter_length_are_refused_where_a_single_seed_of_a_longer_one_is_there(
    scripted: Scripted, tmp_path: Path
) -> None:
    before = replace(until_decided(tmp_path), protocol="digits", seeds=2, max_seeds=0, lengths=[10_000])
    run_studies([NUM_1X1], before, Console(quiet=True))
    run_studies([NUM_1X1], replace(before, seeds=1, lengths=[40_000]), Console(quiet=True))
    with pytest.raises(ValueError, match="decides at the longest length"):
        run_until_decided(NUM_1X1, replace(before, max_seeds=12), Console(quiet=True))


def test_looks_without_a_declared_comparison_are_refused(tmp_path: Path) -> None:
    for variants in (["baseline"], ["3x3"]):
        with pytest.raises(ValueError, match="names no comparison that the study declares"):
            run_until_decided(NUM_1X1, replace(until_decided(tmp_path), variants=variants), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_control_that_fails_holds_up_no_look(scripted: Scripted, tmp_path: Path) -> None:
    scripted.fails = ("3x3",)
    asked = replace(until_decided(tmp_path), variants=["0x", "1x", "3x", "3x3"])
    outcome = run_until_decided(NUM_1X1, asked, Console(quiet=True))
    assert max(run.seed for run in scripted.executed) >= 5
    assert [record.run.variant for record in outcome.failed] == ["3x3"] * 5


def test_a_look_that_lacks_runs_is_said_not_to_be(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.fails = ("1x",)
    outcome = run_until_decided(NUM_1X1, until_decided(tmp_path), Console())
    assert max(run.seed for run in scripted.executed) == 4
    assert {record.run.variant for record in outcome.failed} == {"1x"}
    assert "seeds: runs of 1x failed" in capsys.readouterr().out
    table = outcome.reports["num_1x1"].summary.variants.set_index("variant")
    assert list(table.loc[["0x", "3x"], "verdict"]) == ["pending"] * 2, (
        "without a result, 1x is one of the tests all the same"
    )


def test_looks_at_accuracy_are_refused_to_a_study_of_failures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decides by accuracy, which is not what class_block asks about"):
        run_until_decided(
            load_study("class_block"), replace(until_decided(tmp_path), variants=None), Console(quiet=True)
        )
    assert not (tmp_path / "class_block").exists()


def test_looks_of_another_study_of_the_same_name_are_refused(tmp_path: Path) -> None:
    folder = Store(tmp_path, "num_1x1", "smoke").folder
    declared = Declaration((5, 12), ("0x",), at="2026-01-01T00:00:00+00:00")
    Looks(folder, NUM_1X1).declare(declared)
    other = replace(NUM_1X1, variants={**NUM_1X1.variants, "0x": Variant(model={"num_1x1": 0, "width": 0.5})})
    with pytest.raises(
        ValueError, match="declared for other settings of 2x, 0x than those of this study: choose another"
    ):
        Looks(folder, other).declaration()
    unread = replace(NUM_1X1, variants={**NUM_1X1.variants, "3x": Variant(model={"num_1x1": 3, "width": 0.5})})
    assert Looks(folder, unread).declaration() == declared, "3x is not among those that are decided on"
    older = json.loads(Looks(folder, NUM_1X1).path.read_text())
    del older["settings"]
    Looks(folder, NUM_1X1).path.write_text(json.dumps(older))
    assert Looks(folder, other).declaration() == declared


def test_runs_of_changed_settings_have_looks_of_their_own(toy: Toy, tmp_path: Path) -> None:
    store, changed = Store(tmp_path, "num_1x1", "smoke"), ["train.lr=0.01"]
    for overrides in ([], changed):
        for run in NUM_1X1.expand("smoke", 5, ["0x"], overrides):
            accuracy = 0.5 + 0.3 * (run.variant == "0x") + 0.001 * run.seed**2
            store.write(record_of(run, test_accuracy=accuracy))
    fixed = write_report(NUM_1X1, "smoke", store, changed).grounds
    Looks(store.folder, NUM_1X1).declare(Declaration((5, 12), ("0x",)))
    assert write_report(NUM_1X1, "smoke", store, changed, force=False).grounds == fixed
    assert "decided at 5 seeds" in write_report(NUM_1X1, "smoke", store, force=False).grounds
    Looks(store.folder, NUM_1X1, changed).declare(Declaration((5, 8), ("0x",)))
    seeds = [Looks(store.folder, NUM_1X1, each).declaration().seeds for each in ([], changed, ["train.lr=1e-2"])]
    assert seeds == [(5, 12), (5, 8), (5, 8)], "the last is the same setting in other words"
    write_report(NUM_1X1, "smoke", store, changed, force=False)
    assert "decided at 5 seeds" in (store.folder / "report.md").read_text(), "the looks are new, if no record is"


@pytest.mark.usefixtures("undrawn")
def test_looks_that_were_declared_over_results_are_said_to_be(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 2, ["0x"]):
        store.write(record_of(run, started_at="2026-01-01T00:00:00+00:00"))
    declared = Declaration((2, 4), ("0x",), at="2026-01-01T00:00:00+00:00")
    Looks(store.folder, NUM_1X1).declare(declared)
    assert "fresh seeds" not in in_short(read_report(NUM_1X1, "smoke", store).caveats)
    Looks(store.folder, NUM_1X1).path.unlink()
    Looks(store.folder, NUM_1X1).declare(replace(declared, at="2026-01-01T00:00:01+00:00"))
    Looks(store.folder, NUM_1X1).declare(replace(declared, at=""))
    (why,) = (each.why for each in read_report(NUM_1X1, "smoke", store).caveats if each.what == "fresh seeds")
    assert why.startswith(
        "4 runs were there before it was declared at how many seeds to test (*looks*); if verdicts on"
    )
    write_report(NUM_1X1, "smoke", store)
    assert "declared when 4 runs were there" in text_of(store)


def test_looks_over_results_are_announced_to_replace_their_verdicts(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_studies([NUM_1X1], replace(until_decided(tmp_path), seeds=5), Console(quiet=True))
    run_until_decided(NUM_1X1, until_decided(tmp_path), Console(quiet=True))
    assert capsys.readouterr().err.count("their verdicts give way to those of the looks") == 1
    run_until_decided(NUM_1X1, until_decided(tmp_path), Console(quiet=True))
    assert "their verdicts give way" not in capsys.readouterr().err, "they were declared before"


def test_what_is_pending_is_undecided_in_the_words_of_the_study(tmp_path: Path) -> None:
    store, heads = Store(tmp_path, "heads", "smoke"), load_study("heads")
    Looks(store.folder, heads).declare(Declaration((2, 4), ("nin+alexnet",)))
    for run in heads.expand("smoke", 2, ["nin+alexnet"]):
        store.write(record_of(run, test_accuracy=0.8 + (0.03 + 0.01 * run.seed) * (run.model.head == "alexnet")))
    report = read_report(heads, "smoke", store)
    assert report.summary.variants.set_index("variant").loc["nin+alexnet", "verdict"] == "pending"
    assert "on NiN's trunk, it is undecided whether AlexNet's fully connected head or NiN's is more" in report.answer


@pytest.mark.usefixtures("scripted")
def test_dry_run_counts_what_later_looks_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_studies([NUM_1X1], until_decided(tmp_path), Console(quiet=True))
    run_studies([NUM_1X1], replace(until_decided(tmp_path), seeds=6, variants=["1x"]), Console(quiet=True))
    plan_studies([NUM_1X1], until_decided(tmp_path), Console())
    assert "at most 26 runs more" in " ".join(capsys.readouterr().out.split()), "of four networks, two have 6 seeds"
    Looks(Store(tmp_path, "num_1x1", "smoke").folder, NUM_1X1).declare(wanted_looks(NUM_1X1, until_decided(tmp_path)))
    plan_studies([NUM_1X1], until_decided(tmp_path), Console())
    assert "at most 12 runs more" in " ".join(capsys.readouterr().out.split()), (
        "1x and its baseline: others are decided"
    )


@pytest.mark.usefixtures("undrawn")
def test_what_is_pending_is_not_called_inconclusive(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 2, ["0x"]):
        store.write(record_of(run, test_accuracy=0.8 + (0.03 + 0.01 * run.seed) * (run.variant == "0x")))
    Looks(store.folder, NUM_1X1).declare(Declaration((2, 4), ("0x",)))
    write_report(NUM_1X1, "smoke", store)
    text = text_of(store)
    assert "`0x` is pending: the next look waits for seeds" in text
    assert "inconclusive" not in text.partition("## ")[0]


def test_the_table_by_length_has_the_verdicts_after_looks(tmp_path: Path) -> None:
    """A difference that one look at five seeds finds, and the first of several looks does not."""
    store = Store(tmp_path, "num_1x1", "digits")
    Looks(store.folder, NUM_1X1).declare(Declaration((5, 12), ("0x",), 40_000))
    for run in NUM_1X1.expand("digits", 5, ["0x"]):
        scatter = 0.004 * (-1, 1, -1, 1, 0)[(run.seed + run.model.num_1x1) % 5]
        store.write(record_of(run, test_accuracy=0.5 + 0.0075 * (run.variant == "0x") + scatter))
    table = read_report(NUM_1X1, "digits", store).summary.by_length
    verdicts = table[table["variant"] == "0x"].set_index("length")["verdict"]
    assert dict(verdicts) == {10_000: "better", 40_000: "pending"}


@pytest.mark.parametrize(("seconds_of_a_look", "left"), [(40, 60), (400, LEAST_BUDGET)])
def test_all_looks_share_one_budget(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_of_a_look: int, left: float
) -> None:
    given: list[float] = []

    @contextmanager
    def noted(seconds: float) -> Iterator[None]:
        given.append(seconds)
        yield

    monkeypatch.setattr("ablations.session.time_limit", noted)
    monkeypatch.setattr(
        "ablations.until_decided.time", SimpleNamespace(monotonic=itertools.count(0, seconds_of_a_look).__next__)
    )
    run_until_decided(NUM_1X1, replace(until_decided(tmp_path), budget=100), Console(quiet=True))
    assert given == [100, left]


def test_looks_at_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looks first at 0 seeds .* must be 2 or more"):
        run_until_decided(NUM_1X1, replace(until_decided(tmp_path), seeds=0), Console(quiet=True))


def test_a_damaged_declaration_of_looks_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    store.folder.mkdir(parents=True)
    whole = {"seeds": [5], "variants": ["0x"], "length": 0, "at": "2026-01-01"}
    Looks(store.folder, NUM_1X1).path.write_text(json.dumps(whole))
    assert Looks(store.folder, NUM_1X1).declaration() == Declaration((5,), ("0x",), at="2026-01-01T00:00:00")
    wrong: dict[str, object] = {"seeds": [5, None], "variants": [1], "length": "5", "at": "now"}
    spoiled = [whole | {key: value} for key, value in wrong.items()] + [{"seeds": [5]}, [5], 5, whole | {"seeds": []}]
    for content in ("{", *map(json.dumps, spoiled)):
        Looks(store.folder, NUM_1X1).path.write_text(content)
        with pytest.raises(ValueError, match=r"looks\.json is damaged"):
            print(Looks(store.folder, NUM_1X1).declaration())


def test_a_comparison_that_more_seeds_would_hardly_decide_stops_and_is_said_to(toy: Toy, tmp_path: Path) -> None:
    store, accuracies = Store(tmp_path, "num_1x1", "smoke"), {"2x": (0.24, 0.98), "0x": (1.0, 0.885)}
    Looks(store.folder, NUM_1X1).declare(Declaration((2, 4), ("0x",)))
    for run in NUM_1X1.expand("smoke", 2, ["0x"]):
        store.write(record_of(run, test_accuracy=accuracies[run.variant][run.seed]))
    report = write_report(NUM_1X1, "smoke", store)
    assert report.summary.variants.set_index("variant").loc["0x", "verdict"] == "futile"
    assert "`0x` is not decided, and the looks that are left would hardly decide it" in report.grounds
    assert "more seeds, up to the last look at 4, would hardly decide it" in text_of(store)


@pytest.mark.parametrize(
    ("variants", "lengths", "said"),
    [
        (["0x", "3x"], [10_000], "3x 10k would come after them; choose another --results"),
        (["0x"], [40_000], "0x 40k would come after them"),
    ],
)
def test_runs_that_would_undo_the_decisions_of_looks_are_refused(
    scripted: Scripted, tmp_path: Path, variants: list[str], lengths: list[int], said: str
) -> None:
    looked = replace(until_decided(tmp_path), protocol="digits", variants=["0x", "1x"], lengths=[10_000])
    run_until_decided(NUM_1X1, looked, Console(quiet=True))
    trained = len(scripted.executed)
    ordinary = replace(looked, seeds=1, max_seeds=0, variants=variants, lengths=lengths)
    with pytest.raises(ValueError, match=f"has declared looks at 5, 8, 12 seeds of 0x, 1x after 10k images: {said}"):
        run_studies([NUM_1X1], ordinary, Console(quiet=True))
    assert len(scripted.executed) == trained
    find_part(NUM_1X1, replace(ordinary, variants=["3x3"], lengths=[10_000]))  # a control, on which no look decides


def test_what_was_not_declared_does_not_move_the_decisions_of_looks(toy: Toy, tmp_path: Path) -> None:
    """Records that got there another way: more seeds, another comparison, a longer training."""
    store = Store(tmp_path, "num_1x1", "digits")
    Looks(store.folder, NUM_1X1).declare(Declaration((5, 12), ("0x", "1x"), 10_000, at="2025-12-31T00:00:00+00:00"))

    def fill(seeds: int, variants: list[str], length: int, gain: float) -> None:
        for run in NUM_1X1.expand("digits", seeds, variants, lengths=[length]):
            scatter = 0.004 * (-1, 1, -1, 1, 0)[(run.seed + run.model.num_1x1) % 5]
            sign = {"0x": 1, "1x": -1}.get(run.variant, 0)
            store.write(record_of(run, test_accuracy=0.5 + scatter + (gain if run.seed < 5 else -gain) * sign))

    fill(5, ["0x", "1x"], 10_000, 0.2)
    before = read_report(NUM_1X1, "digits", store)
    assert list(before.summary.variants["verdict"]) == ["better", "worse", ""]
    fill(8, ["0x"], 10_000, 0.2)
    fill(2, ["3x"], 10_000, 0.0)
    fill(2, ["0x", "1x"], 40_000, 0.0)
    after = write_report(NUM_1X1, "digits", store)
    assert after.answer == before.answer.replace("1x` worse", "1x` worse; `3x` undecided")
    table, old = (report.summary.variants.set_index("variant") for report in (after, before))
    assert table.loc["0x", "difference"] == old.loc["0x", "difference"]
    assert (table.loc["0x", "compared_seeds"], table.loc["0x", "n"]) == (5, 8)
    assert answer_row(NUM_1X1, "digits", after).n == "2 to 8", "of 3x, which was not looked at, and of the baseline"
    accuracies = text_of(store).partition("## Accuracy on the test set")[2]
    row = next(line for line in accuracies.splitlines() if line.startswith("| 0x "))
    assert [cell.strip() for cell in row.split("|")][2:7:4] == ["8", "5"], "runs, and seeds compared"
    assert "fresh seeds" not in in_short(after.caveats), "which no declared comparison reads"


@pytest.mark.usefixtures("undrawn")
def test_after_the_last_look_no_more_seeds_are_promised_to_decide(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    Looks(store.folder, NUM_1X1).declare(Declaration((2, 4), ("0x",)))
    for run in NUM_1X1.expand("smoke", 4, ["0x"]):
        gain = (0.01, 0.02, -0.005, 0.012)[run.seed] if run.variant == "0x" else 0.0
        store.write(record_of(run, test_accuracy=0.8 + gain))
    report = write_report(NUM_1X1, "smoke", store)
    assert report.summary.variants.set_index("variant").loc["0x", "verdict"] == "inconclusive"
    (why,) = (each.why for each in report.caveats if each.what == "more seeds")
    assert why == "`0x` is undecided at the last look, at 4 seeds; another study, with other seeds, could decide"
    assert "seeds to decide" not in text_of(store)
    assert "80 % power" not in text_of(store)


def test_before_the_first_look_no_difference_is_stated(toy: Toy, tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "digits")
    Looks(store.folder, NUM_1X1).declare(Declaration((5, 12), ("0x",), 40_000))
    for run in NUM_1X1.expand("digits", 3, ["0x"]):
        gain = (0.2 if run.length == 10_000 else 0.01) * (run.variant == "0x")
        store.write(record_of(run, test_accuracy=0.5 + gain + 0.001 * run.seed * run.model.num_1x1))
    report = read_report(NUM_1X1, "digits", store)
    row = answer_row(NUM_1X1, "digits", report)
    assert row.effect == ""
    said = headline([row], [(NUM_1X1, "digits", report)], "")
    assert "nan" not in said
    assert "This difference changes" not in said
