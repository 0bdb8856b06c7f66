"""What `python -m ablations.run` refuses before the first run, and what it shows without training (`--dry-run`)."""

import math
import re
from pathlib import Path

import pytest
from processes import call

from ablations import run
from ablations.catalog import load_study
from ablations.cli import seconds
from ablations.looks import Declaration, Looks
from ablations.records import Store

TINY = ["--protocol", "smoke", "--variants", "0x", "--set", "train.epochs=2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_1x1", "--all"], "name studies or give --all, not both"),
        ([], "name a study, or give --all"),
        (["num_1x1", "--protocol", "smoke", "--results", "what?"], "choose another folder"),
        (["num_1x1,heads", "--variants", "2x"], "several studies takes roles alone"),
        (["receptive_field", "--protocol", "paper"], "does not run under protocol 'paper'; it runs under smoke, quick"),
        (["num_1x1-tuned"], "it is num_1x1 with the option --tuned"),
        (["num_1x1", "--budget", "25"], "must be a time such as"),
        (["num_1x1", "--protocol", "smok"], "nearest is 'smoke'"),
        (["num_1x1", "--protocol", "smoke", "--variants", "5x"], "choose one of 0x, 1x"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.lr=fast"], "must be a number"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.momentun=1"], "nearest is 'train.momentum'"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.name=syntetic"], "nearest is 'synthetic'"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.head=nni"], "nearest is 'nin'"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.pooling=maxx"], "nearest is 'max'"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.optimizer=sdg"], "nearest is 'sgd'"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.augment=flop"], "nearest is 'flip'"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.layout=d2l"], "too small"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.train_examples=5000"], "the data set has 1,200"),
        (["num_1x1", "--protocol", "smoke", "--seeds", "0"], "must be 1 or more"),
        (["num_1x1", "--protocol", "smoke", "--seeds", "99999999999"], "at most 10000"),
        (["num_1x1", "--protocol", "smoke", "--set", "data.image_size=99999999999"], "at most 4096"),
        (["num_1x1", "--protocol", "smoke", "--variants", ","], "names no variant"),
        ([",", "--protocol", "smoke"], "names no study"),
        ([""], "names no study"),
        (["dropout", "--protocol", "smoke", "--variants", "control"], "control: no such variant in dropout"),
        (["num_1x1", "--protocol", "smoke", "--set", "model.width=1e30"], "at most 64"),
        (["num_1x1", "--protocol", "smoke", "--set", "train.lr=1e999"], "finite"),
        (["num_1x1", "--protocol", "smoke", "--workers", "none"], "must be 1 or more, and a whole number"),
        (["num_1x1", "--protocol", "smoke", "--retries", "some"], "some: must be 0 or more, and a whole number"),
        (["num_1x1", "--protocol", "smoke", "--seeds", "some"], "some: must be 1 or more, and a whole number"),
        (["num_1x1", "--protocol", "smoke", "--gpu-share", "half"], "half: must be above 0 and at most 1"),
        (["num_1x1", "--protocol", "smoke", "--gpu-share", "0.5"], "gpu_share=0.5: needs engine 'ray'"),
        (["num_1x1", "--protocol", "smoke", "--results", "/proc/nowhere"], "cannot write there"),
        (["num_1x1", "--protocol", "smoke", "--results", "a" * 300], "cannot write there"),
        (["num_1x1", "--protocol", "smoke", "--device", "cuda"], "sees no CUDA device"),
    ],
)
def test_a_wrong_request_is_one_line_and_nothing_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    try:
        run.main(arguments)
        raise AssertionError("nothing was refused")
    except ValueError as error:
        said = str(error)
    except SystemExit:  # argparse's
        said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not any(tmp_path.iterdir())


def test_a_wrong_request_is_one_line_on_stderr_and_status_2(tmp_path: Path) -> None:
    done = call("num_1x", cwd=tmp_path)
    assert done.returncode == 2
    assert "nearest is 'num_1x1'" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not any(tmp_path.iterdir())


