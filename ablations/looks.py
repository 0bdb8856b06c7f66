"""Write down at how many seeds a study is looked at, before it is, so that verdicts can allow for the looks."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ablations.records import write_atomically
from ablations.runs import parse_overrides
from nin.text import one_line


class Looks:
    """The declared looks at a study's runs, in the study's folder of results.

    overrides  changed settings of all runs ("train.lr=0.05"), which have looks of their own
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        settings = json.dumps(parse_overrides(overrides), sort_keys=True)  # however they are written
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        self.folder = folder
        self.path = folder / (f"looks-{digest}.json" if overrides else "looks.json")

    def seeds(self) -> tuple[int, ...]:
        """Numbers of seeds at which the study was declared to be looked at until it is decided; empty for one fixed number.

        Raises ValueError if the file that says so is damaged.
        """
        return self.declaration()[0]

    def declaration(self) -> tuple[tuple[int, ...], str]:
        """Numbers of seeds as of `seeds`, and when they were declared (ISO 8601, UTC); both empty for one fixed number.

        Raises ValueError as `seeds` does.
        """
        try:
            found = json.loads(self.path.read_text())
            seeds, declared_at = tuple(found["looks"]), datetime.fromisoformat(found["declared_at"])
            if not all(isinstance(num, int) for num in seeds):
                raise ValueError(f"{seeds!r} are no numbers of seeds")
        except FileNotFoundError:
            return (), ""
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({one_line(error)}): restore it, or remove it") from error
        return seeds, declared_at.isoformat()

    def require(self, seeds: Sequence[int]) -> None:
        """Raise ValueError if looks at other numbers of seeds were declared."""
        declared = self.seeds()
        if declared and declared != tuple(seeds):
            raise ValueError(
                f"--until-decided: looks at {', '.join(map(str, declared))} seeds were declared for {self.folder}, not at "
                f"{', '.join(map(str, seeds))}; go on with --seeds {declared[0]} --max-seeds {declared[-1]}"
            )

    def declare(self, seeds: Sequence[int], declared_at: str = "") -> None:
        """Declare looks at these numbers of seeds; what was declared first stays.

        declared_at  when (ISO 8601, UTC), if not now

        Raises ValueError if others were declared.
        """
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        # Of two drivers at once, the second sees what the first has declared.
        with FileLock(self.folder / ".looks.lock"):
            self.require(seeds)
            if not self.seeds():
                now = datetime.now(UTC).isoformat(timespec="seconds")
                write_atomically(self.path, json.dumps({"looks": list(seeds), "declared_at": declared_at or now}))
