"""Commands as a user types them, in processes of their own, and what they leave behind."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

# Of the commit, because whoever works on the code while its tests run changes it midway.
PASSWORD = "sesame"  # of databases that tests start
TIMES = ("seconds", "train_seconds", "wall_seconds", "started_at", "host", "commit")


def command(*arguments: str, module: str = "ablations.run") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def call(*arguments: str, cwd: Path, module: str = "ablations.run", **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments, module=module),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


def records(results: Path) -> dict[str, Any]:
    """All records under a folder of results, by run_id, without times, hosts and commits."""
    return {path.stem: _without_times(json.loads(path.read_text())) for path in results.rglob("runs/*.json")}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_without_times(inner) for inner in value]
    return value


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
