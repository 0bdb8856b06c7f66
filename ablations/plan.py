"""Show the plan of a command (`--dry-run`): runs, sizes, times, and the minimum detectable difference."""

import math
from collections.abc import Sequence

from rich.console import Console

from ablations.analysis import planning, stats
from ablations.execution import worker
from ablations.execution.data import prepare
from ablations.execution.launch import default_workers, require_room
from ablations.execution.progress import say
from ablations.execution.time_left import TimeLeft
from ablations.looks import NO_LOOKS, Declaration, Looks
from ablations.protocols import PROTOCOLS
from ablations.records import Store
from ablations.reporting.files import load_covered_records, read_report
from ablations.reporting.formatting import duration_text, listed, minutes_text
from ablations.reporting.terminal import fitting_table, print_text
from ablations.runs import Run
from ablations.session import Part, Request, find_parts
from ablations.study import MEMORY, ROLES, Study
from ablations.tuning.progress import Stretch, rung_of, stretches
from ablations.tuning.session import TuningRequest, require_possible, runs_to_tune
from ablations.tuning.spaces import space_of
from ablations.tuning.task import OBJECTIVES, compares_seeds, rungs_of
from ablations.until_decided import pending, request_of_later_look, require_whole, wanted_looks
from nin.machine import choose_device
from nin.precision import choose_precision, slow_precision
from nin.registry import added, naming_additions
from nin.text import counted, one_line


def plan_studies(studies: Sequence[Study], request: Request, console: Console) -> None:
    """Show each study's table and an estimate of the total time, from a few training steps. Writes nothing."""
    parts = find_parts(studies, request)
    require_room(request.engine)
    looks = wanted_looks(studies[0], request) if request.max_seeds else NO_LOOKS
    last_look = max(looks.seeds, default=0)
    if looks.seeds:
        require_whole(studies[0], request)
        Looks(parts[0].store.folder, studies[0], request.overrides).require(looks)
    device = choose_device(request.engine.device).type
    missing = sum(len(part.missing) for part in parts)
    workers = request.engine.workers or default_workers(device)
    at_a_time = min(workers, max(1, missing))
    minutes_by_role = dict.fromkeys(ROLES, 0.0)
    paces = {part.study.name: dict[str, float]() for part in parts}
    for part in parts:
        times = _print_plan(part, device, request.engine.threads, paces[part.study.name], console)
        for role, seconds in times.items():
            minutes_by_role[role] += seconds / at_a_time / 60
        if part.study.answers not in MEMORY:
            print_text(console, detectable_line(part.study, part.runs, part.store, request.overrides, last_look))
    for precision in dict.fromkeys(run.train.precision for part in parts for run in part.runs):
        say(console, _precision_line(device, precision))
    minutes = sum(minutes_by_role.values())
    how_long = f"{duration_text(minutes)} with {at_a_time} at a time on {device}"
    if any(part.missing and part.study.answers in MEMORY for part in parts):
        how_long = (f"{how_long}, and " if minutes else "") + "a step or two for each that measures memory"
    by_role = ", ".join(f"{role} {share / minutes:.0%}" for role, share in minutes_by_role.items() if share)
    say(
        console,
        f"{counted(missing, 'run')} to do, {how_long}"
        + (f" ({by_role}; --variants confirmatory leaves out controls)" if minutes_by_role["control"] else ""),
    )
    if len(looks.seeds) > 1 and (more := _runs_of_later_looks(parts[0], looks, request)):
        at_a_time = min(workers, max(1, len(more)))
        seconds = sum(_seconds(run, device, request.engine.threads, paces[run.study]) for run in more)
        say(
            console,
            f"what is undecided after {looks.seeds[0]} seeds is looked at again after {listed(map(str, looks.seeds[1:]))}: at most "
            f"{counted(len(more), 'run')} more, {duration_text(seconds / at_a_time / 60)} with {at_a_time} at a time",
        )


def plan_tuning(study: Study, request: TuningRequest, console: Console) -> None:
    """Show what tuning from the first trial on would train, and how long it takes. Trains a few steps to see, and writes nothing."""
    runs = runs_to_tune(study, request)
    require_possible(study, request)
    prepare(runs, console)
    device = choose_device(request.engine.device).type
    at_a_time = request.engine.workers or default_workers(device)
    is_paired = compares_seeds(request.objective, request.seeds_per_trial)
    rungs = rungs_of(request.objective, request.seeds_per_trial)
    rows: list[list[str]] = []
    work: dict[Stretch, float] = {}
    for run in runs:
        shares = dict(stretches(run.variant, rungs, 0, request.trials, is_paired))
        seconds = _seconds(run, device, request.engine.threads, {})
        work |= {stretch: share * seconds for stretch, share in shares.items()}
        rows.append([run.variant, str(request.trials), f"{sum(shares.values()):g}", minutes_text(seconds / 60)])
    minutes = (TimeLeft(work, at_a_time, sum(work.values()), stage_of=rung_of).seconds(0.0) or 0.0) / 60
    print_text(console, f"{study.name} under {request.protocol}: {study.question}")
    console.print(fitting_table(("variant", "trials", "in full trainings", "minutes/training"), rows, console.width))
    space = space_of(study, runs[0], request.overrides, with_sizes=request.objective != OBJECTIVES[0])
    print_text(console, f"searched: {', '.join(space)}")
    bound = "at most " if is_paired else ""
    print_text(
        console,
        f"{counted(len(runs) * request.trials, 'trial')} from the first on, {bound}{duration_text(minutes)} with {at_a_time} at a "
        f"time on {device}",
    )


