"""`python -m ablations.tune STUDY`: every variant at its best, by equal means (`ablations.tuning.halving`).

What is maximised is validation accuracy; the test set is never read. `python -m ablations.tune best` searches a whole network.
"""

import shlex
import sys
from collections.abc import Sequence

from ablations.cli import add_engine_options, add_study_options, engine_options, names
from ablations.plugins import load_plugins
from ablations.study import load_study
from ablations.tuning.task import FEW, OBJECTIVES
from nin.cli import SOME_RUN_FAILED, SUCCESS, OneLineParser, exit_with, positive, redacted


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; raises ValueError, in one line, for what a user got wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.study is None:
        raise ValueError("name a study to tune; python -m ablations.run --list shows them")
    if arguments.seeds is not None:
        raise ValueError("--seeds is for final runs: a trial has --seeds-per-trial of its own, which never meet those")
    load_plugins(arguments.imports)
    study = load_study(arguments.study)
    variants = names(arguments.variants, "variant")

    from ablations.execution.driver import CommonFailureError
    from ablations.execution.progress import console_for_output
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
    )
    command = "python -m ablations.tune " + redacted(shlex.join(sys.argv[1:] if argv is None else argv))
    try:
        without = tune_study(study, request, command, console_for_output(), ends_with_signals=True)
    except CommonFailureError as reason:
        print(f"stopped early: {reason}; the same command tries again", file=sys.stderr)
        return SOME_RUN_FAILED
    if without and arguments.objective == "accuracy":
        print(
            f"no trial of {', '.join(without)} was complete, finite and small enough: see the report", file=sys.stderr
        )
        return SOME_RUN_FAILED
    return SUCCESS


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m ablations.tune", description=__doc__.split("\n\n")[0])
    add_study_options(parser)
    parser.add_argument("--trials", type=positive, default=20, metavar="N", help="for each variant (default: 20)")
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default=OBJECTIVES[0], help="with a size, widths and depths are searched too"
    )
    parser.add_argument(
        "--seeds-per-trial",
        type=positive,
        default=1,
        metavar="N",
        help=f"whose mean counts; with more than {FEW} trials are pruned seed by seed, not halved (default: 1)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="of the trials: a database, journal:FILE or grpc://HOST:PORT (default: RESULTS/optuna.db)",
    )
    add_engine_options(parser)
    return parser


if __name__ == "__main__":
    exit_with(main)
