"""Find the classes and the training, validation and test parts of a folder of images.

docs/data.md shows the layouts. An ambiguous layout is an error that says what was found and what is expected: a wrong guess would
train on the wrong classes and still report an accuracy. Nothing is decoded here.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nin.fetch import DataError
from nin.text import shortened

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")  # in any case
IGNORED = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini")
# Words that name a part of a data set: alone or within a name, in any case ("Training", "seg_test", "valid").
WORDS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "valset"),
    "test": ("test", "testing", "tests", "testset"),
}
EXPECTED = "expected are <class>/<image>, or train/<class>/<image> with test/ and, if there is one, val/ beside train/"
MAX_DEPTH = 32  # levels of folders in each other
MAX_LISTED = 5  # names in a message


@dataclass(frozen=True)
class ImageFolder:
    """Contents of a folder of images.

    parts    image files by class, for "train" and, where the folder has them, "val" and "test"; classes and files are sorted
             as torchvision sorts them
    notes    one line for each kind of files left out
    """

    parts: Mapping[str, Mapping[str, Sequence[Path]]]
    notes: Sequence[str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which all parts share."""
        return tuple(self.parts["train"])

    def samples(self, part: str) -> list[tuple[Path, int]]:
        """Return the files of a part in order, each with its label."""
        return [(file, label) for label, files in enumerate(self.parts[part].values()) for file in files]


def find(folder: Path) -> ImageFolder:
    """Find the classes and parts of a folder of images.

    Raises DataError, in one line, if it is not an image folder or its layout is ambiguous.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; put images into {folder}/<class>/ or {folder}/train/<class>/")
    top = _scan(folder, [])
    place = _unwrapped(top)
    parts = _parts(place)
    if parts:
        homes = {role: _unwrapped(part, within_part=True) for role, part in parts.items()}
        unused = [other for other in place.holding if other not in parts.values()]
    else:
        homes, unused = {"train": place}, []
    classes = {role: _classes(home) for role, home in homes.items()}
    _require_same_classes({role: (homes[role].path, names) for role, names in classes.items()})
    if len(classes["train"]) < 2:
        (name,) = classes["train"]
        raise DataError(
            f"{homes['train'].path} has only one class, {name!r}; classification needs two or more; {EXPECTED}"
        )
    return ImageFolder(classes, list(_notes(top, homes, unused)))


@dataclass(eq=False)
class _Folder:
    """A visible folder: its image files, its folders, and the suffixes of its other files."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["_Folder"] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @cached_property
    def files(self) -> list[Path]:
        """All images in the folder and below, in torchvision's order: by the folder's path as text, then by name."""
        found = [*self.images, *(file for inner in self.folders for file in inner.files)]
        return sorted(found, key=lambda file: (str(file.parent), file.name))

    @property
    def holding(self) -> list["_Folder"]:
        """The inner folders that have images, directly or below."""
        return [inner for inner in self.folders if inner.files]

    @property
    def other_files(self) -> Counter[str]:
        """Counts of the suffixes of files that are not images, in the folder and below."""
        return sum((inner.other_files for inner in self.folders), Counter(self.others))

    def __str__(self) -> str:
        inner = self.holding
        what = f"{len(inner)} folders of images" if inner else f"{len(self.files):,} images"
        return f"{self.path.name}/ ({what})"


def _scan(path: Path, above: Sequence[Path]) -> _Folder:
    """List a folder and all below it, following links. `above` are the real paths of its parent folders."""
    real = path.resolve()
    if real in above:
        raise DataError(f"{path} is a link back to {real}, a folder that it lies in: remove the link")
    if len(above) > MAX_DEPTH:
        raise DataError(f"{path} lies more than {MAX_DEPTH} folders deep; {EXPECTED}")
    folder = _Folder(path)
    try:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            suffix = Path(entry.name).suffix.lower()
            if entry.name.startswith(".") or entry.name.casefold() in IGNORED:
                continue
            if entry.is_dir():
                folder.folders.append(_scan(Path(entry.path), [*above, real]))
            elif suffix in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                folder.images.append(Path(entry.path))  # a link to nothing as well, whose reader will name it
            else:
                folder.others[suffix or "no suffix"] += 1
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): make it readable or remove it") from error
    return folder


def _unwrapped(folder: _Folder, within_part: bool = False) -> _Folder:
    """Return the folder itself, or the only inner folder with images, if the folder merely wraps that one."""
    while not folder.images and len(folder.holding) == 1:
        (inner,) = folder.holding
        beside = [other for other in folder.folders if other is not inner and not other.other_files]  # an empty class
        if inner.images or beside or (_roles(inner.path.name) and not within_part):
            break
        folder = inner
    return folder


