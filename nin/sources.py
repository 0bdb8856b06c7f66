"""Read the known data sets as they are published: training and test images as bytes, labels, and the names of classes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nin.fetch import DataError, data_root, expanded, fashion_mnist, fetch_by_torchvision, torchvision_parts
from nin.folders import ImageFolder, find
from nin.images import decode, is_grey
from nin.images import notes as image_notes
from nin.registry import Registry, added
from nin.spec import DataSpec, Shape, as_shape, choose, is_whole, stream
from nin.text import one_line, shape_text

FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FOLDER = "folder:"  # prefix of the names of folders of images
FOLDER_SIZE = 32  # pixels; height and width of a folder's images where the specification names none
PARTS = {"train": "training", "val": "validation", "test": "test"}  # of a data set, in words
FOLDER_TEST_SHARE = 6  # one image in six is a test image where a folder has no test images of its own


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) as bytes, and their labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> "Split":
        """Return the images at these positions, in this order."""
        return Split(self.images[indices], self.labels[indices])

    def first(self, num: int) -> "Split":
        """Return the first images, at most `num`, sharing memory."""
        return Split(self.images[:num], self.labels[:num])

    def to(self, device: str | torch.device) -> "Split":
        """Return the same images on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A whole data set as published: training and test images, and the names of the classes.

    val    validation images, where the data set has its own
    notes  one line per peculiarity that a user should know before training on it
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    val: Split | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A known data set: its images' shape and number of classes before it is read, and the function that reads it.

    is_fixed  whether it is always the same: generated, or verified by published checksums whenever it is read
    """

    in_shape: Shape
    num_classes: int
    read: Callable[[Path], Source]
    is_fixed: bool = False

    def __post_init__(self) -> None:
        as_shape(self.in_shape)
        if not is_whole(self.num_classes) or self.num_classes < 2:
            raise ValueError(f"Dataset(num_classes={self.num_classes!r}): must be a whole number, 2 or more")


def _fashion_mnist(root: Path) -> Source:
    """Read Fashion-MNIST, whose files hold a header of 16 bytes (images) or 8 (labels), then a byte per pixel or label."""
    files = {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in fashion_mnist(root).items()
    }
    train, test = (
        Split(
            files[f"{part}-images-idx3-ubyte"][16:].view(-1, 1, 28, 28),
            files[f"{part}-labels-idx1-ubyte"][8:].long(),
        )
        for part in ("train", "t10k")
    )
    return Source(train, test, FASHION_MNIST_CLASSES)


# By torchvision's class name, what it keeps in the data root
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "FashionMNIST": ("FashionMNIST",),
    "MNIST": ("MNIST",),
    "KMNIST": ("KMNIST",),
    "CIFAR10": ("cifar-10-batches-py",),
    "CIFAR100": ("cifar-100-python",),
    "SVHN": ("train_32x32.mat", "test_32x32.mat"),
}


def _through_torchvision(dataset: str) -> Callable[[Path], Source]:
    """Return a reader of the torchvision data set of that class name."""
    entries = ENTRIES[dataset]

    def read(root: Path) -> Source:
        from nin._torchvision import datasets

        if not all((root / entry).exists() for entry in entries):
            fetch_by_torchvision(dataset, root)
        try:
            train, test = (getattr(datasets, dataset)(root, **part) for part in torchvision_parts(dataset))
            classes = getattr(train, "classes", [str(digit) for digit in range(10)])
            return Source(_as_split(train, len(classes)), _as_split(test, len(classes)), tuple(classes))
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # torchvision lets through whatever its parsers stumble on
            where = " or ".join(str(root / entry) for entry in entries)
            raise DataError(
                f"{where} is damaged ({one_line(error)}): delete it, and it is fetched again next time"
            ) from error

    return read


def _as_split(dataset: Any, num_classes: int) -> Split:
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:  # MNIST and its like have no channels
        images = images[:, None]
    elif images.shape[3] == 3:  # CIFAR has them last
        images = images.permute(0, 3, 1, 2)
    labels = torch.as_tensor(dataset.labels if hasattr(dataset, "labels") else dataset.targets).long()
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images have {len(labels)} labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels go beyond {num_classes} classes")
    return Split(images.contiguous(), labels)


def _synthetic(root: Path) -> Source:
    """Make a fixed data set for tests: each image is one of ten smooth patterns, shifted by up to 2 pixels, with noise."""
    generator = torch.Generator().manual_seed(stream(0, "synthetic"))
    coarse = torch.rand(10, 1, 4, 4, generator=generator).round()
    patterns = F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)

    def split(num_images: int) -> Split:
        labels = torch.arange(num_images) % 10
        noise = torch.randn(num_images, 1, 28, 28, generator=generator)
        shifts = torch.randint(0, 5, (num_images, 2), generator=generator).tolist()
        clean = torch.stack(
            [patterns[label, :, y : y + 28, x : x + 28] for label, (y, x) in zip(labels.tolist(), shifts, strict=True)]
        )
        return Split(((clean + 0.15 * noise).clamp(0, 1) * 255).to(torch.uint8), labels)

    return Source(split(1200), split(400), tuple(str(k) for k in range(10)))


def _digits(root: Path) -> Source:
    """Read scikit-learn's handwritten digits of 8x8 pixels (Alpaydin and Kaynak, UCI, 1998); 17 levels of grey become bytes.

    They are one set of 1,797; every sixth, in a hashed order, is a test image.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    order = hashed_order("digits-test", len(labels))
    num_test = len(order) // FOLDER_TEST_SHARE
    train, test = (Split(images, labels).take(part) for part in (order[num_test:], order[:num_test]))
    return Source(train, test, tuple(str(digit) for digit in range(10)))


