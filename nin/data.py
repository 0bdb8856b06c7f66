"""Data sets as bytes on the training device, and the batches made from them there.

Images stay uint8, one tensor per split, on the device that trains. Cutting a batch, normalising, augmenting and resizing all
happen there, without the host waiting for it. Every random number is drawn on the CPU, for a whole epoch at once, so it is the
same on any device.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nin.fetch import DataError, data_root
from nin.registry import Registry, added
from nin.sources import DATASETS, FOLDER, Split, hashed_order, read, shape
from nin.spec import DataSpec, Shape, choose, stream
from nin.text import one_line, shortened

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "DataError",
    "ImageData",
    "Split",
    "data_root",
    "hashed_order",
    "load",
    "resized",
    "shape",
]

CROP_MARGIN = 4  # pixels of black around an image before it is cropped at random
MAX_LISTED = 12  # classes, in the line on a folder of images


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """A data set, divided, on one device.

    mean, std  (C,) of the pixels, in [0, 1], of all training images of the data set
    checksum   SHA-256 over images and labels of all three splits, in order; of a part (`first`), over that and the numbers
    notes      for a folder of images: a line on its classes and splits, then one line per peculiarity of the images
    """

    spec: DataSpec
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: Tensor
    std: Tensor
    checksum: str
    notes: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes on what is unusual about a folder's images; the summary, which comes before them, is none."""
        return self.notes[1:]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, part).labels):,} {part}" for part in ("train", "val", "test"))
        shape = "×".join(str(n) for n in self.in_shape)
        device = self.train.images.device
        return f"ImageData({self.name}: {sizes} images, {shape}, {self.num_classes} classes, on {device})"

    def first(self, num_train: int, num_val: int) -> "ImageData":
        """Return the same data with only the first images of training and of validation."""
        checksum = hashlib.sha256(f"{self.checksum} {num_train} {num_val}".encode()).hexdigest()
        return replace(self, train=self.train.first(num_train), val=self.val.first(num_val), checksum=checksum)

    @property
    def name(self) -> str:
        """The data set's name in its specification."""
        return self.spec.name

    @property
    def val_is_test(self) -> bool:
        """Return whether the test set is watched because no validation images were set aside."""
        return self.spec.val_examples == 0

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def in_shape(self) -> Shape:
        """Shape (C, H, W) of the images that a network sees."""
        channels, height, width = self.train.images.shape[1:]
        size = self.spec.image_size
        return (channels, size, size) if size else (channels, height, width)

    def epoch(
        self, batch_size: int, seed: int, epoch: int, *, channels_last: bool = False, first_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of training images (n, C, H, W), in [0, 1] or normalised, and labels (n,), in the epoch's own order.

        The order and the augmentation depend on `seed` and `epoch` alone; the last batch may be smaller. The batches before
        `first_step` are left out.
        """
        device = self.train.images.device
        num_images = len(self.train.labels)
        order_N = torch.randperm(num_images, generator=_generator(seed, f"order-{epoch}")).to(device, non_blocking=True)
        augment = choose(AUGMENTATIONS, self.spec.augment, "augmentation")
        draws_N3 = torch.rand(num_images, 3, generator=_generator(seed, f"augment-{epoch}")).to(
            device, non_blocking=True
        )
        for start in range(first_step * batch_size, num_images, batch_size):
            indices = order_N[start : start + batch_size]
            images = augment(self.train.images[indices], draws_N3[start : start + batch_size])
            yield self._prepared(images, channels_last), self.train.labels[indices]

    def batches(self, split: Split, batch_size: int, *, channels_last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of the split's images in order, as `epoch` makes them but without augmentation."""
        for start in range(0, len(split.labels), batch_size):
            images = split.images[start : start + batch_size]
            yield self._prepared(images, channels_last), split.labels[start : start + batch_size]

    def to(self, device: str | torch.device) -> "ImageData":
        """Return the same data on another device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "val", "test", "mean", "std")}
        return replace(self, **parts)

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift that turn a byte into the network's input, channel by channel."""
        if self.spec.normalize:
            mean_C11, std_C11 = self.mean[:, None, None], self.std[:, None, None]
            return 1 / (255 * std_C11), -mean_C11 / std_C11
        return torch.full_like(self.std, 1 / 255)[:, None, None], torch.zeros_like(self.std)[:, None, None]

    def _prepared(self, bytes_NCHW: Tensor, channels_last: bool) -> Tensor:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        x_NCHW = bytes_NCHW.to(torch.float32).contiguous(memory_format=memory_format)
        scale_C11, shift_C11 = self._scale_and_shift
        x_NCHW = torch.addcmul(shift_C11, x_NCHW, scale_C11)
        if tuple(x_NCHW.shape[1:]) != self.in_shape:
            x_NCHW = resized(x_NCHW, x_NCHW.shape[2:], self.in_shape[1:])
            x_NCHW = x_NCHW.contiguous(memory_format=memory_format)
        return x_NCHW


def resized(x_NCHW: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Resize images from one height and width to another, as in training: bilinear, with antialiasing where a side shrinks."""
    shrinks = any(size > wanted for size, wanted in zip(before, after, strict=True))
    return F.interpolate(x_NCHW, tuple(after), mode="bilinear", antialias=shrinks)


def _flip(images_NCHW: Tensor, draws_N3: Tensor) -> Tensor:
    """Mirror half of the images, left to right."""
    return torch.where((draws_N3[:, 2] < 0.5)[:, None, None, None], images_NCHW.flip(-1), images_NCHW)


def _crop_flip(images_NCHW: Tensor, draws_N3: Tensor) -> Tensor:
    """Shift images by up to CROP_MARGIN pixels either way, filling with black, and mirror half of them."""
    channels, height, width = images_NCHW.shape[1:]
    padded = F.pad(images_NCHW, [CROP_MARGIN] * 4)
    offsets = (draws_N3[:, :2] * (2 * CROP_MARGIN + 1)).long()
    rows = offsets[:, 0, None] + torch.arange(height, device=images_NCHW.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images_NCHW.device)
    padded = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    cropped = padded.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))
    return _flip(cropped, draws_N3)


# Functions of images (n, C, H, W) as bytes and three uniform random numbers per image, (n, 3), to images of the same shape.
AUGMENTATIONS: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry(
    "augmentation",
    "data.augment",
    {
        "none": lambda images_NCHW, draws_N3: images_NCHW,
        "flip": _flip,
        "crop-flip": _crop_flip,
    },
)


def load(spec: DataSpec, root: Path | None = None, device: str | torch.device = "cpu") -> ImageData:
    """Load the data set of `spec` from `root` (default: `data_root()`), or fetch it into there; divide it, on `device`.

    Raises ValueError for a name that does not exist or more images than there are, DataError for files missing or damaged.
    """
    choose(AUGMENTATIONS, spec.augment, "augmentation")
    source = read(spec, root or data_root())
    noisy = replace(source.train, labels=_with_noise(source.train.labels, len(source.classes), spec))
    order = hashed_order(spec.split, len(source.train.labels))
    num_held = 0 if source.val else spec.val_examples
    num_train = spec.train_examples or len(order) - num_held
    # A data set with validation images of its own ignores how many are held out.
    fewer = "set " if source.val else f"set fewer, such as data.val_examples={len(order) // 6}, with "
    wanted = num_held + max(num_train, 1)
    _require_enough(
        "data.val_examples + data.train_examples", wanted, len(order), f"{fewer}data.train_examples=0 for all others"
    )
    _require_enough(
        "data.test_examples", spec.test_examples, len(source.test.labels), "set data.test_examples=0 for all"
    )
    test = source.test
    if spec.test_examples:
        test = test.take(hashed_order(spec.test_split, len(test.labels))[: spec.test_examples])
    chosen = order[num_held : num_held + num_train]
    num_different = max(1, round(spec.train_fraction * num_train))
    train = noisy.take(chosen[torch.arange(num_train) % num_different])
    val = source.train.take(order[: spec.val_examples]) if spec.val_examples else test
    if source.val and spec.val_examples:
        val = source.val.take(hashed_order(spec.split, len(source.val.labels))[: spec.val_examples])
    mean, std = _pixel_statistics(source.train.images)
    digest = hashlib.sha256()
    is_own = spec.name.startswith(FOLDER) or added({"data.name": spec.name})
    if is_own and spec.normalize and num_held + num_different < len(order):
        for statistic in (mean, std):  # in which images that are not used have a part
            digest.update(statistic.numpy().data)
    for part in (train, val, test):
        for tensor in (part.images, part.labels):
            digest.update(tensor.contiguous().numpy().data)
    data = ImageData(spec, source.classes, train, val, test, mean, std, digest.hexdigest())
    notes = source.notes
    if is_own:
        counts = _counts(data)
        notes = (_summary(data, counts), *notes, *_lacking(data, counts))
    return replace(data, notes=notes).to(device)


def _counts(data: ImageData) -> dict[str, list[int]]:
    """Count the images of each class, by part: {"training": [80, 78], "validation": [10, 12], "test": [18, 16]}."""
    parts = {"training": data.train, "validation": data.val, "test": data.test}
    if data.val_is_test:
        del parts["validation"]
    return {part: torch.bincount(split.labels, minlength=data.num_classes).tolist() for part, split in parts.items()}


def _summary(data: ImageData, counts: Mapping[str, Sequence[int]]) -> str:
    """Summarise images per class and split in one line: "pets: 2 classes (training/validation/test): cat 80/10/18, dog 78/12/16"."""
    totals = "/".join(f"{sum(each):,}" for each in counts.values())
    if data.num_classes > MAX_LISTED:
        each = counts["training"]
        classes = f"{min(each):,} to {max(each):,} training images each"
    else:
        each_class = zip(data.classes, zip(*counts.values(), strict=True), strict=True)
        classes = ", ".join(f"{one_line(name)} {'/'.join(map(str, numbers))}" for name, numbers in each_class)
    shape = "x".join(str(n) for n in data.in_shape)
    return f"{data.name}: {totals} images for {'/'.join(counts)}, {shape}, {data.num_classes} classes: {classes}"


def _lacking(data: ImageData, counts: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Yield a line for each part in which some classes have no image."""
    for part, each in counts.items():
        names = [one_line(name) for name, count in zip(data.classes, each, strict=True) if count == 0]
        if names:
            yield f"{data.name}: no {part} image of {shortened(names, MAX_LISTED)}"


def _with_noise(labels_N: Tensor, num_classes: int, spec: DataSpec) -> Tensor:
    """Redraw a share `spec.label_noise` of the labels (N,), alike for every training of the division."""
    if not spec.label_noise:
        return labels_N
    generator = _generator(0, f"label noise {spec.split}")
    is_drawn_N = torch.rand(len(labels_N), generator=generator) < spec.label_noise
    return torch.where(is_drawn_N, torch.randint(num_classes, (len(labels_N),), generator=generator), labels_N)


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, name))


def _require_enough(what: str, wanted: int, there: int, advice: str) -> None:
    if wanted > there:
        raise ValueError(f"{what} asks for {wanted:,} images; the data set has {there:,}: {advice}")


def _pixel_statistics(images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact mean and standard deviation (C,) of pixels in [0, 1], from the histogram of their bytes."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in images_NCHW.unbind(1):
        pixels = channel.numpy()
        starts = range(0, len(pixels), 1000)  # images at once: bincount's intermediate results of so many fit a cache
        counts = [np.bincount(pixels[start : start + 1000].ravel(), minlength=256) for start in starts]
        share = np.sum(counts, axis=0) / pixels.size
        mean = share @ levels
        means.append(mean)
        stds.append(max(np.sqrt(share @ (levels - mean) ** 2), 1 / 255))
    return torch.tensor(means, dtype=torch.float32), torch.tensor(stds, dtype=torch.float32)
