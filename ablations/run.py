"""`python -m ablations.run STUDY`: execute what a study still lacks, keep the records, say what came of it.

A second call trains nothing that is done; one at the same time, here or on another machine that shares the folder, takes its share
of the runs (`ablations.execution.driver`). Of several studies at once the first seeds of all variants come before any second.
"""

import argparse
import gc
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablations.cli import add_engine_options, add_study_options, names, seconds, warn
from ablations.protocols import PROTOCOLS
from ablations.study import Run, Study, load_study, study_names
from ablations.tuning.winners import load_tuned
from nin.cli import INTERRUPTED, SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with
from nin.spec import choose

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.records import RunRecord, Store
    from ablations.tracking.tracker import Tracker
    from nin.measure import NetworkSize


@dataclass(frozen=True)
class Part:
    """One study's part in a call: its runs, those of them that are to be executed, and where all are kept."""

    study: Study
    runs: Sequence[Run]
    missing: Sequence[Run]
    store: "Store"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        return _list_studies()
    studies = _studies(arguments)

    # From here on something is executed, and what that needs is worth the time it takes to load.
    from ablations.execution.driver import (
        CommonFailureError,
        OutOfTimeError,
        drive,
        handle_signals,
        make_engine,
        require_writable,
        time_limit,
    )
    from ablations.execution.progress import console_for_output
    from ablations.tracking.mlflow_tree import open_tracker

    console = console_for_output()
    parts = [_part(study, arguments) for study in studies]
    if arguments.dry_run:
        return _print_plans(parts, arguments, console)
    missing = sorted((run for part in parts for run in part.missing), key=lambda run: run.seed)
    sizes = _sizes(missing)
    engine, device = make_engine(arguments, keep_weights=arguments.keep_weights) if missing else (None, "")
    require_writable(arguments.results)
    for part in parts:
        part.store.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    handle_signals()
    side_by_side = f"; {min(engine.workers, len(missing))} at a time on {device}" if engine else ""
    for part in parts:
        print(f"{part.study.name} under {arguments.protocol}: {part.study.question}")
    num_runs = sum(len(part.runs) for part in parts)
    print(f"{num_runs} runs, {num_runs - len(missing)} done, {len(missing)} to do{side_by_side}")

    trackers = {
        part.study.name: open_tracker(arguments.results, part.study, arguments.protocol, warn, arguments.overrides)
        for part in parts
    }
    gc.freeze()  # what is loaded is no garbage: statsmodels looks for some at every correction of p-values
    stopped, is_out_of_time = "", False
    try:
        for part in parts:  # a driver that is killed leaves checkpoints of runs that are done
            part.store.drop_checkpoints({run.run_id for run in part.runs} - {run.run_id for run in part.missing})
        places = {part.study.name: (part.store, trackers[part.study.name]) for part in parts}
        try:
            with time_limit(arguments.budget):
                for attempt in range(arguments.retries + 1):
                    if attempt:
                        stores = {part.study.name: part.store for part in parts}
                        missing = [run for run in missing if not stores[run.study].is_done(run)]
                    if missing and engine:
                        drive(missing, engine, places, sizes, device, console)
        except CommonFailureError as reason:
            stopped = f"stopped early: {reason}; the same command tries again"
        except OutOfTimeError:
            is_out_of_time = True
        unfinished = [_conclude(part, trackers[part.study.name], arguments, console) for part in parts]
        if is_out_of_time:
            left = sum(not part.store.is_done(run) for part in parts for run in part.runs)
            print(f"the time is up: {left} of {num_runs} runs are left; the same command goes on")
        return _exit_status(num_runs, [record for records in unfinished for record in records], stopped)
    except KeyboardInterrupt:
        return _interrupted(parts)
    finally:
        for tracker in trackers.values():
            tracker.close("KILLED")  # changes nothing if it is closed


