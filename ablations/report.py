"""Write a study's report again from its records, or compare two results folders run by run.

Without a study, write index.html: the question, answer and figure of every report in the folder of results.
"""

from collections.abc import Sequence
from pathlib import Path

from ablations.catalog import load_study
from ablations.cli import add_study_options, changed_options, epilog
from ablations.plugins import load_plugins
from ablations.records import Store
from ablations.tuning.winners import load_tuned
from nin.cli import SUCCESS, OneLineParser, exit_with, output_console


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    parser = OneLineParser(
        prog="python -m ablations.report",
        description=__doc__,
        epilog=epilog(
            "python -m ablations.report num_1x1",
            "python -m ablations.report num_1x1 --protocol d2l --results results/reference",
            "python -m ablations.report num_1x1 --against results/reference",
        ),
    )
    add_study_options(parser)
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another results folder, run by run")
    parser.add_argument("--tuned", action="store_true", help="report on default and tuned settings side by side")
    parser.add_argument("--sync", action="store_true", help="log to MLflow the records that it lacks")
    arguments = parser.parse_args(argv)
    if arguments.study is None:
        if given := changed_options(parser, arguments, besides=("study", "results", "imports")):
            raise ValueError(f"{', '.join(given)}: needs a STUDY")
        from ablations.reporting.html import write_index

        print(f"index:   {write_index(arguments.results)}")
        return SUCCESS
    if arguments.against and arguments.sync:
        raise ValueError("--against compares two folders and writes nothing: leave out --sync")
    if arguments.against and arguments.overrides:
        raise ValueError("--against compares all runs of two folders: leave out --set")
    load_plugins(arguments.imports)
    study = load_study(arguments.study)
    if arguments.tuned:
        study = load_tuned(study, arguments.protocol, arguments.results, arguments.overrides)
    study.expand(arguments.protocol, 1, [study.baseline], arguments.overrides)  # invalid arguments fail before any work
    store = Store(arguments.results, study.name, arguments.protocol)

    from ablations.execution.progress import warn
    from ablations.reporting.files import write_report
    from ablations.reporting.terminal import print_comparison, print_summary

    console = output_console()
    if arguments.against:
        print_comparison(store, Store(arguments.against, study.name, arguments.protocol), console)
        return SUCCESS
    report = write_report(study, arguments.protocol, store, arguments.overrides)
    for line in report.damaged:
        warn(line)
    print_summary(report, console)
    print(f"report:  {store.folder / 'report.md'}")
    print(f"page:    {store.folder / 'report.html'}")
    if arguments.sync:
        from ablations.tracking.mlflow_tree import open_tracker
        from ablations.tracking.tracker import finish

        tracker = open_tracker(arguments.results, study, arguments.protocol, warn, arguments.overrides)
        finish(tracker, report.records, store.folder, print)
    return SUCCESS


if __name__ == "__main__":
    exit_with(main)