MINE = """
\"\"\"Does dropout help?\"\"\"

from ablations.study import Study, Variant

STUDY = Study("0.5", {str(p): Variant(model={"dropout": p}) for p in (0.0, 0.5)})
"""

REFUSED = {
    "train.lr=nan": "lr=",
    "train.lr=-0.1": "lr=-0.1 must be greater than 0",
    "train.lr=1e400": "finite",
    "train.epochs=0": "epochs=0 must be 1 or more",
    "train.epochs=10000000000000": "20,000,000,000,000 evaluations: at most 100,000 can be kept",
    "train.examples=99999999999999999999": "evaluations: at most 100,000 can be kept",
    "data.image_size=1": "1x1 px are too small",
    "data.image_size=-1": "image_size=-1 must be",
    "data.name=folder:nowhere": "there is no folder",
    "model.hidden=8": "hidden: would change nothing in trunk 'nin' with head 'nin'",
    "model.num_1x1=3": "--set model.num_1x1: is what the study is about; variants '0x' and '1x' are the same run",
}


def test_two_files_of_one_name_are_refused_and_a_name_given_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINE)
    files = [str(tmp_path / folder / "mine.py") for folder in ("a", "b")]
    with pytest.raises(ValueError, match="2 of these studies are called 'mine'"):
        run.main([",".join(files), "--protocol", "smoke", "--results", str(tmp_path / "r"), "--dry-run"])
    asked = ["--protocol", "smoke", "--variants", "baseline", "--results", str(tmp_path / "r"), "--dry-run"]
    assert run.main(["num_1x1,num_1x1", *asked, "num_1x1"]) == 0
    assert capsys.readouterr().out.count("How many 1x1 convolutions") == 1


