"""A session takes plain values, and returns what it came to: what a notebook calls, and the commands too."""

import json
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from builders import plain, record_of
from rich.console import Console
from toy_engine import Toy

from ablations.catalog import load_study
from ablations.execution.engines import Ended, Event, Failed, Started
from ablations.execution.signals import OutOfTimeError, time_limit
from ablations.records import RunRecord, Store
from ablations.runs import Run
from ablations.session import Request, find_part, find_parts, run_studies
from ablations.study import Variant
from ablations.tracking.tracker import Tracker, finish
from ablations.tuning.winners import Winner, tuned_path
from nin.history import Evaluation

NUM_1X1 = load_study("num_1x1")


def request(results: Path, **changes: object) -> Request:
    return Request("smoke", seeds=2, variants=["0x"], results=results, **changes)  # type: ignore[arg-type]


def test_a_session_returns_reports_and_executes_only_what_is_missing(toy: Toy, tmp_path: Path) -> None:
    outcome = run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    assert (outcome.num_runs, outcome.remaining, outcome.failed, outcome.stopped) == (4, 0, [], "")
    report = outcome.reports["num_1x1"]
    assert (report.folder / "report.md").exists()
    assert set(report.summary.variants["variant"]) == {"0x", "2x"}
    assert len(toy.executed) == 4
    again = run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    assert again.reports["num_1x1"].answer == report.answer
    assert len(toy.executed) == 4


def test_a_study_whose_only_results_are_of_other_settings_has_no_report_yet(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))

    def execute(runs: Iterable[Run]) -> Iterator[Event]:
        raise OutOfTimeError
        yield

    monkeypatch.setattr(toy, "execute", execute)
    heads = load_study("heads")
    asked = Request("smoke", seeds=1, results=tmp_path, overrides=["train.lr=0.01"])
    outcome = run_studies([NUM_1X1, heads], asked, Console())
    assert outcome.reports == {}
    assert outcome.remaining == outcome.num_runs
    assert "num_1x1: no run has ended yet\nheads: no run has ended yet\n" in capsys.readouterr().out


def test_a_failed_run_is_tried_as_often_as_asked_and_then_named(toy: Toy, tmp_path: Path) -> None:
    toy.fails = ("0x",)
    outcome = run_studies([NUM_1X1], request(tmp_path, retries=2), Console(quiet=True))
    assert [record.run.label for record in outcome.failed] == ["0x seed 0", "0x seed 1"]
    assert [run.variant for run in toy.executed].count("0x") == 2 * 3
    assert [run.variant for run in toy.executed].count("2x") == 2


def test_retries_of_a_few_runs_are_not_taken_for_a_failure_of_all(toy: Toy, tmp_path: Path) -> None:
    toy.fails = ("0x", "1x")
    asked = request(tmp_path, retries=2)
    outcome = run_studies([NUM_1X1], replace(asked, variants=["0x", "1x"]), Console(quiet=True))
    assert not outcome.stopped
    assert [run.variant for run in toy.executed].count("1x") == 2 * 3


