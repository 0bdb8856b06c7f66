"""Execute runs on a Ray cluster: one task per run, with declared CPUs and a share of a GPU, around the local workers' function.

This code and the specifications travel with the tasks; torch and the rest must be installed on the nodes, data sets are found or
fetched there. A task whose node or worker is lost is tried again by Ray, elsewhere, from the run's last checkpoint if the node sees
the folder of results. Only the driver writes records, so no node needs to.
"""

import math
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.execution.engines import Ended, Event, Failed, Postponed, Started, Task, attempt
from ablations.runs import Run
from nin.text import one_line

if TYPE_CHECKING:
    from ray.util.queue import Queue

CONNECT_SEC = 10  # to the cluster's port
POLL = 0.2  # seconds between two looks at what the workers say
RETRIES = 3  # of a run whose node or worker is lost
PACKAGES = [str(Path(__file__).parents[3] / name) for name in ("nin", "ablations")]


@dataclass
class _Submitted:
    run: Run
    gpus: float
    started: float | None = None  # by this process's clock


def connect(address: str | None = None, cpus: int = 1, packages: Sequence[str] = PACKAGES) -> bool:
    """Join the cluster at the address ("auto": this machine's own) if this process has not; return whether it has GPUs.

    Without an address, start one here, with `cpus` CPUs, that listens to this machine only and ends with this process.

    packages  folders of Python packages that travel with the tasks

    Raises ValueError if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read on import: addresses are the loopback's
    import ray

    passed_on = {name: os.environ[name] for name in ("NIN_DATA",) if name in os.environ}
    options: dict[str, Any] = {
        "runtime_env": {"py_modules": list(packages), "env_vars": passed_on},
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if ray.is_initialized():
        pass
    elif address is None:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    else:
        try:
            if address != "auto":  # Ray itself would try for many minutes
                host, _, port = address.rpartition("://")[2].rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_SEC).close()
            ray.init(address=address, **options)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ValueError(f"--address {address}: no Ray cluster answers there ({one_line(error)})") from error
    return any(node["Resources"].get("GPU") for node in _nodes())


class RayEngine:
    """Call `task` in Ray tasks of `cpus` CPUs and `gpus` GPUs (a share below 1: that many side by side on each).

    workers     runs submitted at a time; 0: as many as the connected cluster has room for now
    time_limit  seconds that one try of a run may take from its start
    device      that the task uses

    Raises ValueError if there is no room for any.
    """

    def __init__(
        self,
        task: Task,
        workers: int = 0,
        time_limit: float = math.inf,
        device: str = "cpu",
        *,
        cpus: int = 1,
        gpus: float = 0.0,
    ) -> None:
        self.task, self.time_limit, self.device, self.cpus, self.gpus = task, time_limit, device, cpus, gpus
        room = self._room()
        if not room:
            needs = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
            raise ValueError(f"the Ray cluster has no room for a run, which needs {needs}")
        self.workers = workers or room

    def execute(self, runs: Iterable[Run]) -> Iterator[Event]:
        """Events of all runs. One that is lost more than RETRIES times, or takes too long, ends in `Failed`.

        A run that is out of a GPU's memory beside others is tried again with twice the share, up to a whole, before it fails.
        """
        import ray

        waiting, postponed = iter(runs), deque[Run]()
        working: dict[Any, _Submitted] = {}  # by the reference of what the task returns
        queue: Queue | None = None
        try:
            while True:
                while len(working) < self.workers:
                    run = postponed.popleft() if postponed else next(waiting, None)
                    if run is None:
                        break
                    if queue is None:
                        queue = _queue()
                    working[self._submit(run, queue)] = _Submitted(run, self.gpus)
                if queue is None or not working:
                    return
                ended, _ = ray.wait(list(working), timeout=POLL)
                yield from _new_events(queue, list(working.values()))  # with all that came before a run ended
                for reference in ended:
                    submitted = working.pop(reference)
                    event = _result(reference, submitted.run)
                    if isinstance(event, Failed) and event.out_of_memory and 0 < submitted.gpus < 1:
                        self.gpus = max(self.gpus, min(1.0, 2 * submitted.gpus))
                        postponed.append(submitted.run)
                        yield Postponed(submitted.run, min(self.workers, self._room()))
                    else:
                        yield event
                for reference, submitted in list(working.items()):
                    if submitted.started and time.monotonic() > submitted.started + self.time_limit:
                        del working[reference]
                        ray.cancel(reference, force=True)
                        yield Failed(submitted.run, f"took longer than its time limit of {self.time_limit:g} s", "")
        finally:
            with suppress(Exception):  # the cluster may have gone
                for reference in working:
                    ray.cancel(reference, force=True)
                if queue is not None:
                    queue.shutdown(force=True)

    def _submit(self, run: Run, queue: "Queue") -> Any:
        import ray

        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(_work)
        return task.remote(self.task, run, queue)

    def _room(self) -> int:
        """Runs that fit on the nodes at a time."""
        resources = [node["Resources"] for node in _nodes()]
        return sum(
            int(min(node.get("CPU", 0) // self.cpus, node.get("GPU", 0) / self.gpus if self.gpus else math.inf))
            for node in resources
        )


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _queue() -> "Queue":
    """The actor that collects workers' events, on this node, since any other node may be lost."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _work(task: Task, run: Run, queue: "Queue") -> Ended | Failed:
    """Execute a run in a Ray worker. Training continues even if events can no longer be sent."""

    def tell(event: Event) -> None:
        with suppress(Exception):
            queue.put(event)

    tell(Started(run))
    return attempt(task, run, tell)


def _new_events(queue: "Queue", submitted: Sequence[_Submitted]) -> Iterator[Event]:
    """Collect new events of these runs; the restart of a lost run is reported once."""
    by_run = {one.run: one for one in submitted}
    for event in queue.get_nowait_batch(queue.qsize()):
        one = by_run.get(event.run)
        if one is None:
            continue  # its time was up
        is_again = isinstance(event, Started) and one.started is not None
        if isinstance(event, Started):
            one.started = time.monotonic()
        if not is_again:
            yield event


def _result(reference: Any, run: Run) -> Ended | Failed:
    import ray

    try:
        result: Ended | Failed = ray.get(reference)
    except Exception as error:  # Ray's own: the worker or its node was lost too often, or this code does not run there
        name = type(error).__name__
        first_line = next((line for line in str(error).splitlines() if line.strip()), "")
        return Failed(run, one_line(f"{name}: {first_line}"), str(error), out_of_memory=name == "OutOfMemoryError")
    return result
