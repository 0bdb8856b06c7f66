"""`python -m ablations.run STUDY`: execute what a study still lacks, keep the records, say what came of it.

Workers train, this driver writes: it alone touches the store and MLflow. A second call trains nothing that is done.
"""

import argparse
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ablations.cli import add_study_options, names
from ablations.study import Run, Study, load_study, study_names
from nin.cli import INTERRUPTED, SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.engines import Engine, Failed
    from ablations.records import RunRecord, Store
    from ablations.tracking import Tracker
    from nin.measure import NetworkSize


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        return _list_studies()
    if arguments.study is None:
        raise ValueError("name a study to run: " + ", ".join(study_names()))
    study = load_study(arguments.study)
    runs = study.expand(arguments.protocol, arguments.seeds, names(arguments.variants), arguments.overrides)

    # From here on something is executed, and what that needs is worth the time it takes to load.
    from ablations.display import console_for_output
    from ablations.records import Store

    console = console_for_output()
    device = _device(arguments.device)
    store = Store(arguments.results, study.name, arguments.protocol)
    records, damaged = store.read_all(runs)
    for line in damaged:
        print(f"warning: {line}", file=sys.stderr)
    missing = [run for run in runs if run.run_id not in records or not records[run.run_id].is_result]
    sizes = _sizes(missing if not arguments.dry_run else runs, device)
    workers = min(arguments.workers or _default_workers(device), max(1, len(missing)))
    if arguments.dry_run:
        _print_plan(console, study, runs, missing, sizes, device, workers, store)
        return SUCCESS
    _require_writable(arguments.results)
    signal.signal(signal.SIGTERM, _interrupt)
    print(f"{study.name} under {arguments.protocol}: {study.question}")
    print(f"{len(runs)} runs, {len(runs) - len(missing)} done, {len(missing)} to do; {workers} at a time on {device}")
    command = "python -m ablations.run " + shlex.join(sys.argv[1:] if argv is None else argv)

    from ablations.engines.local import LocalEngine
    from ablations.execute import execute
    from ablations.tracking import open_tracker

    store.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    task = partial(execute, device=device, threads=arguments.threads, checkpoints=store.checkpoints_folder.resolve())
    engine = LocalEngine(task, workers)
    tracker = open_tracker(arguments.results, study, arguments.protocol, _warn, arguments.overrides)
    try:
        for attempt in range(arguments.retries + 1):
            if attempt:
                missing = [run for run in missing if not _is_done(store, run)]
            if missing:
                _execute(missing, engine, store, tracker, sizes, device, console)
        return _conclude(study, arguments.protocol, runs, arguments.overrides, store, tracker, command, console)
    except KeyboardInterrupt:
        return _interrupted(tracker, store, runs)
    finally:
        tracker.close("KILLED")  # changes nothing if it is closed


def _execute(
    runs: Sequence[Run],
    engine: "Engine",
    store: "Store",
    tracker: "Tracker",
    sizes: Mapping[str, "NetworkSize"],
    device: str,
    console: "Console",
) -> None:
    """Have the runs executed; keep, track and show what happens."""
    from ablations.display import Display
    from ablations.engines import Ended, Failed, Progressed, Started

    costs = {run.run_id: _cost(run, sizes[run.run_id]) for run in runs}
    events = engine.execute(runs)
    with Display(runs, costs, console) as display:
        try:
            for event in events:
                match event:  # what has ended is on disk before anything else is done about it
                    case Started():
                        tracker.run_started(event.run)
                    case Progressed():
                        tracker.run_progressed(event.run, event.point)
                    case Ended():
                        store.write(event.record)
                        tracker.run_ended(event.record)
                    case Failed():
                        record = _failed_record(event, sizes[event.run.run_id], device)
                        store.write(record)
                        tracker.run_ended(record)
                display.show(event)
        finally:
            events.close()  # type: ignore[attr-defined]


def _conclude(
    study: Study,
    protocol: str,
    runs: Sequence[Run],
    overrides: Sequence[str],
    store: "Store",
    tracker: "Tracker",
    command: str,
    console: "Console",
) -> int:
    """Report what the store holds, show it, hand it to the tracker."""
    from ablations.report import covered, print_summary, write_report

    records, _ = store.read_all(runs)
    report = write_report(study, protocol, store, overrides, command, anew=False)
    tracker.sync(covered(study, protocol, store, overrides)[0])
    tracker.add_files(store.folder)
    tracker.close("FINISHED")
    print_summary(report, console)
    for line in (f"report:  {store.folder / 'report.md'}", f"figures: {store.folder / 'figures'}", *tracker.links()):
        print(line)
    failed = [record for record in records.values() if not record.is_result]
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again:", file=sys.stderr)
        for record in failed:
            print(f"  {record.run.label}: {record.error}", file=sys.stderr)
    return SOME_RUN_FAILED if failed else SUCCESS


