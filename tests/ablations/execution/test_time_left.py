"""The time left is within a quarter of the truth at half time, whatever a probe has said, and never counts earlier calls' work."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from builders import smoke_runs

from ablations.execution.time_left import TimeLeft
from ablations.runs import Run

RUNS = smoke_runs(seeds=4, variants=["0x", "1x", "3x", "4x"])
POINTS = 6  # evaluations of a run
STARTUP = 5.0  # seconds that a new worker takes before it trains
READING = 2.0  # seconds that the test set takes after the last of them
WORK = {run: 1.0 + run.model.num_1x1 for run in RUNS}


def simulated(left: TimeLeft, workers: int, pace: float, runs: Sequence[Run] = RUNS) -> Iterator[tuple[float, str]]:
    """Tells `left` what so many workers do; yields the time after each event, and what it was. A unit of work takes `pace`."""
    waiting, order = iter(runs), count()
    events: list[tuple[float, int, Run, int, float]] = []  # time, order, run, point, start of its training

    def start(now: float, is_new: bool) -> None:
        run = next(waiting, None)
        if run is not None:
            left.started(run, now)
            begins = now + (STARTUP if is_new else 0.0)
            heapq.heappush(events, (begins + WORK[run] * pace / POINTS, next(order), run, 1, begins))

    for _ in range(workers):
        start(0.0, is_new=True)
    while events:
        now, _, run, point, begins = heapq.heappop(events)
        if point > POINTS:
            left.ended(run, now)
            start(now, is_new=False)
            yield now, "ended"
            continue
        left.progressed(run, point / POINTS, now - begins, now)
        duration = READING if point == POINTS else WORK[run] * pace / POINTS
        heapq.heappush(events, (now + duration, next(order), run, point + 1, begins))
        yield now, "progressed"


def total_seconds(workers: int, pace: float) -> float:
    return max(now for now, _ in simulated(TimeLeft(WORK, workers), workers, pace))


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("pace", [3.0, 30.0])
@pytest.mark.parametrize("probe", [0.0, 0.5, 1.0, 3.0])
def test_at_half_time_it_is_within_a_quarter(workers: int, pace: float, probe: float) -> None:
    """probe: how much slower it was than the runs are; 0: there was none."""
    total = total_seconds(workers, pace)
    left = TimeLeft(WORK, workers, probe * pace * sum(WORK.values()))
    estimates = [(now, left.seconds(now)) for now, _ in simulated(left, workers, pace) if 0.4 < now / total < 0.7]
    assert len(estimates) > 5
    for now, seconds in estimates:
        assert seconds == pytest.approx(total - now, rel=0.25)


@pytest.mark.parametrize(("num_runs", "seconds"), [(4, 200.0), (3, 200.0)])  # the third has a worker to itself
def test_a_probe_answers_before_anything_has_begun_and_nothing_else_does(num_runs: int, seconds: float) -> None:
    work = dict.fromkeys(RUNS[:num_runs], 1.0)
    assert TimeLeft(work, 2).seconds(0.0) is None
    assert TimeLeft(work, 2, 100.0 * num_runs).seconds(0.0) == pytest.approx(seconds)


def test_it_is_counted_down_between_two_events() -> None:
    left = TimeLeft(dict.fromkeys(RUNS[:1], 1.0), 1, 100.0)
    left.started(RUNS[0], 0.0)
    assert [left.seconds(now) for now in (0.0, 30.0, 1000.0)] == [100.0, 70.0, 0.0]
    assert left.seconds_of(RUNS[0], 30.0) == 70.0


@pytest.mark.parametrize("probe", [0.0, 100.0])
def test_after_resuming_work_of_an_earlier_call_is_no_measure_of_speed(probe: float) -> None:
    """A checkpoint has five sixths of a run of 100 s; its points are told at once."""
    run = RUNS[0]
    left = TimeLeft({run: 1.0}, 1, probe)
    left.started(run, 0.0)
    for point in range(1, 6):
        left.progressed(run, point / 6, 100 * point / 6, 5.0)
    assert left.seconds(5.0) == (pytest.approx(100 / 6) if probe else None)
    left.progressed(run, 5.5 / 6, 100 * 5.5 / 6, 5.0 + 100 / 12)
    assert left.seconds(5.0 + 100 / 12) == pytest.approx(100 / 12)


def test_what_another_driver_has_done_is_not_left() -> None:
    left = TimeLeft(dict.fromkeys(RUNS[:4], 1.0), 1, 400.0)
    for run in RUNS[:3]:
        left.ended(run, 0.0)
    assert left.seconds(0.0) == 100.0


def test_a_run_that_waits_for_memory_is_left_whole_and_for_fewer_workers() -> None:
    left = TimeLeft(dict.fromkeys(RUNS[:2], 1.0), 2, 200.0)
    for run in RUNS[:2]:
        left.started(run, 0.0)
    assert left.seconds(0.0) == 100.0
    left.postponed(RUNS[1], 1, 0.0)
    assert left.seconds(0.0) == 200.0


def test_no_run_of_a_stage_begins_before_the_last_one_has_ended() -> None:
    work = {("first", k): 1.0 for k in range(4)} | {("second", 0): 1.0}
    assert TimeLeft(work, 5, sum(work.values())).seconds(0.0) == pytest.approx(1.0)
    left = TimeLeft(work, 5, sum(work.values()), stage_of=lambda run: run[0])
    assert left.seconds(0.0) == pytest.approx(2.0)
    for k in range(4):
        left.started(("first", k), 0.0)
    assert left.seconds(0.0) == pytest.approx(2.0)
