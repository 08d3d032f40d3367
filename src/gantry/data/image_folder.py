"""Loads any tree of image files: decodes it once on all cores, caches it, then maps it into memory."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image

from gantry.core.errors import UserError
from gantry.core.progress import progress
from gantry.data.alpha import GROUND, RGBA, Ground
from gantry.data.decoded_cache import CachedImages, kept, write
from gantry.data.folder_kinds import named_beside
from gantry.data.images import ImageSet, decode, digest_of
from gantry.data.labels import How, Labels, find_labels
from gantry.data.named_files import NamedFiles, named_files, resolved
from gantry.data.open_image import MODES
from gantry.data.reading import UNREADABLE, Reading, Seen, Tally
from gantry.data.sizes import Size, as_given, sides

CHUNK = 1024  # files given to the thread pool at once, which bounds the decoded images waiting to be written
NAMED = 5  # unreadable files named in the message

Failures = Sequence[tuple[str, str | Exception]]  # unreadable files with their errors


def image_folder(
    *,
    folder: str,
    cache: Path,
    image_size: Size = 64,
    channels: Literal[1, 3, 4] = 3,
    ground: Ground = "white",
    labels: How = "auto",
    skip_unreadable: bool = False,
    flip: bool = True,
) -> ImageSet:
    """Load every image of a tree of folders, or of a zip file, in the order of their paths.

    `gantry.data.images.decode` decodes each. Hidden files and folders are left out; links are followed. What was
    found, left out and altered is in the `reading` of the set.

    Args:
        folder: the tree or the zip file, relative to the working directory or absolute.
        cache: the folder of decoded images.
        image_size: pixels of a square's side, or [height, width]; each image's central part in these proportions is
            resized to it.
        channels: 3 for colour, 1 for greyscale (ITU-R 601 luma); of both, transparent images are laid on white. 4 for
            colour and alpha, premultiplied (see `gantry.data.alpha`).
        ground: what images of four channels are laid on to be measured.
        labels: auto: of dataset.json as StyleGAN's data sets have it, or else the sub-folders, when there are two or
            more and they look like classes; folders: the sub-folders, whatever they look like; none.
        skip_unreadable: leave out and count files that cannot be decoded, instead of refusing the folder.
        flip: whether training may mirror images.

    Raises:
        UserError: no such folder, no images in it, unreadable images, labels that cannot be understood, or a cache
            that cannot be written.
    """
    if channels not in MODES:
        raise UserError(
            f"data.channels={channels}: must be 1 (greyscale), 3 (colour) or 4 (colour and alpha, of grey files too)"
        )
    if channels != RGBA and ground != GROUND:
        raise UserError(f"data.ground={ground} belongs to data.channels=4; with others images are laid on {GROUND}")
    files = named_files(resolved(folder, "data.folder"))
    data = cached_images(
        files,
        labels,
        cache=cache,
        image_size=image_size,
        channels=channels,
        skip_unreadable=skip_unreadable,
        name=files.base.stem if files.base.is_file() else files.base.name,
        split="all",
        flip=flip,
    )
    return replace(data, ground=ground) if channels == RGBA else data


def cached_images(
    files: NamedFiles,
    labels: How,
    *,
    cache: Path,
    image_size: Size,
    channels: int,
    skip_unreadable: bool,
    name: str,
    split: str,
    flip: bool,
    check: Callable[[], object] = lambda: None,
) -> ImageSet:
    """Return the images of `files` from the cache, after decoding them into it where needed.

    Args:
        files: the files to decode, in order.
        cache, image_size, channels, labels, skip_unreadable, flip: see `image_folder`.
        name, split: see `ImageSet`.
        check: called before files are decoded.

    Raises:
        UserError: unreadable images, labels that cannot be understood, or a cache that cannot be written.
    """
    size = sides(image_size)
    shape = (channels, *size)

    def read(file: Path | IO[bytes], seen: Seen) -> np.ndarray:
        return decode(file, size, channels, seen)

    def make(entry: Path) -> CachedImages:
        check()
        find_labels(files, files.names, labels)  # refuses what cannot be right before the slow part
        return decoded(entry, files, shape, read, _unreadable, skip_unreadable)

    images, about = kept(cache, [str(files.base), as_given(*size), channels, files.identity()], make)
    if about["unreadable"] and not skip_unreadable:
        raise _unreadable(files.base, about["unreadable"], len(images) + len(about["unreadable"]))
    return image_set(images, about, files, labels, name=name, split=split, flip=flip)


def decoded(
    entry: Path,
    files: NamedFiles,
    shape: tuple[int, int, int],
    read: Callable[[Path | IO[bytes], Seen], np.ndarray],
    refusal: Callable[[Path, Failures, int], UserError],
    skip_unreadable: bool = False,
) -> CachedImages:
    """Decode `files` into a cache entry, on all cores.

    Args:
        entry: see `gantry.data.decoded_cache.kept`.
        files: the files, in order.
        shape: (C, H, W) of every image.
        read: returns one file's pixels, uint8 of that shape, and notes what it sees; raises where it is unreadable.
        refusal: makes the error from `files.base`, the unreadable files and the number of all files.
        skip_unreadable: leave unreadable files out instead, unless all are unreadable.
    """
    tally = Tally()
    failures: list[tuple[str, str | Exception]] = []

    def rows() -> Iterator[np.ndarray]:
        for name, result, seen in _read_all(files, read):
            if isinstance(result, Exception):
                failures.append((name, result))
            else:
                tally.add(seen)
                yield result

    def describe() -> dict:
        reading = tally.reading()
        if failures and not (skip_unreadable and reading.files):
            raise refusal(files.base, failures, len(files.names))
        unreadable = [(name, _reason(failure)) for name, failure in failures]
        return {"unreadable": unreadable, "reading": reading.record()}

    return write(entry, len(files.names), shape, rows(), describe)


def image_set(
    images: np.ndarray, about: dict, files: NamedFiles, how: How, *, name: str, split: str, flip: bool
) -> ImageSet:
    """Return the data set of a cache entry, from its images and its metadata `about`, with the labels of `files`.

    Raises:
        UserError: see `gantry.data.labels.find_labels`.
    """
    bad = {name for name, _ in about["unreadable"]}
    names = [name for name in files.names if name not in bad]
    labels = find_labels(files, names, how)
    warnings = [warning for warning in (labels.warning, named_beside(names)) if warning]
    labels = replace(labels, warning="; ".join(warnings) or None)
    left_out = dict(files.left_out) | ({UNREADABLE: len(bad)} if bad else {})
    reading = replace(Reading.of_record(about["reading"]), left_out=left_out)
    return labelled(images, about, labels, reading, name=name, split=split, source=str(files.base), flip=flip)


def labelled(
    images: np.ndarray, about: dict, labels: Labels, reading: Reading, *, name: str, split: str, source: str, flip: bool
) -> ImageSet:
    """Return the data set of a cache entry with these labels."""
    values = None if labels.values is None else np.array(labels.values, np.int64)
    return ImageSet(
        name=name,
        images=images,
        labels=values,
        classes=None if labels.classes is None else tuple(labels.classes),
        split=split,
        source=source,
        digest=digest_of(images.shape, bytes.fromhex(about["pixels"]), values),
        flip=flip,
        skipped=reading.left_out.get(UNREADABLE, 0),
        reading=replace(reading, labels=labels.origin, warning=labels.warning),
    )


def listing(base: Path, key: str = "data.folder") -> list[str]:
    """List the images under `base`: paths relative to it with forward slashes, sorted; see `named_files`."""
    return list(named_files(base, key).names)


def _read_all(
    files: NamedFiles, read: Callable[[Path | IO[bytes], Seen], np.ndarray]
) -> Iterator[tuple[str, np.ndarray | Exception, Seen]]:
    """Yield each name with its pixels, or with the error of reading it, and what was seen, in order."""

    def one(name: str) -> tuple[str, np.ndarray | Exception, Seen]:
        seen = Seen()
        try:
            return name, read(files.open(name), seen), seen
        except Exception as error:  # Pillow's decoders raise any kind for a damaged file
            return name, error, seen

    with (
        warnings.catch_warnings(),  # the filters set here reach the pool's threads
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(f"decoding {files.base.name}", len(files.names), "image", delay=2, lines=False) as bar,
    ):
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of metadata that is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for begin in range(0, len(files.names), CHUNK):
            chunk = files.names[begin : begin + CHUNK]
            yield from pool.map(one, chunk)
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
