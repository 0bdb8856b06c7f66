"""Write down at how many seeds a study is looked at, before it is, so that verdicts can allow for the looks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ablations.runs import Run, length_name, parse_overrides
from ablations.study import Study
from nin.files import write_atomically
from nin.registry import digest
from nin.text import one_line


@dataclass(frozen=True)
class Declaration:
    """A declaration of looks at a study, made before the first of them.

    seeds     numbers of seeds at which it is looked at; empty where all runs are asked for at once
    variants  comparisons that are decided on
    length    training images after which they are; 0 where runs are of epochs
    at        when it was declared (ISO 8601, UTC)
    """

    seeds: tuple[int, ...] = ()
    variants: tuple[str, ...] = ()
    length: int = 0
    at: str = ""

    def __str__(self) -> str:
        after = f" after {length_name(self.length)} images" if self.length else ""
        return f"looks at {', '.join(map(str, self.seeds))} seeds of {', '.join(self.variants)}{after}"


NO_LOOKS = Declaration()


class Looks:
    """The declared looks at a study's runs, in the study's folder of results.

    study      whose runs they are; looks that were declared for other settings of its variants are refused
    overrides  changed settings of all runs ("train.lr=0.05"), which have looks of their own
    """

    def __init__(self, folder: Path, study: Study, overrides: Sequence[str] = ()) -> None:
        self.folder, self.study = folder, study
        own = f"-{_digest(parse_overrides(overrides))}" if overrides else ""  # the same however they are written
        self.path = folder / f"looks{own}.json"

    def declaration(self) -> Declaration:
        """Read the declaration; NO_LOOKS if there is none.

        Raises ValueError if its file is damaged, or is of another study of this name.
        """
        try:
            found = json.loads(self.path.read_text())
            seeds, variants = tuple(found["seeds"]), tuple(found["variants"])
            if not all(isinstance(num, int) for num in (*seeds, found["length"])):
                raise ValueError(f"{(*seeds, found['length'])!r} are no numbers of seeds and images")
            if not seeds or not all(isinstance(name, str) for name in variants):
                raise ValueError(f"{variants!r} at {seeds!r} seeds are no comparisons")
            declared = Declaration(seeds, variants, found["length"], datetime.fromisoformat(found["at"]).isoformat())
        except FileNotFoundError:
            return NO_LOOKS
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({one_line(error)}): restore it, or remove it") from error
        settings = self._settings(variants)
        if found.get("settings", settings) != settings:  # which older files do not have
            names = ", ".join((self.study.baseline, *variants))
            raise ValueError(
                f"{self.path} was declared for other settings of {names} than those of this study: choose another --results, or remove "
                "the file to declare anew"
            )
        return declared

    def require(self, wanted: Declaration) -> None:
        """Raise ValueError if other looks were declared."""
        declared = self.declaration()
        if declared.seeds and replace(declared, at=wanted.at) != wanted:
            raise ValueError(
                f"--until-decided: {declared} were declared for {self.folder}, not {wanted}; go on with --seeds "
                f"{declared.seeds[0]} --max-seeds {declared.seeds[-1]} and these variants, or choose another --results"
            )

    def require_no_more(self, runs: Iterable[Run]) -> None:
        """Raise ValueError if the runs would add to what the declared looks decide on, which would undo their verdicts."""
        declared = self.declaration()
        if not declared.seeds:
            return
        added = [
            run.name
            for run in runs
            if run.role == "confirmatory" and (run.variant not in declared.variants or run.length > declared.length)
        ]
        if added:
            raise ValueError(
                f"{self.folder} has declared {declared}: {', '.join(dict.fromkeys(added))} would come after them; choose another "
                "--results"
            )

    def declare(self, wanted: Declaration) -> None:
        """Write down the looks, as of now unless they say when; what was declared first stays.

        Raises ValueError if others were declared.
        """
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        # Of two drivers at once, the second sees what the first has declared.
        with FileLock(self.folder / ".looks.lock"):
            self.require(wanted)
            if not self.declaration().seeds:
                at = wanted.at or datetime.now(UTC).isoformat(timespec="seconds")
                settings = self._settings(wanted.variants)
                write_atomically(self.path, json.dumps(asdict(replace(wanted, at=at)) | {"settings": settings}))

    def _settings(self, variants: Sequence[str]) -> str:
        """Digest of what the baseline and these variants change in a protocol."""
        names = (self.study.baseline, *variants)
        settings = {name: self.study.variants[name].settings for name in names if name in self.study.variants}
        return _digest(settings)


def _digest(settings: Mapping[str, object]) -> str:
    return digest(json.dumps(settings, sort_keys=True).encode())[:8]
