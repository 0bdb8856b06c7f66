"""Call methods of an object that lives in its own process, so that its memory and settings are its own."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


class RemoteObject:
    """Call methods of an object that lives in its own process. The object runs one method at a time."""

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        self._pool = ProcessPoolExecutor(1, spawn, _make, (make, arguments))

    def start(self, method: str, *arguments: object) -> "Future[Any]":
        """Call the method without waiting for its result."""
        return self._pool.submit(_call, method, arguments)

    def call(self, method: str, *arguments: object) -> Any:
        """Return the method's result. Raises ChildProcessError if the process ends before."""
        return result(self.start(method, *arguments))

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)


def result(future: "Future[Any]") -> Any:
    """Return what a method that was started returns. Raises ChildProcessError if its process ends before."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError("a process was killed, perhaps for lack of memory") from error


@contextmanager
def remote(make: Callable[..., object], *arguments: object) -> Iterator[RemoteObject]:
    """Context with the object `make(*arguments)` in its own process, which ends with the context."""
    instance = RemoteObject(make, *arguments)
    try:
        yield instance
    finally:
        instance.close()


_instance: object = None  # in the object's own process: the object, or the exception that making it raised


def _make(make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    global _instance
    # Ctrl-C in a terminal ends all processes: this one without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        _instance = make(*arguments)
    except Exception as error:  # raised here, it would reach the caller as a broken pool
        _instance = error


def _call(method: str, arguments: tuple[object, ...]) -> object:
    if isinstance(_instance, Exception):
        raise _instance
    return getattr(_instance, method)(*arguments)
