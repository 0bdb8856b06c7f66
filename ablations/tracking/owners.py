"""Owners of runs in MLflow: the folder of results that they belong to, and the driver that logs them."""

import os
import socket
import uuid
from pathlib import Path

from ablations.tracking.mlflow_log import Node
from nin.files import write_atomically

FOLDER_ID = ".mlflow-folder"  # in a folder of results: which runs on a shared server are its own


def folder_id(results: Path) -> str:
    """Return the id of a folder of results, which is made at its first use."""
    path = results / FOLDER_ID
    if not path.exists():
        write_atomically(path, f"{uuid.uuid4().hex}\n")
    return path.read_text().strip()


def driver_name() -> str:
    """Identity of this driver: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_of_another_driver(node: Node) -> bool:
    """Return whether another process is logging the run."""
    return node.is_running and driver_lives(node) is True


def driver_lives(node: Node) -> bool | None:
    """Return whether the other process that logged the run is still alive; None if it is on another host."""
    import psutil

    host, _, process = node.tags.get("driver", "").rpartition(":")
    if host != socket.gethostname():
        return None
    try:
        driver = psutil.Process(int(process))
        is_older = 1000 * driver.create_time() <= node.started  # otherwise it only has got the number of that process
        return driver.pid != os.getpid() and driver.status() != psutil.STATUS_ZOMBIE and is_older
    except psutil.NoSuchProcess:
        return False
