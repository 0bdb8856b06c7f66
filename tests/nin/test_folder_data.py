"""A folder of images as a data set: its images, splits, name and notes, or one line on what is wrong with it."""

import shutil
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import one_line
from PIL import Image
from small_files import SYNTHETIC, paint

import nin
from nin.data import DataError, load, shape
from nin.sources import link_folder
from nin.spec import DataSpec


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


def paint_pets(folder: Path) -> Path:
    for kind in ("cat", "dog"):
        for i in range(6):
            paint(folder / kind / f"{i}.png")
    return folder


def test_a_folder_anywhere_has_a_name_in_the_data_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIN_DATA", str(root))
    pets = paint_pets(tmp_path / "disk" / "pets")
    assert [link_folder(f"folder:{pets}") for _ in range(2)] == ["folder:pets", "folder:pets"]
    assert link_folder("folder:pets") == link_folder(f"folder:{root / 'pets'}") == "folder:pets"
    assert load(DataSpec(name="folder:pets", val_examples=0)).classes == ("cat", "dog")
    monkeypatch.chdir(pets.parent)
    assert link_folder("folder:./pets") == link_folder("folder:../disk/pets") == "folder:pets"
    with pytest.warns(UserWarning, match=r"\w") as warned:
        assert nin.load_data(Path("pets"), val_examples=0).spec.name == "folder:pets"
    assert "2 of 2 test images are training images as well" in str([str(each.message) for each in warned])


def test_a_folder_by_path_may_lie_in_a_root_that_is_named(root: Path, tmp_path: Path) -> None:
    inside, outside = paint_pets(root / "pets"), paint_pets(tmp_path / "disk" / "others")
    for path in (inside, outside):
        with pytest.warns(UserWarning, match="pixel by pixel"):
            data = nin.load_data(path, root=root, val_examples=0)
        assert data.spec.name == f"folder:{path.name}"
    assert (root / "others").is_symlink()


def test_a_folder_that_has_the_data_root_in_it_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets = paint_pets(tmp_path / "pets")
    monkeypatch.setenv("NIN_DATA", str(pets))
    with pytest.raises(DataError, match=r"lies in .*pets, so it cannot have a link to it"):
        link_folder(f"folder:{pets}")
    assert sorted(path.name for path in pets.iterdir()) == ["cat", "dog"]


@pytest.mark.parametrize("name", ["FashionMNIST", "mnist", "cifar-10-batches-py"])
def test_a_folder_with_the_name_of_a_data_set_is_not_linked(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data set would be written into it."""
    monkeypatch.setenv("NIN_DATA", str(root))
    with pytest.raises(DataError, match="has the name under which a data set is kept in the data root: rename"):
        link_folder(f"folder:{paint_pets(tmp_path / name)}")
    assert not (root / name).exists()


def test_an_unused_image_that_changes_the_normalisation_changes_the_checksum(root: Path) -> None:
    spec = DataSpec(name="folder:pets", train_examples=4, val_examples=2)
    for i in range(12):
        paint(root / "pets" / f"class {i % 2}" / f"{i}.png", (i, 0, 255))
    before = load(spec, root)
    used = {int(image[0, 0, 0]) for part in (before.train, before.val, before.test) for image in part.images}
    unused = min(set(range(12)) - used)
    paint(root / "pets" / f"class {unused % 2}" / f"{unused}.png", (200, 200, 0))
    after = load(spec, root)
    assert torch.equal(after.train.images, before.train.images)
    assert not torch.equal(after.mean, before.mean)
    assert after.checksum != before.checksum


def test_a_folder_that_is_refused_leaves_no_link(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIN_DATA", str(root))
    paint(tmp_path / "pets" / "cat" / "0.png")
    with pytest.raises(DataError, match="has only one class, 'cat'"):
        link_folder(f"folder:{tmp_path / 'pets'}")
    assert not (root / "pets").is_symlink()


def test_two_folders_of_one_name_and_one_that_is_gone_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIN_DATA", str(root))
    for disk in ("a", "b"):
        paint_pets(tmp_path / disk / "pets")
    assert link_folder(f"folder:{tmp_path / 'a/pets'}") == "folder:pets"
    for path, message in (
        (tmp_path / "b/pets", "have one name in the data root"),
        (tmp_path / "c/pets", "there is no folder"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            link_folder(f"folder:{path}")
        one_line(caught)
    shutil.rmtree(tmp_path / "a/pets")
    assert link_folder(f"folder:{tmp_path / 'b/pets'}") == "folder:pets"  # the link led nowhere
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


def test_classes_without_images_in_a_part_are_named(root: Path) -> None:
    for part in ("train", "test"):
        for name in "ab":
            for i in range(2):
                paint(root / "pets" / part / name / f"{i}.png", (i, ord(name), len(part)))
    data = load(DataSpec(name="folder:pets", val_examples=1), root)
    (held,) = set(data.classes) - {data.classes[int(label)] for label in data.val.labels}
    assert data.notes[1:] == (f"folder:pets: no validation image of {held}",)


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