def _interrupted(tracker: "Tracker", store: "Store", runs: Sequence[Run]) -> int:
    records, _ = store.read_all(runs)
    tracker.close("KILLED")
    done = sum(record.is_result for record in records.values())
    print(f"interrupted: {done} of {len(runs)} runs are finished and kept; the same command goes on", file=sys.stderr)
    return INTERRUPTED


def _failed_record(event: "Failed", network: "NetworkSize", device: str) -> "RunRecord":
    from ablations.execute import environment
    from ablations.records import RunRecord

    return RunRecord(
        run=event.run,
        run_id=event.run.run_id,
        status="failed",
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment=environment(device),
        error=event.error,
        error_detail=event.detail,
    )


def _is_done(store: "Store", run: Run) -> bool:
    record = store.read(run.run_id)
    return record is not None and record.is_result


def _sizes(runs: Sequence[Run], device: str) -> dict[str, "NetworkSize"]:
    """Parameters and FLOPs by run_id. Loads the data once, here, so that workers find it; checks every name in the runs."""
    from ablations.execute import load_cached, network_size

    by_variant: dict[str, NetworkSize] = {}
    for run in runs:
        if run.variant not in by_variant:
            by_variant[run.variant] = network_size(run, load_cached(run.data, "cpu"))
    return {run.run_id: by_variant[run.variant] for run in runs}


def _cost(run: Run, network: "NetworkSize") -> float:
    """Work of a run, for the time left: images x (their FLOPs + what any image costs however small the network)."""
    return float(run.train.epochs) * (network.gflops + 0.01)


def _print_plan(
    console: "Console",
    study: Study,
    runs: Sequence[Run],
    missing: Sequence[Run],
    sizes: Mapping[str, "NetworkSize"],
    device: str,
    workers: int,
    store: "Store",
) -> None:
    """The table of --dry-run: what would be trained, how large it is, and how long it takes by a short timed probe."""
    from rich.table import Table

    from ablations.execute import probe
    from ablations.report import detectable_line

    table = Table("variant", "role", "runs to do", "parameters", "trunk", "head", "GFLOP/image", "minutes/run")
    for column in table.columns[2:]:
        column.justify = "right"
    total = 0.0
    for run in {run.variant: run for run in runs}.values():
        to_do = [other for other in missing if other.variant == run.variant]
        network = sizes[run.run_id]
        seconds = probe(run, device)
        total += seconds * len(to_do)
        table.add_row(
            run.variant,
            run.role,
            str(len(to_do)),
            f"{network.params:,}",
            f"{network.params_trunk:,}",
            f"{network.params_head:,}",
            f"{network.gflops:.4f}",
            f"{seconds / 60:.1f}",
        )
    print(f"{study.name}: {study.question}")
    console.print(table)
    print(f"{len(missing)} runs to do, about {total / workers / 60:.1f} minutes with {workers} at a time on {device}")
    print(detectable_line(study, runs, store))


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine's PyTorch sees no CUDA device; use --device cpu")
    return wanted


def _default_workers(device: str) -> int:
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_writable(results: Path) -> None:
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise ValueError(
            f"--results {results}: cannot write there ({error.strerror}); choose another folder"
        ) from error


def _list_studies() -> int:
    for name in study_names():
        print(f"{name:16} {load_study(name).question}")
    return SUCCESS


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return value


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m ablations.run", description=__doc__)
    add_study_options(parser)
    parser.add_argument("--engine", choices=["local"], default="local", help="where runs are executed")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="runs at a time (default: one per core, or 1 on a GPU)"
    )
    parser.add_argument(
        "--threads", type=_positive, default=1, metavar="N", help="CPU threads of each worker (default: 1)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--retries", type=int, default=0, metavar="N", help="try a failed run again, up to N times")
    parser.add_argument("--dry-run", action="store_true", help="show the runs, their sizes and an estimate of the time")
    parser.add_argument("--list", action="store_true", help="show every study with its question")
    return parser


if __name__ == "__main__":
    exit_with(main)
