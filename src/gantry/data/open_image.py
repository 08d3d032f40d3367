"""Opens image files of every kind upright, with 8 bits, on white or with premultiplied alpha."""

import io
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from gantry.data.alpha import RGBA
from gantry.data.reading import (
    COMPOSITED,
    FIRST_FRAME,
    MADE_GREY,
    MADE_RGB,
    ODD_METADATA,
    PREMULTIPLIED,
    SCALED,
    TURNED,
    Seen,
)

if TYPE_CHECKING:
    from PIL import Image


LARGE = 2**24  # pixels; larger images are decoded one at a time
PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF's tag
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
MODES = {1: "L", 3: "RGB", RGBA: "RGBa"}  # Pillow's, by the number of channels; RGBa is premultiplied
_large = threading.Lock()


class WrongSize(ValueError):
    """An image does not have the required size; `size` is its own, (width, height)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("{}x{} pixels".format(*size))
        self.size = size


@contextmanager
def opened(
    file: Path | IO[bytes], mode: str | None, seen: Seen, shape: tuple[int, int, int] | None = None
) -> Iterator["Image.Image"]:
    """Open an image upright, on white unless `mode` has alpha, with 8 bits, in `mode`; where None, in L or RGB.

    Only one image above `LARGE` is in memory at a time, whatever the number of threads.

    Raises:
        ValueError: a pipe or a device, which may never end.
        WrongSize: the image is not of `shape`, (C, H, W).
    """

    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("it is no regular file")
    with _open(file, seen) as found, _large if found.width * found.height > LARGE else nullcontext():
        seen.format = found.format or ""
        deep = any(";16" in str(tile[3]) for tile in getattr(found, "tile", ()))
        image = _upright(found, seen)
        seen.size = image.size
        if shape is not None and image.size != (shape[2], shape[1]):
            raise WrongSize(image.size)
        seen.altered |= {SCALED} if deep else set()
        seen.altered |= {FIRST_FRAME} if getattr(found, "is_animated", False) else set()
        yield _eight_bits(image, mode, seen)


def _open(file: Path | IO[bytes], seen: Seen) -> "Image.Image":
    """Open an image; a PNG whose metadata Pillow refuses, such as long texts, is opened without them."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except (ValueError, UnidentifiedImageError):
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as content:
            content.seek(0)
            plain = _without_metadata(content)
        if plain is None:
            raise
        seen.altered.add(ODD_METADATA)
        return Image.open(io.BytesIO(plain))


def _without_metadata(file: IO[bytes]) -> bytes | None:
    """Return a PNG file with only the chunks that make its pixels; None for another file, or one cut short."""
    kept = bytearray(file.read(len(PNG)))
    if kept != PNG:
        return None
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept += head + file.read(length + 4)
        else:
            file.seek(length + 4, 1)
        if kind == b"IEND":
            return bytes(kept)
    return None


def _upright(opened: "Image.Image", seen: Seen) -> "Image.Image":
    """Return the image decoded and turned as its EXIF says, or as it is stored where that cannot be understood.

    Nothing is written back, as `PIL.ImageOps.exif_transpose` does, which fails where any other entry is odd.
    """
    from PIL import Image

    ways = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    before = _orientation(opened, seen)  # Pillow itself turns a TIFF while it is loaded
    opened.load()
    way = ways.get(_orientation(opened, seen))
    seen.altered |= {TURNED} if before in ways else set()
    return opened if way is None else opened.transpose(way)


def _orientation(image: "Image.Image", seen: Seen) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where there is none, or none that can be understood."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
        found = int(value[0] if isinstance(value, tuple) else value)
    except Exception:  # of damaged metadata Pillow makes errors of many kinds
        seen.altered.add(ODD_METADATA)
        return 1
    return found if 1 <= found <= 8 else 1


def _eight_bits(image: "Image.Image", mode: str | None, seen: Seen) -> "Image.Image":
    """Return the image on white unless `mode` has alpha, with 8 bits, in `mode`; where None, in L or RGB by its own."""
    from PIL import Image

    own = image.mode
    if own.startswith("I"):  # 16 bits: Pillow's own conversion to 8 clips at 255 instead of scaling
        seen.altered.add(SCALED)
        image = _from_16_bits(image, seen)
    elif own == "F":
        raise ValueError("floating-point pixels have no fixed range; store 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if (np.asarray(image.getchannel("A")) < 255).any():
            seen.altered.add(PREMULTIPLIED if mode == "RGBa" else COMPOSITED)
        if mode == "RGBa":
            return image.convert(mode)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if mode == "L" and own not in GREY_MODES:
        seen.altered.add(MADE_GREY)
    elif own in ("CMYK", "YCbCr", "LAB", "HSV"):
        seen.altered.add(MADE_RGB)
    if mode == "RGBa":  # there is no conversion to it from most modes
        return image.convert("RGB").convert("RGBA").convert(mode)
    return image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))


def _from_16_bits(image: "Image.Image", seen: Seen) -> "Image.Image":
    """Convert greyscale of 0 to 65535 to mode L, 0 to 255, rounded."""
    from PIL import Image

    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels outside 0..65535; store 8 or 16 bits")
    seen.brightest = int(pixels.max())
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
