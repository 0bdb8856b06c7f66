"""Claim runs, so that drivers that share a results folder, on one machine or many, train each run once.

A claim is a file beside the run's record, `<run_id>.claim-<n>`. Its owner's heartbeat changes the file's time; a claim whose time
stands still for LEASE, or whose owner died on this machine, has expired. The run then goes to the driver that creates the next
number. Only one can: creating a file is atomic on every file system, also between hosts, where locks are not. Each driver measures
time by its own clock alone, because clocks of hosts differ.

Claims are kept in the folder of the records because creating a file there makes a network file system look anew at what the folder
holds: who has claimed a run sees the record that its last owner left.
"""

import itertools
import json
import math
import os
import socket
import threading
import time
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import dacite
import psutil

from ablations.runs import Run

LEASE = 60.0  # seconds
BEAT = 10.0  # seconds between two signs of life
PATIENCE = 5.0  # seconds that leaving waits for a sign of life that is being given
FRESH = 1.0  # seconds for which a listing of the folder is used again


@dataclass(frozen=True)
class Owner:
    """A driver. `machine` tells apart hosts, their boots, and containers, whose process numbers are their own.

    since  when the process started, in seconds since the boot where that is known (Linux): the clock may be set meanwhile
    """

    host: str
    machine: str
    pid: int
    since: float

    @staticmethod
    def this() -> "Owner":
        """This process."""
        boot = namespace = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
        process = psutil.Process()
        return Owner(socket.gethostname(), f"{boot} {namespace}", process.pid, _started(process))

    def is_dead(self, here: "Owner") -> bool:
        """Return whether the process is known to have ended: it is on the machine of `here`, and not among its processes."""
        if (self.host, self.machine) != (here.host, here.machine):
            return False
        try:
            process = psutil.Process(self.pid)
            return _started(process) != self.since or process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError):  # ValueError: no process has such a number
            return True


class Lease:
    """Base of all claims: while entered, a lease is renewed; without renewal it expires."""

    def __init__(self) -> None:
        self._me = Owner.this()
        self._seen: dict[
            Hashable, tuple[object, float]
        ] = {}  # of others' claims: the last sign, and since when by our clock
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._keep_alive, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join(PATIENCE)
        if not self._heart.is_alive():  # else what it writes to does not answer, and the claims expire
            self.release_all()

    def release_all(self) -> None:
        """Release everything."""
        raise NotImplementedError

    def beat(self, count: int) -> None:
        """Renew every claim of ours for the `count`-th time; raises nothing."""
        raise NotImplementedError

    def _keep_alive(self) -> None:
        for count in itertools.count(1):
            if self._stop.wait(BEAT):
                return
            self.beat(count)

    def _has_expired(self, claim: Hashable, owner: Owner | None, sign: object) -> bool:
        """Return whether the owner is dead, or has not renewed the claim for LEASE seconds."""
        if owner is not None and owner.is_dead(self._me):
            return True
        now = time.monotonic()
        if self._seen.get(claim, (None,))[0] != sign:
            self._seen[claim] = (sign, now)
        return now - self._seen[claim][1] > LEASE


class Claims(Lease):
    """Claims on the runs of one folder of records."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._mine: dict[str, Path] = {}  # by run_id
        self._listed: dict[str, set[Path]] = {}  # all claims there are, by run_id
        self._listed_at = -math.inf

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return super().__enter__()

    def take(self, run: Run) -> bool:
        """Claim the run; False if another driver has it. Read the run's record after this call, not before."""
        newest = self._newest(run.run_id)
        if newest is not None and not self._has_expired(newest, *_read(newest)):
            return False
        path = self._folder / f"{run.run_id}.claim-{_number(newest) + 1 if newest else 0}"
        try:
            with path.open("x") as file:
                json.dump(asdict(self._me), file)
        except FileExistsError:  # another was faster
            return False
        except OSError:  # a full disk takes the name, but not what is in the file
            path.unlink(missing_ok=True)
            raise
        self._mine[run.run_id] = path
        self._listed.setdefault(run.run_id, set()).add(path)
        return True

    def release(self, run_id: str) -> None:
        """Release the run, and remove leftovers of its earlier claims."""
        mine = self._mine.pop(run_id)
        if _read(mine)[0] != self._me:
            return  # it had expired, and another has been here since
        for path in self._of(run_id):
            if _number(path) <= _number(mine):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                self._listed[run_id].discard(path)

    def release_all(self) -> None:
        """Release every run of ours."""
        for run_id in list(self._mine):
            self.release(run_id)

    def beat(self, count: int) -> None:
        """Change the files' times."""
        for path in list(self._mine.values()):
            with suppress(OSError):  # a folder that is out of reach for a while costs the lease, no run
                os.utime(path)

    def owners(self, runs: Iterable[Run]) -> set[str]:
        """ "host (process 123)" of all who have claimed one of the runs."""
        found = (self._newest(run.run_id) for run in runs)
        owners = {_read(path)[0] for path in found if path is not None}
        return {f"{owner.host} (process {owner.pid})" for owner in owners if owner is not None}

    def _of(self, run_id: str) -> list[Path]:
        """The run's claims. The folder may be large, so it is listed at most every FRESH seconds."""
        if time.monotonic() > self._listed_at + FRESH:
            self._listed.clear()
            for path in self._folder.glob("*.claim-*"):
                self._listed.setdefault(path.stem, set()).add(path)
            self._listed_at = time.monotonic()
        return list(self._listed.get(run_id, ()))

    def _newest(self, run_id: str) -> Path | None:
        newest = max(self._of(run_id), key=_number, default=None)
        if newest is not None and not newest.exists():  # given free since
            self._listed_at = -math.inf
            newest = max(self._of(run_id), key=_number, default=None)
        return newest


def _started(process: psutil.Process) -> float:
    return round(process.create_time() - psutil.boot_time(), 2) if psutil.LINUX else process.create_time()


def _number(path: Path) -> int:
    number = path.suffix.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _read(path: Path) -> tuple[Owner | None, int]:
    """Read the claim's owner, if readable, and the time of its last renewal (0: the claim is gone).

    The file is opened because that is when a network file system asks its server for the time.
    """
    try:
        with path.open() as file:
            return dacite.from_dict(Owner, json.load(file)), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None, 0
    except (ValueError, TypeError, RecursionError, dacite.DaciteError):  # half written: who did it has LEASE to go on
        return None, 1