DATASETS: Registry[Dataset] = Registry(
    "data set",
    "data.name",
    {
        "fashion-mnist": Dataset((1, 28, 28), 10, _fashion_mnist, is_fixed=True),
        "mnist": Dataset((1, 28, 28), 10, _through_torchvision("MNIST")),
        "kmnist": Dataset((1, 28, 28), 10, _through_torchvision("KMNIST")),
        "cifar-10": Dataset((3, 32, 32), 10, _through_torchvision("CIFAR10"), is_fixed=True),
        "cifar-100": Dataset((3, 32, 32), 100, _through_torchvision("CIFAR100"), is_fixed=True),
        "svhn": Dataset((3, 32, 32), 10, _through_torchvision("SVHN"), is_fixed=True),
        "digits": Dataset((1, 8, 8), 10, _digits),
        "synthetic": Dataset((1, 28, 28), 10, _synthetic, is_fixed=True),
    },
)


def read(spec: DataSpec, root: Path) -> Source:
    """Read the whole data set of that name. Raises as `nin.data.load` does."""
    try:
        if spec.name.startswith(FOLDER):
            return _read_folder(spec, root)
        dataset = _dataset(spec.name)
        source = dataset.read(root)
    except OSError as error:
        raise DataError(
            f"data set {spec.name!r} cannot be read from {root} ({error.strerror or error}): name another root in NIN_DATA"
        ) from error
    _require_as_declared(spec.name, dataset, source)
    if not added({"data.name": spec.name}):
        return source
    parts = {part: split for part in PARTS if (split := getattr(source, part))}
    repeats = _repeats(parts, lambda part, i: f"{PARTS[part]} image {i}")
    return replace(source, notes=(*source.notes, *repeats))


