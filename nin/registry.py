"""Registries of names in specifications, and the additions of other code, which errors name.

`POOLINGS["mine"] = MyPooling`, in any module, adds a pooling. A name that exists already is an error, unless the same module adds
it again, as a notebook's cell does when it is run twice. A file that is loaded under two names, as a study and as a module, adds what
it adds once.
"""

import hashlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from nin.text import one_line

T = TypeVar("T")

SCRIPT = "__main__"  # the module that was started; in a spawned process it is imported under the second name
SPAWNED_SCRIPT = "__mp_main__"
DIGITS = 16  # hexadecimal digits of a digest


@dataclass(frozen=True)
class Addition:
    """A name that code outside this package has added.

    module  name of the module that added it
    digest  digest of that module's source, or of its whole package; empty where there is no source, as at a prompt
    """

    kind: str
    name: str
    module: str
    digest: str


ADDITIONS: dict[tuple[str, str], Addition] = {}  # by the field of a run ("model.pooling") and the name


class Registry(dict[str, T]):
    """A mapping from names of one kind to their implementations; `field` is where a run names one ("model.pooling")."""

    def __init__(self, kind: str, field: str, entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind
        self.field = field

    def __setitem__(self, name: str, value: T) -> None:
        """Add a name. Raises ValueError if it exists already and is not this module's own."""
        adding = sys._getframe(1).f_globals
        module = SCRIPT if adding["__name__"] == SPAWNED_SCRIPT else adding["__name__"]
        known = ADDITIONS.get((self.field, name))
        source = digest(source_of(adding))
        if known and known.module != module and _are_one_file(known.module, adding):
            if known.digest == source:
                return
            raise ValueError(
                f"{self.kind} {name!r} was added by this file as module {known.module}, and it has changed since: start again"
            )
        if name in self and (known is None or known.module != module):
            raise ValueError(f"{self.kind} {name!r} exists already; choose another name")
        super().__setitem__(name, value)
        ADDITIONS[self.field, name] = Addition(self.kind, name, module, source)

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise ValueError: dict would add names without `__setitem__`, over others and without a digest."""
        raise ValueError(f"{self.kind}: add names one by one, as in REGISTRY['mine'] = ...")

    update = setdefault = __ior__ = _refuse

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        ADDITIONS.pop((self.field, name), None)


def _are_one_file(module: str, other: Mapping[str, Any]) -> bool:
    """Return whether a module that was imported and another, given its globals, were loaded from one file."""
    files = getattr(sys.modules.get(module), "__file__", None), other.get("__file__")
    return all(files) and len({Path(str(file)).resolve() for file in files}) == 1


def added(settings: Mapping[str, object]) -> list[Addition]:
    """Return the additions that a run with these settings uses."""
    return [ADDITIONS[key] for key in settings.items() if key in ADDITIONS]


class AddedCodeError(ValueError):
    """An error of added parts: "network with pooling 'mine': mine.py:12: KeyError: 'x'"."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where)
        self.where = where

    def __str__(self) -> str:
        return " with ".join(self.args)


@contextmanager
def naming_additions(what: str, parts: Sequence[Addition]) -> Iterator[None]:
    """Context in which an error of added parts becomes a ValueError of one line with its place; without parts it stays.

    what  begins the line: "variant 'mine'"; of contexts within each other that of the outermost does
    """
    try:
        yield
    except AddedCodeError as error:
        raise AddedCodeError(what, error.where) from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        if not parts or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            raise
        files = [getattr(sys.modules.get(part.module), "__file__", None) or "" for part in parts]
        names = ", ".join(f"{part.kind} {part.name!r}" for part in parts)
        raise AddedCodeError(what, f"{names}: {one_line(located(error, *files))}") from error


def located(error: BaseException, *homes: str) -> str:
    """ "study.py:12: NameError: name 'x' is not defined": the last line in these files or folders that was executed, or in any."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "  # ours say it all
    if isinstance(error, SyntaxError):
        return f"{error.filename or homes[0]}:{error.lineno or 1}: {kind}{error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    absolute = [Path(home).absolute() for home in homes if home]
    own = [frame for frame in frames if any(Path(frame.filename).absolute().is_relative_to(home) for home in absolute)]
    place = (own or frames)[-1]
    return f"{place.filename}:{place.lineno}: {kind}{error}"


def digest(source: bytes) -> str:
    """Return 16 hexadecimal digits of SHA-256; empty for no source."""
    return hashlib.sha256(source).hexdigest()[:DIGITS] if source else ""


def source_of(module: Mapping[str, Any]) -> bytes:
    """Return the source of a module, given its globals: its file, or all files of its package; empty if it has none.

    Line ends are those of Unix. Code that was sent without its file carries its source in `__source__`.
    """
    if "__source__" in module:
        return str(module["__source__"]).encode()
    package = sys.modules.get(str(module["__name__"]).partition(".")[0], ModuleType(""))
    folders = [Path(folder) for folder in getattr(package, "__path__", [])]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    if not files and module.get("__file__"):
        files = [Path(module["__file__"])]
    return b"\0".join(file.read_bytes().replace(b"\r\n", b"\n") for file in files if file.is_file())
