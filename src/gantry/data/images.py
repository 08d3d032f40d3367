"""Decodes image files and converts images between storage (uint8) and network input (float in [-1, 1])."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from gantry.core.randomness import draws
from gantry.data.alpha import RGBA, Ground, on_ground, within_alpha
from gantry.data.open_image import MODES, opened
from gantry.data.reading import Reading, Seen, note_size
from gantry.data.sizes import Size, central, sides

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set in memory, or memory-mapped from the disk.

    Attributes:
        name: the data set's name, which runs are tagged with.
        images: uint8, shape (N, C, H, W), values 0 to 255; may be a read-only memory map. Four channels are red,
            green, blue and alpha, the colours premultiplied (see `gantry.data.alpha`).
        labels: int64, shape (N,), each an index into `classes`; None where there are no labels.
        classes: the names of the classes; None where there are no labels.
        split: the part of the data set: train, test, valid or all.
        source: a description of the origin, for users.
        digest: sha256 in hexadecimal of shape, pixels and labels (see `digest_of`).
        flip: whether training may mirror images at random, since a mirrored image is as plausible.
        skipped: the number of unreadable files left out.
        reading: what reading found in the files and changed of them; None where the function that made the set did
            not say.
        ground: what transparent images are laid on to be measured; None where they have no alpha. A set of three
            channels with a ground has been laid on it.
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
    reading: Reading | None = None
    ground: Ground | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of the images as they are trained on: with alpha where they lie on a ground."""
        return (RGBA if self.ground else self.shape[0], *self.shape[1:])

    def part(self, count: int) -> "ImageSet":
        """Return `count` images drawn at random, the same for every run's seed; all where there are no more."""
        return self if count >= len(self) else self._chosen(self._order(count)[:count], f"{self.split}-{count}")

    def left_out(self, count: int, most: int) -> "ImageSet | None":
        """Return at most `most` of the images that `part(count)` leaves out, drawn at random; None where none are."""
        if count >= len(self):
            return None
        return self._chosen(self._order(count)[count : count + most], f"{self.split} without {count}")

    def _order(self, count: int) -> np.ndarray:
        return draws(0, count, "part").permutation(len(self))

    def _chosen(self, numbers: np.ndarray, split: str) -> "ImageSet":
        chosen = np.sort(numbers)
        images = np.asarray(self.images[chosen])
        labels = None if self.labels is None else self.labels[chosen]
        digest = digest_of(images.shape, hashlib.sha256(images.data).digest(), labels)
        return replace(self, images=images, labels=labels, digest=digest, split=split)


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


def resize(images: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 (N, C, H, W) to `size` by antialiased Lanczos; unchanged at that size.

    Args:
        images: of other proportions than `size`, they are cropped to their central part in its proportions. Colours
            of four channels are premultiplied.
        size: a number of pixels for squares, or (height, width).

    Raises:
        UserError: see `gantry.data.sizes.sides`.
    """
    from PIL import Image

    height, width = sides(size)
    if images.shape[2:] == (height, width):
        return images
    left, top, right, bottom = central(images.shape[2], images.shape[3], (height, width))
    resized = np.empty((*images.shape[:2], height, width), np.uint8)
    for target, planes in zip(resized, images[:, :, top:bottom, left:right], strict=True):
        for channel, plane in enumerate(planes):
            target[channel] = Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS)
        target[:] = within_alpha(target)
    return resized


def decode(file: Path | IO[bytes], size: Size, channels: int, seen: Seen | None = None) -> np.ndarray:
    """Decode an image file to uint8 (channels, height, width): its central part, resized by antialiased Lanczos.

    The part has the proportions of `size`, a number of pixels for a square, or (height, width). The image is turned
    upright (EXIF) and scaled from 16 bits to 8; of an animation, the first frame is taken. Where it is transparent it
    is composited on white, or of four channels premultiplied. `seen` is told all of that. Raises whatever Pillow
    raises for a damaged file.
    """
    from PIL import Image

    height, width = sides(size)
    seen = seen or Seen()
    with opened(file, MODES[channels], seen) as whole:
        box = central(whole.height, whole.width, (height, width))
        image = whole.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    note_size(seen, box, (height, width))
    pixels = within_alpha(np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1))
    seen.pixels = int(pixels.min()), int(pixels.max())
    return pixels


class Coloured(ValueError):
    """An image has colours where a greyscale one is required."""


def decode_exactly(file: Path | IO[bytes], shape: tuple[int, int, int], seen: Seen | None = None) -> np.ndarray:
    """Decode an image file to uint8 of `shape`, (C, H, W), without cropping, resizing or dropping colours.

    It is opened as in `decode`. A greyscale file is repeated to three channels, and three equal channels become one;
    one without transparency is opaque. `seen` is told also whether other tools read other pixels, see `_as_others`.

    Raises:
        WrongSize: the image is not W by H pixels.
        Coloured: C is 1, and the image's channels differ.
    """
    seen = seen or Seen()
    with opened(file, "RGBa" if shape[0] == RGBA else None, seen, shape) as image:
        pixels = np.asarray(image).reshape(*shape[1:], -1).transpose(2, 0, 1)
    seen.pixels = int(pixels.min()), int(pixels.max())
    if seen.altered:
        measured = on_ground(pixels[None]) if len(pixels) == RGBA else with_channels(pixels[None], 3)
        seen.read_otherwise = not np.array_equal(measured[0], _as_others(file))
    return with_channels(pixels[None], shape[0])[0]


def _as_others(file: Path | IO[bytes]) -> np.ndarray:
    """Decode an image file to uint8 (3, H, W) by Pillow's conversion to RGB alone.

    So do torch-fidelity's `ImagesPathDataset`, pytorch-fid's `ImagePathDataset` and clean-fid's `ResizeDataset`.
    """
    from PIL import Image

    if not isinstance(file, Path):
        file.seek(0)
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB")).transpose(2, 0, 1)


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert uint8 (n, C, H, W) to (n, channels, H, W): repeat greyscale, or merge three equal channels.

    Four `channels` are made of fewer by an alpha of 255; C is 4 only where `channels` is.

    Raises:
        Coloured: `channels` is 1, and the three differ.
    """
    if channels == 1 and (images != images[:, :1]).any():
        raise Coloured("coloured")
    if channels == RGBA != images.shape[1]:
        colours, alpha = with_channels(images, 3), np.full((len(images), 1, *images.shape[2:]), 255, np.uint8)
        return np.concatenate([colours, alpha], axis=1)
    return np.broadcast_to(images[:, :channels], (len(images), channels, *images.shape[2:]))