def _require_as_declared(name: str, dataset: Dataset, source: Source) -> None:
    """Raise ValueError if images, labels or classes are not those that DATASETS declares, by which networks are sized."""
    if not isinstance(source, Source):
        raise ValueError(f"data set {name!r}: its function must return a Source, and returns {type(source).__name__}")
    if not all(isinstance(each, str) for each in source.classes) or len({*source.classes}) < len(source.classes):
        raise ValueError(f"data set {name!r}: its classes must be different texts, and are {source.classes!r}")
    if len(source.classes) != dataset.num_classes:
        raise ValueError(f"data set {name!r} declares {dataset.num_classes} classes and names {len(source.classes)}")
    for key, part in PARTS.items():
        split = getattr(source, key)
        if split is None:
            continue
        images, labels, num = split.images, split.labels, len(split.images)
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise ValueError(
                f"data set {name!r}: images and labels for {part} must be tensors, as torch.from_numpy makes them"
            )
        if images.dtype != torch.uint8 or images.shape[1:] != tuple(dataset.in_shape):
            raise ValueError(
                f"data set {name!r} declares images {dataset.in_shape}: those for {part} must be uint8 "
                f"{(num, *dataset.in_shape)}, and are {shape_text(images)}"
            )
        if labels.dtype != torch.int64 or labels.shape != (num,):
            raise ValueError(
                f"data set {name!r}: labels for {part} must be int64 {(num,)}, as many as images, and are {shape_text(labels)}"
            )
        if num == 0:
            raise ValueError(f"data set {name!r} has no {part} images")
        if not 0 <= int(labels.min()) <= int(labels.max()) < dataset.num_classes:
            raise ValueError(
                f"data set {name!r}: labels for {part} go from {labels.min()} to {labels.max()}, and must go from 0 to "
                f"{dataset.num_classes - 1}"
            )


def shape(spec: DataSpec, root: Path | None = None) -> tuple[Shape, int]:
    """Return (C, H, W) of the images that a network sees and the number of classes, without reading any pixel.

    Raises ValueError for a name that does not exist, DataError for a folder that does not.
    """
    if spec.name.startswith(FOLDER):
        folder, size = _image_folder(spec, root or data_root()), spec.image_size or FOLDER_SIZE
        return (_num_channels(folder), size, size), len(folder.classes)
    dataset = _dataset(spec.name)
    channels, height, width = dataset.in_shape
    return (channels, spec.image_size or height, spec.image_size or width), dataset.num_classes


def _dataset(name: str) -> Dataset:
    if name not in DATASETS and "/" in name:
        here = name if name.startswith(("/", "~", "./", "../")) else f"./{name}"
        inside = f", or {FOLDER}{name} for one in the data root" if here != name else ""
        raise ValueError(f"unknown data set {name!r}: for a folder of images write {FOLDER}{here}{inside}")
    return choose(DATASETS, name, "data set")


def can_change(name: str) -> bool:
    """Return whether a data set's images or labels may change under the same name, as a folder's may."""
    return name not in DATASETS or not DATASETS[name].is_fixed


def hashed_order(name: str, count: int) -> Tensor:
    """Return a permutation of `count` indices that depends on the name alone, by SHA-256 of "name:index".

    Unlike a random generator's, it is the same in every version of every library.
    """
    return torch.tensor(sorted(range(count), key=lambda index: hashlib.sha256(f"{name}:{index}".encode()).digest()))


def _read_folder(spec: DataSpec, root: Path) -> Source:
    """Read the images of a folder, squeezed into squares; a sixth of them becomes the test set if there is none."""
    folder, size = _image_folder(spec, root), spec.image_size or FOLDER_SIZE
    num_channels = _num_channels(folder)
    remarks: list[tuple[str, ...]] = []
    parts: dict[str, Split] = {}
    files: dict[str, list[Path]] = {}
    for part in folder.parts:
        files[part] = [file for file, _ in folder.samples(part)]
        images_NCHW = torch.empty(len(files[part]), num_channels, size, size, dtype=torch.uint8)
        for i, file in enumerate(files[part]):
            pixels_HWC, remarks_of_file = decode(file, num_channels, size, size)
            images_NCHW[i] = torch.tensor(pixels_HWC).permute(2, 0, 1)
            remarks.append(remarks_of_file)
        parts[part] = Split(images_NCHW, torch.tensor([label for _, label in folder.samples(part)]))
    if "test" not in parts:
        order = hashed_order(f"{spec.test_split}-test", len(parts["train"].labels))
        num_test = len(order) // FOLDER_TEST_SHARE
        if num_test == 0:
            raise DataError(
                f"{root / _inside(spec)} has {len(order)} images, fewer than the {FOLDER_TEST_SHARE} needed"
            )
        for part, chosen in (("test", order[:num_test]), ("train", order[num_test:])):
            parts[part] = parts["train"].take(chosen)
            files[part] = [files["train"][i] for i in chosen.tolist()]
    notes = (*folder.notes, *image_notes(remarks), *_repeats(parts, lambda part, i: files[part][i]))
    return Source(parts["train"], parts["test"], folder.classes, parts.get("val"), notes)


