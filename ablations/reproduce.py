"""Shell commands that make a study's runs again, for reports, provenance and messages."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from ablations.catalog import study_names
from ablations.plugins import imports
from ablations.protocols import PROTOCOLS
from ablations.runs import Run, length_name, parse_overrides
from ablations.study import Study


def reproduce_command(
    study: Study, runs: Sequence[Run], overrides: Sequence[str] = (), looks: Sequence[int] = ()
) -> str:
    """The command that makes these runs of a study again: "python -m ablations.run heads --protocol quick --seeds 3".

    looks  numbers of seeds at which comparisons were decided; empty where all runs were asked for at once
    """
    protocol, there = runs[0].protocol, {run.variant for run in runs}
    options = []
    named = list(study.pairs or study.variants)
    if {run.variant for run in study.expand(protocol, 1, overrides=overrides)} - there:
        options += ["--variants", ",".join(name for name in named if name in there)]
    lengths = sorted({run.length for run in runs})
    is_chosen = "train.examples" in parse_overrides(overrides)  # which leaves one length, none of the protocol's
    if not is_chosen and not set(PROTOCOLS[protocol].lengths) <= set(lengths):
        options += ["--lengths", ",".join(map(length_name, lengths))]
    if looks:
        options += ["--until-decided", "--seeds", str(looks[0]), "--max-seeds", str(looks[-1])]
    else:
        options += ["--seeds", str(1 + max(run.seed for run in runs))]
    return command(study, protocol, overrides, options)


def command(study: Study, protocol: str, overrides: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """The command that runs the study or, where it was made by hand, the function."""
    words = cli_arguments(study, protocol, overrides, options)
    if not study.file and study.cli_name not in study_names():
        return (
            f"ablations.run_study(study, ...), with the arguments that stand for {shlex.join(shlex.split(words)[1:])}"
        )
    return f"python -m ablations.run {words}"


def results_option(results: Path) -> list[str]:
    """The option that names a folder of results: none for the default."""
    return [] if results == Path("results") else ["--results", str(results)]


def cli_arguments(study: Study, protocol: str, overrides: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """The CLI arguments that name a study: "heads --protocol quick"; for a tuned study the name of the original."""
    tuned = ["--tuned"] if study.pairs else []
    changes = [word for override in overrides for word in ("--set", override)]
    modules = [word for name in imports() for word in ("--import", name)]
    return shlex.join([study.cli_name, "--protocol", protocol, *tuned, *options, *changes, *modules])
