"""Find and load studies: those of `ablations.studies` by name, others by file. Imports no torch."""

import csv
import importlib
import os
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import ablations.studies
from ablations.plugins import load_file
from ablations.study import Study
from nin.spec import choose, hint

# Not "..", which would be a folder above, and none of tuning's
FOLDER_NAME = re.compile(r"\w[\w.-]*(?<!-tuned)(?<!-tuning)")
PUBLISHED_COLUMNS = ("network", "train_loss", "test_accuracy")


def study_names() -> list[str]:
    """Every study there is: one module of `ablations.studies` each."""
    return sorted(module.name for module in pkgutil.iter_modules(ablations.studies.__path__))


def load_study(name: str | Path) -> Study:
    """The study of that name in `ablations/studies`, or in that file: "./my_study.py".

    Raises ValueError, in one line, if there is none (naming the nearest), or the file cannot be executed or sets no STUDY.
    """
    if isinstance(name, Path) or name.endswith(".py") or os.sep in name:
        return _load_file(Path(name))
    there = study_names()
    if name not in there:
        original = name.removesuffix("-tuned")
        if Path(f"{name}.py").is_file():
            raise ValueError(f"unknown study {name!r}: for the file here write ./{name}.py")
        if "," in name:
            raise ValueError(f"unknown study {name!r}: this takes a single one")
        if original in there:
            raise ValueError(f"unknown study {name!r}: it is {original} with the option --tuned")
        raise ValueError(f"unknown study {name!r}: {hint(name, there)}")
    return _described(importlib.import_module(f"ablations.studies.{name}"), name)


def _load_file(path: Path) -> Study:
    name = path.stem
    if path.resolve().parent == Path(ablations.studies.__path__[0]).resolve() and name in study_names():
        return load_study(name)
    _require_free(name, f"{path}: {{}}; rename the file")
    module = load_file(path)
    if not isinstance(getattr(module, "STUDY", None), Study):
        raise ValueError(f"{path} sets no STUDY: a study's file ends in STUDY = Study(baseline=..., variants=...)")
    study = replace(_described(module, name), file=str(path))
    if study.published is None:
        return study
    published = path.parent / study.published.file
    if not published.is_file():
        raise ValueError(f"{path}: the file of published runs {published} does not exist")
    for name in study.published.networks:
        choose(study.variants, name, "variant with published runs")
    with published.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        if missing := [column for column in PUBLISHED_COLUMNS if column not in (rows.fieldnames or ())]:
            raise ValueError(f"{published}: has no column {missing[0]!r}; it needs {', '.join(PUBLISHED_COLUMNS)}")
        for row in rows:
            _require_numbers(row, published)
    return replace(study, published=replace(study.published, file=str(published.resolve())))


def _require_numbers(row: Mapping[str, str | None], file: Path) -> None:
    """Raise ValueError unless a published run has an accuracy between 0 and 1 and, if known, a loss."""
    try:
        is_sound = 0 <= float(row["test_accuracy"] or "") <= 1
        float(row["train_loss"] or "nan")
    except ValueError:
        is_sound = False
    if not is_sound:
        raise ValueError(
            f"{file}: the run {row} needs a test_accuracy between 0 and 1, and a number as train_loss or none"
        )


def require_name(study: Study) -> None:
    """Raise ValueError unless a study made by hand has a name that no other study has."""
    if study.name not in study_names() or study != load_study(study.name):
        _require_free(study.name, "{}; give it another: Study(..., name='my_study', question='...')")


def _require_free(name: str, message: str) -> None:
    if name in study_names():
        raise ValueError(message.format(f"{name!r} is the name of another study"))
    if not FOLDER_NAME.fullmatch(name):
        raise ValueError(message.format(f"{name!r} cannot be the name of a results folder"))


def _described(module: ModuleType, name: str) -> Study:
    study: Study = module.STUDY
    question = (module.__doc__ or name).split("\n\n")[0]
    return replace(study, name=name, question=" ".join(question.split()))
