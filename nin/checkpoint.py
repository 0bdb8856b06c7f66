"""Keep the state of a training on disk, so that a killed training resumes and ends bit for bit the same.

A checkpoint is written whole or not at all and is verified when it is read. It holds tensors and plain values only, so reading one
runs no code. It belongs to one training; a file of another training is not used.
"""

import os
import time
import warnings
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nin.history import Evaluation
from nin.machine import is_accelerator, rng_state, set_rng_state
from nin.out_of_memory import is_out_of_memory
from nin.text import reason

SHARE = 0.01  # largest fraction of a training's wall time that goes into writing checkpoints
FIRST_COST_SEC = 0.01  # assumed duration of a write before the first has been timed


def last_point(path: Path) -> Evaluation | None:
    """Read the last point of the training that the file belongs to; None if no file can be read."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return Evaluation(**state["curve"][-1])
    except Exception:  # parsers raise errors of any type
        return None


class Checkpoint:
    """The file that keeps the state of one training, and the parts of that state.

    parts       by name, each with state_dict and load_state_dict: the model, its optimiser, ...
    belongs_to  plain values by name that the training must have in common with the one that wrote the file
    """

    def __init__(
        self,
        path: Path,
        parts: Mapping[str, Any],
        device: torch.device,
        belongs_to: Mapping[str, object],
    ) -> None:
        self.path = path
        self._parts = parts
        self._device = device
        threads = torch.get_num_threads() if device.type == "cpu" else 0  # sums on a CPU are split among them
        environment = {"torch": str(torch.__version__), "device": device.type, "threads": threads}
        self._belongs_to = {**belongs_to, **environment}
        self._started = time.monotonic()
        self._spent, self._cost = 0.0, FIRST_COST_SEC

    def restore(self) -> list[Evaluation]:
        """Restore all parts and random streams from the file; return the learning curve so far.

        If there is no file, the curve is empty and nothing changes. The same holds, with a warning, for a file that is damaged or
        belongs to another training. Raises what torch raises where memory is lacking, since the file may be sound.
        """
        if not self.path.exists():
            return []
        before = {name: deepcopy(part.state_dict()) for name, part in self._parts.items()}
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch's own reader does not look at the checksums
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("it is compressed, and may unpack to any size")
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} has another checksum")
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if others := _differing(state["belongs_to"], self._belongs_to):
                raise ValueError(f"it is of another training: other {', '.join(others)}")
            curve = [Evaluation(**point) for point in state["curve"]]
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            if is_accelerator(self._device):
                set_rng_state(state[f"{self._device.type}_rng"], self._device)
            torch.set_rng_state(state["rng"])
        except Exception as error:  # parsers raise errors of any type
            for name, values in before.items():
                self._parts[name].load_state_dict(values)
            if is_out_of_memory(error):
                raise
            warnings.warn(
                f"checkpoint {self.path} is not used ({reason(error)}): training from the start", stacklevel=2
            )
            return []
        return curve

    def save_if_due(self, curve: list[Evaluation]) -> None:
        """Call `save` unless writing would exceed SHARE of the training's time."""
        if self._spent + self._cost <= SHARE * (time.monotonic() - self._started):
            self.save(curve)

    def save(self, curve: list[Evaluation]) -> None:
        """Write the state after the last point of the curve.

        A failed write is a warning, since the training matters more than its checkpoint.
        """
        started = time.monotonic()
        try:
            self._save(curve)
        except (OSError, RuntimeError) as error:  # torch's writer makes a full disk a RuntimeError about positions
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            warnings.warn(  # the folder and not the file, so that it is the same line for all runs
                f"checkpoints cannot be written to {self.path.parent} ({reason(cause)}): training goes on", stacklevel=2
            )
        self._cost = time.monotonic() - started
        self._spent += self._cost

    def _save(self, curve: list[Evaluation]) -> None:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"curve": [asdict(point) for point in curve], "belongs_to": self._belongs_to}
        state["rng"] = torch.get_rng_state()
        if is_accelerator(self._device):
            state[f"{self._device.type}_rng"] = rng_state(self._device)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")  # written by the one process that trains this
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _differing(theirs: Mapping[str, object], ours: Mapping[str, object]) -> list[str]:
    """Name the values that differ, or that only one of the two has."""
    return [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
