"""What notebooks and scripts call, as `ablations` exports it."""

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from builders import record_of
from processes import call

import ablations
from ablations import EngineOptions, Match, Results, Study, Variant, load_results, load_study, run_study
from ablations.plugins import for_workers
from ablations.records import Store

POOLINGS = Study(
    "average", {name: Variant(model={"pooling": name}) for name in ("average", "max")}, name="two_poolings"
)

SCRIPT = """
from torch import Tensor
from ablations import Study, Variant, run_study
from nin.pooling import POOLINGS, GlobalPool

class RootMeanSquarePool(GlobalPool):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.square().mean(dim=(2, 3)).sqrt()

POOLINGS["rms"] = RootMeanSquarePool
variants = {name: Variant(model={"pooling": name}) for name in ("average", "rms")}
study = Study("average", variants, name="rms_pooling", question="Does pooling by the root mean square work?")

if __name__ == "__main__":
    print(run_study(study, protocol="smoke", seeds=2, workers=2, progress=False).summary[["variant", "n", "params"]])
"""


@pytest.fixture(autouse=True)
def leaves_no_name_behind() -> Iterator[None]:
    yield
    assert "__main__" not in [plugin.module for plugin in for_workers()]


def filled(results: Path, study: Study, seeds: int = 3, **changes: object) -> Store:
    """All runs of the study under smoke, with accuracies that grow from variant to variant and spread over seeds."""
    store = Store(results, study.name, "smoke")
    overrides = [f"{key}={value}" for key, value in changes.items()]
    for run in study.expand("smoke", seeds, overrides=overrides):
        place = list(study.variants).index(run.variant)
        store.write(record_of(run, test_accuracy=0.6 + 0.1 * place + 0.005 * run.seed))
    return store


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    filled(folder, POOLINGS)
    return load_results(folder, POOLINGS, "smoke")


def test_every_exported_name_is_there() -> None:
    assert all(getattr(ablations, name) is not None for name in ablations.__all__)
    assert set(ablations.__all__) <= set(dir(ablations))
    with pytest.raises(AttributeError, match="no attribute 'run_studies'"):
        _ = ablations.run_studies


def test_studies_are_made_and_loaded_without_torch() -> None:
    code = "import sys; from ablations import Study, load_study; load_study('heads'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_results_are_tables(results: Results) -> None:
    assert results.runs.groupby("variant").size().to_dict() == {"average": 3, "max": 3}
    assert len(results.curves) == 6 * 4
    assert results.summary["variant"].tolist() == ["average", "max"]
    assert results.summary["difference"].iloc[1] == pytest.approx(10)
    assert results.folder.name == "smoke"


def test_the_answer_is_a_sentence_without_markup(results: Results) -> None:
    assert results.answer.endswith("training images: max is more accurate than average.")
    assert not {"*", "`"} & set(results.answer + results.grounds)
    assert repr(results) == f"Results(two_poolings under smoke, 6 runs: {results.answer})"


def test_results_draw_their_figures(results: Results) -> None:
    assert "learning_curves" in results.figures
    assert results.figure("learning_curves").get_suptitle().endswith("two_poolings, protocol smoke")
    with pytest.raises(ValueError, match="unknown figure 'learning_curve': the nearest is 'learning_curves'"):
        results.figure("learning_curve")


def test_a_notebook_shows_answer_table_and_forest_plot(results: Results) -> None:
    html = results._repr_html_()
    assert unescape(html).startswith(f"<p>{results.answer} {results.grounds}</p>")
    assert "<td>average</td>" in html
    assert html.count('<img src="data:image/png;base64,') == 1


def test_results_without_a_finished_run_have_no_figures(tmp_path: Path) -> None:
    store = Store(tmp_path, POOLINGS.name, "smoke")
    store.write(record_of(POOLINGS.expand("smoke", 1)[0], "failed", error="RuntimeError: no"))
    results = load_results(tmp_path, POOLINGS, "smoke")
    assert results.figures == []
    assert "<img" not in results._repr_html_()
    with pytest.raises(ValueError, match="none of its runs has a result"):
        results.figure()


