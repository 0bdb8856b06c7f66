"""A report's files follow from the records of a study and its settings, and can be made again from them."""

import re
import threading
from pathlib import Path

import pytest
from builders import filled, plain, record_of, sized, text_of
from filelock import FileLock

from ablations.catalog import load_study
from ablations.records import Store
from ablations.report import main
from ablations.reporting.figures import FIGURES
from ablations.reporting.files import load_covered_records, write_report

NUM_1X1 = load_study("num_1x1")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A report with all its figures."""
    store = filled(tmp_path_factory.mktemp("results"), sized, seeds=5)
    write_report(NUM_1X1, "smoke", store)
    return store


def test_html_is_one_file_that_fetches_nothing(drawn: Store) -> None:
    page = (drawn.folder / "report.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == len(FIGURES)
    assert not re.search(r'(src="(?!data:)|href="(?!#))', page)
    assert "<table>" in page


def test_every_figure_is_drawn_as_png_and_svg(drawn: Store) -> None:
    files = {path.name for path in (drawn.folder / "figures").iterdir()}
    assert files == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    assert text_of(drawn).split("\n\n")[5] == "![differences](figures/differences.png)"


@pytest.mark.slow
def test_the_same_records_make_the_same_files(drawn: Store, tmp_path: Path) -> None:
    again = filled(tmp_path, sized, seeds=5)
    write_report(NUM_1X1, "smoke", again)
    ours = {path.relative_to(drawn.folder): path.read_bytes() for path in drawn.folder.rglob("*") if path.is_file()}
    theirs = {path.relative_to(again.folder): path.read_bytes() for path in again.folder.rglob("*") if path.is_file()}
    assert ours.keys() == theirs.keys()
    assert [str(name) for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=1)
    write_report(NUM_1X1, "smoke", store)
    (store.folder / "report.md").write_text("mine")
    write_report(NUM_1X1, "smoke", store, force=False)
    assert text_of(store) == "mine"
    store.write(plain(NUM_1X1.expand("smoke", 2)[-1]))
    write_report(NUM_1X1, "smoke", store, force=False)
    assert text_of(store) != "mine"


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_waited_for_another_covers_what_was_recorded_meanwhile(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=1)
    writer = threading.Thread(target=write_report, args=(NUM_1X1, "smoke", store))
    with FileLock(store.folder / ".report.lock"):
        writer.start()
        writer.join(1)
        assert not (store.folder / "report.md").exists()
        store.write(plain(NUM_1X1.expand("smoke", 2)[-1]))
    writer.join()
    assert len((store.folder / "runs.csv").read_text().splitlines()) == 1 + len(store.run_ids())


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_was_interrupted_is_not_taken_for_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, plain, seeds=1)
    changed = ["train.lr=0.01"]
    for run in NUM_1X1.expand("smoke", 1, overrides=changed):
        store.write(record_of(run, test_accuracy=0.5))
    write_report(NUM_1X1, "smoke", store)
    wanted = (store.folder / "runs.csv").read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ablations.reporting.files.figure_tables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(NUM_1X1, "smoke", store, changed)
    assert (store.folder / "runs.csv").read_bytes() != wanted
    write_report(NUM_1X1, "smoke", store, force=False)
    assert (store.folder / "runs.csv").read_bytes() == wanted


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=1)
    write_report(NUM_1X1, "smoke", store)
    (store.folder / "report.html").unlink()
    write_report(NUM_1X1, "smoke", store, force=False)
    assert (store.folder / "report.html").exists()


def test_every_seed_on_disk_is_covered_whatever_is_missing_between(tmp_path: Path) -> None:
    store = Store(tmp_path, "num_1x1", "smoke")
    for run in NUM_1X1.expand("smoke", 20):
        if run.seed in (3, 19):
            store.write(plain(run))
    records, damaged, *_ = load_covered_records(NUM_1X1, "smoke", store)
    assert {record.run.seed for record in records} == {3, 19}
    assert len(records) == len(store.run_ids())
    assert damaged == []


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_record_is_a_warning_beside_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path, plain, seeds=2)
    run = NUM_1X1.expand("smoke", 1)[0]
    (store.runs_folder / f"{run.run_id}.json").write_text("{")
    assert main(["num_1x1", "--protocol", "smoke", "--results", str(tmp_path)]) == 0
    assert re.search(rf"warning: .*{run.run_id}.json is damaged", capsys.readouterr().err)


@pytest.mark.parametrize("options", [["--seeds", "2"], ["--variants", "1x"], ["--lengths", "40k"]])
def test_a_report_takes_no_selection_of_runs(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It covers every variant and seed on disk."""
    with pytest.raises(SystemExit):
        main(["num_1x1", "--protocol", "smoke", "--results", str(tmp_path), *options])
    assert f"unrecognized arguments: {' '.join(options)}" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_runs_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    store = filled(tmp_path, plain, seeds=2)
    for run in NUM_1X1.expand("smoke", 2, overrides=["train.lr=0.5"]):
        store.write(record_of(run, test_accuracy=0.1))
    report = write_report(NUM_1X1, "smoke", store)
    assert report.summary.variants["n"].max() == 2
    assert report.summary.variants["test_accuracy_mean"].min() > 0.7
    assert f"Not covered: {len(store.run_ids()) // 2} records in the same folder" in text_of(store)
    other = write_report(NUM_1X1, "smoke", store, overrides=["train.lr=0.5"])
    assert other.summary.variants["test_accuracy_mean"].max() < 0.2
    assert "`--set train.lr=0.5`" in text_of(store)
    assert other.answer.startswith("**With `train.lr=0.5`, after 1,024 training images: ")


@pytest.mark.parametrize(
    "options",
    [["--against", "elsewhere"], ["--sync"], ["--tuned"], ["--protocol", "digits"], ["--set", "train.lr=0.1"]],
    ids=lambda each: each[0],
)
def test_what_needs_a_study_is_refused_without_one(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(ValueError, match=f"^{options[0]}: needs a STUDY$"):
        main(["--results", str(tmp_path), *options])
