"""Data sets: found and verified, divided alike everywhere, batches made as torchvision would make them."""

import gzip
import hashlib
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nin.fetch
from nin._torchvision import datasets
from nin.data import AUGMENTATIONS, CROP_MARGIN, DATASETS, ImageData, hashed_order, load, shape
from nin.fetch import DEBIAN_FOLDER, FASHION_MNIST, DataError, data_root
from nin.spec import DataSpec

SYNTHETIC = DataSpec(name="synthetic", val_examples=100)


@pytest.fixture(scope="module")
def synthetic() -> ImageData:
    return load(SYNTHETIC)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data root in which nothing is found and into which nothing can be fetched."""
    monkeypatch.setattr(nin.fetch, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(nin.fetch, "_runs", lambda command, cwd: False)
    return tmp_path / "root"


# --- splits


def test_the_split_depends_on_its_name_alone() -> None:
    order = sorted(range(1200), key=lambda i: hashlib.sha256(f"holdout:{i}".encode()).digest())
    assert hashed_order("holdout", 1200).tolist() == order
    assert hashed_order("other", 1200).tolist() != order


def test_validation_and_training_images_are_disjoint_and_all_there(synthetic: ImageData) -> None:
    assert (len(synthetic.train.labels), len(synthetic.val.labels), len(synthetic.test.labels)) == (1100, 100, 400)
    as_bytes = [{image.numpy().tobytes() for image in split.images} for split in (synthetic.train, synthetic.val)]
    assert not as_bytes[0] & as_bytes[1]


def test_fewer_training_images_are_the_first_of_more(synthetic: ImageData) -> None:
    fewer = load(replace(SYNTHETIC, train_examples=50))
    assert torch.equal(fewer.train.images, synthetic.train.images[:50])
    assert torch.equal(fewer.val.images, synthetic.val.images)


def test_without_validation_images_the_test_set_is_watched() -> None:
    data = load(replace(SYNTHETIC, val_examples=0))
    assert len(data.train.labels) == 1200
    assert data.val is data.test or torch.equal(data.val.images, data.test.images)


@pytest.mark.parametrize("changes", [{"train_examples": 1101}, {"val_examples": 1200}, {"test_examples": 401}])
def test_more_images_than_there_are_is_an_error_with_both_numbers(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"asks for 1?,?\d+ images; the data set has (1,200|400)"):
        load(replace(SYNTHETIC, **changes))  # type: ignore[arg-type]


def test_the_checksum_tells_data_apart(synthetic: ImageData) -> None:
    assert load(SYNTHETIC).checksum == synthetic.checksum
    assert load(replace(SYNTHETIC, split="other")).checksum != synthetic.checksum


# --- batches


def test_an_epoch_shows_every_image_once_and_keeps_the_last_partial_batch(synthetic: ImageData) -> None:
    labels = [labels for _, labels in synthetic.epoch(128, seed=0, epoch=0)]
    assert [len(batch) for batch in labels] == [128] * 8 + [76]
    assert torch.equal(torch.cat(labels).bincount(), synthetic.train.labels.bincount())


def test_the_order_follows_seed_and_epoch_and_nothing_else(synthetic: ImageData) -> None:
    def order(data: ImageData, seed: int, epoch: int) -> list[int]:
        return torch.cat([labels for _, labels in data.epoch(100, seed, epoch)]).tolist()

    reference = order(synthetic, 0, 0)
    augmented = replace(synthetic, spec=replace(SYNTHETIC, augment="crop-flip", image_size=32, normalize=False))
    assert order(synthetic, 0, 0) == order(augmented, 0, 0) == reference
    assert order(synthetic, 1, 0) != reference != order(synthetic, 0, 1)


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    data = load(replace(SYNTHETIC, val_examples=0))
    x = torch.cat([images for images, _ in data.epoch(500, 0, 0)])
    assert x.mean() == pytest.approx(0, abs=1e-4)
    assert x.std() == pytest.approx(1, abs=1e-3)


def test_images_that_are_not_normalised_are_in_0_to_1(synthetic: ImageData) -> None:
    plain = replace(synthetic, spec=replace(SYNTHETIC, normalize=False))
    x, _ = next(plain.batches(plain.test, 50))
    torch.testing.assert_close(x, plain.test.images[:50].float() / 255)


def test_channels_last_is_a_memory_format(synthetic: ImageData) -> None:
    data = load(replace(SYNTHETIC, image_size=40))
    x, _ = next(data.batches(data.test, 8, channels_last=True))
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [224, 32, 14])
def test_resizing_is_torchvisions(size: int) -> None:
    from torchvision.transforms.v2.functional import resize

    data = load(replace(SYNTHETIC, image_size=size, normalize=False))
    x, _ = next(data.batches(data.test, 4))
    wanted = resize(data.test.images[:4].float() / 255, [size, size], antialias=True)
    assert x.shape[1:] == data.in_shape == (1, size, size)
    torch.testing.assert_close(x, wanted, atol=1e-5, rtol=1e-4)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.randint(0, 256, (1000, 1, 5, 5), dtype=torch.uint8)
    flipped = AUGMENTATIONS["flip"](images, torch.rand(1000, 3))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 400 < int(mirrored.sum()) < 600


def test_crop_flip_is_a_window_of_the_padded_image() -> None:
    images = torch.randint(1, 256, (40, 3, 6, 6), dtype=torch.uint8)
    draws = torch.rand(40, 3)
    cropped = AUGMENTATIONS["crop-flip"](images, draws)
    padded = torch.nn.functional.pad(images, [CROP_MARGIN] * 4)
    for i, (y, x, mirror) in enumerate(draws.tolist()):
        top, left = int(y * (2 * CROP_MARGIN + 1)), int(x * (2 * CROP_MARGIN + 1))
        window = padded[i, :, top : top + 6, left : left + 6]
        assert torch.equal(cropped[i], window.flip(-1) if mirror < 0.5 else window)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_the_same_for_the_same_seed(name: str) -> None:
    data = load(replace(SYNTHETIC, augment=name))
    first, again = (torch.cat([x for x, _ in data.epoch(100, 0, 3)]) for _ in range(2))
    assert torch.equal(first, again)


# --- Fashion-MNIST


@pytest.fixture(scope="module")
def fashion_files() -> Path:
    for folder in (DEBIAN_FOLDER, data_root() / "FashionMNIST" / "raw"):
        if all((folder / f"{name}.gz").exists() or (folder / name).exists() for name in FASHION_MNIST):
            return folder
    pytest.skip("Fashion-MNIST is not on this machine (Debian's package dataset-fashion-mnist has it)")


def give(files: Path, folder: Path) -> None:
    """Put the four files into `folder`, as they are in `files`."""
    folder.mkdir(parents=True)
    for name in FASHION_MNIST:
        for path in (files / name, files / f"{name}.gz"):
            if path.exists():
                (folder / path.name).symlink_to(path)
                break


def test_fashion_mnist_is_itself(fashion_files: Path, offline: Path) -> None:
    give(fashion_files, offline / "FashionMNIST" / "raw")
    data = load(DataSpec(val_examples=0), offline)
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert float(data.mean) == pytest.approx(0.2860, abs=5e-5)
    assert float(data.std) == pytest.approx(0.3530, abs=5e-5)
    assert data.classes[0] == "T-shirt/top"


def test_fashion_mnist_is_found_where_debian_puts_it(fashion_files: Path, offline: Path) -> None:
    give(fashion_files, nin.fetch.DEBIAN_FOLDER)
    if not (nin.fetch.DEBIAN_FOLDER / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("this machine has the files unpacked only")
    assert len(load(DataSpec(train_examples=10), offline).train.labels) == 10
    assert (offline / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").exists()


def test_a_damaged_file_is_named_and_not_replaced(fashion_files: Path, offline: Path) -> None:
    raw = offline / "FashionMNIST" / "raw"
    give(fashion_files, raw)
    damaged = raw / "t10k-labels-idx1-ubyte"
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(b"not the labels")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is damaged .* delete it") as error:
        load(DataSpec(), offline)
    assert "\n" not in str(error.value)
    assert damaged.read_bytes() == b"not the labels"


def test_a_truncated_archive_is_named(offline: Path) -> None:
    raw = offline / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
        load(DataSpec(), offline)


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "kmnist", "cifar-10", "cifar-100", "svhn"])
def test_what_is_nowhere_is_one_line_that_says_what_to_do(name: str, offline: Path) -> None:
    with pytest.raises(DataError, match=r"could not be fetched: (install|put)") as error:
        load(DataSpec(name=name), offline)
    assert "\n" not in str(error.value)


# --- other data sets, from small files in their formats


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_mnist(root: Path, folder: str, rng: np.random.Generator) -> None:
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def write_cifar(
    folder: Path, files: dict[str, int], meta: dict[str, object], label: str, rng: np.random.Generator
) -> None:
    folder.mkdir(parents=True)
    for name, count in files.items():
        content = {"data": rng.integers(0, 256, (count, 3072), np.uint8), label: [i % 10 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / ("meta" if "fine_label_names" in meta else "batches.meta")).write_bytes(pickle.dumps(meta))


def test_mnist_and_kmnist_are_read(offline: Path) -> None:
    for name, folder in (("mnist", "MNIST"), ("kmnist", "KMNIST")):
        write_mnist(offline, folder, np.random.default_rng(0))
        data = load(DataSpec(name=name, val_examples=10), offline)
        assert (data.in_shape, data.num_classes) == shape(data.spec, offline) == ((1, 28, 28), 10)
        assert (len(data.train.labels), len(data.test.labels)) == (30, 20)


def test_cifar_is_read(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    rng = np.random.default_rng(0)
    batches = {f"data_batch_{k}": 10 for k in range(1, 6)} | {"test_batch": 20}
    names = [f"class {k}" for k in range(10)]
    write_cifar(offline / "cifar-10-batches-py", batches, {"label_names": names}, "labels", rng)
    fine = {"fine_label_names": [f"class {k}" for k in range(100)]}
    write_cifar(offline / "cifar-100-python", {"train": 50, "test": 20}, fine, "fine_labels", rng)
    for name, classes in (("cifar-10", 10), ("cifar-100", 100)):
        data = load(DataSpec(name=name, val_examples=10), offline)
        assert (data.in_shape, data.num_classes) == shape(data.spec, offline) == ((3, 32, 32), classes)
        assert len(data.train.labels) == 40
        assert data.mean.shape == (3,)


def test_svhn_is_read(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    rng = np.random.default_rng(0)
    offline.mkdir()
    pixels = rng.integers(0, 256, (32, 32, 3, 30), np.uint8)
    for part in ("train", "test"):
        savemat(offline / f"{part}_32x32.mat", {"X": pixels, "y": (1 + np.arange(30) % 10)[:, None].astype(np.uint8)})
    data = load(DataSpec(name="svhn", val_examples=10), offline)
    assert (data.in_shape, data.num_classes) == ((3, 32, 32), 10)
    assert data.test.labels.tolist() == [(1 + k) % 10 for k in range(10)] * 3  # the file writes digit 0 as 10
    assert torch.equal(data.test.images[4], torch.from_numpy(pixels[..., 4]).permute(2, 0, 1))


def test_every_data_set_has_the_shape_it_declares() -> None:
    assert shape(SYNTHETIC) == (load(SYNTHETIC).in_shape, 10)
    assert shape(replace(SYNTHETIC, image_size=224)) == ((1, 224, 224), 10)
    with pytest.raises(ValueError, match="nearest is 'fashion-mnist'"):
        shape(DataSpec(name="fashionmnist"))
    assert "synthetic" in DATASETS


# --- folders of images


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data root with a folder of two classes, in train and test."""
    for part, count in (("train", 12), ("test", 4)):
        for label, colour in (("cat", (200, 0, 0)), ("dog", (0, 0, 200))):
            folder = tmp_path / "pets" / part / label
            folder.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (20 + k, 30), colour).save(folder / f"{k}.png")
    return tmp_path


