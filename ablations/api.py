"""The interface for notebooks and scripts: run a study, read its results. Exported by `ablations`.

Both do what the commands `ablations.run` and `ablations.report` do. What a caller gets wrong is a ValueError with the line that the
command would print.
"""

import base64
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from ablations.catalog import load_study, require_name
from ablations.execution.launch import EngineOptions, require_guard
from ablations.plugins import load_plugins
from ablations.records import Store, curves_frame, runs_frame
from ablations.reporting.axes import Tables
from ablations.reporting.figures import figures_of
from ablations.reporting.files import Report, figure_tables, read_report
from ablations.reporting.formatting import unmarked
from ablations.reporting.terminal import summary_rows
from ablations.runs import with_data_name
from ablations.session import Request, run_studies
from ablations.study import Study
from nin.cli import output_console
from nin.spec import choose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREST_PLOT = "differences"


@dataclass(frozen=True, repr=False)
class Results:
    """Results of a study, read from its records. A notebook shows the answer, the table and the forest plot.

    folder  `<results>/<study>/<protocol>`, with the report that a run has written
    report  the parts that the properties below are made from
    """

    study: Study
    protocol: str
    folder: Path
    report: Report

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: variant, seed, status, accuracies, parameters, times, ... as in `runs.csv`."""
        return runs_frame(self.report.records, self.study.target(self.protocol))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per evaluation of each run, as in `curves.csv`."""
        return curves_frame(record for record in self.report.records if record.is_result)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per variant: means, intervals, differences to the baseline, p-values, verdicts, as in `summary.csv`."""
        return self.report.summary.variants

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        return unmarked(self.report.answer)

    @property
    def grounds(self) -> str:
        """Numbers and certainty of the answer, in a paragraph."""
        return unmarked(self.report.grounds)

    @property
    def caveats(self) -> list[str]:
        """Conditions that could still change the answer, and why."""
        return [unmarked(str(each)) for each in self.report.caveats]

    @property
    def figures(self) -> list[str]:
        """The names of all figures."""
        return list(figures_of(self._tables)) if len(self.curves) else []

    def figure(self, name: str = FOREST_PLOT) -> "Figure":
        """Draw the figure of that name. Raises ValueError, naming the nearest, if there is none."""
        if not self.figures:
            raise ValueError(f"study {self.study.name!r} has no figures yet: none of its runs has a result")
        choose(dict.fromkeys(self.figures), name, "figure")
        return figures_of(self._tables)[name](self._tables)

    @cached_property
    def _tables(self) -> Tables:
        return figure_tables(self.study, self.protocol, self.report)

    def __repr__(self) -> str:
        return f"Results({self.study.name} under {self.protocol}, {len(self.report.records)} runs: {self.answer})"

    def _repr_html_(self) -> str:
        header, rows = summary_rows(self.report)
        table = pd.DataFrame(rows, columns=header).to_html(index=False, border=0)
        parts = [f"<p>{escape(self.answer)} {escape(self.grounds)}</p>", table]
        if FOREST_PLOT in self.figures:
            image = BytesIO()
            self.figure(FOREST_PLOT).savefig(image, format="png", dpi=100, bbox_inches="tight")
            parts.append(f'<img src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">')
        return "\n".join(parts)


def run_study(
    study: str | Path | Study,
    *,
    protocol: str = "quick",
    seeds: int | None = None,
    variants: Sequence[str] | None = None,
    set: Mapping[str, object] | None = None,  # noqa: A002 - as --set is called
    results: str | Path = "results",
    engine: str | EngineOptions = "local",
    workers: int = 0,
    device: str = "auto",
    keep_weights: bool = False,
    budget: float = math.inf,
    retries: int = 0,
    progress: bool = True,
) -> Results:
    """Train the missing runs of a study, keep their records and write the report, as `python -m ablations.run` does.

    study         a name, a file ("./my_study.py") or a Study with a name of its own
    protocol      "smoke", "quick", "standard", ...: the data, network, training and number of seeds
    seeds         runs per variant; None: the protocol's own number
    variants      only these, and the baseline
    set           changes to every run, such as {"train.lr": 0.05}
    results       the folder that records are kept in; re-running skips finished runs
    engine        "local" (processes on this machine), "ray", or `EngineOptions` with all options of the engine, workers and device too
    workers       runs at a time; 0: one per core, or 1 on a GPU
    keep_weights  keep each run's trained network, for `nin.load_trained`
    budget        seconds of training, after which it stops; call again to continue
    retries       of a run that failed
    progress      print a line when a run starts or ends, and the table at the end

    Workers are processes that import the script this is called from: call it under `if __name__ == "__main__":`. Poolings and the
    like that the script or a module adds are known to them; those of a notebook's cells are not.

    Raises ValueError, in one line and before anything is written, for what cannot be run; RuntimeError if all variants fail alike.
    Runs that fail alone are a warning, and tried again by the next call.
    """
    require_guard()
    load_plugins()
    study = _named(study)
    if isinstance(variants, str) or not isinstance(variants, Sequence | None):
        raise ValueError(f"variants={variants!r}: must be a list, such as [{str(variants)!r}]")
    if isinstance(engine, EngineOptions) and (workers, device) != (0, "auto"):
        raise ValueError("workers, device: give them in the EngineOptions")
    options = engine if isinstance(engine, EngineOptions) else EngineOptions(engine, workers=workers, device=device)
    request = Request(
        protocol=protocol,
        seeds=seeds,
        variants=variants,
        overrides=_overrides(set),
        results=_path("results", results),
        engine=options,
        budget=budget,
        retries=retries,
        keep_weights=keep_weights,
    )
    outcome = run_studies([study], request, _console(progress))
    report = outcome.reports.get(study.name)
    if outcome.stopped or report is None:
        raise RuntimeError(outcome.stopped or f"{study.name}: no run has ended; call again to continue")
    for record in outcome.failed:
        lost = record.error or "its weights are missing"
        warnings.warn(f"{record.run.label} failed: {lost}; call again to retry", stacklevel=2)
    return Results(study, protocol, report.folder, report)


def load_results(
    path: str | Path,
    study: str | Path | Study,
    protocol: str = "quick",
    *,
    set: Mapping[str, object] | None = None,  # noqa: A002 - as --set is called
) -> Results:
    """Read the results of a study from a results folder; writes nothing.

    set  changes that its runs were made with, such as {"train.lr": 0.05}

    Raises ValueError for a study or protocol that does not exist, or without any record.
    """
    load_plugins()
    study = _named(study)
    study.expand(protocol, 1, [study.baseline], _overrides(set))  # what is wrong is said before anything is read
    report = read_report(study, protocol, Store(_path("path", path), study.name, protocol), _overrides(set))
    return Results(study, protocol, report.folder, report)


def _console(progress: bool) -> Console:
    """Standard output, never as a terminal in notebooks, where live bars would be printed again and again."""
    is_notebook = Console().is_jupyter
    options: dict[str, Any] = {"force_jupyter": False, "force_terminal": False} if is_notebook else {}
    return output_console(quiet=not progress, **options)


def _named(study: str | Path | Study) -> Study:
    if not isinstance(study, Study):
        if not isinstance(study, str | Path):
            raise ValueError(f"study={study!r}: must be a name, a file or a Study")
        return load_study(study)
    if not study.file:
        require_name(study)
    return study if study.question else replace(study, question=study.name)


def _path(argument: str, value: str | Path) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(f"{argument}={value!r}: must be a string or a Path")
    return Path(value)


def _overrides(changes: Mapping[str, object] | None) -> list[str]:
    if not isinstance(changes, Mapping | None):
        raise ValueError(f"set={changes!r}: must be fields of a run and their values, such as {{'train.lr': 0.05}}")
    return [with_data_name(f"{key}={value}") for key, value in (changes or {}).items()]
