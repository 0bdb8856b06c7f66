"""Data sets: found before fetched, verified before used, divided alike everywhere, and made into batches as declared."""

import hashlib
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_files import WRITERS, idx, mnist_files, random_bytes, write, write_mnist, write_svhn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nin import fetch
from nin.data import AUGMENTATIONS, CROP_MARGIN, DATASETS, DataError, ImageData, data_root, load, shape
from nin.sources import named
from nin.spec import DataSpec, stream

SYNTHETIC = DataSpec(name="synthetic", val_examples=200)
FASHION = DataSpec(name="fashion-mnist", val_examples=2)
PROGRAMS = os.environ["PATH"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test downloads: torchvision's mirrors are down, there is no apt-get, and no Debian package is installed."""

    def down(dataset: str, folder: Path, limit_sec: int) -> None:
        raise fetch._FetchError("the mirrors are down")

    (tmp_path / "no-programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.setattr(fetch, "_download", down)
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", tmp_path / "no-debian")


@pytest.fixture(scope="module")
def synthetic() -> ImageData:
    return load(SYNTHETIC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    """The message, which must be a single line without a nested traceback."""
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files in Fashion-MNIST's format, small, whose checksums count as its own."""
    files = mnist_files()
    monkeypatch.setattr(fetch, "FASHION_MNIST", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
    return files


def raw(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_from_the_data_root(fashion: dict[str, bytes], root: Path, packed: bool) -> None:
    write(fashion, raw(root), packed=packed)
    data = load(replace(FASHION, val_examples=0), root)
    published = torch.from_numpy(random_bytes(10, 28, 28, seed=10))[:, None]
    assert torch.equal(data.test.images, published)
    assert data.test.labels.tolist() == list(range(10))
    assert (len(data.train.labels), data.train.labels.dtype) == (20, torch.int64)
    assert data.classes[0] == "T-shirt/top"


def test_then_where_debian_puts_it_and_is_left_as_torchvision_wants_it(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(fashion, tmp_path / "debian", packed=True))
    data = load(FASHION, root)

    from nin._torchvision import datasets

    theirs = datasets.FashionMNIST(root, train=False, download=False)
    assert torch.equal(theirs.data[:, None], data.test.images)
    assert torch.equal(theirs.targets, data.test.labels)
    assert sorted(path.name for path in raw(root).iterdir()) == sorted(fashion)  # and nothing temporary


def test_the_data_root_comes_before_debians_folder(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(fashion, raw(root))
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(dict.fromkeys(fashion, b"other"), tmp_path / "debian"))
    assert load(FASHION, root).num_classes == 10


def test_debians_folder_serves_a_data_root_that_cannot_be_written_to(
    fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(fashion, tmp_path / "debian", packed=True))
    (tmp_path / "file").write_text("not a folder")
    assert len(load(FASHION, tmp_path / "file" / "data").train.labels) == 18


def test_then_the_mirrors(fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_download", lambda dataset, folder, limit_sec: write(fashion, raw(folder), packed=True))
    load(FASHION, root)
    assert {path.name: path.read_bytes() for path in raw(root).iterdir()} == fashion
    assert [path.name for path in root.iterdir()] == ["FashionMNIST"]


def test_several_processes_may_leave_the_files_at_once(fashion: dict[str, bytes], root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(fetch._keep, fashion, raw(root)) for _ in range(8)]:
            done.result()
    assert {path.name: path.read_bytes() for path in raw(root).iterdir()} == fashion


def fake_apt(folder: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, *, lists: bool) -> None:
    """`apt-get` and `dpkg` that hand out a folder; without lists, `download` works only after `update`."""
    needs = "exit 0" if lists else '[ -e updated ] || { echo "E: Unable to locate package" >&2; exit 100; }'
    scripts = {
        "apt-get": f'case "$*" in *update) touch updated;; *) {needs.replace("exit 0", ":")}; touch some.deb;; esac',
        "dpkg": f'mkdir -p "$3/usr/share" && cp -r {shipped} "$3/usr/share/"',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{PROGRAMS}")


@pytest.mark.parametrize("lists", [True, False])
def test_then_debians_package_whether_or_not_apts_lists_are_there(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lists: bool
) -> None:
    shipped = write(fashion, tmp_path / "fashion-mnist", packed=True)
    fake_apt(tmp_path / "no-programs", shipped, monkeypatch, lists=lists)
    load(FASHION, root)
    assert {path.name: path.read_bytes() for path in raw(root).iterdir()} == fashion


def test_else_one_line_says_where_it_was_looked_for_why_not_found_and_what_to_do(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(FASHION, root)
    message = one_line(caught)
    for said in (str(raw(root)), str(fetch.DEBIAN_FOLDER), "mirrors are down", "no apt-get", "NIN_DATA"):
        assert said in message
    assert "dataset-fashion-mnist" in message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\x0b", lambda b: b"", lambda b: b"<html>"])
def test_a_damaged_file_is_named_and_neither_used_nor_overwritten(
    fashion: dict[str, bytes], root: Path, name: str, packed: bool, damage: Callable[[bytes], bytes]
) -> None:
    write(fashion, raw(root), packed=packed)
    path = raw(root) / (f"{name}.gz" if packed else name)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"{path}.*delete it") as caught:
        load(FASHION, root)
    one_line(caught)
    assert path.read_bytes() == before


def test_a_damaged_file_of_debians_asks_for_the_package_again(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = fashion | {"t10k-images-idx3-ubyte": b"damaged"}
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(files, tmp_path / "debian", packed=True))
    with pytest.raises(DataError, match="install dataset-fashion-mnist again"):
        load(FASHION, root)


def test_what_a_mirror_sends_is_verified_too(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fashion | {"t10k-images-idx3-ubyte": b"<html>please log in</html>"}
    monkeypatch.setattr(fetch, "_download", lambda dataset, folder, limit_sec: write(files, raw(folder)))
    with pytest.raises(DataError, match="checksum"):
        load(FASHION, root)
    assert list(root.iterdir()) == []


def test_a_data_root_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot write to .*NIN_DATA") as caught:
        load(FASHION, tmp_path / "file")
    one_line(caught)


def test_a_data_root_that_cannot_be_read_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(root: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    known = {**DATASETS, "mnist": replace(DATASETS["mnist"], read=forbidden)}
    monkeypatch.setattr("nin.sources.DATASETS", known)
    with pytest.raises(DataError, match=r"cannot be read from .*Permission denied.*NIN_DATA") as caught:
        load(DataSpec(name="mnist"), root)
    one_line(caught)


def test_fetching_is_given_up_after_its_time() -> None:
    with pytest.raises(fetch._FetchError, match="took longer than 1 s"):
        fetch._run([sys.executable, "-c", "import time; time.sleep(60)"], Path.cwd(), 1)


def test_what_a_failed_command_said_last_is_the_reason() -> None:
    with pytest.raises(fetch._FetchError, match=r"^E: no such package$"):
        fetch._run([sys.executable, "-c", "import sys; sys.exit('W: slow\\nE: no such package')"], Path.cwd(), 60)


def test_the_data_root_is_nin_data_or_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("NIN_DATA", raising=False)
    assert data_root() == Path("/home/somebody/.cache/nin-ablations/data")
    monkeypatch.setenv("NIN_DATA", "~/elsewhere")
    assert data_root() == Path("/home/somebody/elsewhere")


# The real one

REAL_ROOT, REAL_DEBIAN_FOLDER = data_root(), fetch.DEBIAN_FOLDER


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> ImageData:
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", REAL_DEBIAN_FOLDER)
    monkeypatch.setattr(fetch, "_keep", lambda files, folder: None)
    if not (raw(REAL_ROOT).exists() or REAL_DEBIAN_FOLDER.exists()):
        pytest.skip(f"Fashion-MNIST is not in {REAL_ROOT} and package dataset-fashion-mnist is not installed")
    return load(DataSpec(), REAL_ROOT)


def test_fashion_mnist_is_what_its_authors_say(real: ImageData) -> None:
    assert real.mean.tolist() == pytest.approx([0.2860], abs=5e-5)
    assert real.std.tolist() == pytest.approx([0.3530], abs=5e-5)
    assert torch.bincount(torch.cat([real.train.labels, real.val.labels])).tolist() == [6000] * 10
    assert torch.bincount(real.test.labels).tolist() == [1000] * 10
    assert [len(s.labels) for s in (real.train, real.val, real.test)] == [55_000, 5_000, 10_000]
    assert real.in_shape == (1, 28, 28)


# Other data sets, each in a few images in its own format


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_is_read_in_its_own_format(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](root, monkeypatch)
    data = load(DataSpec(name=name, val_examples=2), root)
    assert (data.in_shape, data.num_classes) == shape(data.spec)
    assert data.test.images.shape == (10, *data.in_shape)
    labels = [*range(1, 10), 0] if name == "svhn" else list(range(10))  # SVHN's own files call the zero ten
    assert data.test.labels.tolist() == labels
    size = (10, 28, 28) if "mnist" in name else (10, 3, 32, 32)
    pixels = torch.from_numpy(random_bytes(*size, seed=10 if "mnist" in name else 0)).view(10, *data.in_shape)
    assert torch.equal(data.test.images, pixels)
    assert data.test.images.is_contiguous()


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_that_is_missing_is_one_line(name: str, root: Path) -> None:
    with pytest.raises(DataError, match=r"could not be fetched \(the mirrors are down\).*NIN_DATA") as caught:
        load(DataSpec(name=name), root)
    one_line(caught)


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_that_is_damaged_is_one_line_and_left_alone(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](root, monkeypatch)
    path = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: ("train" in path.name, path))
    path.write_bytes(path.read_bytes()[:-7])
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"{root}.* is damaged .*delete it") as caught:
        load(DataSpec(name=name, val_examples=2), root)
    one_line(caught)
    assert path.read_bytes() == before


def test_a_label_beyond_the_classes_is_damage(root: Path) -> None:
    write(mnist_files() | {"train-labels-idx1-ubyte": idx(np.full(20, 10, np.uint8))}, root / "MNIST" / "raw")
    with pytest.raises(DataError, match="labels go beyond 10 classes"):
        load(DataSpec(name="mnist", val_examples=2), root)


def test_a_data_set_is_fetched_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_download", lambda dataset, folder, limit_sec: write_mnist(dataset, folder))
    load(DataSpec(name="kmnist", val_examples=2), root)
    assert [path.name for path in root.iterdir()] == ["KMNIST"]


# Folders of images


def paint(path: Path, colour: tuple[int, ...] = (200, 100, 0), mode: str = "RGB", size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), colour if len(colour) > 1 else colour[0]).save(path)


def test_a_folder_with_train_and_test_is_a_data_set(root: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for i in range(count):
            paint(root / "pets" / part / "cat" / f"{i}.png")
            paint(root / "pets" / part / "dog" / f"{i}.png", (0, 0, 255), size=50 + i)
    spec = DataSpec(name="folder:pets", val_examples=0)
    data = load(spec, root)
    assert data.classes == ("cat", "dog")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.in_shape == (3, 32, 32)
    assert data.test.images[0, :, 0, 0].tolist() == [200, 100, 0]
    assert data.test.images[3].flatten(1).unique(dim=1).tolist() == [[0], [0], [255]]
    assert (data.in_shape, data.num_classes) == shape(spec, root)
    assert load(replace(spec, image_size=16), root).train.images.shape == (8, 3, 16, 16)


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_folder_without_test_images_gives_a_sixth_of_its_own(root: Path, inside: str) -> None:
    for i in range(12):
        paint(root / "pets" / inside / f"class {i % 2}" / f"{i}.png", (i, 0, 255))
    data = load(DataSpec(name="folder:pets", val_examples=3), root)
    parts = [{int(image[0, 0, 0]) for image in split.images} for split in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [7, 3, 2]
    assert set.union(*parts) == set(range(12))


def test_images_that_are_all_grey_have_one_channel(root: Path) -> None:
    for i in range(6):
        paint(root / "digits" / str(i % 2) / f"{i}.png", (40 * i,), mode="L")
    spec = DataSpec(name="folder:digits", val_examples=0)
    data = load(spec, root)
    assert data.in_shape == shape(spec, root)[0] == (1, 32, 32)
    assert sorted(torch.cat([data.train.images, data.test.images])[:, 0, 0, 0].tolist()) == [0, 40, 80, 120, 160, 200]
    paint(root / "digits" / "0" / "coloured.png")
    assert load(spec, root).in_shape == (3, 32, 32)


def png_of(size: int) -> bytes:
    """A valid header of size x size pixels and hardly any bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff(folder: Path, pixels: np.ndarray[Any, Any]) -> bytes:
    Image.fromarray(pixels).save(folder / "image.tif")
    return (folder / "image.tif").read_bytes()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "truncated"),
        ("text", "cannot identify"),
        ("empty", "cannot identify"),
        ("large", "decompression bomb"),
        ("huge", "decompression bomb"),
        ("integers", "32-bit integers have no value for white: save it with 8 or 16 bits"),
        ("floats", "its floats go from 0 to 300: scale them to 0 for black and 1 for white"),
        ("program", "PostScript is a program"),
    ],
)
def test_a_file_that_is_no_usable_image_is_named_in_one_line(
    root: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    for i in range(6):
        paint(root / "pets" / "cat" / f"{i}.png")
        paint(root / "pets" / "dog" / f"{i}.png")
    contents = {
        "truncated": (root / "pets" / "cat" / "0.png").read_bytes()[:-30],
        "text": b"meow",
        "empty": b"",
        "large": png_of(10_000),
        "huge": png_of(30_000),
        "integers": tiff(tmp_path, np.full((8, 8), 9, np.int32)),
        "floats": tiff(tmp_path, np.array([[0, 300]], np.float32)),
        "program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n%%EOF\n",
    }
    path = root / "pets" / "cat" / "broken.png"
    path.write_bytes(contents[kind])
    with pytest.raises(DataError, match=f"{path} cannot be read as an image .*{reason}") as caught:
        load(DataSpec(name="folder:pets", val_examples=0), root)
    one_line(caught)


def test_pils_warnings_about_a_usable_image_are_not_passed_on(root: Path) -> None:
    for i in range(6):
        path = root / "pets" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("P", (8, 8)).save(path, transparency=b"\x00\x80")
    with warnings.catch_warnings(action="error"):
        load(DataSpec(name="folder:pets", val_examples=0), root)


@pytest.mark.parametrize("name", ["", ".", "..", "../secrets", "pets/../../secrets", "/etc"])
def test_a_folder_outside_the_data_root_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    paint(tmp_path / "secrets" / "cat" / "0.png")
    root.mkdir()
    for look in (load, shape):
        with pytest.raises(DataError, match="must lie inside the data root") as caught:
            look(DataSpec(name=f"folder:{name}"), root)
        one_line(caught)


def test_a_folder_anywhere_has_a_name_in_the_data_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIN_DATA", str(root))
    pets = tmp_path / "disk" / "pets"
    for kind in ("cat", "dog"):
        for i in range(6):
            paint(pets / kind / f"{i}.png")
    assert [named(f"folder:{pets}") for _ in range(2)] == ["folder:pets", "folder:pets"]
    assert named("folder:pets") == named(f"folder:{root / 'pets'}") == "folder:pets"
    assert load(DataSpec(name="folder:pets", val_examples=0)).classes == ("cat", "dog")


def test_two_folders_of_one_name_and_one_that_is_gone_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIN_DATA", str(root))
    for disk in ("a", "b"):
        (tmp_path / disk / "pets").mkdir(parents=True)
    assert named(f"folder:{tmp_path / 'a/pets'}") == "folder:pets"
    for path, message in (
        (tmp_path / "b/pets", "have one name in the data root"),
        (tmp_path / "c/pets", "there is no folder"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            named(f"folder:{path}")
        one_line(caught)
    (tmp_path / "a/pets").rmdir()
    assert named(f"folder:{tmp_path / 'b/pets'}") == "folder:pets"  # the link led nowhere
    assert (root / "pets").resolve() == tmp_path / "b/pets"


def test_a_folder_that_does_not_fit_is_one_line(root: Path) -> None:
    spec = DataSpec(name="folder:pets")
    with pytest.raises(DataError, match="there is no folder"):
        load(spec, root)
    (root / "pets").mkdir(parents=True)
    with pytest.raises(DataError, match=f"{root / 'pets'} has no images and no folders of classes") as caught:
        load(spec, root)
    one_line(caught)


def test_a_folder_of_too_few_images_for_a_test_set_is_one_line(root: Path) -> None:
    for name in ("cat", "dog"):
        paint(root / "pets" / name / "0.png")
    with pytest.raises(DataError, match="has 2 images, fewer than the 6 needed"):
        load(DataSpec(name="folder:pets", val_examples=0), root)


def test_a_validation_folder_is_used_for_validation(root: Path) -> None:
    for part, count in (("train", 6), ("val", 4), ("test", 2)):
        for i in range(count):
            paint(
                root / "pets" / part / f"class {i % 2}" / f"{i}.png",
                ({"train": 0, "val": 100, "test": 200}[part] + i,) * 3,
            )
    spec = DataSpec(name="folder:pets", val_examples=1000)

    def levels(split: Any) -> list[int]:
        return sorted(split.images[:, 0, 0, 0].tolist())

    data = load(spec, root)
    assert [levels(split) for split in (data.train, data.val, data.test)] == [
        [*range(6)],
        [*range(100, 104)],
        [200, 201],
    ]
    assert len(load(replace(spec, val_examples=3), root).val.labels) == 3
    watched = load(replace(spec, val_examples=0), root)
    assert levels(watched.val) == levels(watched.test) == [200, 201]


def test_a_line_says_what_a_folder_holds_before_it_is_trained_on(root: Path) -> None:
    for part, counts in (("train", (5, 3)), ("test", (2, 1))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            for i in range(count):
                paint(root / "pets" / part / name / f"{i}.png", (len(part), len(name) + 50 * (name == "cat"), i))
    assert load(DataSpec(name="folder:pets", val_examples=0), root).notes == (
        "folder:pets: 8/3 images for training/test, 3x32x32, 2 classes: cat 5/2, dog 3/1",
    )
    held = load(DataSpec(name="folder:pets", val_examples=4), root)
    (line,) = held.notes
    assert line.startswith("folder:pets: 4/4/3 images for training/validation/test, 3x32x32, 2 classes: cat ")
    assert load(SYNTHETIC).notes == ()


def test_many_classes_are_a_range_in_that_line(root: Path) -> None:
    for k in range(300):
        paint(root / "pets" / "train" / f"{k:03}" / "0.png", (k % 256, k // 256, 0))
        paint(root / "pets" / "test" / f"{k:03}" / "0.png", (k % 256, k // 256, 1))
    paint(root / "pets" / "train" / "000" / "1.png", (1, 1, 2))
    data = load(DataSpec(name="folder:pets", val_examples=0), root)
    assert data.num_classes == 300
    assert data.notes[0].endswith("3x32x32, 300 classes: 1 to 2 training images each")


def test_images_that_are_there_twice_are_counted_and_named(root: Path) -> None:
    for i in range(4):
        paint(root / "pets" / "train" / ("cat", "dog")[i % 2] / f"{i}.png", (i, 0, 0))
        paint(root / "pets" / "test" / ("cat", "dog")[i % 2] / f"{i}.png", (i + 2, 0, 0))
    (root / "pets" / "train" / "cat" / "again.png").symlink_to("0.png")
    notes = load(DataSpec(name="folder:pets", val_examples=0), root).notes
    pets = root / "pets"
    assert notes[1:] == (
        f"1 of 5 training images repeat another one, pixel by pixel: {pets}/train/cat/again.png is {pets}/train/cat/0.png",
        f"2 of 4 test images are training images as well, pixel by pixel: {pets}/test/cat/0.png is {pets}/train/cat/2.png",
    )


# Division


def numbered(monkeypatch: pytest.MonkeyPatch, num_train: int, num_test: int) -> None:
    """Makes "synthetic" a data set whose images are told apart by their own number, in their first two pixels."""

    def split(count: int) -> Any:
        images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(count) // 256, torch.arange(count) % 256
        return Split(images, torch.arange(count) % 10)

    from nin.sources import Dataset, Source, Split

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
