"""`python -m ablations.run STUDY`: execute what a study still lacks, keep the records, say what came of it.

A second call trains nothing that is done; one at the same time, here or on another machine that shares the folder, takes its share
of the runs (`ablations.execution.driver`). Of several studies at once the first seeds of all variants come before any second.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablations.cli import add_engine_options, add_study_options, engine_options, lengths, names, seconds
from ablations.plugins import load_plugins
from ablations.protocols import PROTOCOLS
from ablations.study import Study, load_study, study_names
from nin.cli import SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with, positive
from nin.spec import choose

if TYPE_CHECKING:
    from ablations.session import Outcome

MOST_SEEDS = 12  # that --until-decided goes to unless told otherwise


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        return _list_studies()
    load_plugins(arguments.imports)
    studies = _studies(arguments)
    variants = names(arguments.variants, "variant")
    most_seeds = _most_seeds(arguments, studies)

    # From here on something is executed, and what that needs is worth the time it takes to load.
    from ablations.execution.progress import console_for_output
    from ablations.plan import plan_studies
    from ablations.session import Request, run_studies, run_until_decided

    request = Request(
        protocol=arguments.protocol,
        seeds=arguments.seeds,
        variants=variants,
        lengths=lengths(arguments.lengths),
        overrides=arguments.overrides,
        results=arguments.results,
        engine=engine_options(arguments),
        most_seeds=most_seeds,
        budget=arguments.budget,
        retries=arguments.retries,
        keep_weights=arguments.keep_weights,
        tuned=arguments.tuned,
    )
    if arguments.dry_run:
        plan_studies(studies, request, console_for_output())
        return SUCCESS
    if most_seeds:
        return _exit_status(run_until_decided(studies[0], request, console_for_output(), ends_with_signals=True))
    return _exit_status(run_studies(studies, request, console_for_output(), ends_with_signals=True))


def _studies(arguments: argparse.Namespace) -> list[Study]:
    """Those that are asked for."""
    if arguments.all == (arguments.study is not None):
        wanted = "either name studies or say --all, not both" if arguments.all else "name a study to run, or say --all"
        raise ValueError(f"{wanted}: {', '.join(study_names())}")
    choose(PROTOCOLS, arguments.protocol, "protocol")
    chosen = names(arguments.study, "study") or study_names()
    if len(chosen) > 1 and arguments.variants:
        raise ValueError("--variants: is for one study at a time")
    studies = [load_study(name) for name in chosen]
    return [study for study in studies if not arguments.all or arguments.protocol in study.protocols]


def _most_seeds(arguments: argparse.Namespace, studies: Sequence[Study]) -> int:
    """Seeds up to which `--until-decided` goes; 0 without it."""
    if not arguments.until_decided:
        if arguments.max_seeds is not None:
            raise ValueError("--max-seeds goes with --until-decided")
        return 0
    if len(studies) != 1 or arguments.tuned:
        raise ValueError("--until-decided is for one study at a time, and not for --tuned")
    return MOST_SEEDS if arguments.max_seeds is None else int(arguments.max_seeds)


def _exit_status(outcome: "Outcome") -> int:
    """Says what is not as it should be."""
    if outcome.remaining:
        print(f"the time is up: {outcome.remaining} of {outcome.num_runs} runs are left; the same command goes on")
    if outcome.stopped:
        print(outcome.stopped, file=sys.stderr)
        return SOME_RUN_FAILED
    if outcome.failed:
        failed = f"{len(outcome.failed)} of {outcome.num_runs} runs failed"
        print(f"{failed}; the same command tries them again:", file=sys.stderr)
        for record in outcome.failed:
            print(f"  {record.run.label}: {record.error or 'it still has no weights'}", file=sys.stderr)
    return SOME_RUN_FAILED if outcome.failed else SUCCESS


def _list_studies() -> int:
    for name in study_names():
        print(f"{name:16} {load_study(name).question}")
    return SUCCESS


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return value


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m ablations.run", description=__doc__)
    add_study_options(parser)
    parser.add_argument("--all", action="store_true", help="every study that there is under the protocol")
    parser.add_argument(
        "--budget",
        type=seconds,
        default=math.inf,
        metavar="TIME",
        help="stop training after so long, such as 25m; the next call goes on (default: none)",
    )
    add_engine_options(parser)
    parser.add_argument("--retries", type=_count, default=0, metavar="N", help="try a failed run again, up to N times")
    parser.add_argument(
        "--keep-weights",
        action="store_true",
        help="keep each run's trained network, for nin.export, nin.predict and nin.cam; trains those again that lack it",
    )
    parser.add_argument(
        "--tuned",
        action="store_true",
        help="train each variant that was tuned twice, as it is and as tuned, side by side",
    )
    parser.add_argument(
        "--until-decided",
        action="store_true",
        help="add seeds, in looks declared beforehand, to the comparisons that are not decided yet",
    )
    parser.add_argument(
        "--max-seeds", type=positive, metavar="N", help=f"of --until-decided: the last look (default: {MOST_SEEDS})"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the runs, their sizes and an estimate of the time")
    parser.add_argument("--list", action="store_true", help="show every study with its question")
    return parser


if __name__ == "__main__":
    exit_with(main)