def _studies(arguments: argparse.Namespace) -> list[Study]:
    """Those that are asked for."""
    if arguments.all == (arguments.study is not None):
        wanted = "either name studies or say --all, not both" if arguments.all else "name a study to run, or say --all"
        raise ValueError(f"{wanted}: {', '.join(study_names())}")
    choose(PROTOCOLS, arguments.protocol, "protocol")
    chosen = names(arguments.study, "study") or study_names()
    if len(chosen) > 1 and arguments.variants:
        raise ValueError("--variants: is for one study at a time")
    studies = [load_study(name) for name in chosen]
    return [study for study in studies if not arguments.all or arguments.protocol in study.protocols]


def _part(study: Study, arguments: argparse.Namespace) -> Part:
    """What is there of the study, and what is missing."""
    from ablations.records import Store

    variants = names(arguments.variants, "variant")
    plain = Store(arguments.results, study.name, arguments.protocol)
    if arguments.tuned:
        study = load_tuned(study, arguments.protocol, arguments.results, arguments.overrides, variants)
        variants = None
    runs = study.expand(arguments.protocol, arguments.seeds, variants, arguments.overrides)
    store = Store(arguments.results, study.name, arguments.protocol, arguments.keep_weights)
    if store.is_published:
        raise ValueError(
            f"--results {arguments.results}: published results, which are never added to; choose another folder"
        )
    if arguments.tuned and not arguments.dry_run:
        _adopt(runs, plain, store)
    records, damaged = store.read_all(runs)
    for line in damaged:
        warn(line)
    finished = {run_id for run_id, record in records.items() if record.is_result}
    done = {run_id for run_id in finished if store.is_whole(run_id)}
    if finished != done:
        print(f"{len(finished - done)} finished runs have no weights and are trained again for them")
    return Part(study, runs, [run for run in runs if run.run_id not in done], store)


def _adopt(runs: Sequence[Run], plain: "Store", store: "Store") -> None:
    """Take over what the plain study has of these runs: those that tuning did not change are the same."""
    for record in plain.read_all(runs)[0].values():
        if record.is_result and not store.has_result(record.run):
            store.write(record)


def _conclude(part: Part, tracker: "Tracker", arguments: argparse.Namespace, console: "Console") -> list["RunRecord"]:
    """Report what the store holds, show it, hand it to the tracker. The records of runs that have failed."""
    from ablations.report import print_summary, write_report

    if not part.store.run_ids():
        print(f"{part.study.name}: no run has ended yet")
        return []
    report = write_report(part.study, arguments.protocol, part.store, arguments.overrides, anew=False)
    tracker.sync(report.records)
    tracker.add_files(part.store.folder)
    print_summary(report, console)
    print(f"report:  {part.store.folder / 'report.md'}")
    print(f"figures: {part.store.folder / 'figures'}")
    if part.store.weights_folder.exists():
        print(f"weights: {part.store.weights_folder}")
    tracker.close("FINISHED")  # which may have to wait for MLflow
    for line in tracker.links():
        print(line)
    ours = {run.run_id for run in part.runs}
    return [
        record
        for record in report.records
        if record.run_id in ours and not (record.is_result and part.store.is_whole(record.run_id))
    ]


def _exit_status(num_runs: int, failed: Sequence["RunRecord"], stopped: str) -> int:
    """Says what is not as it should be."""
    if stopped:
        print(stopped, file=sys.stderr)
        return SOME_RUN_FAILED
    if failed:
        print(f"{len(failed)} of {num_runs} runs failed; the same command tries them again:", file=sys.stderr)
        for record in failed:
            print(f"  {record.run.label}: {record.error or 'it still has no weights'}", file=sys.stderr)
    return SOME_RUN_FAILED if failed else SUCCESS


