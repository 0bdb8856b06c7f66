"""Data sets as bytes on the training device, and the batches made from them there.

Images stay uint8, one tensor per split, on the device that trains. Cutting a batch, normalising, augmenting and resizing all
happen there, without the host waiting for it. Every random number is drawn on the CPU, for a whole epoch at once, so it is the
same on any device.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nin.fetch import DataError, data_root, find_fashion_mnist, find_with_torchvision
from nin.heads import Shape
from nin.spec import DataSpec, choose, stream

CROP_MARGIN = 4  # pixels of black around an image before it is cropped at random
FOLDER_SIZE = 32  # pixels; height and width of a folder's images where the specification names none
FOLDER_TEST_SHARE = 6  # one image in six is a test image where a folder has no test images of its own


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) as bytes, and their labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> "Split":
        """These images, in this order."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: str | torch.device) -> "Split":
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A data set, divided, on one device.

    mean, std  (C,) of the pixels, in [0, 1], of all training images of the data set
    checksum   SHA-256 over images and labels of all three splits, in order
    """

    spec: DataSpec
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: Tensor
    std: Tensor
    checksum: str

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def in_shape(self) -> Shape:
        """(C, H, W) of the images that a network sees."""
        channels, height, width = self.train.images.shape[1:]
        size = self.spec.image_size
        return (channels, size, size) if size else (channels, height, width)

    def epoch(
        self, batch_size: int, seed: int, epoch: int, *, channels_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images (n, C, H, W) in [0, 1] or normalised, and labels (n,), each image once, in the epoch's own order.

        The order and the augmentation depend on `seed` and `epoch` alone; the last batch may be smaller.
        """
        device = self.train.images.device
        num_images = len(self.train.labels)
        order_N = torch.randperm(num_images, generator=_generator(seed, f"order-{epoch}")).to(device, non_blocking=True)
        augment = choose(AUGMENTATIONS, self.spec.augment, "augmentation")
        draws_N2 = torch.rand(num_images, 3, generator=_generator(seed, f"augment-{epoch}")).to(
            device, non_blocking=True
        )
        for start in range(0, num_images, batch_size):
            indices = order_N[start : start + batch_size]
            images = augment(self.train.images[indices], draws_N2[start : start + batch_size])
            yield self._prepared(images, channels_last), self.train.labels[indices]

    def batches(self, split: Split, batch_size: int, *, channels_last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """The split's images in order, without augmentation, as `epoch` makes them."""
        for start in range(0, len(split.labels), batch_size):
            images = split.images[start : start + batch_size]
            yield self._prepared(images, channels_last), split.labels[start : start + batch_size]

    def to(self, device: str | torch.device) -> "ImageData":
        """The same on another device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "val", "test", "mean", "std")}
        return replace(self, **parts)

    def _prepared(self, bytes_NCHW: Tensor, channels_last: bool) -> Tensor:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        x_NCHW = bytes_NCHW.to(torch.float32).contiguous(memory_format=memory_format)
        if self.spec.normalize:
            scale_C = 1 / (255 * self.std)
            x_NCHW = x_NCHW.mul_(scale_C[:, None, None]).sub_((self.mean / self.std)[:, None, None])
        else:
            x_NCHW = x_NCHW.mul_(1 / 255)
        if tuple(x_NCHW.shape[1:]) != self.in_shape:
            shrinking = x_NCHW.shape[-1] > self.in_shape[-1]
            x_NCHW = F.interpolate(x_NCHW, self.in_shape[1:], mode="bilinear", antialias=shrinking)
            x_NCHW = x_NCHW.contiguous(memory_format=memory_format)
        return x_NCHW


def _flip(images_NCHW: Tensor, draws_N3: Tensor) -> Tensor:
    """Mirror half of the images, left to right."""
    return torch.where((draws_N3[:, 2] < 0.5)[:, None, None, None], images_NCHW.flip(-1), images_NCHW)


def _crop_flip(images_NCHW: Tensor, draws_N3: Tensor) -> Tensor:
    """Shift by up to CROP_MARGIN pixels either way, black coming in, and mirror half."""
    channels, height, width = images_NCHW.shape[1:]
    padded = F.pad(images_NCHW, [CROP_MARGIN] * 4)
    offsets = (draws_N3[:, :2] * (2 * CROP_MARGIN + 1)).long()
    rows = offsets[:, 0, None] + torch.arange(height, device=images_NCHW.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images_NCHW.device)
    padded = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    cropped = padded.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))
    return _flip(cropped, draws_N3)


# From images (n, C, H, W) as bytes and three uniform random numbers each, (n, 3), to images of the same shape.
AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda images_NCHW, draws_N3: images_NCHW,
    "flip": _flip,
    "crop-flip": _crop_flip,
}


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


def _idx(dataset: str) -> Callable[[Path], Source]:
    """MNIST and what is laid out like it."""

    def read(root: Path) -> Source:
        if dataset == "FashionMNIST":
            find_fashion_mnist(root)
        else:
            find_with_torchvision(dataset, root, present=(root / dataset / "raw" / "train-images-idx3-ubyte").exists())
        parts = _torchvision_parts(dataset, root)
        train, test = (Split(part.data.unsqueeze(1), part.targets) for part in parts)
        return Source(train, test, tuple(parts[0].classes))

    return read


def _cifar(dataset: str, folder: str) -> Callable[[Path], Source]:
    def read(root: Path) -> Source:
        find_with_torchvision(dataset, root, present=(root / folder).exists())
        parts = _torchvision_parts(dataset, root)
        train, test = (
            Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
            for part in parts
        )
        return Source(train, test, tuple(parts[0].classes))

    return read


def _svhn(root: Path) -> Source:
    find_with_torchvision(
        "SVHN", root, present=(root / "train_32x32.mat").exists() and (root / "test_32x32.mat").exists()
    )
    parts = _torchvision_parts("SVHN", root, [{"split": "train"}, {"split": "test"}])
    train, test = (Split(torch.from_numpy(part.data), torch.from_numpy(part.labels).long()) for part in parts)
    return Source(train, test, tuple(str(digit) for digit in range(10)))


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


DATASETS: dict[str, Dataset] = {
    "fashion-mnist": Dataset((1, 28, 28), 10, _idx("FashionMNIST")),
    "mnist": Dataset((1, 28, 28), 10, _idx("MNIST")),
    "kmnist": Dataset((1, 28, 28), 10, _idx("KMNIST")),
    "cifar-10": Dataset((3, 32, 32), 10, _cifar("CIFAR10", "cifar-10-batches-py")),
    "cifar-100": Dataset((3, 32, 32), 100, _cifar("CIFAR100", "cifar-100-python")),
    "svhn": Dataset((3, 32, 32), 10, _svhn),
    "synthetic": Dataset((1, 28, 28), 10, _synthetic),
}


def shape(spec: DataSpec, root: Path | None = None) -> tuple[Shape, int]:
    """(C, H, W) of the images that a network sees and the number of classes, without reading any image.

    Raises ValueError for a name that does not exist, DataError for a folder that does not.
    """
    if spec.name.startswith("folder:"):
        size = spec.image_size or FOLDER_SIZE
        return (3, size, size), len(_class_names(_folder(spec, root or data_root())))
    dataset = choose(DATASETS, spec.name, "data set")
    channels, height, width = dataset.in_shape
    return (channels, spec.image_size or height, spec.image_size or width), dataset.num_classes


def load(spec: DataSpec, root: Path | None = None, device: str | torch.device = "cpu") -> ImageData:
    """The data set of `spec`, found in `root` (default: `data_root()`) or fetched into it, divided, on `device`.

    Raises ValueError for a name that does not exist or more images than there are, DataError for files missing or damaged.
    """
    root = root or data_root()
    if spec.name.startswith("folder:"):
        source = _read_folder(spec, root)
    else:
        source = choose(DATASETS, spec.name, "data set").read(root)
    order = hashed_order(spec.split, len(source.train.labels))
    num_train = spec.train_examples or len(order) - spec.val_examples
    _require_enough("data.val_examples + data.train_examples", spec.val_examples + max(num_train, 1), len(order))
    _require_enough("data.test_examples", spec.test_examples, len(source.test.labels))
    test = source.test
    if spec.test_examples:
        test = test.take(hashed_order(spec.split, len(test.labels))[: spec.test_examples])
    train = source.train.take(order[spec.val_examples : spec.val_examples + num_train])
    val = source.train.take(order[: spec.val_examples]) if spec.val_examples else test
    mean, std = _pixel_statistics(source.train.images)
    digest = hashlib.sha256()
    for part in (train, val, test):
        for tensor in (part.images, part.labels):
            digest.update(tensor.contiguous().numpy().data)
    return ImageData(spec, source.classes, train, val, test, mean, std, digest.hexdigest()).to(device)


def hashed_order(name: str, count: int) -> Tensor:
    """A permutation of `count` indices that depends on the name alone: by SHA-256 of "name:index".

    Unlike a random generator's, it is the same in every version of every library.
    """
    return torch.tensor(sorted(range(count), key=lambda index: hashlib.sha256(f"{name}:{index}".encode()).digest()))


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, name))


def _require_enough(what: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise ValueError(f"{what} asks for {wanted:,} images; the data set has {there:,}")


def _pixel_statistics(images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of pixels in [0, 1], exactly, from the histogram of their bytes."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in images_NCHW.unbind(1):
        share = np.bincount(channel.numpy().ravel(), minlength=256) / channel.numel()
        mean = share @ levels
        means.append(mean)
        stds.append(max(np.sqrt(share @ (levels - mean) ** 2), 1 / 255))
    return torch.tensor(means, dtype=torch.float32), torch.tensor(stds, dtype=torch.float32)


def _torchvision_parts(
    dataset: str,
    root: Path,
    parts: tuple[dict[str, Any], ...] | list[dict[str, Any]] = ({"train": True}, {"train": False}),
) -> list[Any]:
    """Training and test set, read by torchvision's class of that name. Raises DataError, in one line, if they are damaged."""
    from nin._torchvision import datasets

    try:
        return [getattr(datasets, dataset)(root, **part) for part in parts]
    except Exception as error:  # torchvision lets through whatever its parsers stumble on
        raise DataError(
            f"{dataset} in {root} is damaged ({' '.join(str(error).split())}): delete it and try again"
        ) from error


def _folder(spec: DataSpec, root: Path) -> Path:
    name = spec.name.removeprefix("folder:")
    folder = (root / name).resolve()
    if not name or not folder.is_relative_to(root.resolve()):
        raise DataError(f"data set {spec.name!r}: the folder must lie inside the data root {root}")
    if not folder.is_dir():
        raise DataError(f"data set {spec.name!r}: there is no folder {folder}; put images into {folder}/train/<class>/")
    return folder


def _class_names(folder: Path) -> list[str]:
    train = folder / "train" if (folder / "train").is_dir() else folder
    return sorted(path.name for path in train.iterdir() if path.is_dir())


def _read_folder(spec: DataSpec, root: Path) -> Source:
    """Images in folders of classes, under train/ and test/ or in one set from which a sixth becomes the test set."""
    folder = _folder(spec, root)
    classes = tuple(_class_names(folder))
    size = spec.image_size or FOLDER_SIZE
    if (folder / "train").is_dir():
        if not (folder / "test").is_dir() or _class_names(folder / "test") != list(classes):
            raise DataError(f"{folder}: train and test must hold folders of the same classes")
        return Source(_read_images(folder / "train", size), _read_images(folder / "test", size), classes)
    images = _read_images(folder, size)
    order = hashed_order(f"{spec.split}-test", len(images.labels))
    num_test = len(order) // FOLDER_TEST_SHARE
    return Source(images.take(order[num_test:]), images.take(order[:num_test]), classes)


def _read_images(folder: Path, size: int) -> Split:
    from PIL import Image

    from nin._torchvision import datasets

    try:
        samples = datasets.ImageFolder(folder).samples
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {' '.join(str(error).split())}") from error
    images = []
    for path, _ in samples:
        try:
            with (
                warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
                Image.open(path) as image,
            ):
                images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)))
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise DataError(f"{path} cannot be read as an image ({error}): repair or remove it") from error
    labels = torch.tensor([label for _, label in samples])
    return Split(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels)
