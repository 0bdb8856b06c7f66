"""A worker executes a run in the precision that its device is made for, and says which that was."""

import pytest
from builders import smoke_runs

from ablations.execution.worker import execute
from ablations.runs import Run


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without instructions for bf16."""
    monkeypatch.setattr("nin.precision.native_formats", lambda device: frozenset())


def short(precision: str) -> Run:
    return smoke_runs(seeds=1)[0].with_settings(
        {"train.precision": precision, "train.epochs": 1, "data.train_examples": 64}
    )


@pytest.mark.usefixtures("no_bf16")
def test_a_run_of_auto_is_computed_in_what_the_device_has_and_says_so() -> None:
    auto, float32 = (execute(short(precision)).record for precision in ("auto", "float32"))
    assert auto.environment["precision"] == auto.precision == "float32"
    assert [point.train_loss for point in auto.curve] == [point.train_loss for point in float32.curve]
    assert auto.run_id != float32.run_id


@pytest.mark.usefixtures("no_bf16")
def test_an_emulated_precision_that_is_forced_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="no instructions for bf16 and emulates them"):
        record = execute(short("bf16")).record
    assert record.precision == "bf16"
