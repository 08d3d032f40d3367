"""Images in files, as they are kept (uint8), and as networks see them (float in [-1, 1])."""

import hashlib
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gantry.core.randomness import draws

if TYPE_CHECKING:
    import torch
    from PIL import Image


LARGE = 2**24  # pixels
_large = threading.Lock()


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set in memory, or mapped from the disk into it.

    Attributes:
        name: the data set's name, as runs are tagged with it.
        images: uint8, shape (N, C, H, W), values 0 to 255; may be a read-only memory map.
        labels: int64, shape (N,), each an index into `classes`; None where there are no labels.
        classes: the names of the classes; None where there are no labels.
        split: which part of the data set this is: train, test, valid or all.
        source: where it came from, for people.
        digest: sha256 in hexadecimal of shape, pixels and labels (see `digest_of`).
        flip: whether a mirrored image is as good a member of the data set, so training may mirror at random.
        skipped: how many unreadable files were left out.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    split: str
    source: str
    digest: str
    flip: bool
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def part(self, count: int) -> "ImageSet":
        """`count` images drawn at random, the same ones for every seed; all of them where there are no more."""
        if count >= len(self):
            return self
        chosen = np.sort(draws(0, count, "part").permutation(len(self))[:count])
        images = np.asarray(self.images[chosen])
        labels = None if self.labels is None else self.labels[chosen]
        digest = digest_of(images.shape, hashlib.sha256(images.data).digest(), labels)
        return replace(self, images=images, labels=labels, digest=digest, split=f"{self.split}-{count}")


def digest_of(shape: tuple[int, ...], pixels_sha256: bytes, labels: np.ndarray | None) -> str:
    """The digest of a data set, from the sha256 of its pixel bytes, which may be hashed as they stream by."""
    total = hashlib.sha256(repr(tuple(shape)).encode() + pixels_sha256)
    if labels is not None:
        total.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    return total.hexdigest()


def to_float(images: "torch.Tensor") -> "torch.Tensor":
    """uint8 images, 0 to 255, any shape -> float32 in [-1, 1], the range of tanh: x / 127.5 - 1."""
    return images.float() / 127.5 - 1


def quantise(images: "torch.Tensor") -> "torch.Tensor":
    """Float images, any shape -> uint8: rounded to the nearest of 256 levels, clamped outside [-1, 1].

    The exact inverse of `to_float`. Truncating instead would be off by one on 63 of the 256 levels.
    """
    import torch

    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size), by antialiased Lanczos; unchanged at that size."""
    from PIL import Image

    if images.shape[2:] == (size, size):
        return images
    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for target, planes in zip(resized, images, strict=True):
        for channel, plane in enumerate(planes):
            target[channel] = Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS)
    return resized


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """An image file -> uint8 (channels, size, size): its central square, resized once by antialiased Lanczos.

    Turned upright (EXIF), composited on white where transparent, 16 bits scaled to 8; of an animation, the
    first frame. Raises whatever Pillow raises for a damaged file.
    """
    from PIL import Image

    with _opened(path, "L" if channels == 1 else "RGB") as opened:
        side = min(opened.size)
        left, top = (opened.width - side) // 2, (opened.height - side) // 2
        image = opened.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


class WrongSize(ValueError):
    """An image has another size than asked for: `size` is its own, (width, height)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("{}x{} pixels".format(*size))
        self.size = size


class Coloured(ValueError):
    """A greyscale image was asked for, and this one has colours."""


def decode_exactly(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file -> uint8 of `shape`, (C, H, W), never cropped, resized or stripped of its colours.

    Opened as `decode` does. Greyscale files are repeated to three channels, and coloured ones whose three are
    equal become one.

    Raises:
        WrongSize: it is not W by H pixels.
        Coloured: C is 1, and its channels differ.
    """
    with _opened(path, None, shape) as image:
        pixels = np.asarray(image).reshape(*shape[1:], -1).transpose(2, 0, 1)
    return with_channels(pixels[None], shape[0])[0]


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (n, 1 or 3, H, W) -> uint8 (n, channels, H, W): greyscale repeated, or equal channels made one.

    Raises:
        Coloured: `channels` is 1, and the three differ.
    """
    if channels == 1 and (images != images[:, :1]).any():
        raise Coloured("coloured")
    return np.broadcast_to(images[:, :channels], (len(images), channels, *images.shape[2:]))


@contextmanager
def _opened(path: Path, mode: str | None, shape: tuple[int, int, int] | None = None) -> Iterator["Image.Image"]:
    """The image upright, on white, of 8 bits, in `mode`; without one in L or RGB, as its own pixels are.

    Large ones are in memory one at a time, however many threads ask for them.

    Raises:
        ValueError: a pipe or a device, which may never end.
        WrongSize: it is not of `shape`, (C, H, W); known before the pixels are decoded.
    """
    from PIL import Image, ImageOps

    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with Image.open(path) as opened, _large if opened.width * opened.height > LARGE else nullcontext():
        ImageOps.exif_transpose(opened, in_place=True)
        image: Image.Image = opened
        if shape is not None and image.size != (shape[2], shape[1]):
            raise WrongSize(image.size)
        if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion to 8 clips at 255 instead of scaling
            image = _from_16_bits(image)
        elif image.mode == "F":
            raise ValueError("floating-point pixels have no fixed range; store 8 or 16 bits")
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        yield image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))


def _from_16_bits(image: "Image.Image") -> "Image.Image":
    """Greyscale of 0 to 65535 -> mode L, 0 to 255, rounded."""
    from PIL import Image

    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels outside 0..65535; store 8 or 16 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
