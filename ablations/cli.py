"""What the command lines share: errors of one line, the same options by the same names, exit statuses."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

SUCCESS, SOME_RUN_FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        sys.exit(WRONG_REQUEST)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """STUDY, --protocol, --seeds, --variants, --set and --results: which runs are meant, and where they are kept."""
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study's name; --list shows them")
    parser.add_argument("--protocol", default="quick", help="budget: smoke, quick (default), full, d2l or paper")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per variant (default: the protocol's own number)")
    parser.add_argument("--variants", metavar="A,B", help="only these, and the baseline")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change every run, such as train.lr=0.05",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")


def names(text: str | None) -> list[str] | None:
    """["a", "b"] from "a,b"; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command's main; what a user got wrong becomes one line on stderr and status 2."""
    try:
        status = main()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = WRONG_REQUEST
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)