def test_variants_that_are_the_same_network_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their runs would differ in name alone, and the comparison would be undecided for good."""
    lenet = '{"trunk": "lenet", "head": "lenet"'
    file = tmp_path / "mine.py"
    variants = (
        f'{{"a": Variant({lenet}}}), "b": Variant({lenet}, "num_1x1": 1}}), "c": Variant({lenet}, "width": 2.0}})}}'
    )
    file.write_text(f"from ablations.study import Study, Variant\nSTUDY = Study('a', {variants})\n")
    assert run.main([str(file), "--protocol", "smoke", "--results", str(tmp_path / "r"), "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("are the same network") == 1
    assert "'a' and 'b' of mine are the same network and training: model.num_1x1 would change nothing in trunk" in said
    momenta = '{"a": Variant(train={"momentum": 0.0}), "b": Variant(train={"momentum": 0.9})}'  # smoke trains by AdamW
    file.write_text(f"from ablations.study import Study, Variant\nSTUDY = Study('a', {momenta})\n")
    assert run.main([str(file), "--protocol", "smoke", "--results", str(tmp_path / "r"), "--dry-run"]) == 0
    assert "the same network and training: train.momentum would change" in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_refuses_other_looks_than_were_declared(tmp_path: Path) -> None:
    Looks(Store(tmp_path, "num_1x1", "smoke").folder, load_study("num_1x1")).declare(
        Declaration((2, 3), ("0x", "1x", "3x", "4x"))
    )
    asked = ["num_1x1", "--protocol", "smoke", "--results", str(tmp_path), "--until-decided", "--max-seeds", "6"]
    with pytest.raises(ValueError, match=r"looks at 2, 3 seeds of 0x, .* were declared for .*, not looks at 2, 3, 6"):
        run.main([*asked, "--dry-run"])


def test_times_beyond_the_systems_timers_are_without_end() -> None:
    assert seconds("600h") == 600 * 3600
    assert seconds("1e9h") == math.inf


@pytest.mark.parametrize("override", REFUSED)
@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_what_cannot_be_is_refused_before_the_first_run_and_by_a_dry_run_too(
    override: str, also: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIN_DATA", str(tmp_path / "data"))
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "2x", "--seeds", "1", "--results", str(tmp_path / "r")]
    with pytest.raises(ValueError, match=re.escape(REFUSED[override])) as caught:
        run.main([*arguments, "--set", override, *also])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "asked",
    [
        ["--workers", "1000000"],
        ["--threads", "1000000"],
        ["--threads", str(10**30)],
        ["--until-decided", "--seeds", "2", "--max-seeds", "1000000"],
    ],
    ids=" ".join,
)
def test_more_than_there_can_be_is_refused_and_not_tried(asked: list[str], also: list[str], tmp_path: Path) -> None:
    arguments = ["num_1x1", "--protocol", "smoke", "--variants", "2x", "--results", str(tmp_path / "r")]
    with pytest.raises(ValueError, match=rf"{asked[-2]} {asked[-1]}: must be .*at most \d+"):
        run.main([*arguments, *asked, *also])
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_results_that_lie_in_a_file_are_refused(also: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is not a folder"):
        run.main(["num_1x1", "--protocol", "smoke", "--results", str(tmp_path / "file" / "results"), *also])


def test_dry_run_says_what_later_looks_may_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["num_1x1", "--protocol", "smoke", "--variants", "0x", "--results", str(tmp_path), "--dry-run"]
    assert run.main([*asked, "--until-decided", "--max-seeds", "6"]) == 0
    line = " ".join(capsys.readouterr().out.split()).rpartition("what is undecided after 2 seeds ")[2]
    assert "at most 8 runs more, less than a minute" in line, "two networks, seeds 2 to 5"
    assert run.main([*asked, "--until-decided", "--max-seeds", "2"]) == 0
    assert "looked at again" not in capsys.readouterr().out, "a single look"
    assert run.main(["num_1x1,heads", *asked[1:3], "--variants", "baseline", *asked[5:]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 more runs shared with a study above" in shown
    assert "2 runs to do, " in shown
    assert shown.count("No confirmatory variant is among these, so no difference is tested.") == 2


def test_dry_run_shows_sizes_and_time_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["num_1x1", *TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for wanted in (
        "0x",
        "baseline",
        "GFLOP/image",
        "4 runs to do, less than a minute",
        "With 2 seeds and 1 comparison, ",
    ):
        assert wanted in shown
    assert not any(tmp_path.iterdir())


def test_dry_run_of_memory_takes_no_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ablations.execution.worker.seconds_per_image", lambda *_: pytest.fail("it was timed"))
    assert run.main(["batch_memory", "--protocol", "smoke", "--results", str(tmp_path), "--dry-run"]) == 0
    assert "40 runs to do, a step or two for each that measures memory\n" in capsys.readouterr().out


def test_dry_run_says_in_one_line_what_is_too_large_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> float:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("ablations.execution.worker.seconds_per_image", out_of_memory)
    with pytest.raises(ValueError, match="variant '2x' cannot be trained here: can't allocate memory"):
        run.main(["num_1x1", *TINY, "--dry-run", "--results", str(tmp_path)])


def test_dry_run_of_what_diverges_at_the_first_step_has_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--set", "train.lr=1e30", "--set", "train.optimizer=sgd"]
    assert run.main(["num_1x1", *TINY, "--dry-run", "--results", str(tmp_path), *changes]) == 0
    assert "runs to do, less than a minute" in capsys.readouterr().out


def test_dry_run_of_a_forced_precision_says_that_it_is_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nin.precision.native_formats", lambda device: frozenset())
    monkeypatch.setattr("ablations.execution.worker.seconds_per_image", lambda *_: 1.0)
    arguments = ["num_1x1", *TINY, "--dry-run", "--results", str(tmp_path), "--set"]
    for precision, said in (
        ("bf16", "no instructions for bf16"),
        ("float32", "precision float32, as the protocol, "),
    ):
        assert run.main([*arguments, f"train.precision={precision}"]) == 0
        out = capsys.readouterr().out
        assert said in out
        assert "auto is" not in out