def test_results_of_changed_settings_are_asked_for_by_them(tmp_path: Path) -> None:
    filled(tmp_path, POOLINGS, **{"train.lr": 0.05})
    with pytest.raises(ValueError, match="no runs of study 'two_poolings'"):
        load_results(tmp_path, POOLINGS, "smoke")
    assert len(load_results(tmp_path, POOLINGS, "smoke", set={"train.lr": 0.05}).runs) == 6


def test_loading_results_writes_nothing(tmp_path: Path) -> None:
    filled(tmp_path, POOLINGS)
    before = sorted(tmp_path.rglob("*"))
    load_results(tmp_path, POOLINGS, "smoke").figure()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_study_that_is_done_is_reported_and_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, POOLINGS)
    frozen = gc.get_freeze_count()
    done = run_study(POOLINGS, protocol="smoke", seeds=3, results=tmp_path)
    assert gc.get_freeze_count() <= frozen  # what a notebook drops can still be collected
    assert "6 runs, 6 done, 0 to do" in capsys.readouterr().out
    assert done.summary.equals(load_results(tmp_path, POOLINGS, "smoke").summary)
    report = (done.folder / "report.md").read_text()
    assert "`ablations.run_study(study, ...), with the arguments that stand for --protocol smoke --seeds 3`" in report
    run_study(POOLINGS, protocol="smoke", seeds=3, results=tmp_path, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_study_of_the_package_is_run_by_name(tmp_path: Path) -> None:
    study = load_study("init_lr")
    filled(tmp_path, study, seeds=1)
    named = run_study("init_lr", protocol="smoke", seeds=1, results=str(tmp_path), progress=False)
    assert named.study == study
    assert len(run_study(study, protocol="smoke", seeds=1, results=tmp_path, progress=False).runs) == len(named.runs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: run_study("num_1x2", results=folder), "unknown study 'num_1x2': the nearest is 'num_1x1'"),
        (lambda folder: run_study("./my_study.py", results=folder), "my_study.py cannot be read"),
        (lambda folder: run_study(POOLINGS, protocol="smok", results=folder), "unknown protocol 'smok'"),
        (lambda folder: run_study(POOLINGS, protocol="smoke", variants=["men"], results=folder), "no variant or role"),
        (
            lambda folder: run_study(POOLINGS, protocol="smoke", set={"train.lrs": 1}, results=folder),
            "unknown --set key 'train.lrs': the nearest is 'train.lr'",
        ),
        (
            lambda folder: run_study(POOLINGS, protocol="smoke", set={"model.pooling": "avg"}, results=folder),
            "are the same run",
        ),
        (
            lambda folder: run_study(POOLINGS, protocol="smoke", engine="slurm", results=folder),
            "unknown engine 'slurm'",
        ),
        (lambda folder: run_study(POOLINGS, device="gpu", results=folder), "unknown device 'gpu'"),
        (lambda folder: run_study(POOLINGS, workers=-1, results=folder), "workers=-1: must be 0 or more"),
        (lambda folder: EngineOptions(threads=0), "threads=0: must be 1 or more"),
        (
            lambda folder: EngineOptions(address="head:10001"),
            "address='head:10001': names a Ray cluster, and needs engine 'ray'",
        ),
        (
            lambda folder: run_study(POOLINGS, engine=EngineOptions(), workers=2),
            "workers, device: give them in the EngineOptions",
        ),
        (lambda folder: EngineOptions(gpu_share=2), "gpu_share=2: must be above 0 and at most 1"),
        (lambda folder: EngineOptions(time_limit=0), "time_limit=0: must be seconds, above 0"),
        (lambda folder: run_study(POOLINGS, retries=-1, results=folder), "retries=-1: must be 0 or more"),
        (lambda folder: run_study(POOLINGS, budget=-1, results=folder), "budget=-1: must be seconds, above 0"),
        (
            lambda folder: run_study(POOLINGS, seeds=1.5, results=folder),  # type: ignore[arg-type]
            "--seeds 1.5: must be 1 or more",
        ),
        (lambda folder: run_study(POOLINGS, variants="max", results=folder), "must be a list, such as ['max']"),
        (lambda folder: run_study(POOLINGS, variants=3, results=folder), "variants=3: must be a list"),  # type: ignore[arg-type]
        (lambda folder: run_study(POOLINGS, device=3, results=folder), "unknown device 3"),  # type: ignore[arg-type]
        (lambda folder: run_study(POOLINGS, engine=3, results=folder), "unknown engine 3"),  # type: ignore[arg-type]
        (lambda folder: run_study(POOLINGS, results=3), "results=3: must be a string or a Path"),  # type: ignore[arg-type]
        (lambda folder: run_study(3, results=folder), "study=3: must be a name, a file or a Study"),  # type: ignore[arg-type]
        (lambda folder: load_results(None, POOLINGS), "path=None: must be a string or a Path"),  # type: ignore[arg-type]
        (
            lambda folder: run_study(POOLINGS, set=["train.lr=1"], results=folder),  # type: ignore[arg-type]
            "must be fields of a run and their values",
        ),
        (
            lambda folder: run_study(replace(POOLINGS, name=""), results=folder),
            "'' cannot be the name of a results folder",
        ),
        (lambda folder: run_study(replace(POOLINGS, name=".."), results=folder), "'..' cannot be the name of"),
        (lambda folder: run_study(replace(POOLINGS, name="heads"), results=folder), "'heads' is the name of another"),
        (lambda folder: load_results(folder, POOLINGS, "smok"), "unknown protocol 'smok'"),
        (lambda folder: load_results(folder, "heads", "smoke"), "no runs of study 'heads' under 'smoke'"),
        (
            lambda folder: load_results(folder, POOLINGS, "smoke"),
            "make them with ablations.run_study(study, ...), with",
        ),
        (
            lambda folder: Study("a", {"a": Variant(), "b": Variant(match=Match("c", "params"))}),
            "unknown variant that 'b' is matched with 'c'",
        ),
    ],
)
def test_what_a_caller_gets_wrong_is_one_line_and_nothing_is_written(
    call: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    with pytest.raises(ValueError, match=r"\w") as error:
        call(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--results .*file/results: cannot write there .* choose another folder"):
        run_study(POOLINGS, protocol="smoke", seeds=1, results=tmp_path / "file/results")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_script_without_a_guard_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: {tmp_path / 'script.py'}:15: put the call under `if __name__ == '__main__':`")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_script_that_is_no_file_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=SCRIPT, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr.splitlines()[-1] == "ValueError: <stdin>: workers import the script, so write it into a file"
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["run", "tune"])
def test_a_command_called_by_a_script_without_a_guard_is_refused(module: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f'from ablations.{module} import main\nmain(["num_1x1", "--protocol", "smoke", "--variants", "0x"])\n'
    )
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert "script.py:2: put the call under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_worker_that_would_start_the_study_again_ends_at_once(tmp_path: Path) -> None:
    """Where a guard is only seemingly there, so that the script itself is not refused."""
    (tmp_path / "script.py").write_text(
        'if __name__ == "another":\n    pass\n' + SCRIPT.replace("if __name", "if 1 or __name")
    )
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "error: put the call under `if __name__ == '__main__':`" in done.stderr
    assert "RuntimeError: stopped early: the first run of each of the 2 variants failed" in done.stderr


@pytest.mark.slow
def test_a_script_outside_the_clone_adds_a_pooling_and_runs_a_study_with_two_workers(tmp_path: Path) -> None:
    assert len(SCRIPT.strip().splitlines()) <= 15
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1:3] for line in done.stdout.splitlines()[1:]] == [["average", "2"], ["rms", "2"]]
    records = sorted(tmp_path.glob("results/rms_pooling/smoke/runs/*.json"))
    assert sum('"plugins": "__main__ ' in path.read_text() for path in records) == 2


@pytest.mark.slow
def test_the_command_and_the_function_make_the_same_records(tmp_path: Path) -> None:
    changes = {"train.epochs": 1, "data.train_examples": 64, "data.val_examples": 50, "data.test_examples": 50}
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    variants = ["--variants", "0x", "--seeds", "1", "--protocol", "smoke"]
    assert call("num_1x1", *variants, *options, "--results", "command", cwd=tmp_path).returncode == 0
    ours = run_study(
        "num_1x1",
        protocol="smoke",
        seeds=1,
        variants=["0x"],
        set=changes,
        results=tmp_path / "function",
        engine=EngineOptions(workers=1),
        progress=False,
    )
    theirs = load_results(tmp_path / "command", "num_1x1", "smoke", set=changes)
    columns = ["run_id", "status", "params", "test_accuracy", "test_loss"]
    assert ours.runs[columns].equals(theirs.runs[columns])
