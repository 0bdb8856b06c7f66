"""Choose where runs are executed: the options, and the engine that they make. Imports torch and Ray only to make one."""

import ast
import importlib.util
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ablations import plugins
from ablations.runs import Run
from nin.cli import require_per_core
from nin.spec import DEVICES, choose, is_whole

if TYPE_CHECKING:
    from ablations.execution.engines import Engine

GUARD = "put the call under `if __name__ == '__main__':`, because each worker imports this script, and would start the study again"


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine: where runs execute, and how many at a time.

    engine      "local" (processes on this machine) or "ray"
    address     the Ray cluster, "host:port"; empty: RAY_ADDRESS, else one is started here
    workers     runs at a time; 0: one per core, or 1 on a GPU; on Ray as many as there is room for
    gpu_share   of a GPU, that a run is given on Ray
    threads     CPU threads of each worker
    device      "auto", "cpu", "cuda", "mps" or "xpu"
    time_limit  seconds after which a run fails
    """

    engine: str = "local"
    address: str = ""
    workers: int = 0
    gpu_share: float = 1.0
    threads: int = 1
    device: str = "auto"
    time_limit: float = math.inf

    def __post_init__(self) -> None:
        choose(dict.fromkeys(("local", "ray")), self.engine, "engine")
        choose(dict.fromkeys(DEVICES), self.device, "device")
        require_count("workers", self.workers, 0)
        require_count("threads", self.threads, 1)
        if not 0 < self.gpu_share <= 1:
            raise ValueError(f"gpu_share={self.gpu_share!r}: must be above 0 and at most 1")
        if self.address and self.engine != "ray":
            raise ValueError(f"address={self.address!r}: names a Ray cluster, and needs engine 'ray'")
        if self.gpu_share != 1 and self.engine != "ray":
            raise ValueError(
                f"gpu_share={self.gpu_share!r}: needs engine 'ray'; without it --workers says how many runs share the GPU"
            )
        require_time("time_limit", self.time_limit)

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster that runs already; none where one is started here."""
        return self.address or os.environ.get("RAY_ADDRESS")


def make_engine(options: EngineOptions, results: Path, keep_weights: bool = False, pause_at: float = 0) -> "Engine":
    """Make the engine that the options describe; `keep_weights` and `pause_at` are those of `ablations.execution.worker.execute`.

    Raises ValueError for an engine or device that is not there, or more workers or threads than this machine can be asked for.
    """
    from ablations.execution.worker import code_commit, execute
    from nin.machine import choose_device

    require_room(options)
    task = partial(
        execute,
        threads=options.threads,
        results=results.resolve(),
        commit=code_commit(),
        keep_weights=keep_weights,
        pause_at=pause_at,
        plugins=plugins.for_workers(),
    )
    if options.engine == "local":
        from ablations.execution.engines.local import LocalEngine

        device = choose_device(options.device).type
        workers = options.workers or default_workers(device)
        return LocalEngine(partial(task, device=device), workers, options.time_limit, device)
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray: Ray is not installed; pip install '.[ray]'")
    from ablations.execution.engines.ray import PACKAGES, RayEngine, connect

    cpus = max((options.workers or 1) * options.threads, default_workers("cpu"))
    has_gpus = connect(options.cluster, cpus, [*PACKAGES, *plugins.package_folders()])
    device = ("cuda" if has_gpus else "cpu") if options.device == "auto" else options.device
    return RayEngine(
        partial(task, device=device),
        options.workers,
        options.time_limit,
        device,
        cpus=options.threads,
        gpus=0.0 if device == "cpu" else options.gpu_share,
    )


def make_probe(engine: "Engine", threads: int) -> Callable[[Run], float] | None:
    """Make the function that estimates a run's seconds by `ablations.execution.worker.probe`; None unless the engine's device is
    the CPU, because this process would occupy memory of a GPU.
    """
    from ablations.execution.worker import probe

    return partial(probe, device="cpu", threads=threads) if engine.device == "cpu" else None


def require_room(options: EngineOptions) -> None:
    """Raise ValueError for more workers or threads than this machine can run. Ray checks those of a cluster that runs already."""
    if options.engine == "local" or not options.cluster:
        require_per_core("--workers", options.workers or 1)
        require_per_core("--threads", options.threads)


def default_workers(device: str) -> int:
    """Runs at a time: one per core that this process, or its container, may use, or 1 on a GPU."""
    if device != "cpu":
        return 1
    from joblib import cpu_count  # type: ignore[import-untyped]

    return int(cpu_count())


def require_count(name: str, value: object, least: int) -> None:
    """Raise ValueError unless the value is a whole number of at least `least`."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}={value!r}: must be {least} or more, and a whole number")


def require_time(name: str, seconds: float) -> None:
    """Raise ValueError unless it is a number of seconds above 0; infinity is one."""
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"{name}={seconds!r}: must be seconds, above 0")


def require_folder(results: Path) -> None:
    """Raise ValueError unless the databases in the folder can be addressed, and it is there or can be made. Writes nothing."""
    place = results.resolve()
    if "?" in str(place):
        raise ValueError(f"--results {results}: a '?' ends the name of a database's file; choose another folder")
    try:
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        if not there.is_dir():
            raise ValueError(
                f"--results {results}: cannot write there ({there} is not a folder); choose another folder"
            )
    except OSError as error:  # a folder above that may not be read
        raise _unwritable(results, error) from error


def require_writable(results: Path) -> None:
    """Make the folder, which has met `require_folder`. Raise ValueError unless it can be written to."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise _unwritable(results, error) from error


def _unwritable(results: Path, error: OSError) -> ValueError:
    return ValueError(f"--results {results}: cannot write there ({error.strerror}); choose another folder")


def require_guard() -> None:
    """Raise ValueError unless workers can import the main script without starting it again; exit in a worker that does so."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        sys.exit(f"error: {GUARD}")
    frame = sys._getframe()
    while frame.f_back and not (frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"):
        frame = frame.f_back
    name, spec = frame.f_globals.get("__file__"), frame.f_globals.get("__spec__")
    if frame.f_globals.get("__name__") != "__main__" or not name:
        return  # a notebook, which workers do not import
    file = Path(name)
    if not file.is_file():
        if spec is None:  # read from standard input
            raise ValueError(f"{name}: workers import the script, so write it into a file")
        return
    conditions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.If)]
    if not any("__name__" in ast.unparse(node.test) and node.lineno <= frame.f_lineno for node in conditions):
        raise ValueError(f"{file}:{frame.f_lineno}: {GUARD}")
