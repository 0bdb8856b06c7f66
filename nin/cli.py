"""Shared parts of the command lines: arguments, one-line errors on stderr without credentials, and exit statuses.

Imports nothing but the standard library, names and texts when it is loaded.
"""

import argparse
import gc
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from nin import __version__
from nin.out_of_memory import is_out_of_memory
from nin.spec import DEVICES
from nin.text import one_line, reason, redacted

if TYPE_CHECKING:
    from rich.console import Console

# New objects between two garbage collections: what torch and MLflow load is no garbage, and takes a second to search.
GC_THRESHOLD = 100_000
MAX_PER_CORE = 8  # workers, or threads of one: with more, nothing gets faster and memory runs out
PLAIN_WIDTH = 140  # characters of a line where no terminal says how wide it is
WAIT_NOTICE_SEC = 5.0  # wait after which a notice names its cause
FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
SUCCESS, SOME_RUN_FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130


class OneLineParser(argparse.ArgumentParser):
    """An argument parser with --version whose errors are one line on stderr, without the usage. Options are written in full."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.allow_abbrev = False  # an abbreviation could name another option than was meant
        self.add_argument("--version", action="version", version=f"nin-ablations {__version__}")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        sys.exit(WRONG_REQUEST)


def positive(text: str) -> int:
    """An argument's type: an integer of at least 1."""
    return _at_least(1, text)


def count(text: str) -> int:
    """An argument's type: an integer of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text}: must be {least} or more, and a whole number")
    return value


def add_run_argument(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the arguments that name a trained network: RUN (`run`, or `runs` if several), --results and --import."""
    text = "a .safetensors file, (the start of) a run_id, or a name: 2x:0"
    if several:
        parser.add_argument("runs", nargs="+", metavar="RUN", help=text)
    else:
        parser.add_argument("run", metavar="RUN", help=text)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="results folder (default: results)"
    )
    _add_import_option(parser)


def _add_import_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        action="append",
        type=_imported,
        metavar="MODULE",
        help="load a module, by name or file, that adds the network's pooling or the like",
    )


def _imported(name: str) -> str:
    try:
        if name.endswith(".py"):
            sys.path.append(str(Path(name).resolve().parent))  # what it imports may lie beside it
            spec = importlib.util.spec_from_file_location(f"nin_file_{Path(name).stem}", name)
            assert spec is not None  # of any name with this suffix
            assert spec.loader is not None
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            importlib.import_module(name)
    except Exception as error:
        raise argparse.ArgumentTypeError(f"{name!r}: {reason(error)}") from error
    return name


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add --num-classes, --input, --set and --import, which describe or change a network that is named."""
    parser.add_argument("--num-classes", type=positive, default=10, metavar="K", help="number of classes (default: 10)")
    parser.add_argument(
        "--input", metavar="CxHxW", help="shape of an image, such as 3x32x32 (default: the network's own)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a field of the network, such as num_1x1=3 (default: none)",
    )
    _add_import_option(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads, on which a measurement runs."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="device (default: auto, an accelerator if torch sees one, else the CPU)",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), metavar="N", help="CPU threads (default: all cores)"
    )


def require_per_core(option: str, value: int) -> None:
    """Raise ValueError unless `value`, a number of workers or threads, is at least 1 and at most MAX_PER_CORE for each core."""
    cores = os.cpu_count() or 1
    if not 1 <= value <= MAX_PER_CORE * cores:
        raise ValueError(
            f"{option} {value}: must be 1 or more and at most {MAX_PER_CORE * cores}, {MAX_PER_CORE} for each of "
            f"{cores} cores"
        )


def require_figure_file(path: Path) -> None:
    """Raise ValueError unless the file's suffix is one of FIGURE_SUFFIXES."""
    if path.suffix not in FIGURE_SUFFIXES:
        raise ValueError(f"--out {str(path)!r}: must end in {', '.join(FIGURE_SUFFIXES[:-1])} or {FIGURE_SUFFIXES[-1]}")


def require_writable(path: Path) -> None:
    """Make the file's folder. Raises OSError if the file cannot be written; one that is not there yet is not left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    path.open("a").close()
    if is_new:
        path.unlink()


@contextmanager
def notice_if_slow(what: str) -> Iterator[None]:
    """Print on stderr what the program waits for, once the wait exceeds WAIT_NOTICE_SEC."""
    line = f"waiting for {one_line(redacted(what))}; Ctrl-C ends the wait\n"
    timer = threading.Timer(WAIT_NOTICE_SEC, lambda: sys.stderr.write(line))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command's main and exit. A ValueError becomes one line on stderr and status 2.

    An OSError, such as a full disk, becomes one line and status 1.
    """
    gc.set_threshold(GC_THRESHOLD)
    # Python has None for what the shell closed, with ">&-".
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    # Without a writable HOME, matplotlib warns about the folder of its cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        status = main()
        print(end="", flush=True)  # what cannot be written fails here, not after the last handler
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = WRONG_REQUEST
    except (MemoryError, ImportError, RuntimeError, SystemError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: too little memory ({reason(error)}); what was finished before is intact", file=sys.stderr)
        status = SOME_RUN_FAILED
    except BrokenPipeError:  # `| head` has read enough
        status = SOME_RUN_FAILED
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{place}; what was finished before is intact", file=sys.stderr)
        status = SOME_RUN_FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    _drop_unwritten()
    gc.freeze()  # else the interpreter searches all objects once more before it ends
    sys.exit(status)


def _nowhere() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _drop_unwritten() -> None:
    """Drop what standard output does not take, at which the interpreter would fail once more as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output_console(**options: Any) -> "Console":
    """Return a console for standard output, as wide as the terminal, or PLAIN_WIDTH where there is none."""
    from rich.console import Console

    console = Console(highlight=False, **options)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH, **options)
