"""The data sets we know, read as they are published: training and test images as bytes, labels, and the names of classes."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nin.fetch import DataError, data_root, fashion_mnist, fetch_by_torchvision
from nin.spec import DataSpec, Shape, choose, stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FOLDER = "folder:"  # how the names of data sets begin that are folders of images
FOLDER_SIZE = 32  # pixels; height and width of a folder's images where the specification names none
FOLDER_TEST_SHARE = 6  # one image in six is a test image where a folder has no test images of its own
GREY_MODES = ("1", "L", "LA")  # as PIL calls them


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) as bytes, and their labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> "Split":
        """These images, in this order."""
        return Split(self.images[indices], self.labels[indices])

    def first(self, num: int) -> "Split":
        """The first of them: at most `num`, which share their memory."""
        return Split(self.images[:num], self.labels[:num])

    def to(self, device: str | torch.device) -> "Split":
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A whole data set as published: training and test images, and the names of the classes."""

    train: Split
    test: Split
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set that we know: its images' shape and number of classes before it is read, and how to read it."""

    in_shape: Shape
    num_classes: int
    read: Callable[[Path], Source]


def _fashion_mnist(root: Path) -> Source:
    """Its files hold a header of 16 bytes (images) or 8 (labels), then a byte per pixel or label."""
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


