"""Published results: whole, from somewhere, enough to make their report again, and never taken for finished runs."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path

import pandas as pd
import pytest
from builders import record_of

from ablations import run
from ablations.analysis.stats import EQUIVALENT, compare
from ablations.answers import published_reports
from ablations.catalog import load_study
from ablations.looks import Declaration, Looks
from ablations.publish import main, publish_tuning
from ablations.records import PROVENANCE, Store
from ablations.reporting.axes import Tables
from ablations.reporting.figures import figures_of
from ablations.reporting.files import load_covered_records, write_report
from ablations.study import Study
from ablations.tuning.winners import Winner, load_tuned, tuned_path

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PUBLISHED = sorted(path.parent for path in REFERENCE.rglob(PROVENANCE))
HEADS = load_study("heads")


def fill(results: Path, study: Study = HEADS, **changes: object) -> Store:
    store = Store(results, study.name, "smoke")
    for each in study.expand("smoke", 2):
        environment = {"device": "a card", "host": "somewhere", "commit": "abc", "torch": "2.13"}
        store.write(replace(record_of(each), environment=environment, **changes))  # type: ignore[arg-type]
    return store


def publish(tmp_path: Path, *options: str) -> Path:
    places = ["--results", str(tmp_path / "ours"), "--to", str(tmp_path / "theirs")]
    assert main(["heads", "--protocol", "smoke", *places, *options]) == 0
    return tmp_path / "theirs" / ("heads-tuned" if "--tuned" in options else "heads") / "smoke"


def report_made_again(folder: Path, tmp_path: Path) -> Store:
    """Where the report of a published folder was written once more, from its records and declared looks alone."""
    name, protocol = folder.parts[-2:]
    study = load_study(name.removesuffix("-tuned"))
    if name.endswith("-tuned"):
        study = load_tuned(study, protocol, folder.parents[1])
    copy = Store(tmp_path / "copy", name, protocol)
    copy.folder.mkdir(parents=True)
    shutil.copytree(folder / "runs", copy.runs_folder)
    if (looks := folder / "looks.json").exists():
        shutil.copy(looks, copy.folder)
    write_report(study, protocol, copy)
    return copy


def assert_report_can_be_made_again(folder: Path, tmp_path: Path) -> None:
    copy = report_made_again(folder, tmp_path)
    assert (copy.folder / "report.md").read_bytes() == (folder / "report.md").read_bytes()
    for name in ("runs", "curves", "summary"):
        made, committed = (pd.read_csv(place / f"{name}.csv") for place in (copy.folder, folder))
        pd.testing.assert_frame_equal(made, committed, rtol=1e-6)
    drawn, kept = ({path.name for path in place.glob("figures/*.png")} for place in (copy.folder, folder))
    assert drawn == kept


@pytest.mark.slow
def test_what_is_published_says_where_it_is_from_and_carries_its_report(tmp_path: Path) -> None:
    fill(tmp_path / "ours")
    folder = publish(tmp_path)
    said = (folder / PROVENANCE).read_text()
    for fact in ("python -m ablations.run heads --protocol smoke --seeds 2", "a card", "abc", "2026-01-01"):
        assert fact in said
    assert "somewhere" not in "".join(path.read_text() for path in (folder / "runs").iterdir())
    assert_report_can_be_made_again(folder, tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_looks_are_published_as_they_were_declared(tmp_path: Path) -> None:
    declared = Declaration((2, 4), ("nin+alexnet",), at="2025-12-31T00:00:00+00:00")
    Looks(fill(tmp_path / "own").folder, HEADS).declare(declared)
    main(["heads", "--protocol", "smoke", "--results", str(tmp_path / "own"), "--to", str(tmp_path / "published")])
    published = Store(tmp_path / "published", "heads", "smoke")
    assert Looks(published.folder, HEADS).declaration() == declared
    assert not (published.folder / ".looks.lock").exists()


def test_results_are_not_published_onto_themselves(tmp_path: Path) -> None:
    store = fill(tmp_path)
    Looks(store.folder, HEADS).declare(Declaration((2, 4), ("nin+alexnet",)))
    with pytest.raises(ValueError, match="is where results are published"):
        main(["heads", "--protocol", "smoke", "--results", str(tmp_path), "--to", str(tmp_path)])
    assert store.run_ids()
    assert Looks(store.folder, HEADS).declaration().seeds == (2, 4)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device: it is full")


def interrupted(self: Path, target: Path, rename: Callable[[Path, Path], Path] = Path.rename) -> Path:
    """Lets only an old version move, out of the way and back."""
    if "replaced" in (self.name, target.name):
        return rename(self, target)
    raise KeyboardInterrupt("interrupted when the new version is full")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("step", "failing", "error"),
    [
        pytest.param("ablations.publish.write_report", full_disk, OSError, id="a report that cannot be written"),
        pytest.param("pathlib.Path.rename", interrupted, KeyboardInterrupt, id="an interruption before the last step"),
    ],
)
def test_what_was_published_stays_if_the_new_version_fails(
    step: str, failing: object, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "ours")
    folder = publish(tmp_path)
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(step, failing)
    with pytest.raises(error, match="full"):
        publish(tmp_path)
    assert sorted(folder.rglob("*")) == before
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {"heads", "index.html"}


@pytest.mark.usefixtures("undrawn")
def test_answers_are_read_with_the_settings_that_were_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ["train.lr=0.01"]
    store = Store(tmp_path / "ours", "heads", "smoke")
    for each in HEADS.expand("smoke", 2, overrides=changed):
        store.write(record_of(each))
    folder = publish(tmp_path, "--set", *changed)
    (tmp_path / "theirs/of_my_own/smoke").mkdir(parents=True)
    (tmp_path / "theirs/of_my_own/smoke" / PROVENANCE).touch()
    (found,) = published_reports(tmp_path / "theirs")
    assert found[0].name == "heads"
    assert {record.run.train.lr for record in found[2].records} == {0.01}
    assert "train.lr=0.01" in found[2].answer
    assert (folder / "settings.json").exists()
    assert "of_my_own is no study of this package" in capsys.readouterr().err
    assert f"heads --protocol smoke --results {tmp_path / 'theirs'} --set" in (folder / PROVENANCE).read_text()
    for content in ("{", "1"):
        (folder / "settings.json").write_text(content)
        with pytest.raises(ValueError, match=r"heads/smoke/settings\.json is damaged"):
            list(published_reports(tmp_path / "theirs"))


@pytest.mark.usefixtures("undrawn")
def test_a_tuned_study_is_published_with_what_tuning_found(tmp_path: Path) -> None:
    own = HEADS.expand("smoke", 1, [HEADS.baseline])[0]
    winner = Winner(3, 0.9, {"train.lr": 0.01}, [1003], own.settings)
    found = tuned_path(tmp_path / "ours", "heads", "smoke")
    found.parent.mkdir(parents=True)
    found.write_text(json.dumps({"variants": {HEADS.baseline: asdict(winner)}}))
    fill(tmp_path / "ours", load_tuned(HEADS, "smoke", tmp_path / "ours"))
    folder = publish(tmp_path, "--tuned")
    assert "python -m ablations.run heads --protocol smoke --tuned --seeds 2" in (folder / PROVENANCE).read_text()
    assert (tmp_path / "theirs/heads-tuning/smoke/tuned.json").read_text() == found.read_text()
    assert_report_can_be_made_again(folder, tmp_path)


def test_a_published_search_stays_if_the_new_one_cannot_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (tuned_path(tmp_path / name, "heads", "smoke") for name in ("ours", "theirs"))
    for path in (ours, theirs):
        path.parent.mkdir(parents=True)
        path.write_text(str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full_disk)
        with pytest.raises(OSError, match="No space left"):
            publish_tuning("heads", "smoke", tmp_path / "ours", tmp_path / "theirs")
    assert theirs.read_text() == str(theirs)
    publish_tuning("heads", "smoke", tmp_path / "ours", tmp_path / "theirs")
    assert theirs.read_text() == str(ours)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["heads-tuning"]


@pytest.mark.slow
def test_nothing_is_trained_into_published_results(tmp_path: Path) -> None:
    fill(tmp_path / "ours")
    publish(tmp_path)
    with pytest.raises(ValueError, match="published results, which are never added to"):
        run.main(["heads", "--protocol", "smoke", "--results", str(tmp_path / "theirs")])


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_are_not_published_and_what_was_published_stays(tmp_path: Path) -> None:
    fill(tmp_path / "ours")
    folder = publish(tmp_path)
    before = (folder / "report.md").read_text()
    fill(tmp_path / "ours", status="failed", error="out of memory")
    with pytest.raises(ValueError, match=r"cannot be published: .*failed: out of memory"):
        publish(tmp_path)
    assert (folder / "report.md").read_text() == before


def test_every_published_record_loads_under_the_identity_it_was_published_with() -> None:
    """`Store.read` refuses a record whose run comes out with another run_id than its file's name."""
    num_records = 0
    for folder in PUBLISHED:
        store = Store(REFERENCE, *folder.parts[-2:])
        for run_id in store.run_ids():
            record = store.read(run_id)
            assert record is not None
            assert (record.run.run_id, record.is_result) == (run_id, True)
            num_records += 1
    assert num_records == len(list(REFERENCE.rglob("runs/*.json"))) > 500


