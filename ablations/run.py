"""`python -m ablations.run STUDY`: execute what a study still lacks, keep the records, say what came of it.

Workers train, this driver writes: it alone touches the records and MLflow. A second call trains nothing that is done; one at the
same time, here or on another machine that shares the folder, takes its share of the runs.
"""

import argparse
import importlib.util
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ablations.cli import add_engine_options, add_study_options, names
from ablations.study import Run, Study, load_study, study_names
from ablations.tuned import load_tuned
from nin.cli import INTERRUPTED, SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.claims import Claims
    from ablations.display import Display
    from ablations.engines import Engine, Event, Failed
    from ablations.records import RunRecord, Store
    from ablations.tracking import Tracker
    from nin.measure import NetworkSize

POLL = 1.0  # seconds between two looks at what other drivers are doing
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class CommonFailureError(Exception):
    """Nothing that is tried works, so there is no point in going on; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        return _list_studies()
    if arguments.study is None:
        raise ValueError("name a study to run: " + ", ".join(study_names()))
    from ablations.records import Store

    study = load_study(arguments.study)
    variants = names(arguments.variants)
    plain = Store(arguments.results, study.name, arguments.protocol)
    if arguments.tuned:
        study = load_tuned(study, arguments.protocol, arguments.results, arguments.overrides, variants)
        variants = None
    runs = study.expand(arguments.protocol, arguments.seeds, variants, arguments.overrides)

    # From here on something is executed, and what that needs is worth the time it takes to load.
    from ablations.display import console_for_output

    console = console_for_output()
    device = "" if arguments.engine == "ray" else _device(arguments.device)  # Ray's nodes are not this machine
    store = Store(arguments.results, study.name, arguments.protocol, arguments.keep_weights)
    if store.is_published:
        raise ValueError(
            f"--results {arguments.results}: published results, which are never added to; choose another folder"
        )
    if arguments.tuned and not arguments.dry_run:
        _adopt(runs, plain, store)
    records, damaged = store.read_all(runs)
    for line in damaged:
        print(f"warning: {line}", file=sys.stderr)
    finished = {run_id for run_id, record in records.items() if record.is_result}
    weightless = {run_id for run_id in finished if arguments.keep_weights and not store.has_weights(run_id)}
    if weightless:
        print(f"{len(weightless)} finished runs have no weights and are trained again for them")
    missing = [run for run in runs if run.run_id not in finished or run.run_id in weightless]
    sizes = _sizes(missing if not arguments.dry_run else runs, device)
    if arguments.dry_run:
        device = device or _device(arguments.device)
        workers = arguments.workers or _default_workers(device)
        _print_plan(console, study, runs, missing, sizes, device, workers, store)
        return SUCCESS
    require_writable(arguments.results)
    store.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    engine, device = make_engine(arguments, store, keep_weights=arguments.keep_weights) if missing else (None, device)
    handle_signals()
    side_by_side = f"; {min(engine.workers, len(missing))} at a time on {device}" if engine else ""
    print(f"{study.name} under {arguments.protocol}: {study.question}")
    print(f"{len(runs)} runs, {len(runs) - len(missing)} done, {len(missing)} to do{side_by_side}")
    command = "python -m ablations.run " + shlex.join(sys.argv[1:] if argv is None else argv)

    from ablations.tracking import open_tracker

    tracker = open_tracker(arguments.results, study, arguments.protocol, _warn, arguments.overrides)
    stopped = ""
    try:
        for run in runs:
            if run.run_id in records and records[run.run_id].is_result:
                store.drop_checkpoint(run)  # its driver was killed before it could
        try:
            for attempt in range(arguments.retries + 1):
                if attempt:
                    missing = [run for run in missing if not store.is_done(run)]
                if missing and engine:
                    _execute(missing, engine, store, tracker, sizes, device, console)
        except CommonFailureError as reason:
            stopped = str(reason)
        return _conclude(
            study, arguments.protocol, runs, arguments.overrides, store, tracker, command, console, stopped
        )
    except KeyboardInterrupt:
        return _interrupted(tracker, store, runs)
    finally:
        tracker.close("KILLED")  # changes nothing if it is closed


def _adopt(runs: Sequence[Run], plain: "Store", store: "Store") -> None:
    """Take over what the plain study has of these runs: those that tuning did not change are the same."""
    for record in plain.read_all(runs)[0].values():
        if record.is_result and not store.has_result(record.run):
            store.write(record)


def make_engine(arguments: argparse.Namespace, store: "Store", **options: object) -> tuple["Engine", str]:
    """What executes runs, by the options of `add_engine_options`, and on which device; `options` are `execute`'s."""
    from ablations.execute import code_commit, execute

    checkpoints = store.checkpoints_folder.resolve()
    task = partial(execute, threads=arguments.threads, checkpoints=checkpoints, commit=code_commit(), **options)  # type: ignore[arg-type]
    if arguments.engine == "local":
        from ablations.engines.local import LocalEngine

        device = _device(arguments.device)
        workers = arguments.workers or _default_workers(device)
        return LocalEngine(partial(task, device=device), workers, arguments.time_limit), device
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray: Ray is not installed; pip install '.[ray]'")
    from ablations.engines.ray import RayEngine, connect

    has_gpus = connect(arguments.address or os.environ.get("RAY_ADDRESS"), (arguments.workers or 1) * arguments.threads)
    device = ("cuda" if has_gpus else "cpu") if arguments.device == "auto" else arguments.device
    gpus = 0.0 if device == "cpu" else arguments.gpu_share
    task = partial(task, device=device)
    return RayEngine(task, arguments.workers or 0, arguments.time_limit, cpus=arguments.threads, gpus=gpus), device


