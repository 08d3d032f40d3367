"""Decoded images kept on disk: written once, streaming and atomically, and mapped into memory from then on."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from gantry.core.errors import UserError
from gantry.data.images import digest_of

VERSION = 1  # of the cached pixels: raise it whenever a decoder comes to give others

Found = tuple[np.ndarray, dict[str, Any]]  # the mapped images, and what is known of them


def kept(cache: Path, identity: list, make: Callable[[Path], Found]) -> Found:
    """The images kept under `cache` as `identity`; made first where there are none, or damaged ones.

    Args:
        cache: the folder that decoded images are kept under.
        identity: all that determines them, as JSON can write it.
        make: fills the entry at the path it is given, by `write`. Jobs that start together make it once.

    Raises:
        UserError: the cache cannot be used.
    """
    key = json.dumps([VERSION, *identity])
    entry = cache / "images" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        found = _load(entry)
        if found is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{entry}.lock"):
                found = _load(entry) or make(entry)
    except OSError as error:
        raise UserError(f"cannot use the cache of decoded images in {entry.parent}: {error}") from error
    return found


def write(
    entry: Path,
    most: int,
    shape: tuple[int, int, int],
    parts: Iterable[np.ndarray],
    describe: Callable[[], dict[str, Any]],
) -> Found:
    """Write images into an entry as they come: memory holds one part, whatever their number.

    Args:
        entry: see `kept`.
        most: how many images there may be.
        shape: (C, H, W) of each.
        parts: uint8 arrays of (C, H, W) or (n, C, H, W).
        describe: called when all are written; what else to keep, with `labels` and `classes`, lists or None.

    Raises whatever `parts` and `describe` raise, and leaves nothing behind.
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
            _header(file, whole)  # of the same length: numpy pads it so that the first axis may change
        about = describe()
        partial.replace(pixels)
        labels = None if about["labels"] is None else np.array(about["labels"])
        about |= {"shape": list(whole), "digest": digest_of(whole, sha.digest(), labels)}
        partial.write_text(json.dumps(about))
        partial.replace(entry.with_suffix(".json"))
    finally:
        partial.unlink(missing_ok=True)
    return np.load(pixels, mmap_mode="r"), about


def _load(entry: Path) -> Found | None:
    """What `write` wrote; None when it is missing, or damaged and to be made again."""
    try:
        about = json.loads(entry.with_suffix(".json").read_text())
        images = np.load(entry.with_suffix(".npy"), mmap_mode="r")
        return (images, about) if list(images.shape) == about["shape"] else None
    except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError):  # ValueError: a truncated array
        return None


def _header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
