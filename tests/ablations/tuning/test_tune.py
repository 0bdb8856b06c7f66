"""`python -m ablations.tune` as a user types it."""

import json
import math
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from processes import PASSWORD, call, command

from ablations import tune
from ablations.catalog import load_study
from ablations.records import PROVENANCE, RunRecord, Store
from ablations.tracking.tracker import Tracker
from ablations.tuning import session
from ablations.tuning.storage import open_storage
from ablations.tuning.task import FIRST_SEED, find_or_create_task
from ablations.tuning.winners import Winner

TINY = ["num_1x1", "--protocol", "smoke", "--variants", "0x"]
# All that a search varies under smoke, which trains by AdamW.
FIXED = (
    "train.lr=0.001",
    "train.weight_decay=0",
    "train.label_smoothing=0",
    "train.schedule=none",
    "model.dropout=0.1",
    "data.augment=none",
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "0"], "--trials"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/none"], "cannot be used"),
        (["--storage", "sqlite:////nowhere/at/all.db"], "cannot be used"),
        (["--storage", "nonsense"], "must be a database URL such as"),
        (["--storage", "foo://bar", "--dry-run"], "must be a database URL such as"),
        (["--storage", "oracle://host", "--dry-run"], "cannot be used (ModuleNotFoundError: No module named"),
        (["--storage", "journal:/nowhere/at/all.log"], "cannot be used"),
        (["--storage", "grpc://127.0.0.1:port"], "must be grpc://HOST:PORT"),
        (["--budget", "25"], "must be a time such as"),
        (["--seeds", "2"], "unrecognized arguments: --seeds 2"),
        (["--set", "data.val_examples=0"], "must not choose by it"),
        (["--set", "train.optimizer=adam"], "unknown optimizer 'adam': the nearest is 'adamw'"),
        (["--set", "data.name=nothing"], "unknown data set 'nothing'"),
    ],
)
def test_a_wrong_request_is_one_line(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        tune.main([*TINY, "--results", str(tmp_path), *arguments])
        raise AssertionError("nothing was refused")
    except ValueError as error:
        message = str(error)
    except SystemExit:
        message = capsys.readouterr().err.strip()
    assert said in message
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.parametrize("published", ["num_1x1", "num_1x1-tuned", "num_1x1-tuning"])
def test_nothing_is_tuned_into_published_results(published: str, tmp_path: Path) -> None:
    folder = tmp_path / published / "smoke"
    folder.mkdir(parents=True)
    (folder / PROVENANCE).touch()
    for also in ([], ["--dry-run"]):
        with pytest.raises(ValueError, match="published results, which are never added to"):
            tune.main([*TINY, "--results", str(tmp_path), *also])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [PROVENANCE]


@pytest.mark.parametrize(
    "asked",
    [
        ["--workers", "100000"],
        ["--storage", "nonsense"],
        ["--storage", "grpc://127.0.0.1:port"],
        ["--storage", "postgresql://host:port/trials"],
        ["--storage", "sqlite://"],
        ["--results", "a-file/results"],
        ["--workers", "5000", "--engine", "ray"],
    ],
    ids=" ".join,
)
def test_a_dry_run_refuses_what_the_search_refuses(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    for also in ([], ["--dry-run"]):
        with pytest.raises(ValueError, match=f"^{asked[0]} "):
            tune.main([*TINY, *asked, *also])
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            ["wide_mlp", "--variants", "64", "--objective", "accuracy,params"],
            "has neither a width nor a number of 1x1s",
        ),
        (["num_1x1", *(f"--set={setting}" for setting in FIXED)], "nothing is left to tune"),
    ],
)
def test_a_search_of_nothing_is_refused(asked: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tune.main([*asked, "--protocol", "smoke", "--results", str(tmp_path), "--dry-run"])


def test_what_set_fixes_is_part_of_the_network_that_is_found(tmp_path: Path) -> None:
    study = load_study("best")
    fixed = ["model.pooling=gem", "train.lr=0.002", "data.augment=flip", "train.epochs=1", "data.train_examples=64"]
    winner = Winner(0, 0.9, {"model.width": 0.5}, [FIRST_SEED], {})
    asked = session.TuningRequest("smoke", overrides=fixed)
    path = session._write_found(study, {"nin": winner}, Store(tmp_path, "best-tuning", "smoke"), asked)
    assert path is not None
    found = json.loads(path.read_text())
    assert found == {"model.pooling": "gem", "train.lr": 0.002, "data.augment": "flip", "model.width": 0.5}


def test_a_storage_of_an_incompatible_optuna_is_one_line(tmp_path: Path) -> None:
    import sqlite3

    url = f"sqlite:///{tmp_path / 'old.db'}"
    optuna.create_study(storage=url)
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("update version_info set schema_version = 999")
        database.execute("update alembic_version set version_num = 'v9.9.9'")
    with pytest.raises(ValueError, match="cannot be used"):
        tune.main([*TINY, "--results", str(tmp_path), "--storage", url])


class Synced(Tracker):
    """Remembers what it is told in the end."""

    def sync(self, records: Iterable[RunRecord]) -> None:
        self.labels = [record.run.label for record in records]

    def links(self) -> list[str]:
        return ["MLflow:  here"]


@pytest.mark.slow
def test_trials_of_another_setting_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["--results", str(tmp_path), "--trials", "1"]
    synced = Synced()
    monkeypatch.setattr("ablations.tuning.session.open_tracker", lambda *_: synced)
    assert tune.main([*TINY, *tasks, "--set", "train.epochs=1", "--workers", "1"]) == 0
    assert sorted(synced.labels) == ["0x trial 0", "2x trial 0"]  # in case MLflow had not heard of them
    said = capsys.readouterr().out
    again = f"num_1x1 --protocol smoke --tuned --results {tmp_path} --set train.epochs=1"
    assert f"train it with python -m ablations.run {again}" in " ".join(said.split())
    assert f"trials:  OPTUNA_STORAGE='sqlite:///{tmp_path}/optuna.db' make dashboard" in said
    assert "MLflow:  here" in said
    with pytest.raises(ValueError, match=r"was tuned with another base \(train.epochs: 1, now 3\)"):
        tune.main([*TINY, *tasks])


def test_trials_of_other_code_are_not_mixed_in(tmp_path: Path) -> None:
    storage, study = open_storage(f"journal:{tmp_path / 'trials.log'}"), load_study("num_1x1")
    run = study.expand("smoke", 1)[0]
    options: dict[str, Any] = {"overrides": [], "objective": "accuracy", "num_trials": 4, "seeds": 1}
    assert find_or_create_task(study, run, storage, "url", **options).num_ended() == 0
    with pytest.raises(ValueError, match=r"was tuned with another code \( *, now pooling 1234\)"):
        find_or_create_task(study, replace(run, code="pooling 1234"), storage, "url", **options)


def trials_of(url: str) -> dict[str, list[optuna.trial.FrozenTrial]]:
    """Trials by Optuna study, of those that are not claims."""
    storage = optuna.storages.RDBStorage(url)
    try:
        summaries = optuna.get_all_study_summaries(storage)
        return {
            summary.study_name: optuna.load_study(storage=storage, study_name=summary.study_name).get_trials()
            for summary in summaries
            if "settings" in summary.user_attrs
        }
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
def test_a_tuning_that_was_killed_goes_on_to_exactly_as_many_trials(tmp_path: Path) -> None:
    arguments = [*TINY, "--trials", "6", "--results", str(tmp_path)]
    begun = []
    for moment in (": 25%", ": 50%", "complete at"):  # in a rung, between the halvings, between the batches
        with subprocess.Popen(
            command(*arguments, module="ablations.tune"), stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as driver:
            assert driver.stdout is not None
            lines = []
            for line in driver.stdout:
                lines.append(line)
                if moment in line:
                    break
            driver.kill()
        assert moment in lines[-1]
        begun.append("6 trials each, 0 done, 8 begun\n" in "".join(lines))
    assert begun[:2] == [False, True]
    last = call(*arguments, cwd=tmp_path, module="ablations.tune")
    assert last.returncode == 0, last.stderr
    tuned_studies = trials_of(f"sqlite:///{tmp_path / 'optuna.db'}")
    for done in tuned_studies.values():
        assert sorted(trial.state.name for trial in done) == [*["COMPLETE"] * 3, *["PRUNED"] * 3]
    budgets = [sum(trial.user_attrs["examples"] for trial in done) for done in tuned_studies.values()]
    assert budgets[0] == budgets[1]
    tuned = json.loads((tmp_path / "num_1x1-tuning/smoke/tuned.json").read_text())["variants"]
    assert set(tuned) == {"2x", "0x"}
    assert all(seed >= FIRST_SEED for winner in tuned.values() for seed in winner["seeds"])
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("runs/*.json")]
    assert len(records) == 12
    assert all(math.isnan(record["test_accuracy"]) for record in records)  # the test set was not read


@pytest.mark.slow
def test_a_tuning_whose_budget_is_used_up_has_no_winners_and_goes_on(tmp_path: Path) -> None:
    arguments = [*TINY, "--trials", "1", "--results", str(tmp_path), "--workers", "1"]
    first = call(*arguments, "--budget", "1s", cwd=tmp_path, module="ablations.tune")
    assert first.returncode == 0, first.stderr
    assert "time budget used up, 0 of 2 trials finished; re-run to continue" in first.stdout
    assert not list(tmp_path.rglob("tuned.json"))
    last = call(*arguments, cwd=tmp_path, module="ablations.tune")
    assert last.returncode == 0, last.stderr
    tuned = json.loads((tmp_path / "num_1x1-tuning/smoke/tuned.json").read_text())["variants"]
    assert set(tuned) == {"2x", "0x"}


@pytest.mark.slow
def test_two_tuners_on_one_postgresql_share_the_work(database: str, tmp_path: Path) -> None:
    """Each with results of its own, as on two machines."""
    tuners = [
        subprocess.Popen(
            command(*arguments, module="ablations.tune"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "other")
        for arguments in [
            [*TINY, "--trials", "4", "--results", str(tmp_path / name), "--storage", database, "--workers", "1"]
        ]
    ]
    outputs = [tuner.communicate() for tuner in tuners]
    assert [tuner.returncode for tuner in tuners] == [0, 0], outputs
    for done in trials_of(database).values():
        assert sorted(trial.state.name for trial in done) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    ended = [[line for line in output.splitlines() if " at " in line] for output, _ in outputs]
    assert all(ended), "one of them had nothing to do"
    assert len(set(ended[0] + ended[1])) == len(ended[0] + ended[1]) == 8  # each trial came to its end once
    winners = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("tuned.json"))]
    assert len(winners) == 2
    assert winners[0] == winners[1]
    written = [path.read_text() for path in tmp_path.rglob("report.md")]
    assert PASSWORD not in str([outputs, written])