def _execute(
    runs: Sequence[Run],
    engine: "Engine",
    store: "Store",
    tracker: "Tracker",
    sizes: Mapping[str, "NetworkSize"],
    device: str,
    console: "Console",
) -> None:
    """Have each of the runs executed, here or by another driver that works on them now; keep, track and show what happens.

    Raises CommonFailureError if the first runs of all variants fail alike.
    """
    from ablations.claims import Claims
    from ablations.display import Display
    from ablations.engines import Ended, Failed, Progressed, Started, Warned

    costs = {run.run_id: _cost(run, sizes[run.run_id]) for run in runs}
    shared = _Shared(runs, store)
    failures = _Failures(runs)
    said = set[str]()
    with Display(runs, costs, console) as display, Claims(store.runs_folder) as claims:
        while shared.left:
            events = engine.execute(shared.claimed(claims, display))
            try:
                for event in events:
                    run = event.run
                    match event:  # what has ended is on disk before anything else is done about it
                        case Started():
                            tracker.run_started(run)
                        case Progressed():
                            tracker.run_progressed(run, event.point)
                        case Ended() | Failed():
                            network = sizes[run.run_id]
                            record = (
                                event.record if isinstance(event, Ended) else _failed_record(event, network, device)
                            )
                            shared.keep(record, event.weights if isinstance(event, Ended) else b"")
                            claims.release(run.run_id)
                            tracker.run_ended(record)
                        case Warned() if event.line not in said:
                            said.add(event.line)
                            _warn(event.line)
                    display.show(event)
                    failures.watch(event)
            finally:
                events.close()  # type: ignore[attr-defined]
            shared.wait_for_others(claims, display)


class _Shared:
    """Runs that several drivers may work on at once. One is settled when its record was written after this began."""

    def __init__(self, runs: Sequence[Run], store: "Store") -> None:
        self.left = list(runs)
        self._store = store
        self._stamps = {run.run_id: store.stamp(run) for run in runs}

    def claimed(self, claims: "Claims", display: "Display") -> Iterator[Run]:
        """Of the runs that are left those that are nobody else's, each claimed when it is asked for."""
        for run in list(self.left):
            if not claims.take(run):
                continue
            if self._is_settled(run):
                claims.release(run.run_id)
                self._settle(run, display)
            else:
                self.left.remove(run)
                yield run

    def keep(self, record: "RunRecord", weights: bytes) -> None:
        """Write the record, unless there is a result already: another driver, which held this one for dead, may have it, or the
        run was trained again for its weights and failed.
        """
        if weights and not self._store.is_done(record.run):
            self._store.write_weights(record.run_id, weights)
        if weights or not self._store.has_result(record.run):
            self._store.write(record)

    def wait_for_others(self, claims: "Claims", display: "Display") -> None:
        """Let a while pass if runs are left, all of which are others'."""
        for run in list(self.left):
            if self._is_settled(run):
                self._settle(run, display)
        if self.left:
            display.show_waiting(len(self.left), claims.owners(self.left))
            time.sleep(POLL)

    def _is_settled(self, run: Run) -> bool:
        return self._store.stamp(run) != self._stamps[run.run_id] or self._store.is_done(run)

    def _settle(self, run: Run, display: "Display") -> None:
        self.left.remove(run)
        display.show_settled_elsewhere(run)


