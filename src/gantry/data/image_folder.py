"""Loads any tree of image files: decodes it once on all cores, caches it, then maps it into memory."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from gantry.core.errors import UserError
from gantry.core.progress import progress
from gantry.data.decoded_cache import CachedImages, kept, write
from gantry.data.images import ImageSet, decode

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHUNK = 1024  # files given to the thread pool at once, which bounds the decoded images waiting to be written
NAMED = 5  # unreadable files named in the message

Failures = Sequence[tuple[str, str | Exception]]  # unreadable files with their errors


def image_folder(
    *,
    folder: str,
    cache: Path,
    image_size: int = 64,
    channels: Literal[1, 3] = 3,
    skip_unreadable: bool = False,
    flip: bool = True,
) -> ImageSet:
    """Load every image of a tree of folders, in the order of their paths.

    `gantry.data.images.decode` decodes each. Labels are the first-level sub-folders when all images lie in two or
    more of them. Hidden files and folders are left out; links are followed.

    Args:
        folder: the tree, relative to the working directory or absolute.
        cache: the folder of decoded images.
        image_size: side of the images, pixels.
        channels: 3 for colour, 1 for greyscale (ITU-R 601 luma).
        skip_unreadable: leave out and count files that cannot be decoded, instead of refusing the folder.
        flip: whether training may mirror images.

    Raises:
        UserError: no such folder, no images in it, unreadable images, or a cache that cannot be written.
    """
    base = resolved(folder, "data.folder")
    names = listing(base)
    return cached_images(
        base,
        lambda: names,
        stamps(base, names),
        cache=cache,
        image_size=image_size,
        channels=channels,
        skip_unreadable=skip_unreadable,
        name=base.name,
        split="all",
        flip=flip,
    )


def cached_images(
    base: Path,
    names: Callable[[], Sequence[str]],
    identity: object,
    *,
    cache: Path,
    image_size: int,
    channels: int,
    skip_unreadable: bool,
    name: str,
    split: str,
    flip: bool,
) -> ImageSet:
    """Return the images `names()` under `base` from the cache, after decoding them into it where needed.

    Args:
        base: the folder that the names are relative to.
        names: returns the files to decode, in order; called only when they are not cached.
        identity: what the files' contents depend on (names, sizes, times), JSON-serialisable.
        cache, image_size, channels, skip_unreadable, flip: see `image_folder`.
        name, split: see `ImageSet`.

    Raises:
        UserError: unreadable images, or a cache that cannot be written.
    """
    shape = (channels, image_size, image_size)
    images, about = kept(
        cache,
        [str(base), image_size, channels, identity],
        lambda entry: decoded(
            entry, base, names(), shape, lambda path: decode(path, image_size, channels), _unreadable, skip_unreadable
        ),
    )
    if about["unreadable"] and not skip_unreadable:
        raise _unreadable(base, about["unreadable"], len(images) + len(about["unreadable"]))
    return image_set(images, about, name=name, split=split, source=str(base), flip=flip)


def decoded(
    entry: Path,
    base: Path,
    names: Sequence[str],
    shape: tuple[int, int, int],
    read: Callable[[Path], np.ndarray],
    refusal: Callable[[Path, Failures, int], UserError],
    skip_unreadable: bool = False,
) -> CachedImages:
    """Decode the files `names` under `base` into a cache entry, on all cores.

    Args:
        entry: see `gantry.data.decoded_cache.kept`.
        base, names: the files, in order.
        shape: (C, H, W) of every image.
        read: returns one file's pixels, uint8 of that shape; raises where the file is unreadable.
        refusal: makes the error from `base`, the unreadable files and the number of all files.
        skip_unreadable: leave unreadable files out instead, unless all are unreadable.
    """
    good: list[str] = []
    failures: list[tuple[str, str | Exception]] = []

    def rows() -> Iterator[np.ndarray]:
        for name, result in _read_all(base, names, read):
            if isinstance(result, Exception):
                failures.append((name, result))
            else:
                good.append(name)
                yield result

    def describe() -> dict:
        if failures and not (skip_unreadable and good):
            raise refusal(base, failures, len(names))
        labels, classes = labels_of(good)
        unreadable = [(name, _reason(failure)) for name, failure in failures]
        return {"unreadable": unreadable, "labels": labels, "classes": classes}

    return write(entry, len(names), shape, rows(), describe)


def image_set(images: np.ndarray, about: dict, *, name: str, split: str, source: str, flip: bool) -> ImageSet:
    """Return the data set of a cache entry, from its images and its metadata `about`."""
    return ImageSet(
        name=name,
        images=images,
        labels=None if about["labels"] is None else np.array(about["labels"], np.int64),
        classes=None if about["classes"] is None else tuple(about["classes"]),
        split=split,
        source=source,
        digest=about["digest"],
        flip=flip,
        skipped=len(about["unreadable"]),
    )


def labels_of(names: Sequence[str]) -> tuple[list[int], list[str]] | tuple[None, None]:
    """Return (labels, classes) by first-level sub-folder; (None, None) unless all names lie in two or more of them."""
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    if None in tops or len(set(tops)) < 2:
        return None, None
    classes = sorted({top for top in tops if top is not None})
    index = {top: label for label, top in enumerate(classes)}
    return [index[top] for top in tops if top is not None], classes


def resolved(path: str | Path, key: str) -> Path:
    """Return the absolute path, with links followed.

    Raises:
        UserError: a link leads to itself, or there is no such user (~name); the message names `key`=`path`.
    """
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{key}={path}: {error}") from error


def listing(base: Path, key: str = "data.folder") -> list[str]:
    """List the images under `base`: paths relative to it with forward slashes, sorted.

    Raises:
        UserError: no such folder, or no images in it; the message names `key`=`base`.
    """
    accepted = f"accepted endings: {' '.join(ending[1:] for ending in ENDINGS)}"
    if not base.is_dir():
        what = "is a file, not a folder" if base.exists() else "does not exist"
        raise UserError(f"{key}={base} {what}; it must be a folder with images ({accepted})")
    names: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{key}={base}: cannot list {error.filename}: {error.strerror}") from error

    for here, folders, files in os.walk(base, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link back up, or to a folder that was listed already
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        images = (name for name in files if name.lower().endswith(ENDINGS) and not name.startswith("."))
        inside = Path(here).relative_to(base).as_posix()
        names += images if inside == "." else [f"{inside}/{name}" for name in images]
    if not names:
        what = "is empty" if not any(base.iterdir()) else "holds no images, nor do its sub-folders"
        raise UserError(f"{key}={base} {what} ({accepted})")
    return sorted(names)


def stamps(base: Path, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return (name, bytes, modification time in ns) of each file, which stand for its contents."""
    return [(name, *_stamp(f"{base}/{name}")) for name in names]


