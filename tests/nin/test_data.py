"""Data sets are divided alike everywhere, and made into batches as declared."""

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import one_line
from small_files import SYNTHETIC, paint, random_bytes, write_svhn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nin.data import AUGMENTATIONS, CROP_MARGIN, DATASETS, ImageData, load, shape
from nin.sources import Dataset, Source, Split
from nin.spec import DataSpec, stream


@pytest.fixture(scope="module")
def synthetic() -> ImageData:
    return load(SYNTHETIC)


# Division


def numbered(monkeypatch: pytest.MonkeyPatch, num_train: int, num_test: int) -> None:
    """Makes "synthetic" a data set whose images are told apart by their own number, in their first two pixels."""

    def split(count: int) -> Any:
        images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(count) // 256, torch.arange(count) % 256
        return Split(images, torch.arange(count) % 10)

    classes = tuple("abcdefghij")
    source = Dataset((1, 4, 4), 10, lambda root: Source(split(num_train), split(num_test), classes))
    monkeypatch.setattr("nin.sources.DATASETS", {**DATASETS, "synthetic": source})


def numbers(images_NCHW: Tensor) -> list[int]:
    return [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in images_NCHW]


def test_the_division_is_by_hash_of_name_and_index(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(monkeypatch, 1000, 300)
    data = load(DataSpec(name="synthetic", val_examples=5, train_examples=3, test_examples=4))

    def order(count: int) -> list[int]:
        return sorted(range(count), key=lambda i: hashlib.sha256(b"holdout:%d" % i).hexdigest())

    assert numbers(data.val.images) == order(1000)[:5] == [498, 530, 908, 252, 839]
    assert numbers(data.train.images) == order(1000)[5:8] == [428, 490, 62]
    assert numbers(data.test.images) == order(300)[:4]
    other = load(replace(data.spec, split="fold 2"))
    assert numbers(other.val.images) != numbers(data.val.images)


def test_no_image_is_in_two_parts_and_all_are_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(monkeypatch, 1000, 300)
    data = load(DataSpec(name="synthetic", val_examples=100))
    assert sorted(numbers(data.val.images) + numbers(data.train.images)) == list(range(1000))
    assert numbers(data.test.images) == list(range(300))
    assert data.val.labels.tolist() == [number % 10 for number in numbers(data.val.images)]


def test_fewer_training_images_are_some_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(monkeypatch, 1000, 300)
    few, many = (load(DataSpec(name="synthetic", val_examples=10, train_examples=n)) for n in (20, 200))
    assert numbers(many.train.images)[:20] == numbers(few.train.images)
    assert numbers(many.val.images) == numbers(few.val.images)


def test_without_validation_images_the_test_set_stands_in() -> None:
    data = load(DataSpec(name="synthetic", val_examples=0))
    assert data.val_is_test
    assert torch.equal(data.val.images, data.test.images)
    assert len(data.train.labels) == 1200
    assert not load(SYNTHETIC).val_is_test


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"val_examples": 1201}, "val_examples.* asks for 1,202 images; the data set has 1,200"),
        ({"val_examples": 1200}, "val_examples.* asks for 1,201.* set fewer, such as data.val_examples=200, with"),
        ({"val_examples": 200, "train_examples": 1001}, "train_examples asks for 1,201"),
        (
            {"val_examples": 200, "test_examples": 401},
            "test_examples asks for 401 .* has 400.* data.test_examples=0 for all",
        ),
    ],
)
def test_more_images_than_there_are_is_one_line_with_the_numbers(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(DataSpec(name="synthetic", **sizes))  # type: ignore[arg-type]
    one_line(caught)


IMAGES, LABELS = torch.zeros(90, 1, 32, 32, dtype=torch.uint8), torch.arange(90) % 2


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (
            IMAGES[..., :28, :28],
            LABELS,
            "ab",
            "declares images (1, 32, 32): those for training must be uint8 (90, 1, 32, 32)",
        ),
        (IMAGES[:, 0], LABELS, "ab", "and are uint8 (90, 32, 32)"),
        (IMAGES.float(), LABELS, "ab", "and are float32 (90, 1, 32, 32)"),
        (IMAGES, LABELS[:87], "ab", "labels for training must be int64 (90,), as many as images, and are int64 (87,)"),
        (IMAGES, LABELS[:, None], "ab", "and are int64 (90, 1)"),
        (IMAGES, LABELS.int(), "ab", "and are int32 (90,)"),
        (IMAGES, LABELS + 1, "ab", "labels for training go from 1 to 2, and must go from 0 to 1"),
        (IMAGES.numpy(), LABELS, "ab", "images and labels for training must be tensors"),
        (IMAGES, LABELS, "abc", "declares 2 classes and names 3"),
        (IMAGES, LABELS, "aa", "its classes must be different texts, and are ('a', 'a')"),
        (IMAGES, LABELS, (0, 1), "its classes must be different texts, and are (0, 1)"),
        (IMAGES[:0], LABELS[:0], "ab", "has no training images"),
    ],
)
def test_a_data_set_that_is_not_as_declared_is_one_line(
    images: Any, labels: Tensor, classes: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks and controls are sized by what is declared."""
    source = Source(Split(images, labels), Split(images, labels), tuple(classes))
    monkeypatch.setattr("nin.sources.DATASETS", {**DATASETS, "cells": Dataset((1, 32, 32), 2, lambda root: source)})
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(DataSpec(name="cells", val_examples=20))
    one_line(caught)


@pytest.mark.parametrize(
    ("in_shape", "num_classes", "message"),
    [
        ((32, 32), 2, "in_shape"),
        ((1, 32, 0), 2, "in_shape"),
        ((1, 32, 32), 1, "num_classes"),
        ((1, 32, 32), 2.0, "num_classes"),
    ],
)
def test_a_data_set_is_declared_with_a_shape_and_classes(in_shape: Any, num_classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(in_shape, num_classes, lambda root: Source(Split(IMAGES, LABELS), Split(IMAGES, LABELS), ("a", "b")))


def test_a_function_that_returns_no_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = Dataset((1, 32, 32), 2, lambda root: None)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr("nin.sources.DATASETS", {**DATASETS, "cells": forgetful})
    with pytest.raises(ValueError, match="'cells': its function must return a Source, and returns NoneType"):
        load(DataSpec(name="cells"))


def test_an_added_data_set_is_looked_at_as_a_folder_is() -> None:
    train = Split(
        torch.randint(0, 255, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte(), torch.zeros(60).long()
    )
    try:
        DATASETS["leaking"] = Dataset((1, 8, 8), 2, lambda root: Source(train, train.first(20), ("healthy", "ill")))
        data = load(DataSpec(name="leaking", val_examples=10))
    finally:
        del DATASETS["leaking"]
    assert data.notes == (
        "leaking: 50/10/20 images for training/validation/test, 1x8x8, 2 classes: healthy 50/10/20, ill 0/0/0",
        "20 of 20 test images are training images as well, pixel by pixel: test image 0 is training image 0",
        *(f"leaking: no {part} image of ill" for part in ("training", "validation", "test")),
    )


def test_the_checksum_is_over_all_that_is_used_and_its_order(synthetic: ImageData) -> None:
    def checksum(**changes: Any) -> str:
        return load(replace(SYNTHETIC, **changes)).checksum

    assert checksum() == synthetic.checksum == checksum(image_size=56, augment="flip", normalize=False)
    assert len({synthetic.checksum, checksum(val_examples=201), checksum(split="b"), checksum(test_examples=9)}) == 4
    digest = hashlib.sha256()
    for split in (synthetic.train, synthetic.val, synthetic.test):
        digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    assert synthetic.checksum == digest.hexdigest()


@pytest.mark.parametrize(
    ("field", "name", "nearest"), [("name", "fashionmnist", "fashion-mnist"), ("augment", "flips", "flip")]
)
def test_an_unknown_name_names_the_nearest(field: str, name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"nearest is '{nearest}'") as caught:
        load(replace(SYNTHETIC, **{field: name}))
    one_line(caught)


# Batches


def collect(data: ImageData, seed: int = 0, epoch: int = 0, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    images, labels = zip(*data.epoch(batch_size, seed, epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_an_epoch_has_each_image_once_with_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(monkeypatch, 1000, 300)
    data = load(DataSpec(name="synthetic", val_examples=100, normalize=False))
    images, labels = collect(data)
    seen = numbers((images * 255).round())
    assert sorted(seen) == sorted(numbers(data.train.images))
    assert labels.tolist() == [number % 10 for number in seen]


def test_the_last_partial_batch_is_kept(synthetic: ImageData) -> None:
    assert [len(labels) for _, labels in synthetic.epoch(300, 0, 0)] == [300, 300, 300, 100]
    assert [len(labels) for _, labels in synthetic.batches(synthetic.val, 150)] == [150, 50]


def test_the_order_is_that_of_seed_and_epoch_and_of_nothing_else(synthetic: ImageData) -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(stream(7, "order-3")))
    assert torch.equal(collect(synthetic, seed=7, epoch=3)[1], synthetic.train.labels[order])
    torch.manual_seed(1)
    for variant in ({"image_size": 14}, {"augment": "crop-flip"}, {"normalize": False}):
        data = replace(synthetic, spec=replace(SYNTHETIC, **variant))  # type: ignore[arg-type]
        assert torch.equal(collect(data, seed=7, epoch=3, batch_size=13)[1], synthetic.train.labels[order])
    for seed, epoch in ((7, 4), (8, 3)):
        assert not torch.equal(collect(synthetic, seed, epoch)[1], synthetic.train.labels[order])


def test_evaluation_sees_images_in_order_and_as_they_are(synthetic: ImageData) -> None:
    data = replace(synthetic, spec=replace(SYNTHETIC, normalize=False, augment="crop-flip"))
    images = torch.cat([x for x, _ in data.batches(data.test, 90)])
    torch.testing.assert_close(images, data.test.images / 255)
    assert torch.equal(torch.cat([y for _, y in data.batches(data.test, 90)]), data.test.labels)


def test_normalised_images_have_mean_0_and_deviation_1(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(root, monkeypatch)  # three channels
    data = load(DataSpec(name="svhn", val_examples=0), root)
    images, _ = collect(data)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)
    pixels = data.train.images.double() / 255
    torch.testing.assert_close(data.mean.double(), pixels.mean(dim=(0, 2, 3)), rtol=0, atol=1e-7)


def test_statistics_are_of_all_training_images_however_few_are_used(synthetic: ImageData) -> None:
    few = load(replace(SYNTHETIC, train_examples=10, val_examples=10))
    assert torch.equal(few.mean, synthetic.mean)
    assert torch.equal(few.std, synthetic.std)


def test_images_without_contrast_stay_finite(root: Path) -> None:
    for i in range(6):
        paint(root / "blank" / str(i % 2) / f"{i}.png", (0, 0, 0))
    images, _ = collect(load(DataSpec(name="folder:blank", val_examples=0), root))
    assert torch.equal(images, torch.zeros_like(images))


@pytest.mark.parametrize("size", [14, 20, 56, 224])
@pytest.mark.parametrize("channels_last", [True, False])
def test_resizing_is_torchvisions(synthetic: ImageData, size: int, channels_last: bool) -> None:
    import nin._torchvision  # noqa: F401, I001
    from torchvision.transforms.v2 import functional as T

    data = replace(synthetic, spec=replace(SYNTHETIC, image_size=size, normalize=False))
    images, _ = next(data.batches(data.test, 8, channels_last=channels_last))
    assert images.shape == (8, *data.in_shape) == (8, 1, size, size)
    torch.testing.assert_close(images, T.resize(data.test.images[:8] / 255, [size, size], antialias=True))
    pil = [T.to_dtype(T.to_image(T.resize(T.to_pil_image(i), [size, size])), scale=True) for i in data.test.images[:8]]
    torch.testing.assert_close(images, torch.stack(pil), rtol=0, atol=1.01 / 255)  # PIL rounds to bytes


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("size", [0, 16, 64])
def test_channels_last_is_a_memory_format_and_no_other_numbers(
    root: Path, monkeypatch: pytest.MonkeyPatch, augment: str, size: int
) -> None:
    write_svhn(root, monkeypatch)
    data = load(DataSpec(name="svhn", val_examples=2, image_size=size, augment=augment), root)
    for (x, _), (y, _) in zip(data.epoch(3, 0, 0), data.epoch(3, 0, 0, channels_last=True), strict=True):
        assert x.is_contiguous()
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x, y)


def test_another_device_holds_the_same(synthetic: ImageData) -> None:
    moved = synthetic.to("meta")
    assert {t.device.type for t in (moved.train.images, moved.val.labels, moved.test.images, moved.std)} == {"meta"}
    assert (moved.checksum, moved.spec) == (synthetic.checksum, synthetic.spec)


class HostWaits(TorchDispatchMode):
    """Fails on operations for which the host would have to wait for the device to learn a value or a shape."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
        )
        indices = args[1] if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default) else []
        assert all(index is None or index.dtype == torch.int64 for index in indices), "a mask has a shape to wait for"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_within_an_epoch_the_host_never_waits_for_the_device(synthetic: ImageData, augment: str) -> None:
    data = replace(synthetic, spec=replace(SYNTHETIC, augment=augment, image_size=20))
    with HostWaits():
        assert sum(len(labels) for _, labels in data.epoch(64, 0, 0, channels_last=True)) == 1000
        with pytest.raises(AssertionError):
            data.mean.max().item()  # that would be noticed


