"""Caches decoded images on disk: writes them once, as a stream and atomically, then maps them into memory."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from gantry.core.errors import UserError

VERSION = 2  # of the cached pixels: raise it when a decoder's output changes

CachedImages = tuple[np.ndarray, dict[str, Any]]  # the memory-mapped images, and their metadata


def kept(cache: Path, identity: list, make: Callable[[Path], CachedImages]) -> CachedImages:
    """Return the images cached under `cache` for `identity`; make them first where they are missing or damaged.

    Args:
        cache: the folder of decoded images.
        identity: everything that determines the images, JSON-serialisable.
        make: fills the entry at the given path, by `write`. Jobs that start together call it once.

    Raises:
        UserError: the cache cannot be used.
    """
    key = json.dumps([VERSION, *identity])
    entry = cache / "images" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        cached = _load(entry)
        if cached is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{entry}.lock"):
                cached = _load(entry) or make(entry)
    except OSError as error:
        raise UserError(f"cannot use the cache of decoded images in {entry.parent}: {error}") from error
    return cached


def write(
    entry: Path,
    most: int,
    shape: tuple[int, int, int],
    parts: Iterable[np.ndarray],
    describe: Callable[[], dict[str, Any]],
) -> CachedImages:
    """Write images into an entry as a stream: memory holds one part, whatever their number.

    Args:
        entry: see `kept`.
        most: the largest possible number of images.
        shape: (C, H, W) of each image.
        parts: uint8 arrays of (C, H, W) or (n, C, H, W).
        describe: called after all are written; returns the metadata to store, to which `shape` and `pixels`, the
            sha256 of the pixel bytes in hexadecimal, are added.

    Raises whatever `parts` and `describe` raise, and leaves no partial file.
    """
    pixels, partial = entry.with_suffix(".npy"), entry.with_suffix(".tmp")
    sha, written = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            _header(file, (most, *shape))
            for part in parts:
                content = part.tobytes()
                file.write(content)
                sha.update(content)
                written += len(content)
            whole = (written // math.prod(shape), *shape)
            file.seek(0)
            _header(file, whole)  # has the same length: numpy pads it so that the first axis may change
        about = describe()
        partial.replace(pixels)
        about |= {"shape": list(whole), "pixels": sha.hexdigest()}
        partial.write_text(json.dumps(about))
        partial.replace(entry.with_suffix(".json"))
    finally:
        partial.unlink(missing_ok=True)
    return np.load(pixels, mmap_mode="r"), about


def _load(entry: Path) -> CachedImages | None:
    """Load the entry that `write` wrote; None where it is missing or damaged."""
    try:
        about = json.loads(entry.with_suffix(".json").read_text())
        images = np.load(entry.with_suffix(".npy"), mmap_mode="r")
        return (images, about) if list(images.shape) == about["shape"] else None
    except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError):  # ValueError: a truncated array
        return None


def _header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