class _Failures:
    """Watches for a failure that has nothing to do with what a variant is."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._variants = {run.variant for run in runs}
        self._errors: dict[str, str] = {}  # the first of each variant
        self._has_result = False

    def watch(self, event: "Event") -> None:
        """Raises CommonFailureError when every variant, of two or more, has failed with the same message and none has a result."""
        from ablations.engines import Ended, Failed

        if isinstance(event, Ended):
            self._has_result = True
        if not isinstance(event, Failed) or self._has_result:
            return
        self._errors.setdefault(event.run.variant, event.error)
        alike = {re.sub(r"\d+(\.\d+)?", "0", error) for error in self._errors.values()}  # whatever its numbers
        if self._errors.keys() == self._variants and len(self._variants) > 1 and len(alike) == 1:
            raise CommonFailureError(
                f"the first run of each of the {len(self._variants)} variants failed: {event.error}"
            )


def _conclude(
    study: Study,
    protocol: str,
    runs: Sequence[Run],
    overrides: Sequence[str],
    store: "Store",
    tracker: "Tracker",
    command: str,
    console: "Console",
    stopped: str,
) -> int:
    """Report what the store holds, show it, hand it to the tracker; `stopped` says why not all was executed, if so."""
    from ablations.report import covered, print_summary, write_report

    records, _ = store.read_all(runs)
    report = write_report(study, protocol, store, overrides, command, anew=False)
    tracker.sync(covered(study, protocol, store, overrides)[0])
    tracker.add_files(store.folder)
    tracker.close("FINISHED")
    print_summary(report, console)
    weights = [f"weights: {store.weights_folder}"] if store.weights_folder.exists() else []
    for line in (
        f"report:  {store.folder / 'report.md'}",
        f"figures: {store.folder / 'figures'}",
        *weights,
        *tracker.links(),
    ):
        print(line)
    if stopped:
        print(f"stopped early: {stopped}; the same command tries again", file=sys.stderr)
        return SOME_RUN_FAILED
    failed = [record for record in records.values() if not store.is_done(record.run)]
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again:", file=sys.stderr)
        for record in failed:
            print(f"  {record.run.label}: {record.error or 'it still has no weights'}", file=sys.stderr)
    return SOME_RUN_FAILED if failed else SUCCESS


def _interrupted(tracker: "Tracker", store: "Store", runs: Sequence[Run]) -> int:
    records, _ = store.read_all(runs)
    done = sum(record.is_result for record in records.values())
    print(f"interrupted: {done} of {len(runs)} runs are finished and kept; the same command goes on", file=sys.stderr)
    tracker.close("KILLED")
    return INTERRUPTED


def _failed_record(event: "Failed", network: "NetworkSize", device: str) -> "RunRecord":
    from ablations.execute import code_commit, environment
    from ablations.records import RunRecord
    from ablations.tracking import redacted

    return RunRecord(
        run=event.run,
        run_id=event.run.run_id,
        status="failed",
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment=environment(device, code_commit()),
        error=redacted(event.error),
        error_detail=redacted(event.detail),
    )


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
    at_a_time = min(workers, max(1, len(missing)))
    minutes = total / at_a_time / 60
    print(f"{len(missing)} runs to do, about {minutes:.1f} minutes with {at_a_time} at a time on {device}")
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


def require_writable(results: Path) -> None:
    """Raises ValueError if nothing can be written there."""
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


def handle_signals() -> None:
    """The first ends the command cleanly, the second at once."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants
            signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: object) -> NoReturn:
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _stop_at_once)
    raise KeyboardInterrupt


def _stop_at_once(signum: int, frame: object) -> NoReturn:
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # which live bars hide
    os.write(2, show_cursor + b"stopped at once\n")
    os._exit(INTERRUPTED)  # workers see that and end, too


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return value


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m ablations.run", description=__doc__)
    add_study_options(parser)
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
