"""The options that the command lines share: which runs of a study are meant, and where they are kept."""

import argparse
import math
from pathlib import Path

from ablations.execution.launch import EngineOptions
from ablations.runs import parse_length
from nin.cli import positive
from nin.spec import DEVICES


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """STUDY, --protocol, --seeds, --variants, --set and --results: which runs are meant, and where they are kept."""
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study's name (--list shows them) or file")
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="load a module that adds poolings, trunks, heads, activations or data sets",
    )
    parser.add_argument("--protocol", default="quick", help="budget: smoke, quick (default), full, d2l or paper")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per variant (default: the protocol's own number)")
    parser.add_argument(
        "--variants", metavar="A,B", help="only these, or those of a role (confirmatory, control), and the baseline"
    )
    parser.add_argument(
        "--lengths", metavar="A,B", help="only these of the protocol's training lengths, in images, such as 40k,160k"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change every run, such as train.lr=0.05",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--engine, --workers, --device and what else says where runs are executed, and how many at a time."""
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="where runs are executed")
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="the Ray cluster (default: RAY_ADDRESS, else one is started here)"
    )
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="runs at a time (default: one per core, or 1 on a GPU; on Ray as many as there is room for)",
    )
    parser.add_argument(
        "--gpu-share", type=_share, default=1.0, metavar="F", help="of a GPU, that a run is given on Ray (default: 1)"
    )
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="CPU threads of each worker (default: 1)"
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: an accelerator that torch sees, else the CPU"
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        default=math.inf,
        metavar="TIME",
        help="a run that takes longer, such as 10m, fails (default: none)",
    )


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """The values of the options of `add_engine_options`."""
    return EngineOptions(
        engine=arguments.engine,
        address=arguments.address or "",
        workers=arguments.workers or 0,
        gpu_share=arguments.gpu_share,
        threads=arguments.threads,
        device=arguments.device,
        time_limit=arguments.time_limit,
    )


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
    """600.0 from "10m": a number and s, m or h."""
    number, unit = text[:-1], text[-1:]
    try:
        value = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a time such as 90s, 10m or 2h")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0 and at most 1")
    return value