def _interrupted(parts: Sequence[Part]) -> int:
    num_runs = sum(len(part.runs) for part in parts)
    done = sum(part.store.has_result(run) for part in parts for run in part.runs)
    print(f"interrupted: {done} of {num_runs} runs are finished and kept; the same command goes on", file=sys.stderr)
    return INTERRUPTED


def _sizes(runs: Sequence[Run]) -> dict[str, "NetworkSize"]:
    """Parameters and FLOPs by run_id. Loads the data once, here, so that workers find it; checks every name in the runs."""
    from ablations.execution.worker import load_cached, network_size

    by_variant: dict[tuple[str, str], NetworkSize] = {}
    for run in runs:
        if (run.study, run.variant) not in by_variant:
            by_variant[run.study, run.variant] = network_size(run, load_cached(run.data, "cpu"))
    return {run.run_id: by_variant[run.study, run.variant] for run in runs}


def _print_plans(parts: Sequence[Part], arguments: argparse.Namespace, console: "Console") -> int:
    """What --dry-run shows: the table of each study, and how long all of it would take."""
    from ablations.execution.driver import default_workers
    from nin.machine import choose_device

    device = choose_device(arguments.device).type
    missing = sum(len(part.missing) for part in parts)
    total = sum(_print_plan(part, device, arguments.threads, console) for part in parts)
    at_a_time = min(arguments.workers or default_workers(device), max(1, missing))
    minutes = total / at_a_time / 60
    print(f"{missing} runs to do, about {minutes:.1f} minutes with {at_a_time} at a time on {device}")
    return SUCCESS


def _print_plan(part: Part, device: str, threads: int, console: "Console") -> float:
    """What would be trained, how large it is, and how long it takes by a short timed probe; all its seconds, one run at a time."""
    from rich.table import Table

    from ablations.execution.worker import probe
    from ablations.report import detectable_line

    sizes = _sizes(part.runs)
    table = Table("variant", "role", "runs to do", "parameters", "trunk", "head", "GFLOP/image", "minutes/run")
    for column in table.columns[2:]:
        column.justify = "right"
    total = 0.0
    for run in {run.variant: run for run in part.runs}.values():
        to_do = sum(other.variant == run.variant for other in part.missing)
        network = sizes[run.run_id]
        try:
            seconds_each = probe(run, device, threads)
        except RuntimeError as error:  # torch's, when there is too little memory
            raise ValueError(f"variant {run.variant!r} cannot be trained here: {error}") from error
        total += seconds_each * to_do
        table.add_row(
            run.variant,
            run.role,
            str(to_do),
            f"{network.params:,}",
            f"{network.params_trunk:,}",
            f"{network.params_head:,}",
            f"{network.gflops:.4f}",
            f"{seconds_each / 60:.1f}",
        )
    print(f"{part.study.name}: {part.study.question}")
    console.print(table)
    print(detectable_line(part.study, part.runs, part.store))
    return total


def _list_studies() -> int:
    for name in study_names():
        print(f"{name:16} {load_study(name).question}")
    return SUCCESS


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return value


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m ablations.run", description=__doc__)
    add_study_options(parser)
    parser.add_argument("--all", action="store_true", help="every study that there is under the protocol")
    parser.add_argument(
        "--budget",
        type=seconds,
        default=math.inf,
        metavar="TIME",
        help="stop training after so long, such as 25m; the next call goes on (default: none)",
    )
    add_engine_options(parser)
    parser.add_argument("--retries", type=_count, default=0, metavar="N", help="try a failed run again, up to N times")
    parser.add_argument(
        "--keep-weights",
        action="store_true",
        help="keep each run's trained network, for nin.export, nin.predict and nin.cam; trains those again that lack it",
    )
    parser.add_argument(
        "--tuned",
        action="store_true",
        help="train each variant that was tuned twice, as it is and as tuned, side by side",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the runs, their sizes and an estimate of the time")
    parser.add_argument("--list", action="store_true", help="show every study with its question")
    return parser


if __name__ == "__main__":
    exit_with(main)