def _roles(name: str) -> list[str]:
    """Return the part that a folder's name refers to, ["train"] for "TrainData" or "seg_train"; empty for none or several."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    roles = [role for role, known in WORDS.items() if any(word in known for word in words)]
    return roles if len(roles) == 1 else []


def _parts(folder: _Folder) -> dict[str, _Folder]:
    """Return the folders for training, validation and test by role; empty if the folder holds classes instead."""
    named = [(inner, role) for inner in folder.holding for role in _roles(inner.path.name)]
    nested = {inner for inner, _ in named if inner.holding}
    flat = [inner for inner, _ in named if inner not in nested]
    roles = Counter(role for _, role in named)
    is_of_classes = not nested and len(roles) < 2 and "test" not in roles and len(flat) < len(folder.holding)
    if is_of_classes or not named:
        _require_no_parts_within(folder)
        return {}  # classes, one of which may be called "train", a vehicle, or "valid"
    found = ", ".join(str(inner) for inner in folder.holding[:MAX_LISTED])
    if flat:
        (role,) = _roles(flat[0].path.name)
        raise DataError(
            f"{flat[0].path} contains images but no class folders, so their classes are unknown; {EXPECTED}; "
            f"move unused images elsewhere. If it is a class, rename it: by its name it is a folder for {role}"
        )
    if "train" not in roles:
        raise DataError(f"{folder.path} has {found}, but no folder for training; {EXPECTED}")
    if max(roles.values()) > 1:
        raise DataError(f"{folder.path} has {found}: which is for training, and which for test? {EXPECTED}")
    order = {role: inner for inner, role in named}
    return {role: order[role] for role in WORDS if role in order}


def _require_no_parts_within(folder: _Folder) -> None:
    """Raise DataError if a class would hold a data set with parts of its own, whose test images would be trained on."""
    roles = {inner: {role for part in inner.holding for role in _roles(part.path.name)} for inner in folder.holding}
    with_parts = [inner for inner in folder.holding if len(roles[inner]) > 1]
    if not with_parts:
        return
    first = with_parts[0]
    has = f"{first.path} has folders for {' and '.join(sorted(roles[first]))} of its own, and others lie beside it"
    are_classes = f"put the parts outermost if these are classes, as in train/{first.path.name}/, or "
    advice = are_classes if len(with_parts) == len(folder.holding) else ""
    raise DataError(f"{has}: {advice}name that folder as the data set, or move the others elsewhere")


def _classes(folder: _Folder) -> dict[str, Sequence[Path]]:
    """Return the images of each class by its name. Raises DataError if there are no class folders, or one is empty."""
    if not folder.folders:
        there = f"{len(folder.images):,} images" if folder.images else "no images"
        raise DataError(f"{folder.path} has {there} and no folders of classes; {EXPECTED}")
    empty = [inner.path.name for inner in folder.folders if not inner.files]
    if empty:
        formats = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(
            f"{folder.path}: no images in {_named(empty)}; remove what is no class, or put images into it ({formats})"
        )
    for inner in folder.folders:
        if not inner.path.name.isprintable():  # it is written into labels.txt and tables, where it must be one line
            raise DataError(
                f"{folder.path}: the name {inner.path.name!a} contains unprintable or non-UTF-8 characters: rename it"
            )
    return {inner.path.name: inner.files for inner in folder.folders}


def _require_same_classes(parts: Mapping[str, tuple[Path, Mapping[str, Sequence[Path]]]]) -> None:
    """Raise DataError unless all parts have the same classes; the message names those that one part lacks."""
    train_folder, train = parts["train"]
    for other_folder, other in parts.values():
        only_train, only_other = sorted(train.keys() - other.keys()), sorted(other.keys() - train.keys())
        if not only_train and not only_other:
            continue
        alike = {_plain(name): name for name in only_other}
        twins = [f"{name!r} and {alike[_plain(name)]!r}" for name in only_train if _plain(name) in alike]
        raise DataError(
            f"{train_folder} and {other_folder.name}/ must have folders of the same classes: "
            f"only in {train_folder.name}/ {_named(only_train)}; only in {other_folder.name}/ {_named(only_other)}"
            + (
                f"; {', '.join(twins[:MAX_LISTED])} differ in case, spaces or accents alone: rename one"
                if twins
                else ""
            )
        )


def _plain(name: str) -> str:
    """Return a name without case, surrounding spaces and Unicode variants of a letter, for comparison."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _named(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return shortened([repr(name) for name in names], MAX_LISTED)


def _notes(top: _Folder, homes: Mapping[str, _Folder], unused: Sequence[_Folder]) -> Iterator[str]:
    """Yield notes on classes in unexpected places and on files left out."""
    in_sight = [top, *(inner for inner in top.folders if _roles(inner.path.name))]
    if any(home not in in_sight for home in homes.values()):
        yield f"its classes lie in {', '.join(str(home.path.relative_to(top.path)) for home in homes.values())}"
    if unused:
        yield f"not used: {', '.join(str(folder) for folder in unused[:MAX_LISTED])}"
    outside = len(top.files) - sum(len(home.files) - len(home.images) for home in homes.values())
    outside -= sum(len(folder.files) for folder in unused)
    if outside:
        yield f"not used: {outside:,} images outside the folders of classes"
    others: Counter[str] = sum((inner.other_files for home in homes.values() for inner in home.folders), Counter())
    if others:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(MAX_LISTED))
        yield f"not read: files of classes that are no images by their names ({kinds})"
