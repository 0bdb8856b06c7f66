"""Options that the command lines share: the selection of runs, and the engine that executes them."""

import argparse
import math
import shutil
import sys
import textwrap
from collections.abc import Collection, Container
from pathlib import Path

from ablations.catalog import load_study, study_names
from ablations.execution.launch import EngineOptions
from ablations.protocols import PROTOCOLS
from ablations.runs import parse_length, with_data_name
from ablations.study import ROLES
from nin.cli import positive
from nin.spec import DEVICES


def _override(text: str) -> str:
    try:
        return with_data_name(text)
    except ValueError as error:  # which argparse would replace by words of its own
        raise argparse.ArgumentTypeError(str(error)) from error


def add_study_options(
    parser: argparse.ArgumentParser,
    *,
    selects: Collection[str] = (),
    default_variants: str = "all",
    several: bool = False,
) -> None:
    """Add STUDY, --protocol, --set, --import and --results, and those of --seeds, --variants and --lengths that are selected.

    several  whether STUDY may be several names, and `study` is a list
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # examples keep their lines
    parser.add_argument(
        "study",
        nargs="*" if several else "?",
        metavar="STUDY",
        help="names or files of studies, separated by spaces or commas (ablations.run --list)"
        if several
        else "a study's name (ablations.run --list) or file",
    )
    group = parser.add_argument_group("which runs")
    group.add_argument(
        "--protocol",
        default="quick",
        metavar="NAME",
        help=f"data, network, training and number of seeds: {', '.join(PROTOCOLS)} (default: quick)",
    )
    if "seeds" in selects:
        group.add_argument(
            "--seeds", type=positive, metavar="N", help="runs per variant (default: the study's, else the protocol's)"
        )
    if "variants" in selects:
        group.add_argument(
            "--variants",
            metavar="A,B",
            help=f"variants, or roles ({', '.join(ROLES)}); the baseline is always added (default: {default_variants})",
        )
    if "lengths" in selects:
        group.add_argument(
            "--lengths",
            metavar="A,B",
            help="training lengths of the protocol, in images, such as 40k,160k (default: all of the protocol's)",
        )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        type=_override,
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting of every run, such as train.lr=0.05; may be repeated (default: the study's settings)",
    )
    group.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="load a module that adds poolings, trunks, heads, activations or data sets; may be repeated (default: none)",
    )
    group.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="results folder (default: results)"
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where runs execute, and how many at a time."""
    group = parser.add_argument_group("where runs execute")
    group.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="default: auto, an accelerator if torch sees one, else the CPU",
    )
    group.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="runs at a time (default: one per core; on a GPU 1; on Ray as many as the cluster has room for)",
    )
    group.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads per worker (default: 1)")
    group.add_argument(
        "--time-limit",
        type=seconds,
        default=math.inf,
        metavar="TIME",
        help="fail a run that takes longer, such as 10m (default: no limit)",
    )
    group.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="processes on this machine, or Ray (default: local)"
    )
    group.add_argument(
        "--address", metavar="HOST:PORT", help="the Ray cluster (default: RAY_ADDRESS, else a cluster on this machine)"
    )
    group.add_argument(
        "--gpu-share", type=_share, default=1.0, metavar="F", help="fraction of a GPU for each run on Ray (default: 1)"
    )


def changed_options(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, besides: Container[str]
) -> list[str]:
    """Name the options that are given with another value than their default, but for those in `besides`."""
    names = [
        name for name, value in vars(arguments).items() if name not in besides and value != parser.get_default(name)
    ]
    return ["--set" if name == "overrides" else f"--{name.replace('_', '-')}" for name in names]


MAX_SECONDS = 1e9  # 32 years
EXIT_STATUS = "exit status: 0 success, 1 some runs failed, 2 invalid arguments, 130 interrupted"


def epilog(*examples: str) -> str:
    """Format examples and exit statuses for the end of a command's help."""
    return "\n".join(["examples:", *(f"  {example}" for example in examples), "", EXIT_STATUS])


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """Collect the values of the options of `add_engine_options`."""
    return EngineOptions(
        engine=arguments.engine,
        address=arguments.address or "",
        workers=arguments.workers or 0,
        gpu_share=arguments.gpu_share,
        threads=arguments.threads,
        device=arguments.device,
        time_limit=arguments.time_limit,
    )


def list_studies() -> None:
    """Print every study with its question: a line each, which a terminal breaks between words."""
    found = study_names()
    indent = max(map(len, found)) + 2
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for name in found:
        line = f"{name:{indent}}{load_study(name).question}"
        if width:
            line = textwrap.fill(line, max(width, 2 * indent), subsequent_indent=" " * indent, break_on_hyphens=False)
        print(line)


def names(text: str | None, kind: str) -> list[str] | None:
    """["a", "b"] from "a,b"; None stays None. Raises ValueError if no name of that kind ("variant", "study") is left."""
    if text is None:
        return None
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ValueError(f"{text!r} names no {kind}")
    return found


def lengths(text: str | None) -> list[int] | None:
    """[40000, 160000] from "40k,160k"; None stays None. Raises ValueError for what is no length."""
    found = names(text, "length")
    return None if found is None else [parse_length(length) for length in found]


def seconds(text: str) -> float:
    """600.0 from "10m": a number and s, m or h; infinity from more than MAX_SECONDS, which the system's timers cannot take."""
    number, unit = text[:-1], text[-1:]
    try:
        value = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a time such as 90s, 10m or 2h")
    return value if value < MAX_SECONDS else math.inf


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0 and at most 1")
    return value
