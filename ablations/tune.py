"""Tune every variant of a study with the same trials, search space and number of training images.

The search maximises validation accuracy and never reads the test set. `ablations.run STUDY --tuned`
trains the winners. `python -m ablations.tune best` searches for a whole network.
"""

import math
import shlex
import sys
from collections.abc import Sequence

from ablations.catalog import load_study
from ablations.cli import add_engine_options, add_study_options, engine_options, epilog, list_studies, names, seconds
from ablations.plugins import load_plugins
from ablations.tuning.task import MAX_HALVED_SEEDS, OBJECTIVES
from nin.cli import SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with, output_console, positive
from nin.text import redacted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        list_studies()
        return SUCCESS
    if arguments.study is None:
        raise ValueError("name a study to tune; --list shows them")
    load_plugins(arguments.imports)
    study = load_study(arguments.study)
    variants = names(arguments.variants, "variant")

    from ablations.execution.driver import CommonFailureError
    from ablations.tuning.session import TuningRequest, tune_study

    request = TuningRequest(
        protocol=arguments.protocol,
        variants=variants,
        overrides=arguments.overrides,
        results=arguments.results,
        engine=engine_options(arguments),
        trials=arguments.trials,
        objective=arguments.objective,
        seeds_per_trial=arguments.seeds_per_trial,
        storage=arguments.storage or "",
        budget=arguments.budget,
    )
    if arguments.dry_run:
        from ablations.plan import plan_tuning

        plan_tuning(study, request, output_console())
        return SUCCESS
    command = "python -m ablations.tune " + redacted(shlex.join(sys.argv[1:] if argv is None else argv))
    try:
        without = tune_study(study, request, command, output_console(), ends_with_signals=True)
    except CommonFailureError as reason:
        print(f"stopped early: {reason}; re-run to try again", file=sys.stderr)
        return SOME_RUN_FAILED
    if without and arguments.objective == "accuracy":
        print(
            f"no trial of {', '.join(without)} was complete, finite and within the size limit: see the report",
            file=sys.stderr,
        )
        return SOME_RUN_FAILED
    return SUCCESS


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m ablations.tune",
        description=__doc__,
        epilog=epilog(
            "python -m ablations.tune num_1x1 --trials 20",
            "python -m ablations.tune num_1x1 --objective accuracy,params",
            "python -m ablations.tune best --trials 40 --set data.val_examples=5000",
        ),
    )
    add_study_options(parser, selects=["variants"], default_variants="the confirmatory ones")
    group = parser.add_argument_group("how variants are tuned")
    group.add_argument("--trials", type=positive, default=20, metavar="N", help="trials per variant (default: 20)")
    group.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default=OBJECTIVES[0],
        metavar="A[,B]",
        help=f"{'; '.join(OBJECTIVES)}: with a second objective, widths are searched too, and depths unless the study compares "
        f"them (default: {OBJECTIVES[0]})",
    )
    group.add_argument(
        "--seeds-per-trial",
        type=positive,
        default=1,
        metavar="N",
        help=f"seeds whose mean scores a trial; more than {MAX_HALVED_SEEDS} replace successive halving by pruning seed by seed "
        "(default: 1)",
    )
    group.add_argument(
        "--storage",
        metavar="URL",
        help="storage of trials: a database URL, journal:FILE or grpc://HOST:PORT (default: optuna.db in the results folder)",
    )
    group.add_argument(
        "--budget",
        type=seconds,
        default=math.inf,
        metavar="TIME",
        help="stop at the first evaluation after this time, such as 25m, without a report; re-run to continue (default: no limit)",
    )
    group.add_argument("--dry-run", action="store_true", help="show the trials and an estimate of the time, then exit")
    group.add_argument("--list", action="store_true", help="list the studies with their questions, then exit")
    add_engine_options(parser)
    return parser


if __name__ == "__main__":
    exit_with(main)