def _precision_line(device: str, precision: str) -> str:
    """State what "auto" stands for on the device, or how well it computes in a precision that is asked for."""
    if precision == "auto":
        choice = choose_precision(device)
        return f"precision auto is {choice.precision}: this {device} {choice.reason}"
    return slow_precision(device, precision) or f"precision {precision}, as the protocol, the study or --set says"


def _seconds(run: Run, device: str, threads: int, paces: dict[str, float]) -> float:
    """Seconds that the run takes, by a probe. Raises ValueError if it cannot be trained here.

    paces  seconds per image of the variants probed before, whose pace is the same at every length; the run's is added
    """
    try:
        if run.variant not in paces:
            with naming_additions(f"variant {run.variant!r}", added(run.settings)):
                paces[run.variant] = worker.seconds_per_image(run, device, threads)
        return paces[run.variant] * worker.images_passed(run, device)
    except RuntimeError as error:  # torch's, when there is too little memory
        raise ValueError(f"variant {run.variant!r} cannot be trained here: {one_line(error)}") from error


def detectable_line(
    study: Study, runs: Sequence[Run], store: Store, overrides: Sequence[str] = (), last_look: int = 0
) -> str:
    """State the minimum detectable difference, from the spread of existing records, else from the protocol's assumption.

    overrides  changed settings of the runs ("train.lr=0.05"), whose records count alone
    last_look  seeds at the last look of a design with looks; 0 without looks

    The spread is that of the baseline and of confirmatory variants whose runs all learned: a single one that collapsed in some
    seeds, or a control that nothing is claimed of, would stand for all.
    """
    protocol = PROTOCOLS[runs[0].protocol]
    num_seeds = last_look or len({run.seed for run in runs})
    num_comparisons = len({run.variant for run in runs if run.role == "confirmatory"})
    if not num_comparisons:
        return "No confirmatory variant is among these, so no difference is tested."
    longest = max(run.length for run in runs)
    records = [
        record
        for record in load_covered_records(study, protocol.name, store, overrides).records
        if record.run.length == longest
    ]
    groups = {name: [r for r in records if r.is_result and r.run.variant == name] for name in study.variants}
    kept = [
        [r.test_accuracy for r in group]
        for name, group in groups.items()
        if study.role(name) == "baseline" or (study.role(name) == "confirmatory" and all(r.learned for r in group))
    ]
    sd = stats.pooled_sd(kept)
    source = "measured in the runs there are" if sd > 0 else "assumed"
    sd = sd if sd > 0 else protocol.assumed_sd
    found = planning.detectable_difference(planning.sd_of_difference(sd), num_seeds, num_comparisons)
    if math.isnan(found):
        return "With one seed, no difference can be distinguished from chance."
    size = (
        f"differences of {100 * found:.2f} points or more are" if found <= 1 else "no difference is large enough to be"
    )
    more = "" if found <= 1 else ": give more --seeds"
    return (
        f"With {counted(num_seeds, 'seed')} and {counted(num_comparisons, 'comparison')}, {size} found with 80 % power "
        f"(Holm; standard deviation between seeds {100 * sd:.2f} points, {source}){more}"
    )


def _runs_of_later_looks(part: Part, looks: Declaration, request: Request) -> list[Run]:
    """Return the runs that looks after the first have if nothing is decided from now on, without those that are done."""
    undecided = looks.variants
    if not part.missing and Looks(part.store.folder, part.study, request.overrides).declaration().seeds:
        undecided = pending(read_report(part.study, request.protocol, part.store, request.overrides))
    if not undecided:
        return []
    last = request_of_later_look(request, looks, looks.seeds[-1], undecided)
    runs = part.study.expand(last.protocol, last.seeds, last.variants, last.overrides, last.lengths)
    return [run for run in runs if run.seed >= looks.seeds[0] and not part.store.is_done(run)]


def _print_plan(part: Part, device: str, threads: int, paces: dict[str, float], console: Console) -> dict[str, float]:
    """Show a study's runs, their sizes, and their times by a short timed probe.

    Runs that measure memory are not timed: a probe would take as long as they do.

    paces  as `_seconds` has them

    Returns seconds by role, of all runs to do one at a time.
    """
    sizes = prepare(part.runs, console)
    header = ("variant", "role", "runs to do", "parameters", "trunk", "head", "GFLOP/image", "minutes/run")
    rows: list[list[str]] = []
    seconds_by_role = dict.fromkeys(ROLES, 0.0)
    for run in {(run.variant, run.length): run for run in part.runs}.values():
        to_do = sum((other.variant, other.length) == (run.variant, run.length) for other in part.missing)
        network = sizes[run.run_id]
        minutes = "–"
        if part.study.answers not in MEMORY:
            seconds_each = _seconds(run, device, threads, paces)
            seconds_by_role[run.role] += seconds_each * to_do
            minutes = minutes_text(seconds_each / 60)
        sizes_of_it = [f"{n:,}" for n in (network.params, network.params_trunk, network.params_head)]
        rows.append([run.name, run.role, str(to_do), *sizes_of_it, f"{network.gflops:.4f}", minutes])
    print_text(console, f"{part.study.name}: {part.study.question}")
    console.print(fitting_table(header, rows, console.width, ("trunk", "head", "GFLOP/image", "role")))
    if part.shared:
        print_text(console, f"{counted(len(part.shared), 'more run')} shared with a study above, which trains them")
    return seconds_by_role
