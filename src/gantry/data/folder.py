"""Any tree of image files: decoded once on all cores, cached, and mapped into memory from then on."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from gantry.data.images import ImageSet, decode, digest_of
from gantry.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
VERSION = 1  # of the cached pixels: raise it whenever `decode` comes to give others
CHUNK = 1024  # files handed to the thread pool at once, which bounds the decoded images waiting to be written
NAMED = 5  # unreadable files named in the message


def image_folder(
    *,
    folder: str,
    cache: Path,
    image_size: int = 64,
    channels: Literal[1, 3] = 3,
    skip_unreadable: bool = False,
    flip: bool = True,
) -> ImageSet:
    """Every image of a tree of folders, in the order of their paths.

    Each is decoded as `gantry.data.images.decode` says. Labels are the first-level sub-folders when all sit
    in two or more of them. Hidden files and folders are left out; links are followed.

    Args:
        folder: the tree, relative to the working directory or absolute.
        cache: the folder that decoded images are kept under.
        image_size: side of the images, pixels.
        channels: 3 for colour, 1 for greyscale (ITU-R 601 luma).
        skip_unreadable: leave out and count files that cannot be decoded, instead of refusing the folder.
        flip: whether training may mirror images.

    Raises:
        UserError: no such folder, no images in it, unreadable images, or a cache that cannot be written.
    """
    base = Path(folder).expanduser().resolve()
    names = _listing(base)
    stamps = [(name, *_stamp(base / name)) for name in names]
    return cached_images(
        base,
        lambda: names,
        stamps,
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
    """The images `names()` under `base`, from the cache, or decoded into it first.

    Args:
        base: the folder that the names are relative to.
        names: gives the files to decode, in order; called only when they are not cached.
        identity: what the files' contents depend on (names, sizes, times), to be written as JSON.
        cache, image_size, channels, skip_unreadable, flip: see `image_folder`.
        name, split: see `ImageSet`.

    Raises:
        UserError: unreadable images, or a cache that cannot be written.
    """
    key = json.dumps([VERSION, str(base), image_size, channels, identity])
    entry = cache / "images" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        found = _load(entry)
        if found is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{entry}.lock"):  # jobs that start together decode once
                found = _load(entry) or _write(entry, base, names(), image_size, channels, skip_unreadable)
    except OSError as error:
        raise UserError(f"cannot use the cache of decoded images in {entry.parent}: {error}") from error
    images, about = found
    if about["unreadable"] and not skip_unreadable:
        raise _unreadable(base, about["unreadable"], len(images) + len(about["unreadable"]))
    return ImageSet(
        name=name,
        images=images,
        labels=None if about["labels"] is None else np.array(about["labels"], np.int64),
        classes=None if about["classes"] is None else tuple(about["classes"]),
        split=split,
        source=str(base),
        digest=about["digest"],
        flip=flip,
        skipped=len(about["unreadable"]),
    )


def labels_of(names: Sequence[str]) -> tuple[list[int], list[str]] | tuple[None, None]:
    """(labels, classes) by first-level sub-folder; (None, None) unless all sit in two or more of them."""
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    if None in tops or len(set(tops)) < 2:
        return None, None
    classes = sorted({top for top in tops if top is not None})
    index = {top: label for label, top in enumerate(classes)}
    return [index[top] for top in tops if top is not None], classes


def _listing(base: Path) -> list[str]:
    """The images under `base`: paths relative to it with forward slashes, sorted."""
    accepted = f"accepted endings: {' '.join(ending[1:] for ending in ENDINGS)}"
    if not base.is_dir():
        what = "is a file, not a folder" if base.exists() else "does not exist"
        raise UserError(f"data.folder={base} {what}; it must be a folder with images ({accepted})")
    names: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"data.folder={base}: cannot list {error.filename}: {error.strerror}") from error

    for here, folders, files in os.walk(base, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link back up, or to a folder that was listed already
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        images = (name for name in files if name.lower().endswith(ENDINGS) and not name.startswith("."))
        names += [(Path(here) / name).relative_to(base).as_posix() for name in images]
    if not names:
        what = "is empty" if not any(base.iterdir()) else "holds no images, nor do its sub-folders"
        raise UserError(f"data.folder={base} {what} ({accepted})")
    return sorted(names)


def _stamp(path: Path) -> tuple[int, int]:
    """(bytes, time of modification in ns); (0, 0) for a dangling link, which decoding will then name."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _load(entry: Path) -> tuple[np.ndarray, dict] | None:
    """(mapped images, what is known of them); None when they are missing, or damaged and to be made again."""
    try:
        about = json.loads(entry.with_suffix(".json").read_text())
        images = np.load(entry.with_suffix(".npy"), mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):  # numpy raises ValueError for a truncated file
        return None
    return (images, about) if list(images.shape) == about["shape"] else None


def _write(
    entry: Path, base: Path, names: Sequence[str], size: int, channels: int, skip_unreadable: bool
) -> tuple[np.ndarray, dict]:
    """Decode into the cache, streaming: memory holds one chunk of images whatever their number."""
    pixels, partial = entry.with_suffix(".npy"), entry.with_suffix(".tmp")
    kept, unreadable, sha = [], [], hashlib.sha256()
    try:
        with partial.open("wb") as file:
            _header(file, (len(names), channels, size, size))
            for name, result in _decoded(base, names, size, channels):
                if isinstance(result, Exception):
                    unreadable.append((name, str(result) or type(result).__name__))
                    continue
                row = result.tobytes()
                file.write(row)
                sha.update(row)
                kept.append(name)
            shape = (len(kept), channels, size, size)
            file.seek(0)
            _header(file, shape)  # of the same length: numpy pads it so that the first axis may change
        if unreadable and not (skip_unreadable and kept):
            raise _unreadable(base, unreadable, len(names))
        partial.replace(pixels)
        labels, classes = labels_of(kept)
        digest = digest_of(shape, sha.digest(), None if labels is None else np.array(labels))
        about = {
            "shape": list(shape),
            "digest": digest,
            "unreadable": unreadable,
            "labels": labels,
            "classes": classes,
        }
        partial.write_text(json.dumps(about))
        partial.replace(entry.with_suffix(".json"))
    finally:
        partial.unlink(missing_ok=True)
    return np.load(pixels, mmap_mode="r"), about


def _header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _decoded(
    base: Path, names: Sequence[str], size: int, channels: int
) -> Iterator[tuple[str, np.ndarray | Exception]]:
    """Each name with its pixels, or with why it has none, in order."""

    def one(name: str) -> np.ndarray | Exception:
        try:
            return decode(base / name, size, channels)
        except Exception as error:  # Pillow's decoders raise any kind for a damaged file
            return error

    with (
        warnings.catch_warnings(),  # the filter set here reaches the pool's threads
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(names), desc=f"decoding {base.name}", unit="image", delay=2, disable=None) as bar,
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for begin in range(0, len(names), CHUNK):
            chunk = names[begin : begin + CHUNK]
            yield from zip(chunk, pool.map(one, chunk), strict=True)
            bar.update(len(chunk))


def _unreadable(base: Path, unreadable: Sequence[tuple[str, str]], total: int) -> UserError:
    lines = [f"  {name}: {reason}" for name, reason in unreadable[:NAMED]]
    if len(unreadable) > NAMED:
        lines.append(f"  and {len(unreadable) - NAMED} more")
    remedy = "mend or remove them"
    if len(unreadable) < total:
        remedy += ", or leave them out with data.skip_unreadable=true"
    return UserError("\n".join([f"{len(unreadable)} of {total} images in {base} cannot be read:", *lines, remedy]))
