"""Publish a study's results, and generate the answers in README.md from all published results.

    python -m ablations.publish STUDY       copy its records, tables, report and figures, and write where they come from
    python -m ablations.publish --answers   write the README's table and the answers beside the published results again

Records are copied without the environment's host; a tuned study brings what tuning found. Nothing is ever trained into a published
folder.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ablations.catalog import load_study
from ablations.cli import add_study_options, changed_options, epilog
from ablations.looks import Looks
from ablations.plugins import load_plugins
from ablations.records import OVERRIDES, PROVENANCE, RunRecord, Store
from ablations.reporting.files import load_covered_records, write_report
from ablations.reporting.html import write_index
from ablations.reproduce import cli_arguments, reproduce_command
from ablations.study import Study
from ablations.tuning.winners import load_tuned, tuned_path
from nin.cli import SUCCESS, OneLineParser, exit_with
from nin.files import write_atomically
from nin.text import counted

README = Path("README.md")
SCRATCH = ("report.html", ".inputs", ".*.lock", "figures/*.svg")  # made again from the rest, and large


def publish(study: Study, protocol: str, results: Path, published: Path, overrides: Sequence[str] = ()) -> Store:
    """Copy all finished runs of a study under a protocol into `published`, in the place of what was there.

    Raises ValueError if there are none, or if one is damaged or failed: what is published is whole.
    """
    source = Store(results, study.name, protocol)
    records, damaged, *_ = load_covered_records(study, protocol, source, overrides)
    unfit = damaged + [f"{record.run.label} failed: {record.error}" for record in records if not record.is_result]
    if unfit or not records:
        raise ValueError(
            f"{source.folder} cannot be published: {'; '.join(unfit) or 'there are no runs of this study'}"
        )
    target = Store(published, study.name, protocol)
    looks = Looks(source.folder, study, overrides).declaration()
    if target.folder.resolve() == source.folder.resolve():
        raise ValueError(f"--results {results}: is where results are published; name the folder that they come from")
    with _replacing(target.folder, published) as beside:
        store = Store(beside, study.name, protocol)
        for record in records:
            environment = {key: value for key, value in record.environment.items() if key != "host"}
            store.write(replace(record, environment=environment))
        if looks.seeds:
            Looks(store.folder, study, overrides).declare(looks)
        if overrides:
            write_atomically(store.folder / OVERRIDES, json.dumps(list(overrides)))
        write_report(study, protocol, store, overrides)
        for pattern in SCRATCH:
            for path in store.folder.glob(pattern):
                path.unlink()
        write_atomically(
            store.folder / PROVENANCE, _provenance(study, protocol, records, published, overrides, looks.seeds)
        )
    write_index(published)  # whose links lead to what is left
    return target


def publish_tuning(study: str, protocol: str, results: Path, published: Path) -> None:
    """Copy the winners, the report and the figures of a study's tuning."""
    source, target = (tuned_path(place, study, protocol).parent for place in (results, published))
    with _replacing(target, published) as beside:
        new = tuned_path(beside, study, protocol).parent
        for pattern in ("tuned.json", "report*.md", "figures/*.png"):
            for path in source.glob(pattern):
                place = new / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)


@contextmanager
def _replacing(folder: Path, published: Path) -> Iterator[Path]:
    """Context with a root in which the body writes a new version of a folder of published results, under the same relative path.

    At its end the new version takes the place of the old one, which stays if anything fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=published, prefix=".new-") as beside:
        yield Path(beside)
        old = Path(beside) / "replaced"
        try:
            if folder.exists():
                folder.rename(old)
            (Path(beside) / folder.relative_to(published)).rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise


def _provenance(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    published: Path,
    overrides: Sequence[str],
    looks: Sequence[int],
) -> str:
    num_seeds = 1 + max(record.run.seed for record in records)
    dates = sorted(record.started_at[:10] for record in records if record.started_at)
    minutes = sum(record.wall_seconds for record in records) / 60

    def listed(key: str) -> str:
        return "; ".join(sorted({record.environment.get(key, "") for record in records} - {""})) or "unknown"

    facts = {
        "Command": f"`{reproduce_command(study, [record.run for record in records], overrides, looks)}`",
        "Report": f"`python -m ablations.report {cli_arguments(study, protocol, overrides, ['--results', str(published)])}`",
        "Runs": f"{len(records)}: {counted(len({record.run.variant for record in records}), 'variant')}, "
        f"{counted(num_seeds, 'seed')} or fewer",
        "Dates": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "unknown",
        "Device": listed("device"),
        "Threads per run": listed("threads"),
        "Versions": f"Python {listed('python')}, torch {listed('torch')}",
        "Commit": listed("commit"),
        "Wall time": f"{minutes:.1f} minutes, summed over runs",
    }
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join([f"# Where {study.name} under {protocol} comes from", "", *lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    parser = OneLineParser(
        prog="python -m ablations.publish",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=epilog(
            "python -m ablations.publish num_1x1",
            "python -m ablations.publish num_1x1 --tuned",
            "python -m ablations.publish --answers",
        ),
    )
    add_study_options(parser)
    parser.add_argument(
        "--tuned", action="store_true", help="publish default and tuned settings side by side, and the tuning"
    )
    parser.add_argument(
        "--answers",
        action="store_true",
        help="write the answers in README.md from all published results; takes no STUDY",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("results/reference"),
        metavar="DIR",
        help="folder of published results (default: results/reference)",
    )
    arguments = parser.parse_args(argv)
    if arguments.answers == (arguments.study is not None):
        raise ValueError("either name a study to publish (python -m ablations.run --list shows them) or say --answers")
    load_plugins(arguments.imports)
    if arguments.answers:
        from ablations.answers import update_pages

        if given := changed_options(parser, arguments, besides=("answers", "to", "imports")):
            raise ValueError(f"--answers reads all published results: leave out {', '.join(given)}")
        if not README.exists():
            raise ValueError(f"--answers writes into {README}, which is not here: run it in the root of the repository")

        for page in update_pages(README, arguments.to):
            print(f"answers: {page}")
        return SUCCESS
    study, protocol, overrides = load_study(arguments.study), arguments.protocol, arguments.overrides
    if arguments.tuned:
        tuned = load_tuned(study, protocol, arguments.results, overrides)
        store = publish(tuned, protocol, arguments.results, arguments.to, overrides)
        publish_tuning(study.name, protocol, arguments.results, arguments.to)
    else:
        store = publish(study, protocol, arguments.results, arguments.to, overrides)
    print(f"published: {store.folder}")
    return SUCCESS


if __name__ == "__main__":
    exit_with(main)
