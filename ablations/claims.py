"""Who trains which run, where several drivers share a folder of results, on one machine or on many.

A claim is a file beside the run's record, `<run_id>.claim-<n>`. Its owner's heartbeat changes the file's time; a claim whose time
stands still for LEASE, or whose owner died on this machine, has expired. The run then goes to who creates the next number, which
only one can: creating a file is atomic on every file system, also between hosts, where locks are not. Time is measured by one's
own clock alone, since clocks of hosts differ.

Claims are kept in the folder of the records because creating a file there makes a network file system look anew at what the folder
holds: who has claimed a run sees the record that its last owner left.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from ablations.study import Run

LEASE = 60.0  # seconds
BEAT = 10.0  # seconds between two signs of life


@dataclass(frozen=True)
class Owner:
    """A driver. `machine` tells apart hosts, their boots, and containers, whose process numbers are their own."""

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
        return Owner(socket.gethostname(), f"{boot} {namespace}", process.pid, process.create_time())

    def is_dead(self, here: "Owner") -> bool:
        """Whether the process is known to have ended: one that is on the machine of `here` and not among its processes."""
        if (self.host, self.machine) != (here.host, here.machine):
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() != self.since or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Claims:
    """Claims on the runs of one folder of records, kept alive by a thread while this is entered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = Owner.this()
        self._mine: dict[str, Path] = {}  # by run_id
        self._seen: dict[Path, tuple[int, float]] = {}  # of others' claims: their time, and since when by our clock
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        for run_id in list(self._mine):
            self.release(run_id)

    def take(self, run: Run) -> bool:
        """Claim the run; False if it is another's. What its record says must be looked at after this, not before."""
        newest = self._newest(run.run_id)
        if newest is not None and not self._has_expired(newest):
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
        return True

    def release(self, run_id: str) -> None:
        """Give the run free, and remove what is left of its earlier claims."""
        mine = self._mine.pop(run_id)
        if _read(mine)[0] != self._me:
            return  # it had expired, and another has been here since
        for path in self._of(run_id):
            if _number(path) <= _number(mine):
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def owners(self, runs: Iterable[Run]) -> set[str]:
        """ "host (process 123)" of all who have claimed one of the runs."""
        found = (self._newest(run.run_id) for run in runs)
        owners = {_read(path)[0] for path in found if path is not None}
        return {f"{owner.host} (process {owner.pid})" for owner in owners if owner is not None}

    def _of(self, run_id: str) -> list[Path]:
        return list(self._folder.glob(f"{run_id}.claim-*"))

    def _newest(self, run_id: str) -> Path | None:
        return max(self._of(run_id), key=_number, default=None)

    def _has_expired(self, path: Path) -> bool:
        owner, changed = _read(path)
        if owner is not None and owner.is_dead(self._me):
            return True
        now = time.monotonic()
        if self._seen.get(path, (None,))[0] != changed:
            self._seen[path] = (changed, now)
        return now - self._seen[path][1] > LEASE

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            for path in list(self._mine.values()):
                with suppress(OSError):  # a folder that is out of reach for a while costs the lease, no run
                    os.utime(path)


def _number(path: Path) -> int:
    number = path.suffix.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _read(path: Path) -> tuple[Owner | None, int]:
    """Who has made the claim, if it can be read, and when it was last touched (0: it is gone).

    The file is opened because that is when a network file system asks its server for the time.
    """
    try:
        with path.open() as file:
            return Owner(**json.load(file)), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None, 0
    except (ValueError, TypeError):  # half written: whoever did it has LEASE to go on
        return None, 1