# Augmentation


def test_augmentation_none_changes_nothing(synthetic: ImageData) -> None:
    images = synthetic.train.images[:4]
    assert AUGMENTATIONS["none"](images, torch.rand(4, 3)) is images


def test_flip_mirrors_half_of_the_images(synthetic: ImageData) -> None:
    images = synthetic.train.images
    flipped = AUGMENTATIONS["flip"](images, torch.rand(1000, 3, generator=torch.Generator().manual_seed(0)))
    same = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert bool((same ^ mirrored).all())
    assert 450 < int(mirrored.sum()) < 550


def test_crop_flip_shifts_by_up_to_four_pixels_each_as_often_with_black_coming_in() -> None:
    height, width = 12, 16
    image = torch.from_numpy(random_bytes(3, height, width)) | 1  # no pixel of its own is black
    padded = torch.nn.functional.pad(image, [CROP_MARGIN] * 4)
    possible = {}
    for top in range(9):
        for left in range(9):
            crop = padded[:, top : top + height, left : left + width]
            for mirrored in (False, True):
                possible[(crop.flip(-1) if mirrored else crop).numpy().tobytes()] = (top, left, mirrored)
    assert len(possible) == 162
    draws = torch.rand(8000, 3, generator=torch.Generator().manual_seed(0))
    crops = AUGMENTATIONS["crop-flip"](image.expand(8000, -1, -1, -1), draws)
    seen = [possible[crop.numpy().tobytes()] for crop in crops]
    assert set(seen) == set(possible.values())
    for values in zip(*seen, strict=True):
        counts = np.unique(values, return_counts=True)[1]
        assert counts == pytest.approx(8000 / len(counts), rel=0.15)