def link_folder(name: str, root: Path | None = None) -> str:
    """Link a folder of images into the data root and return its name: "folder:pets" from "folder:/disk/pets" or "folder:./pets".

    Records then hold a name and a checksum, not a path, and every worker follows the link. Names of other data sets stay as they
    are. Raises DataError as `nin.folders.find` does, if its name is taken by another folder, or if the link cannot be made.

    root  the data root; by default `data_root()`
    """
    text = name.removeprefix(FOLDER)
    path = expanded(text)
    if not name.startswith(FOLDER) or not (path.is_absolute() or text.startswith(("./", "../"))):
        return name
    path = path.resolve()
    find(path)  # before the link is made, which a folder that is refused would leave behind
    root = root or data_root()
    place = root.resolve()
    if path.is_relative_to(place) and path != place:
        return f"{FOLDER}{path.relative_to(place)}"
    if place.is_relative_to(path):
        raise DataError(
            f"the data root {root} lies in {path}, so it cannot have a link to it: name another data root in NIN_DATA"
        )
    if path.name.casefold() in (entry.casefold() for entry in chain(*ENTRIES.values())):
        raise DataError(f"{path} has the name under which a data set is kept in the data root: rename the folder")
    link = root / path.name
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and not link.exists():
            link.unlink()  # to a folder that is gone
        link.symlink_to(path)
    except FileExistsError:
        if not link.samefile(path):
            unlink = f", or remove the link {link}" if link.is_symlink() else ""
            raise DataError(
                f"{path} and {link.resolve()} have one name in the data root: rename a folder{unlink}"
            ) from None
    except OSError as error:
        raise DataError(
            f"cannot link {path} into {link.parent} ({error.strerror or error}): name another data root in NIN_DATA"
        ) from error
    return f"{FOLDER}{path.name}"


def _inside(spec: DataSpec) -> Path:
    """Return the folder's path relative to the data root. Raises DataError if it would lie elsewhere."""
    name = Path(spec.name.removeprefix(FOLDER))
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise DataError(f"data set {spec.name!r}: the folder must lie inside the data root")
    return name


def _image_folder(spec: DataSpec, root: Path) -> ImageFolder:
    """Return the folder's classes and files, not decoded. Messages name the folder that a link of `link_folder` leads to."""
    inside = _inside(spec)
    place = root / inside
    if not place.exists() and inside.is_dir():
        raise DataError(f"there is no folder {place}; for that in the working directory write {FOLDER}./{inside}")
    return find(place.resolve() if place.is_symlink() else place)


def _num_channels(folder: ImageFolder) -> int:
    """Return 1 if all files are stored as grey, else 3."""
    return 1 if all(is_grey(file) for part in folder.parts for file, _ in folder.samples(part)) else 3


def _repeats(parts: Mapping[str, Split], name_of: Callable[[str, int], object]) -> Iterator[str]:
    """Yield lines on duplicate images, as the network sees them: within training, or in training and another part.

    name_of  an image, given its part and position, such as its file
    """
    train: dict[bytes, int] = {}
    for part in (part for part in PARTS if part in parts):
        digests = [hashlib.blake2b(image.numpy().data, digest_size=16).digest() for image in parts[part].images]
        again: list[tuple[int, int]] = []
        for i, digest in enumerate(digests):
            if digest in train:
                again.append((i, train[digest]))
            elif part == "train":
                train[digest] = i
        if again:
            one, other = name_of(part, again[0][0]), name_of("train", again[0][1])
            what = "repeat another one" if part == "train" else "are training images as well"
            yield f"{len(again):,} of {len(digests):,} {PARTS[part]} images {what}, pixel by pixel: {one} is {other}"
