"""Decode image files to pixels. Training, prediction and class maps share one function, so that all see the same pixels."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nin.fetch import DataError
from nin.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes of 16 bits per pixel
GREY_MODES = ("1", "L", "LA", "F", *DEEP_MODES)
DARK_LIMIT = 2**12  # 16-bit value; images that stay below it have at most 16 levels in a byte

# Notes on images whose pixels differ from the stored ones, by the remark of `decode`.
REMARKS = {
    "transparent": "have transparent parts, which are shown white",
    "deep": "have 16 bits per pixel, of which the upper 8 are used",
    "dark": f"stay below {DARK_LIMIT:,} of 65,535, so that few grey levels are left: scale them to the full range first",
}


class Decoded(NamedTuple):
    """Pixels (height, width, num_channels) and the keys of REMARKS that hold for the file."""

    pixels: "NDArray[np.uint8]"
    remarks: tuple[str, ...]


def decode(path: str | Path, num_channels: int, height: int, width: int) -> Decoded:
    """Decode a file: upright as its orientation tag says, over white, in grey or RGB, squeezed to height x width (bilinear).

    Of an animation or a file of several pages, the first image is decoded. Of 16 bits the upper 8 are used, as PIL does for colours;
    floats range from 0 (black) to 1 (white). Colour profiles are not applied.

    Raises DataError, naming the file, for a file that is not a whole image.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        shallow, remarks = _in_bytes(upright, _is_deep(image))
        if shallow.has_transparency_data:
            remarks += ("transparent",) if _shows_through(shallow) else ()
            shallow = Image.alpha_composite(Image.new("RGBA", shallow.size, "white"), shallow.convert("RGBA"))
        converted = shallow.convert("L" if num_channels == 1 else "RGB")
        resized = converted.resize((width, height), Image.Resampling.BILINEAR)
        return Decoded(np.asarray(resized).reshape(height, width, num_channels), remarks)


def is_grey(path: str | Path) -> bool:
    """Return whether the file is stored without colour (reads the header only). Raises DataError as `decode` does."""
    with _opened(path) as image:
        return image.mode in GREY_MODES or _is_deep(image)


def notes(remarks: Iterable[tuple[str, ...]]) -> list[str]:
    """Return a line for each kind of remark, with the number of images; `remarks` has an entry per image."""
    remarks = list(remarks)
    counts = Counter(remark for each in remarks for remark in each)
    return [f"{counts[key]:,} of {len(remarks):,} images {text}" for key, text in REMARKS.items() if counts[key]]


def _is_deep(image: "Image") -> bool:
    """Return whether the file has 16 bits per pixel. PIL opens a .pgm of over 8 bits in mode I, scaled to 65,535."""
    return image.mode in DEEP_MODES or (image.mode == "I" and image.format == "PPM")


def _in_bytes(image: "Image", is_deep: bool) -> "tuple[Image, tuple[str, ...]]":
    """Return the image with a byte per channel, and its remarks. Raises ValueError if black and white have no fixed value."""
    from PIL import Image

    if is_deep:
        deep = np.asarray(image)
        remarks = ("deep", "dark") if deep.max() < DARK_LIMIT else ("deep",)
        return Image.fromarray((deep >> 8).astype(np.uint8)), remarks
    if image.mode == "F":
        pixels = np.asarray(image)
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"its floats go from {low:g} to {high:g}: scale them to 0 for black and 1 for white")
        return Image.fromarray(np.round(pixels * 255).astype(np.uint8)), ()
    if image.mode == "I":
        raise ValueError("32-bit integers have no value for white: save it with 8 or 16 bits per pixel")
    return image, ()


def _shows_through(image: "Image") -> bool:
    """Return whether any pixel is not fully opaque."""
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


@contextmanager
def _opened(path: str | Path) -> "Iterator[Image]":
    """Context with the image file, not yet decoded. Any error in it becomes a DataError that names the file."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.format == "EPS":  # whatever the file is called; PIL would have Ghostscript run it
                    raise ValueError("PostScript is a program")
                yield image
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder: name the images in it, such as {path}/*.jpg") from error
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise errors of any type
        why = one_line(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as an image ({why}): repair or remove it") from error
