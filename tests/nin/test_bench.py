"""Two loops held against each other: what is divided by what. No test asserts a time that was measured."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nin import bench, loops
from nin.bench import arithmetic, compared, main, too_slow
from nin.loops import PHASES, OurLoop, Pace, TextbookLoop
from nin.machine import GROUPS, device_name, seconds_per_call
from nin.remote import remote
from nin.roofline import Machine
from nin.settings import SETTINGS, Setting
from nin.sizes import layers
from nin.spec import DataSpec, ModelSpec, TrainSpec

TINY = Setting(
    ModelSpec(layout="small", width=1 / 16, class_block="wide"),
    DataSpec(name="synthetic", image_size=30),
    TrainSpec(batch_size=16, lr=0.02, precision="bf16"),
)
MACHINE = Machine("a machine", 1, {"bf16": 2e12, "float32": 1e12}, 1e9)


def test_ratio_is_the_median_of_turns_not_the_ratio_of_medians() -> None:
    textbook = [Pace(100, 10, 5), Pace(100, 20, 4), Pace(100, 5, 2)]  # 10, 5 and 20 images/s; 20, 25, 50 in steps
    ours = [Pace(300, 10, 10), Pace(300, 30, 10), Pace(300, 10, 5)]  # 30, 10 and 30; 30, 30, 60
    assert compared(textbook, ours) == {
        "textbook_images_per_sec": 10,
        "images_per_sec": 30,
        "ratio": 2,  # of 3, 2 and 1.5
        "textbook_step_images_per_sec": 25,
        "step_images_per_sec": 30,
        "step_ratio": 1.2,  # of 1.5, 1.2 and 1.2
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_three_forward_passes(name: str) -> None:
    setting = SETTINGS[name]
    forward = sum(row.flops for row in layers(setting.model, setting.in_shape, 10))
    numbers = arithmetic(setting, step_images_per_sec=1000, matrix_flops=4e12)
    assert numbers["tflops"] == pytest.approx(3 * forward * 1000 / 1e12)
    assert numbers["matrix_tflops"] == 4
    assert numbers["share_of_matrix_rate"] == pytest.approx(numbers["tflops"] / 4)


def test_nin_d2l_has_4_6_gflop_per_training_image() -> None:
    assert arithmetic(SETTINGS["d2l"], 1, 1e12)["tflops"] == pytest.approx(3 * 1.525e-3, rel=1e-3)


def test_both_loops_train_the_same_network_on_as_many_images() -> None:
    textbook, ours = TextbookLoop(TINY, "cpu", 1, num_workers=0), OurLoop(TINY, "cpu", 1)
    for start, other in zip(textbook.network.parameters(), ours.network.parameters(), strict=True):
        torch.testing.assert_close(start, other)
    before = [parameter.clone() for parameter in textbook.network.parameters()]
    for loop in (textbook, ours):
        pace = loop.epoch(40)
        assert pace.images == 40
        assert 0 < pace.step_seconds <= pace.seconds
    for network in (textbook.network, ours.network):
        assert not any(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_the_textbooks_images_are_ours_without_normalisation() -> None:
    """At the size that they have; PIL and torch round a resized one differently."""
    setting = Setting(TINY.model, DataSpec(name="synthetic", normalize=False), TINY.train)
    loop = TextbookLoop(setting, "cpu", 1, num_workers=0)
    wanted, labels = next(loop.data.batches(loop.data.val, 16))
    x_NCHW, labels_N = next(iter(loop._loader(loop.data.val, shuffle=False)))
    torch.testing.assert_close(x_NCHW, wanted)
    assert torch.equal(labels_N, labels)


def test_the_textbook_resizes() -> None:
    loop = TextbookLoop(TINY, "cpu", 1, num_workers=0)
    assert next(iter(loop._loader(loop.data.val, shuffle=False)))[0].shape == (16, 1, 30, 30)


def test_a_precision_whose_steps_would_take_minutes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert too_slow({"bf16": 1e9, "float32": 1e11}, "float32") == ["bf16"]
    assert too_slow({"bf16": 8e10, "float32": 1.7e11}, "float32") == []
    monkeypatch.setattr(bench, "remote", here)
    monkeypatch.setattr(bench, "LOADER_WORKERS", 0)
    setting = Setting(TINY.model, TINY.data, replace(TINY.train, precision="float32"))
    slow = replace(MACHINE, flops={"bf16": 1e9, "float32": 1e11})
    assert set(bench.measure_setting(setting, slow, "cpu", 1, 0.0)["precisions"]) == {"float32"}
    assert set(bench.measure_setting(setting, MACHINE, "cpu", 1, 0.0)["precisions"]) == {"float32", "bf16"}


def test_a_call_of_seconds_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr("nin.machine.time.perf_counter", lambda: now[0])

    def call(seconds: float) -> None:
        now[0] += seconds
        calls.append(seconds)

    assert seconds_per_call(lambda: call(5.0), torch.device("cpu")) == 5.0
    assert len(calls) == 2  # with the warm-up
    assert seconds_per_call(lambda: call(0.25), torch.device("cpu")) == 0.25
    assert len(calls) == 2 + 2 + GROUPS


def test_a_repeat_is_whole_batches_and_at_most_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = OurLoop(TINY, "cpu", 1)
    monkeypatch.setattr(OurLoop, "epoch", lambda self, num_images: Pace(num_images, num_images / 100, 1.0))
    assert loop.images_for(seconds=1) == 96
    assert loop.images_for(seconds=0) == 2 * 16
    assert loop.images_for(seconds=1000) == 1200


def test_time_goes_to_the_phase_that_was_switched_to(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(loops.time, "perf_counter", lambda: next(now))
    watch = loops._Stopwatch(torch.device("cpu"))
    watch.switch("data")
    watch.switch("forward")
    watch.switch("backward", condition=False)
    watch.switch("data")
    watch.switch("optimiser")
    assert watch.seconds() == dict.fromkeys(PHASES, 0.0) | {"data": 1 + 3, "forward": 2, "optimiser": 4}


def test_phases_come_in_the_order_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    switch = loops._Stopwatch.switch

    def listening(self: loops._Stopwatch, phase: str, condition: bool = True) -> None:
        if condition and order[-1:] != [phase]:
            order.append(phase)
        switch(self, phase, condition)

    monkeypatch.setattr(loops._Stopwatch, "switch", listening)
    OurLoop(TINY, "cpu", 1).phases(32)
    step = ["data", "logging", "forward", "backward", "optimiser", "logging"]
    assert order == ["logging", *step, *step, "evaluation", "logging", "end"]


def test_random_bytes_stand_in_where_fashion_mnist_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "has_fashion_mnist", lambda: False)
    data = loops.images.__wrapped__(SETTINGS["quick"].data, "cpu")
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert data.val.labels.shape == (10_000,)
    assert data.val_is_test
    assert data.in_shape == (1, 28, 28)


def test_a_process_of_its_own_keeps_what_it_made() -> None:
    with remote(Counter, "aab") as counter:
        counter.call("update", "bb")
        assert counter.call("most_common") == [("b", 3), ("a", 2)]


def test_what_making_the_object_raises_reaches_the_caller() -> None:
    with remote(int, "seven") as number, pytest.raises(ValueError, match="'seven'"):
        number.call("bit_length")


def test_a_process_that_is_killed_is_said_to_be() -> None:
    with remote(Processes) as there, pytest.raises(ChildProcessError, match="perhaps for lack of memory"):
        there.call("end")


class Processes:
    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_without_a_compiler_all_else_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found")

    monkeypatch.setattr(bench, "remote", here)
    monkeypatch.setattr(bench, "LOADER_WORKERS", 0)
    monkeypatch.setattr(bench, "_measure_compiled", no_compiler)
    row = bench.measure_setting(TINY, MACHINE, "cpu", 1, 0.0, compiled=True)
    assert row["ratio"] > 0
    assert "compiled" not in row
    assert "leaving out torch.compile, which needs a C++ compiler: RuntimeError: Inval" in capsys.readouterr().err


@contextmanager
def here(make: type, *arguments: object) -> Iterator[object]:
    """In place of a process: calls at once, in this one, and without loader processes."""

    class Done:
        def __init__(self, value: object) -> None:
            self.value = value

        def result(self) -> object:
            return self.value

    class Here:
        made = make(*arguments)

        def call(self, method: str, *arguments: object) -> object:
            return MACHINE if method == "machine" else getattr(self.made, method)(*arguments)

        def start(self, method: str, *arguments: object) -> Done:
            return Done(self.call(method, *arguments))

    yield Here()


def test_json_has_the_numbers_that_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "remote", here)
    monkeypatch.setattr(bench, "SETTINGS", {"tiny": TINY})
    monkeypatch.setattr(bench, "LOADER_WORKERS", 0)
    monkeypatch.setattr(bench, "QUICK_REPEAT_SEC", 0.0)
    file = tmp_path / "new" / "speed.json"
    assert main(["--quick", "--device", "cpu", "--threads", "1", "--json", str(file)]) == 0
    (found,) = file.parent.iterdir()
    assert found == file
    result = json.loads(file.read_text())
    row = result["settings"]["tiny"]
    assert row["device"] == result["device"] == "a machine"
    assert row["matrix_tflops"] == 2
    assert row["share_of_matrix_rate"] == pytest.approx(row["tflops"] / 2)
    ratios = [
        mine["images"] / mine["seconds"] / (theirs["images"] / theirs["seconds"]) for theirs, mine in row["turns"]
    ]
    assert row["ratio"] == pytest.approx(sorted(ratios)[1])
    assert sum(row["phases"].values()) == pytest.approx(1)
    assert set(row["phases"]) == set(PHASES)
    (way,) = result["at_once"]["tiny"]
    assert (way["processes"], way["threads"], way["ratio"]) == (1, 1, 1)
    printed = capsys.readouterr().out
    for wanted in (f"{row['ratio']:.2f}", f"{row['step_ratio']:.2f}", f"{row['share_of_matrix_rate']:.1%}"):
        assert wanted in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["d2"], "unknown setting 'd2': the nearest is 'd2l'"),
        (["--threads", "0"], "--threads 0: must be 1 or more"),
        (["--threads", "1000000"], "--threads 1000000: must be 1 or more and at most"),
        pytest.param(
            ["--device", "cuda"],
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_wrong_request_is_a_value_error_of_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        main(arguments)


def test_a_file_that_cannot_be_written_is_said_before_minutes_are_spent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "nin.bench", "--json", str(tmp_path / "file" / "speed.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_the_devices_name_says_what_it_is() -> None:
    assert device_name("cpu").startswith("cpu (")