def by_name(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


# One in every test run, the others, which take as long each, among the slow ones.
@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, marks=[pytest.mark.slow] * (folder.parts[-2:] != ("heads", "digits")))
        for folder in PUBLISHED
    ],
    ids=by_name,
)
def test_reports_of_the_reference_results_follow_from_their_records(folder: Path, tmp_path: Path) -> None:
    assert_report_can_be_made_again(folder, tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with their names and captions, but empty."""

    def without_drawing(tables: Tables) -> dict[str, Callable[[Tables], None]]:
        return {name: wraps(draw)(lambda tables: None) for name, draw in figures_of(tables).items()}

    def save_empty(figure: None, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".png").touch()

    monkeypatch.setattr("ablations.reporting.figures.figures_of", without_drawing)
    monkeypatch.setattr("ablations.reporting.figures.save", save_empty)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["batch_memory/quick", "num_1x1-tuned/quick", "textbook/d2l", "dropout/quick"])
def test_reports_of_every_kind_come_out_byte_for_byte(name: str, tmp_path: Path) -> None:
    """A report on memory, one with tuned settings and controls, one beside published runs, one of two factors."""
    copy = report_made_again(REFERENCE / name, tmp_path)
    assert (copy.folder / "report.md").read_bytes() == (REFERENCE / name / "report.md").read_bytes()


def test_published_runs_in_bf16_are_as_accurate_as_in_float32() -> None:
    """Equivalent by two one-sided tests at 0.3 points: what lets protocols train in bf16."""
    study = load_study("precision")
    records = load_covered_records(study, "quick", Store(REFERENCE, "precision", "quick")).records
    samples = {
        name: {record.run.seed: record.test_accuracy for record in records if record.run.variant == name}
        for name in ("float32", "bf16")
    }
    assert all(len(sample) == 30 for sample in samples.values())
    assert compare(samples, "float32", ["bf16"], margin=0.003)["bf16"].verdict == EQUIVALENT
