"""Decodes image files and converts images between storage (uint8) and network input (float in [-1, 1])."""

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


LARGE = 2**24  # pixels; larger images are decoded one at a time
_large = threading.Lock()


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set in memory, or memory-mapped from the disk.

    Attributes:
        name: the data set's name, which runs are tagged with.
        images: uint8, shape (N, C, H, W), values 0 to 255; may be a read-only memory map.
        labels: int64, shape (N,), each an index into `classes`; None where there are no labels.
        classes: the names of the classes; None where there are no labels.
        split: the part of the data set: train, test, valid or all.
        source: a description of the origin, for users.
        digest: sha256 in hexadecimal of shape, pixels and labels (see `digest_of`).
        flip: whether training may mirror images at random, since a mirrored image is as plausible.
        skipped: the number of unreadable files left out.
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
        """Return (C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def part(self, count: int) -> "ImageSet":
        """Return `count` images drawn at random, the same for every run's seed; all where there are no more."""
        if count >= len(self):
            return self
        chosen = np.sort(draws(0, count, "part").permutation(len(self))[:count])
        images = np.asarray(self.images[chosen])
        labels = None if self.labels is None else self.labels[chosen]
        digest = digest_of(images.shape, hashlib.sha256(images.data).digest(), labels)
        return replace(self, images=images, labels=labels, digest=digest, split=f"{self.split}-{count}")


def digest_of(shape: tuple[int, ...], pixels_sha256: bytes, labels: np.ndarray | None) -> str:
    """Return the digest of a data set, from the sha256 of its pixel bytes, so that pixels can be hashed as a stream."""
    total = hashlib.sha256(repr(tuple(shape)).encode() + pixels_sha256)
    if labels is not None:
        total.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    return total.hexdigest()


def to_float(images: "torch.Tensor") -> "torch.Tensor":
    """Convert uint8 images, 0 to 255, any shape, to float32 in [-1, 1], the range of tanh: x / 127.5 - 1."""
    return images.float() / 127.5 - 1


def quantise(images: "torch.Tensor") -> "torch.Tensor":
    """Convert float images, any shape, to uint8: rounded to the nearest of 256 levels, clamped outside [-1, 1].

    This is the exact inverse of `to_float`. Truncating instead would be off by one on 63 of the 256 levels.
    """
    import torch

    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (N, C, H, W) to (N, C, size, size) by antialiased Lanczos; unchanged at that size."""
    from PIL import Image

    if images.shape[2:] == (size, size):
        return images
    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for target, planes in zip(resized, images, strict=True):
        for channel, plane in enumerate(planes):
            target[channel] = Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS)
    return resized


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Decode an image file to uint8 (channels, size, size): its central square, resized by antialiased Lanczos.

    The image is turned upright (EXIF), composited on white where transparent, and scaled from 16 bits to 8; of an
    animation, the first frame is taken. Raises whatever Pillow raises for a damaged file.
    """
    from PIL import Image

    with _opened(path, "L" if channels == 1 else "RGB") as opened:
        side = min(opened.size)
        left, top = (opened.width - side) // 2, (opened.height - side) // 2
        image = opened.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


class WrongSize(ValueError):
    """An image does not have the required size; `size` is its own, (width, height)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("{}x{} pixels".format(*size))
        self.size = size


class Coloured(ValueError):
    """An image has colours where a greyscale one is required."""


def decode_exactly(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode an image file to uint8 of `shape`, (C, H, W), without cropping, resizing or dropping colours.

    It is opened as in `decode`. A greyscale file is repeated to three channels, and three equal channels become one.

    Raises:
        WrongSize: the image is not W by H pixels.
        Coloured: C is 1, and the image's channels differ.
    """
    with _opened(path, None, shape) as image:
        pixels = np.asarray(image).reshape(*shape[1:], -1).transpose(2, 0, 1)
    return with_channels(pixels[None], shape[0])[0]


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert uint8 (n, 1 or 3, H, W) to (n, channels, H, W): repeat greyscale, or merge three equal channels.

    Raises:
        Coloured: `channels` is 1, and the three differ.
    """
    if channels == 1 and (images != images[:, :1]).any():
        raise Coloured("coloured")
    return np.broadcast_to(images[:, :channels], (len(images), channels, *images.shape[2:]))


@contextmanager
def _opened(path: Path, mode: str | None, shape: tuple[int, int, int] | None = None) -> Iterator["Image.Image"]:
    """Open an image upright, on white, with 8 bits, in `mode`; where None, in L or RGB by its own mode.

    Only one image above `LARGE` is in memory at a time, whatever the number of threads.

    Raises:
        ValueError: a pipe or a device, which may never end.
        WrongSize: the image is not of `shape`, (C, H, W); raised before the pixels are decoded.
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
    """Convert greyscale of 0 to 65535 to mode L, 0 to 255, rounded."""
    from PIL import Image

    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels outside 0..65535; store 8 or 16 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