def _through_torchvision(dataset: str, *entries: str) -> Callable[[Path], Source]:
    """A reader of the torchvision data set of that class name, which keeps these entries in the data root."""

    def read(root: Path) -> Source:
        from nin._torchvision import datasets

        if not all((root / entry).exists() for entry in entries):
            fetch_by_torchvision(dataset, root)
        parts: Any = (
            ({"split": "train"}, {"split": "test"}) if dataset == "SVHN" else ({"train": True}, {"train": False})
        )
        try:
            train, test = (getattr(datasets, dataset)(root, **part) for part in parts)
            classes = getattr(train, "classes", [str(digit) for digit in range(10)])
            return Source(_as_split(train, len(classes)), _as_split(test, len(classes)), tuple(classes))
        except Exception as error:  # torchvision lets through whatever its parsers stumble on
            where = " or ".join(str(root / entry) for entry in entries)
            raise DataError(
                f"{where} is damaged ({_one_line(error)}): delete it, and it is fetched again next time"
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
    """For tests: ten smooth patterns, each image one of them, shifted by up to 2 pixels, under noise. Always the same."""
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
    """Handwritten digits of 8x8 pixels that scikit-learn ships (Alpaydin and Kaynak, UCI, 1998): 17 levels of grey become bytes.

    They come as one set of 1,797; every sixth, in an order of its own, is a test image.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    order = hashed_order("digits-test", len(labels))
    num_test = len(order) // FOLDER_TEST_SHARE
    train, test = (Split(images, labels).take(part) for part in (order[num_test:], order[:num_test]))
    return Source(train, test, tuple(str(digit) for digit in range(10)))


DATASETS: dict[str, Dataset] = {
    "fashion-mnist": Dataset((1, 28, 28), 10, _fashion_mnist),
    "mnist": Dataset((1, 28, 28), 10, _through_torchvision("MNIST", "MNIST")),
    "kmnist": Dataset((1, 28, 28), 10, _through_torchvision("KMNIST", "KMNIST")),
    "cifar-10": Dataset((3, 32, 32), 10, _through_torchvision("CIFAR10", "cifar-10-batches-py")),
    "cifar-100": Dataset((3, 32, 32), 100, _through_torchvision("CIFAR100", "cifar-100-python")),
    "svhn": Dataset((3, 32, 32), 10, _through_torchvision("SVHN", "train_32x32.mat", "test_32x32.mat")),
    "digits": Dataset((1, 8, 8), 10, _digits),
    "synthetic": Dataset((1, 28, 28), 10, _synthetic),
}


def read(spec: DataSpec, root: Path) -> Source:
    """The whole data set of that name. Raises as `nin.data.load` does."""
    try:
        if spec.name.startswith(FOLDER):
            return _read_folder(spec, root)
        return choose(DATASETS, spec.name, "data set").read(root)
    except OSError as error:
        raise DataError(
            f"data set {spec.name!r} cannot be read from {root} ({error.strerror or error}): name another root in NIN_DATA"
        ) from error


def shape(spec: DataSpec, root: Path | None = None) -> tuple[Shape, int]:
    """(C, H, W) of the images that a network sees and the number of classes, without reading any pixel.

    Raises ValueError for a name that does not exist, DataError for a folder that does not.
    """
    if spec.name.startswith(FOLDER):
        folders, size = _image_folders(spec, root or data_root()), spec.image_size or FOLDER_SIZE
        return (_num_channels(folders), size, size), len(folders[0].classes)
    dataset = choose(DATASETS, spec.name, "data set")
    channels, height, width = dataset.in_shape
    return (channels, spec.image_size or height, spec.image_size or width), dataset.num_classes


def hashed_order(name: str, count: int) -> Tensor:
    """A permutation of `count` indices that depends on the name alone: by SHA-256 of "name:index".

    Unlike a random generator's, it is the same in every version of every library.
    """
    return torch.tensor(sorted(range(count), key=lambda index: hashlib.sha256(f"{name}:{index}".encode()).digest()))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read_folder(spec: DataSpec, root: Path) -> Source:
    """Images of a folder, squeezed into squares; a sixth of them becomes the test set where it has none."""
    folders, size = _image_folders(spec, root), spec.image_size or FOLDER_SIZE
    num_channels = _num_channels(folders)
    parts = [_read_images(folder.samples, num_channels, size) for folder in folders]
    if len(parts) == 1:
        order = hashed_order(f"{spec.test_split}-test", len(parts[0].labels))
        num_test = len(order) // FOLDER_TEST_SHARE
        if num_test == 0:
            raise DataError(f"{folders[0].root} has {len(order)} images, fewer than the {FOLDER_TEST_SHARE} needed")
        parts = [parts[0].take(order[num_test:]), parts[0].take(order[:num_test])]
    train, test = parts
    return Source(train, test, tuple(folders[0].classes))


def _image_folders(spec: DataSpec, root: Path) -> list[Any]:
    """The folder's train/ and test/, or the one set of classes that it has, as torchvision lists them; nothing is decoded.

    Raises DataError if the name leaves the data root, or what is there is not folders of images.
    """
    from nin._torchvision import datasets

    name = Path(spec.name.removeprefix(FOLDER))
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise DataError(f"data set {spec.name!r}: the folder must lie inside the data root {root}")
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"data set {spec.name!r}: there is no folder {folder}; put images into {folder}/train/<class>/")
    parts = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    try:
        folders = [datasets.ImageFolder(part) for part in parts or [folder]]
    except OSError as error:
        raise DataError(f"{folder}: {_one_line(error)}") from error
    if parts and (folder / "train" not in parts or folders[0].classes != folders[-1].classes):
        raise DataError(f"{folder}: train and test must hold folders of the same classes")
    return folders


def _num_channels(folders: list[Any]) -> int:
    """1 if all files are stored as grey, else 3."""
    for folder in folders:
        for path, _ in folder.samples:
            with opened(path) as image:
                if image.mode not in GREY_MODES:
                    return 3
    return 1


def _read_images(samples: list[tuple[str, int]], num_channels: int, size: int) -> Split:
    pixels = np.empty((len(samples), size, size, num_channels), np.uint8)
    for i, (path, _) in enumerate(samples):
        with opened(path) as image:
            pixels[i] = as_pixels(image, num_channels, size, size)
    return Split(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in samples])
    )


def as_pixels(image: "Image", num_channels: int, height: int, width: int) -> "NDArray[np.uint8]":
    """(height, width, num_channels): the image in grey or RGB, squeezed. Raises ValueError if its pixels are no bytes."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        raise ValueError("it has more than a byte per channel")
    decoded = image.convert("L" if num_channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(decoded).reshape(height, width, num_channels)


@contextmanager
def opened(path: str | Path) -> "Iterator[Image]":
    """The image file, not yet decoded. Whatever goes wrong with it becomes a DataError that names it."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.format == "EPS":  # whatever the file is called; PIL would have Ghostscript run it
                    raise ValueError("PostScript is a program")
                yield image
    except Exception as error:  # PIL's decoders raise what they stumble on
        raise DataError(f"{path} cannot be read as an image ({_one_line(error)}): repair or remove it") from error
