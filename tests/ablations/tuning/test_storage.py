"""Of all drivers that share a storage, one at a time works on a variant's trials."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.study._frozen import FrozenStudy
from toys import NUM_1X1

from ablations.execution import claims
from ablations.tuning.spaces import Range
from ablations.tuning.storage import StorageClaims, one_line_errors, open_storage
from ablations.tuning.task import Task, find_or_create_task


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.BaseStorage:
    return open_storage(f"journal:{tmp_path / 'claims.log'}")


def test_a_claim_is_one_drivers_until_it_is_released(storage: optuna.storages.BaseStorage) -> None:
    with StorageClaims(storage, "claims") as ours, StorageClaims(storage, "claims") as theirs:
        assert ours.take("2x")
        assert not theirs.take("2x")
        assert theirs.take("0x")
        ours.release("2x")
        assert theirs.take("2x")
    with StorageClaims(storage, "claims") as ours:
        assert ours.take("2x")
        assert ours.take("0x")


def test_of_many_drivers_at_once_one_has_the_claim(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'claims.db'}"
    drivers = [StorageClaims(open_storage(url), "claims") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            taken = list(pool.map(lambda driver: driver.take("2x"), drivers))
            assert sum(taken) <= 1  # two that are equally fast may both step back
            for driver, has in zip(drivers, taken, strict=True):
                if has:
                    driver.release("2x")
    assert drivers[0].take("2x")


def test_a_claim_expires_when_its_driver_is_dead_or_stands_still(
    storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, far, ours = (StorageClaims(storage, "claims") for _ in range(3))
    dead._me = replace(dead._me, since=0.0)  # whose number another process has now
    far._me = replace(far._me, host="far")
    assert dead.take("2x")
    assert far.take("0x")
    assert ours.take("2x")
    assert not ours.take("0x")
    monkeypatch.setattr(claims, "LEASE", -1.0)
    assert ours.take("0x")
    far.release("0x")  # changes nothing: it has lost it
    monkeypatch.undo()
    assert not dead.take("0x")


def test_a_storage_that_does_not_answer_is_waited_for_with_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nin.cli.WAIT_NOTICE_SEC", 0.05)

    class Sleepy(JournalStorage):
        def get_all_studies(self) -> list[FrozenStudy]:
            self.get_study_id_from_name("a")  # a call within a call
            time.sleep(0.3)
            return super().get_all_studies()

        def get_study_id_from_name(self, study_name: str) -> int:
            time.sleep(0.3)
            return 0

    monkeypatch.setattr("optuna.storages.JournalStorage", Sleepy)
    storage = open_storage(f"journal:{tmp_path / 'trials.log'}")
    assert capsys.readouterr().err == ""
    assert storage.get_all_studies() == []
    assert capsys.readouterr().err == f"waiting for trials at journal:{tmp_path}/trials.log; Ctrl-C ends the wait\n"
    with ThreadPoolExecutor(1) as pool:  # as the claims' heart beats, for which nobody waits
        assert pool.submit(storage.get_all_studies).result() == []
    assert capsys.readouterr().err == ""


def test_trials_of_another_space_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"journal:{tmp_path / 'trials.log'}"
    run = NUM_1X1.expand("smoke", 1, ["2x"])[0]

    def task() -> Task:
        return find_or_create_task(
            NUM_1X1, run, open_storage(url), url, overrides=(), objective="accuracy", num_trials=1, seeds=1
        )

    task()
    monkeypatch.setattr("ablations.tuning.task.space_of", lambda *_, **__: {"train.lr": Range(0.5, 0.6, log=True)})
    with pytest.raises(ValueError, match=r"was tuned with another space \(.*\); choose another --storage"):
        task()


def test_a_study_of_another_program_under_the_same_name_is_left_as_it_is(tmp_path: Path) -> None:
    url = f"journal:{tmp_path / 'trials.log'}"
    run = NUM_1X1.expand("smoke", 1, ["2x"])[0]
    theirs = optuna.create_study(storage=open_storage(url), study_name="num_1x1/smoke/2x", direction="minimize")
    for _ in range(2):
        with pytest.raises(ValueError, match="its study num_1x1/smoke/2x is another program's"):
            find_or_create_task(
                NUM_1X1, run, open_storage(url), url, overrides=(), objective="accuracy", num_trials=1, seeds=1
            )
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert theirs.user_attrs == {}


def test_trials_of_a_folder_whose_images_have_changed_are_not_mixed(tmp_path: Path) -> None:
    url = f"journal:{tmp_path / 'trials.log'}"
    run = NUM_1X1.expand("smoke", 1, ["2x"])[0]

    def task(data: str) -> Task:
        return find_or_create_task(
            NUM_1X1, run, open_storage(url), url, overrides=(), objective="accuracy", num_trials=1, seeds=1, data=data
        )

    task("abc")
    assert task("abc").num_ended() == 0
    with pytest.raises(ValueError, match=r"was tuned with another data \(abc, now def\); choose another --storage"):
        task("def")


def test_the_dashboard_names_objectives_and_says_what_a_study_is_about(storage: optuna.storages.BaseStorage) -> None:
    """Read back by the dashboard's own reader."""
    from optuna_dashboard import get_note

    run = NUM_1X1.expand("smoke", 1, ["2x"])[0]
    task = find_or_create_task(
        NUM_1X1, run, storage, "", overrides=(), objective="accuracy,params", num_trials=1, seeds=1, data=""
    )
    assert task.trials.metric_names == ["validation accuracy", "parameters"]
    assert get_note(task.trials) == f"{NUM_1X1.question}\n\nVariant 2x, protocol smoke."
    with StorageClaims(storage, "internal: claims of a/quick") as claims:
        assert "no trials of a search" in get_note(claims._claims)


def test_an_interruption_in_the_middle_of_a_commit_is_one() -> None:
    def commit() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise StorageInternalError("An exception is raised during the commit.")

    with pytest.raises(KeyboardInterrupt), one_line_errors("sqlite:///trials.db", "finished trials are kept"):
        commit()
    with pytest.raises(ValueError, match="cannot be used"), one_line_errors("sqlite:///trials.db", ""):
        raise StorageInternalError("no")
