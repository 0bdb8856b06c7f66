"""Train the runs of a study that are still missing, and write its report.

Re-running skips finished runs and resumes interrupted ones. Commands that run at the same time, here
or on machines that share the results folder, share the runs. Of several studies, all first seeds come
before any second seed.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablations.catalog import load_study, study_names
from ablations.cli import (
    add_engine_options,
    add_study_options,
    engine_options,
    epilog,
    lengths,
    list_studies,
    names,
    seconds,
)
from ablations.plugins import load_plugins
from ablations.protocols import PROTOCOLS
from ablations.study import ROLES, Study
from nin.cli import SOME_RUN_FAILED, SUCCESS, OneLineParser, count, exit_with, output_console, positive
from nin.spec import choose

if TYPE_CHECKING:
    from ablations.session import Outcome

DEFAULT_MAX_SEEDS = 12  # the default last look of --until-decided


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_intermixed_args(argv)
    if arguments.list:
        list_studies()
        return SUCCESS
    load_plugins(arguments.imports)
    variants = names(arguments.variants, "variant")
    studies = _studies(arguments, variants)
    max_seeds = _max_seeds(arguments, studies)

    # From here on something is executed, and what that needs is worth the time it takes to load.
    from ablations.session import Request, run_studies
    from ablations.until_decided import run_until_decided

    request = Request(
        protocol=arguments.protocol,
        seeds=arguments.seeds,
        variants=variants,
        lengths=lengths(arguments.lengths),
        overrides=arguments.overrides,
        results=arguments.results,
        engine=engine_options(arguments),
        max_seeds=max_seeds,
        budget=arguments.budget,
        retries=arguments.retries,
        keep_weights=arguments.keep_weights,
        tuned=arguments.tuned,
    )
    if arguments.dry_run:
        from ablations.plan import plan_studies

        plan_studies(studies, request, output_console())
        return SUCCESS
    if max_seeds:
        return _exit_status(run_until_decided(studies[0], request, output_console(), ends_with_signals=True))
    return _exit_status(run_studies(studies, request, output_console(), ends_with_signals=True))


def _studies(arguments: argparse.Namespace, variants: Sequence[str] | None) -> list[Study]:
    """Load the requested studies, of several those that have a variant of the requested roles."""
    if arguments.all == bool(arguments.study):
        wanted = "name studies or give --all, not both" if arguments.all else "name a study, or give --all"
        raise ValueError(f"{wanted}: {', '.join(study_names())}")
    choose(PROTOCOLS, arguments.protocol, "protocol")
    requested = names(",".join(arguments.study), "study") if arguments.study else None
    chosen = list(dict.fromkeys(requested or study_names()))
    if len(chosen) > 1 and not set(variants or ()) <= set(ROLES):
        raise ValueError(f"--variants of several studies takes roles alone: {', '.join(ROLES)}")
    studies = [load_study(name) for name in chosen]
    for name, num in Counter(study.name for study in studies).items():
        if num > 1:
            raise ValueError(f"{num} of these studies are called {name!r}, and would share a folder: rename a file")
    if arguments.all:
        studies = [
            study
            for study in studies
            if arguments.protocol in study.protocols and (study.answers == "accuracy" or not arguments.tuned)
        ]
    with_variants = [study for study in studies if variants is None or study.named(variants, arguments.protocol)]
    if not with_variants:
        raise ValueError(
            f"--variants {arguments.variants}: no such variant in {', '.join(study.name for study in studies)}"
        )
    return with_variants


def _max_seeds(arguments: argparse.Namespace, studies: Sequence[Study]) -> int:
    """The last look of `--until-decided`, in seeds; 0 without that option."""
    if not arguments.until_decided:
        if arguments.max_seeds is not None:
            raise ValueError("--max-seeds needs --until-decided")
        return 0
    if len(studies) != 1 or arguments.tuned:
        raise ValueError("--until-decided needs a single study, and excludes --tuned")
    return DEFAULT_MAX_SEEDS if arguments.max_seeds is None else int(arguments.max_seeds)


def _exit_status(outcome: "Outcome") -> int:
    """Report failed and remaining runs; return the exit status."""
    if outcome.remaining:
        print(f"time budget used up, {outcome.remaining} of {outcome.num_runs} runs remaining; re-run to continue")
    if outcome.stopped:
        print(outcome.stopped, file=sys.stderr)
        return SOME_RUN_FAILED
    if outcome.failed:
        failed = f"{len(outcome.failed)} of {outcome.num_runs} runs failed"
        print(f"{failed}; re-run to try them again:", file=sys.stderr)
        for record in outcome.failed:
            print(f"  {record.run.label}: {record.error or 'its weights are missing'}", file=sys.stderr)
    return SOME_RUN_FAILED if outcome.failed else SUCCESS


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m ablations.run",
        description=__doc__,
        epilog=epilog(
            "python -m ablations.run --list",
            "python -m ablations.run num_1x1 --dry-run",
            "python -m ablations.run heads --seeds 10 --set train.lr=0.05 --budget 25m",
        ),
    )
    add_study_options(parser, selects=["seeds", "variants", "lengths"], several=True)
    parser.add_argument("--list", action="store_true", help="list every study with its question, and exit")
    parser.add_argument("--dry-run", action="store_true", help="show the runs, their sizes and an estimate of the time")
    parser.add_argument("--all", action="store_true", help="run every study that supports the protocol")
    add_engine_options(parser)
    group = parser.add_argument_group("how runs are trained")
    group.add_argument(
        "--budget",
        type=seconds,
        default=math.inf,
        metavar="TIME",
        help="stop training after this time, such as 25m; re-run to continue (default: no limit)",
    )
    group.add_argument("--retries", type=count, default=0, metavar="N", help="retries of a failed run (default: 0)")
    group.add_argument(
        "--keep-weights",
        action="store_true",
        help="keep each trained network for nin.export, nin.predict and nin.cam; finished runs without weights train again",
    )
    group.add_argument(
        "--tuned",
        action="store_true",
        help="train each tuned variant with its default and its tuned settings (after ablations.tune)",
    )
    group.add_argument(
        "--until-decided",
        action="store_true",
        help="add seeds to undecided comparisons, testing only at numbers of seeds fixed before the first run",
    )
    group.add_argument(
        "--max-seeds",
        type=positive,
        metavar="N",
        help=f"largest number of seeds a variant (default: {DEFAULT_MAX_SEEDS})",
    )
    return parser


if __name__ == "__main__":
    exit_with(main)