def test_a_folder_of_images_is_a_data_set(pets: Path) -> None:
    data = load(DataSpec(name="folder:pets", val_examples=4, image_size=16), pets)
    assert data.classes == ("cat", "dog")
    assert (data.in_shape, data.num_classes) == shape(data.spec, pets) == ((3, 16, 16), 2)
    assert (len(data.train.labels), len(data.val.labels), len(data.test.labels)) == (20, 4, 8)
    red = data.test.images[data.test.labels == 0]
    assert (red[:, 0] == 200).all()
    assert (red[:, 1:] == 0).all()


def test_a_folder_without_a_test_part_is_divided_the_same_way_every_time(pets: Path) -> None:
    shutil.move(pets / "pets" / "train", pets / "flat")
    first, again = (load(DataSpec(name="folder:flat", val_examples=4), pets) for _ in range(2))
    assert len(first.test.labels) == 24 // 6
    assert first.checksum == again.checksum


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_not_an_image_is_named(pets: Path, content: bytes) -> None:
    (pets / "pets" / "train" / "cat" / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken.png cannot be read as an image"):
        load(DataSpec(name="folder:pets", val_examples=4), pets)


def test_a_truncated_image_is_named(pets: Path) -> None:
    path = pets / "pets" / "train" / "dog" / "3.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match=r"3.png cannot be read as an image"):
        load(DataSpec(name="folder:pets", val_examples=4), pets)


def test_a_huge_image_is_refused(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="cannot be read as an image"):
        load(DataSpec(name="folder:pets", val_examples=4), pets)


@pytest.mark.parametrize("name", ["folder:..", "folder:../elsewhere", "folder:/etc", "folder:"])
def test_a_folder_outside_the_data_root_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must lie inside the data root"):
        load(DataSpec(name=name), tmp_path)


def test_a_folder_that_is_not_there_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load(DataSpec(name="folder:cars"), tmp_path)