def test_augmentation_is_drawn_by_seed_and_epoch_whatever_the_batch_size(synthetic: ImageData) -> None:
    data = replace(synthetic, spec=replace(SYNTHETIC, augment="crop-flip"))
    first = collect(data, seed=1, epoch=2)[0]
    torch.manual_seed(5)
    torch.testing.assert_close(collect(data, seed=1, epoch=2, batch_size=77)[0], first, rtol=0, atol=0)
    plain = collect(synthetic, seed=1, epoch=2)[0]
    assert not torch.equal(plain, first)


def test_an_image_is_augmented_anew_in_each_epoch() -> None:
    data = load(replace(SYNTHETIC, train_examples=1, augment="crop-flip"))
    assert len({collect(data, epoch=epoch)[0].numpy().tobytes() for epoch in range(6)}) > 3


# The synthetic data set


def test_synthetic_images_are_always_the_same_ten_balanced_classes(synthetic: ImageData) -> None:
    torch.manual_seed(3)
    assert load(SYNTHETIC).checksum == synthetic.checksum
    labels = torch.cat([synthetic.train.labels, synthetic.val.labels])
    assert torch.bincount(labels).tolist() == [120] * 10
    assert (synthetic.in_shape, synthetic.num_classes) == shape(SYNTHETIC) == ((1, 28, 28), 10)


def test_neither_importing_nor_synthetic_data_loads_torchvision() -> None:
    code = (
        "import sys; from nin.data import load; from nin.spec import DataSpec\n"
        "load(DataSpec(name='synthetic', val_examples=10))\n"
        "assert not {'torchvision', 'mlflow', 'optuna', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
