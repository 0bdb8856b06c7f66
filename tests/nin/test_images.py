"""An image file becomes the same pixels for whoever reads it: upright, over white, in bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_files import random_bytes

from nin.images import decode, is_grey, notes

ORIENTATION = 274
# What a camera stores of an upright picture, by the tag that it writes.
STORED = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.rotate(180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.rotate(90, expand=True),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.rotate(-90, expand=True),
}


def pixels(path: Path, channels: int = 3, size: int = 8) -> np.ndarray[Any, Any]:
    return decode(path, channels, size, size).pixels


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("tag", STORED)
def test_a_photograph_is_upright_as_its_camera_says(tag: int, suffix: str, tmp_path: Path) -> None:
    upright = random_bytes(8, 8, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    STORED[tag](Image.fromarray(upright)).save(path, exif=exif, **options)
    assert np.array_equal(pixels(path), upright)


@pytest.mark.parametrize("junk", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_a_damaged_orientation_leaves_a_picture_as_it_is_stored(junk: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "a.jpg", exif=junk)
    assert (pixels(tmp_path / "a.jpg") == 9).all()


def half_transparent(mode: str) -> Image.Image:
    """A black pixel, and one of which nothing is seen."""
    image = Image.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 0))
    if mode == "P":
        shown = Image.new("P", (2, 1))
        shown.putpalette([0, 0, 0, 0, 0, 0])
        shown.putpixel((1, 0), 1)
        shown.info["transparency"] = 1
        return shown
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white_not_black(mode: str, channels: int, tmp_path: Path) -> None:
    half_transparent(mode).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", channels, 1, 2)
    assert found.pixels.tolist() == [[[0] * channels, [255] * channels]]
    assert notes([found.remarks, ()]) == ["1 of 2 images have transparent parts, which are shown white"]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_picture_is_what_it_is_without_opacity(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(random_bytes(8, 8))
    picture.convert(mode).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", 1, 8, 8)
    assert np.array_equal(found.pixels[:, :, 0], np.asarray(picture))
    assert found.remarks == ()


def test_half_opacity_over_white_is_half_way(tmp_path: Path) -> None:
    Image.new("RGBA", (1, 1), (200, 0, 0, 128)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 3, 1, 1).pixels.tolist() == [[[227, 127, 127]]]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_become_the_upper_eight_as_they_do_in_colour(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)).save(tmp_path / f"a.{suffix}")
    found = decode(tmp_path / f"a.{suffix}", 1, 1, 5)
    assert found.pixels[0, :, 0].tolist() == [0, 0, 1, 156, 255]
    assert notes([found.remarks]) == ["1 of 1 images have 16 bits per pixel, of which the upper 8 are used"]
    assert is_grey(tmp_path / f"a.{suffix}")


def test_twelve_bits_in_sixteen_are_pointed_out(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(tmp_path / "a.png")
    assert "stay below 4,096 of 65,535" in notes([decode(tmp_path / "a.png", 1, 1, 2).remarks])[1]


def test_floats_go_from_black_at_0_to_white_at_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.2, 1]], np.float32)).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif", 1, 1, 3).pixels[0, :, 0].tolist() == [0, 51, 255]
    assert is_grey(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp"])
def test_the_first_of_several_images_counts(name: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), (level,) * 3) for level in (0, 255))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    assert (pixels(tmp_path / name) == 0).all()


@pytest.mark.parametrize(
    ("mode", "black"), [("1", 0), ("L", 0), ("RGB", (0, 0, 0)), ("CMYK", (0, 0, 0, 255)), ("P", 0)]
)
def test_every_way_to_store_black_is_black(mode: str, black: Any, tmp_path: Path) -> None:
    Image.new(mode, (1, 1), black).save(tmp_path / "a.TIF")
    assert pixels(tmp_path / "a.TIF").max() == 0