def _stamp(path: str) -> tuple[int, int]:
    """Return (bytes, modification time in ns); (0, 0) for a broken link, which decoding then reports."""
    try:
        stat = os.stat(path)  # noqa: PTH116 Path.stat takes twice the time, over a hundred thousand files
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _read_all(
    base: Path, names: Sequence[str], read: Callable[[Path], np.ndarray]
) -> Iterator[tuple[str, np.ndarray | Exception]]:
    """Yield each name with its pixels, or with the error of reading it, in order."""

    def one(name: str) -> np.ndarray | Exception:
        try:
            return read(base / name)
        except Exception as error:  # Pillow's decoders raise any kind for a damaged file
            return error

    with (
        warnings.catch_warnings(),  # the filter set here reaches the pool's threads
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(f"decoding {base.name}", len(names), "image", delay=2, lines=False) as bar,
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for begin in range(0, len(names), CHUNK):
            chunk = names[begin : begin + CHUNK]
            yield from zip(chunk, pool.map(one, chunk), strict=True)
            bar.advance(len(chunk))


def _reason(failure: str | Exception) -> str:
    return str(failure) or type(failure).__name__


def _unreadable(base: Path, unreadable: Failures, total: int) -> UserError:
    lines = [f"  {name}: {_reason(failure)}" for name, failure in unreadable[:NAMED]]
    if len(unreadable) > NAMED:
        lines.append(f"  and {len(unreadable) - NAMED} more")
    remedy = "mend or remove them"
    if len(unreadable) < total:
        remedy += ", or leave them out with data.skip_unreadable=true"
    return UserError("\n".join([f"{len(unreadable)} of {total} images in {base} cannot be read:", *lines, remedy]))
