"""The plan of a command: the minimum detectable difference that it states."""

from pathlib import Path

from builders import filled, record_of

from ablations.catalog import load_study
from ablations.plan import detectable_line
from ablations.records import RunRecord
from ablations.runs import Run

NUM_1X1 = load_study("num_1x1")


def test_what_a_design_finds_is_judged_by_runs_that_learned_and_are_compared(tmp_path: Path) -> None:
    """A deviation of 0.5 points; the control's runs are all over the place, and 4x collapses in one of three."""

    def made(run: Run) -> RunRecord:
        if run.role == "control":
            return record_of(run, test_accuracy=0.1 + 0.3 * run.seed)
        if (run.variant, run.seed) == ("4x", 2):
            return record_of(run, status="collapsed", test_accuracy=0.1, dead_classes=9)
        return record_of(run, test_accuracy=0.8 + 0.005 * run.seed)

    line = detectable_line(NUM_1X1, NUM_1X1.expand("smoke", 3), filled(tmp_path, made))
    assert "standard deviation between seeds 0.50 points, measured" in line


def test_a_design_with_looks_is_judged_by_its_last(tmp_path: Path) -> None:
    runs, store = NUM_1X1.expand("smoke", 3), filled(tmp_path, lambda run: record_of(run, test_accuracy=0.8))
    assert detectable_line(NUM_1X1, runs, store, last_look=12).startswith("With 12 seeds and ")


def test_a_plan_that_finds_nothing_says_so(tmp_path: Path) -> None:
    store = filled(tmp_path, lambda run: record_of(run, test_accuracy=0.1 + 0.8 * run.seed), seeds=2)
    line = detectable_line(NUM_1X1, NUM_1X1.expand("smoke", 2), store)
    assert "no difference is large enough" in line