def test_a_file_whose_name_another_study_had_is_said_to_replace_its_report(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = replace(NUM_1X1, name="mine", question="How many?", file="mine.py")
    run_studies([ours], request(tmp_path), Console(quiet=True))
    run_studies([ours], request(tmp_path), Console(quiet=True))
    assert "another question" not in capsys.readouterr().err
    run_studies([replace(ours, question="How wide?", file="other/mine.py")], request(tmp_path), Console(quiet=True))
    assert "report.md is on another question, 'How many?', and will be replaced" in capsys.readouterr().err


def test_a_target_that_guessing_reaches_is_a_warning(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_studies([replace(NUM_1X1, targets={"smoke": 0.1})], request(tmp_path), Console(quiet=True))
    said = " ".join(capsys.readouterr().err.split())
    assert "guessing reaches the target of 10% validation accuracy with the 10 classes of synthetic" in said


def test_a_study_with_results_tries_its_last_runs_again(toy: Toy, tmp_path: Path) -> None:
    run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    toy.fails = ("1x", "3x")
    asked = replace(request(tmp_path, retries=2), variants=["1x", "3x"])
    outcome = run_studies([NUM_1X1], asked, Console(quiet=True))
    assert not outcome.stopped
    assert [run.variant for run in toy.executed].count("3x") == 2 * 3


def test_a_run_that_failed_before_the_time_was_up_is_not_counted_among_what_remains(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.fails = ("0x",)
    execute = toy.execute

    def until_the_time_is_up(runs: Iterable[Run]) -> Iterator[Event]:
        for event in execute(runs):
            yield event
            if isinstance(event, Failed):
                raise OutOfTimeError

    monkeypatch.setattr(toy, "execute", until_the_time_is_up)
    outcome = run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    done = sum(record.is_result for record in outcome.reports["num_1x1"].records)
    assert (len(outcome.failed), outcome.remaining) == (1, outcome.num_runs - done - 1)


def test_what_every_variant_fails_at_is_said_once(toy: Toy, tmp_path: Path) -> None:
    toy.fails = ("0x", "2x")
    outcome = run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    assert "the first run of each of the 2 variants failed: RuntimeError: no" in outcome.stopped
    assert len(toy.executed) == 2


def test_runs_that_tuning_did_not_change_are_taken_over_from_the_plain_study(toy: Toy, tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    runs = NUM_1X1.expand("smoke", 2, ["0x"])
    for run in runs:
        store.write(record_of(run))
    own = {run.variant: run.settings for run in runs}
    winners = {
        "2x": Winner(3, 0.9, {"train.lr": 0.01}, [1003], own["2x"]),
        "0x": Winner(0, 0.8, {}, [1000], own["0x"]),  # its own setting has won
    }
    path = tuned_path(tmp_path, "num_1x1", "smoke")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"variants": {name: asdict(winner) for name, winner in winners.items()}}))
    asked = request(tmp_path, tuned=True)
    part = find_part(NUM_1X1, asked)
    assert [run.label for run in part.missing] == ["2x tuned seed 0", "2x tuned seed 1"]
    assert not part.store.folder.exists()  # a look writes nothing
    outcome = run_studies([NUM_1X1], asked, Console(quiet=True))
    assert [run.label for run in toy.executed] == ["2x tuned seed 0", "2x tuned seed 1"]
    assert len(outcome.reports["num_1x1-tuned"].records) == 6
    baseline = run_studies([NUM_1X1], replace(asked, variants=["2x"]), Console(quiet=True))
    assert len(baseline.reports["num_1x1-tuned"].records) == 6, "a report covers what is on disk"
    wanted = rf"1x has not been tuned: .* num_1x1 --protocol smoke --variants 1x --results {tmp_path}$"
    with pytest.raises(ValueError, match=wanted):
        find_part(NUM_1X1, replace(asked, variants=["1x"]))
    with pytest.raises(ValueError, match="--seeds 1001: must be at most 1,000 with --tuned"):
        find_part(NUM_1X1, replace(asked, seeds=1001))


def test_what_is_kept_of_finished_and_unfinished_runs_is_said_at_an_interruption_and_after(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"2x seed 1": 2, "0x seed 1": 3}  # points of the curve, of which there are four and a smoke run has six

    def execute(runs: Iterable[Run]) -> Iterator[Event]:
        for run in runs:
            yield Started(run)
            if run.seed == 1:
                raise KeyboardInterrupt
            yield Ended(run, plain(run))

    def last_point(path: Path) -> Evaluation | None:
        label = next(run.label for run in NUM_1X1.expand("smoke", 2, ["0x"]) if run.run_id == path.stem)
        return plain(NUM_1X1.expand("smoke", 1)[0]).curve[kept[label] - 1] if label in kept else None

    monkeypatch.setattr(toy, "execute", execute)
    monkeypatch.setattr("ablations.session.last_point", last_point)
    with pytest.raises(KeyboardInterrupt):
        run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    assert capsys.readouterr().err == (
        "interrupted: 2 of 4 runs finished and kept, 2 unfinished ones kept at 33 % and 50 %; re-run to continue\n"
    )
    with pytest.raises(KeyboardInterrupt):
        run_studies([NUM_1X1], request(tmp_path), Console())
    assert "4 runs, 2 done, 2 to do, 2 of them from 33 % and 50 % on; " in capsys.readouterr().out


def test_finishing_logs_what_is_missing_before_it_closes_and_says_where_to_look(tmp_path: Path) -> None:
    told: list[str] = []

    class Told(Tracker):
        def sync(self, records: Iterable[RunRecord]) -> None:
            told.append(f"{len(list(records))} records")

        def add_files(self, folder: Path) -> None:
            told.append(f"files of {folder.name}")

        def close(self, status: str) -> None:
            told.append(status)

        def links(self) -> list[str]:
            return ["MLflow:  here"]

    finish(Told(), [plain(NUM_1X1.expand("smoke", 1)[0])], tmp_path / "smoke", told.append)
    assert told == ["1 records", "files of smoke", "FINISHED", "MLflow:  here"]


def test_a_run_that_another_study_has_finished_is_taken_over(toy: Toy, tmp_path: Path) -> None:
    """The baseline of both studies is one network, trained alike."""
    run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    trained = len(toy.executed)
    part = find_part(load_study("heads"), Request("smoke", seeds=2, variants=["nin+alexnet"], results=tmp_path))
    assert {(record.run.study, record.run.variant) for record in part.adopted} == {("heads", "nin+nin")}
    assert {run.variant for run in part.missing} == {"nin+alexnet"}
    run_studies(
        [load_study("heads")],
        Request("smoke", seeds=2, variants=["nin+alexnet"], results=tmp_path),
        Console(quiet=True),
    )
    assert {run.variant for run in toy.executed[trained:]} == {"nin+alexnet"}


def test_a_result_in_another_precision_than_a_study_asks_for_is_not_taken_over(toy: Toy, tmp_path: Path) -> None:
    """On a processor without bf16, "auto" computes in float32 under the identity of bf16."""
    asked = Request("quick", seeds=1, variants=["bf16"], results=tmp_path)
    precision = load_study("precision")
    (bf16,) = (run for run in precision.expand("quick", 1) if run.variant == "bf16")
    (auto,) = (run for run in NUM_1X1.expand("quick", 1, ["0x"]) if run.variant == "0x")
    assert auto.run_id == bf16.run_id
    store = Store(tmp_path, "num_1x1", "quick")
    store.write(record_of(auto, environment={"device": "cpu (test)", "precision": "float32"}))
    assert bf16 in find_part(precision, asked).missing
    assert store.has_result(auto)
    own = Store(tmp_path, "precision", "quick")
    own.write(record_of(bf16, environment={"device": "cpu (test)", "precision": "float32"}))
    assert bf16 in find_part(precision, asked).missing
    own.write(record_of(bf16, environment={"device": "cpu (test)", "precision": "bf16"}))
    assert bf16 not in find_part(precision, asked).missing


def test_of_several_results_of_a_run_the_newest_is_taken_over(tmp_path: Path) -> None:
    (baseline,) = NUM_1X1.expand("smoke", 1, [])
    for study, day in (("dropout", "2026-01-02"), ("heads", "2026-01-03"), ("pooling", "2026-01-01")):
        Store(tmp_path, study, "smoke").write(record_of(baseline, started_at=f"{day}T00:00:00+00:00"))
    (adopted,) = find_part(NUM_1X1, Request("smoke", seeds=1, variants=[], results=tmp_path)).adopted
    assert adopted.started_at.startswith("2026-01-03")


def test_a_record_without_the_memory_that_a_study_is_about_is_trained_again(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study("prediction_memory")
    asked = Request("quick", variants=["lenet 8"], results=tmp_path)  # of small networks, whose size is soon counted
    runs = study.expand("quick", variants=["lenet 8"])
    others, own = Store(tmp_path, "batch_memory", "quick"), Store(tmp_path, study.name, "quick")
    for store in (others, own):
        store.write(record_of(runs[0], prediction_memory_bytes=0))
    others.write(record_of(runs[1], prediction_memory_bytes=0))
    part = find_part(study, asked)
    assert list(part.missing) == list(runs)
    assert not part.adopted
    assert "1 finished run of prediction_memory lack" in capsys.readouterr().err
    run_studies([study], asked, Console(quiet=True))
    assert toy.executed == list(runs)
    assert own.superseded_folder.exists()


def test_a_run_that_two_studies_of_one_command_share_is_executed_once(toy: Toy, tmp_path: Path) -> None:
    heads, asked = load_study("heads"), Request("smoke", seeds=2, results=tmp_path)
    outcome = run_studies([NUM_1X1, heads], asked, Console(quiet=True))
    executed = [run.run_id for run in toy.executed]
    assert len(executed) == len(set(executed)) == outcome.num_runs - 2, "2x and nin+nin are one network"
    assert [len(part.shared) for part in outcome.parts] == [0, 2]
    assert "nin+nin" in set(outcome.reports["heads"].summary.variants["variant"])
    assert outcome.remaining == 0
    assert not any(part.missing for part in find_parts([NUM_1X1, heads], asked))
    weights = find_parts([NUM_1X1, heads], Request("smoke", seeds=2, results=tmp_path, keep_weights=True))
    assert not any(part.shared for part in weights), "each study keeps weights of its own"


def test_a_run_whose_precision_is_named_shares_none_that_leaves_it_open(toy: Toy, tmp_path: Path) -> None:
    """On a processor without bf16 the open one comes to float32, which is no result of the other."""
    studies = [load_study("nonlinearity"), load_study("precision")]
    auto = replace(
        studies[0], name="auto", variants={"2x": Variant(), "0x": Variant(model={"num_1x1": 0})}, baseline="2x"
    )
    named = replace(studies[1], protocols=("quick",))
    asked = Request("quick", seeds=1, results=tmp_path)
    for first, second, shares in ((auto, named, False), (named, auto, True)):
        earlier, later = find_parts([first, second], asked)
        assert {run.run_id for run in earlier.missing} & {run.run_id for run in later.runs}
        assert bool(later.shared) == shares


def test_a_variant_that_is_left_out_but_asked_for_is_in_the_report(toy: Toy, tmp_path: Path) -> None:
    study = replace(NUM_1X1, left_out={"smoke": ("0x",)})
    outcome = run_studies([study], request(tmp_path), Console(quiet=True))
    assert set(outcome.reports["num_1x1"].summary.variants["variant"]) == {"0x", "2x"}


def test_a_variant_that_repeats_another_is_left_out_of_the_report(toy: Toy, tmp_path: Path) -> None:
    again = NUM_1X1.variants["2x"]
    study = replace(NUM_1X1, variants={**NUM_1X1.variants, "again": again}, left_out={"smoke": ("again",)})
    outcome = run_studies([study], request(tmp_path), Console(quiet=True))
    assert "again" not in set(outcome.reports["num_1x1"].summary.variants["variant"])


def test_published_results_of_another_study_are_not_taken_over(toy: Toy, tmp_path: Path) -> None:
    run_studies([NUM_1X1], request(tmp_path), Console(quiet=True))
    (tmp_path / "num_1x1/smoke/PROVENANCE.md").touch()
    assert not find_part(load_study("heads"), Request("smoke", results=tmp_path)).adopted


def test_a_budget_is_refused_where_no_alarm_can_end_it() -> None:
    def refused() -> str:
        with pytest.raises(ValueError, match=r"\w") as error:
            Request(budget=60)
        return str(error.value)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(refused).result() == "budget: needs the main thread, to which the system sends its alarms"


def test_a_time_limit_leaves_alarms_to_who_had_them() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    try:
        with time_limit(60):
            pass
        signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard == [signal.SIGALRM]
