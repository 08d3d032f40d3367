"""Loads images generated elsewhere, from a folder or an array file, without changing a pixel, or refuses them."""

import logging
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from gantry.core.errors import UserError
from gantry.core.progress import progress
from gantry.data.alpha import RGBA, premultiply
from gantry.data.array_labels import ArrayLabels, might_be, understood
from gantry.data.decoded_cache import CachedImages, kept, write
from gantry.data.image_folder import NAMED, Failures, decoded, image_set, labelled
from gantry.data.images import Coloured, ImageSet, decode_exactly, with_channels
from gantry.data.labels import Labels
from gantry.data.named_files import NamedFiles, file_stamp, named_files, resolved
from gantry.data.open_image import WrongSize
from gantry.data.reading import array_reading
from gantry.data.sample_caveats import caveats
from gantry.data.sample_refusals import coloured, wrong_sizes

logger = logging.getLogger(__name__)

IMAGES = (
    "arr_0",
    "images",
    "samples",
    "x",
)  # arr_0: numpy's name for an unnamed array, as in guided-diffusion
LABELS = ("labels", "y", "arr_1")
# Keys of what the cache holds about an array: why arrays named so are not its labels, arrays that are not read, and the
# least and the largest value of a pixel.
NOT_LABELS, UNREAD, EXTREMES = "not_labels", "unread", "extremes"
ARRAYS = 3  # version of how arrays are read, to be raised when that changes
CHUNK_BYTES = 2**24  # read at once


def samples(path: str | Path, cache: Path, shape: tuple[int, int, int], *, labels_needed: bool = True) -> ImageSet:
    """Load the images at `path`, uint8 of the reference data's `shape`, without cropping, resizing or rounding.

    A folder is listed as by `gantry.data.image_folder.image_folder` and its files are decoded by
    `gantry.data.images.decode_exactly`: greyscale is repeated for colour data (as torch-fidelity does), and for
    greyscale data files must be grey. Labels are found as there, too, and a zip file is read as a folder is.
    Transparent images are laid on white, or premultiplied for data with alpha, for which others are opaque.

    An .npz holds uint8 images (N, H, W, C) or (N, C, H, W), or (N, H, W) for greyscale, as one of `IMAGES`, or
    beside data with alpha (N, H, W, 4) or (N, 4, H, W) of straight alpha, and optional labels as one of `LABELS`, see
    `gantry.data.array_labels.understood`; an .npy holds the images alone. It is copied to the cache as a stream, so
    memory does not grow with N, and is never unpickled.

    Args:
        path: a folder, a .zip of one, an .npz or an .npy.
        cache: the folder of decoded images.
        shape: (C, H, W) of the reference data, C 1, 3 or 4.
        labels_needed: refuse an array that is called labels and is none, instead of leaving it out with a warning.

    Raises:
        UserError: the path does not exist or holds no images, other sizes, colours for greyscale data, damaged or
            ambiguous files, arrays of another kind, or the cache cannot be written.
    """
    base = resolved(path, "images")
    if base.suffix.lower() in (".npz", ".npy") and base.is_file():
        identity = ["samples", ARRAYS, str(base), file_stamp(base), shape]
        images, about = kept(cache, identity, lambda entry: _array(entry, base, shape))
        _tell_of_labels(about[NOT_LABELS], labels_needed)
        labels = Labels(about["labels"], about["classes"], "beside the images" if about["labels"] else "no labels")
        unread = {f"array {key}": 1 for key in about[UNREAD]}
        reading = replace(array_reading(images, *shape[1:]), pixels=tuple(about[EXTREMES]), left_out=unread)
        return labelled(images, about, labels, reading, name=base.stem, split="all", source=str(base), flip=False)
    if base.exists() and not base.is_dir() and base.suffix.lower() != ".zip":
        raise UserError(f"images={base} is not a folder with images, an .npz or an .npy")
    if not base.exists():
        raise UserError(f"images={base} does not exist; it must be a folder with images, an .npz or an .npy")
    files = named_files(base, "images")
    images, about = _folder(files, cache, shape)
    name = base.name if base.is_dir() else base.stem
    data = _labelled(images, about, files, name, labels_needed)
    for caveat in caveats(data):
        logger.warning("%s", caveat)
    return data


def _labelled(images: np.ndarray, about: dict, files: NamedFiles, name: str, needed: bool) -> ImageSet:
    """Return the images of `files`, with labels unless those cannot be understood and are not needed."""
    try:
        return image_set(images, about, files, "auto", name=name, split="all", flip=False)
    except UserError as error:  # of a dataset.json that does not fit
        if needed:
            raise
        logger.warning("images=%s: %s: it is not used", files.base, error)
        return image_set(images, about, files, "none", name=name, split="all", flip=False)


def _tell_of_labels(said: Sequence[str], needed: bool) -> None:
    """Warn of arrays beside the images that are not their labels.

    Raises:
        UserError: labels are needed, and one of the arrays is called so.
    """
    for sentence in said:
        if needed and not sentence.startswith("arr_1 "):  # the second unnamed array may be anything
            raise UserError(sentence)
        logger.warning("%s: it is not used", sentence)


def _folder(files: NamedFiles, cache: Path, shape: tuple[int, int, int]) -> CachedImages:
    base, names = files.base, files.names

    def refusal(base: Path, failures: Failures, total: int) -> UserError:
        unfit = {name: failure.size for name, failure in failures if isinstance(failure, WrongSize)}
        tinted = [name for name, failure in failures if isinstance(failure, Coloured)]
        if unfit:
            failing = {name for name, _ in failures}
            fitting = [name for name in names if name not in failing]
            return wrong_sizes(base, Counter(unfit.values()), total, shape, unfit, fitting)
        if tinted:
            what = f"{len(tinted)} of {total} images have colours, the first is {tinted[0]}"
            return coloured(base, what, tinted, total)
        lines = [f"  {name}: {failure}" for name, failure in failures[:NAMED]]
        more = [f"  and {len(failures) - NAMED} more"] if len(failures) > NAMED else []
        head = f"images={base}: {len(failures)} of {total} images cannot be read:"
        return UserError("\n".join([head, *lines, *more, "mend or remove them"]))

    return kept(
        cache,
        [str(base), "exact", shape, files.identity()],
        lambda entry: decoded(entry, files, shape, lambda file, seen: decode_exactly(file, shape, seen), refusal),
    )


class _Layout(NamedTuple):
    """The number of an array's channels, 1, 3 or 4, and whether they are its last axis."""

    channels: int
    last: bool


def _array(entry: Path, path: Path, shape: tuple[int, int, int]) -> CachedImages:
    """Copy the images in the file at `path` into a cache entry."""
    with _opened(path) as members:
        file, dims = _images(path, members)
        layout = _layout(path, dims, shape)
        labels, said = _labels(path, members, dims[0])
        numbers, classes = labels or (None, None)
        extremes = [255, 0]
        about = {"unreadable": [], "labels": numbers, "classes": classes, NOT_LABELS: said}
        about |= {UNREAD: _unread(path), EXTREMES: extremes}

        def chunks() -> Iterator[np.ndarray]:
            for images in _chunks(path, file, dims, layout, shape[0]):
                extremes[:] = min(extremes[0], int(images.min())), max(extremes[1], int(images.max()))
                yield images

        return write(entry, dims[0], shape, chunks(), lambda: about)


def _unread(path: Path) -> list[str]:
    """Return the names of the arrays in the file that are taken neither for images nor for labels."""
    if path.suffix.lower() == ".npy":
        return []
    with zipfile.ZipFile(path) as archive:
        return sorted({name.removesuffix(".npy") for name in archive.namelist()} - {*IMAGES, *LABELS})


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Convert any error of reading a damaged file to a `UserError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"images={path} cannot be read: {reason}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, IO[bytes]]]:
    """Open the arrays of the file by name, each at its start; the array of an .npy is named arr_0."""
    if path.suffix.lower() == ".npy":
        with _damage(path):
            file = path.open("rb")
        with file:
            yield {"arr_0": file}
        return
    with _damage(path):
        archive = zipfile.ZipFile(path)
    with archive:
        with _damage(path):
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            wanted = [name for name in names if name[:-4] in IMAGES + LABELS]
            members = {name[:-4]: archive.open(name) for name in wanted}
        if not members.keys() & set(IMAGES):
            keys = ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "no arrays"
            raise UserError(f"images={path} holds {keys}; the images must be called one of {', '.join(IMAGES)}")
        yield members


def _images(path: Path, members: Mapping[str, IO[bytes]]) -> tuple[IO[bytes], tuple[int, ...]]:
    """Return the array of images, read up to its pixels, and its dimensions."""
    keys = [key for key in IMAGES if key in members]
    if len(keys) > 1:
        raise UserError(f"images={path} holds {' and '.join(keys)}, each of which may be the images: keep one")
    with _damage(path):
        dims, fortran, dtype = _header(members[keys[0]])
    if dtype.hasobject:
        raise UserError(f"images={path} holds Python objects, which would run code when read; save a uint8 array")
    if dtype.kind == "f":
        raise UserError(
            f"images={path} holds {dtype} numbers, and nothing says whether they span 0..1, -1..1 or 0..255, nor "
            "how to round them. Save uint8: np.rint(x * 255) for 0..1, np.rint((x + 1) * 127.5) for -1..1, "
            "clipped to 0..255"
        )
    if dtype != np.uint8:
        raise UserError(f"images={path} holds {dtype} numbers; images must be uint8, 0 to 255")
    if fortran:
        raise UserError(f"images={path} is stored column by column; save np.ascontiguousarray(images)")
    if not dims or not dims[0]:
        raise UserError(f"images={path} holds no images: its shape is {dims}")
    return members[keys[0]], dims


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"numpy's format {version} holds no plain images")
    return readers[version](file)


def _layout(path: Path, dims: Sequence[int], shape: tuple[int, int, int]) -> _Layout:
    """Return the layout in which an array of `dims` holds images of the size of `shape`."""
    height, width = shape[1:]
    each = (*dims[1:], 1) if len(dims) == 3 else tuple(dims[1:])
    if len(each) == 3:
        counts = (1, 3, RGBA) if shape[0] == RGBA else (1, 3)
        first = _Layout(each[0], last=False) if each[0] in counts else None
        last = _Layout(each[2], last=True) if each[2] in counts else None
        fits = [
            layout
            for layout, pixels in ((first, each[1:]), (last, each[:2]))
            if layout is not None and pixels == (height, width)
        ]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise UserError(f"images={path}: {tuple(dims)} may be (N, H, W, C) or (N, C, H, W); save image files")
        if last is not None or first is not None:
            size = (each[1], each[0]) if last is not None else (each[2], each[1])
            raise wrong_sizes(path, {size: dims[0]}, dims[0], shape)
    raise UserError(
        f"images={path}: its shape {tuple(dims)} is not that of images, (N, H, W, C) or (N, C, H, W) with one or "
        f"three channels (four beside data with alpha: data.channels=4); the reference data's are {width}x{height}"
    )


def _labels(path: Path, members: Mapping[str, IO[bytes]], count: int) -> tuple[ArrayLabels | None, list[str]]:
    """Read the labels of `count` images; None where the file has none.

    Returns:
        The labels, and a sentence for each array that should be the labels and is not.
    """
    said: list[str] = []
    for key in (key for key in LABELS if key in members):
        with _damage(path):
            dims, fortran, dtype = _header(members[key])
            found = None
            if might_be(dims, dtype, count):
                content = members[key].read()
                if len(content) < math.prod(dims) * dtype.itemsize:
                    raise EOFError(f"{key} is cut short")
                array = np.frombuffer(content, dtype, math.prod(dims))
                found = understood(array.reshape(dims, order="F" if fortran else "C"), count)
        if found is not None:
            return found, said
        said.append(
            f"{key} ({dtype}, {dims}) of images={path} is not the labels: {count} integers from 0, {count} names, or "
            f"one-hot rows ({count}, classes)"
        )
    return None, said


def _chunks(path: Path, file: IO[bytes], dims: tuple[int, ...], layout: _Layout, channels: int) -> Iterator[np.ndarray]:
    """Yield the images as uint8 (n, `channels`, H, W), about `CHUNK_BYTES` at a time."""
    each = math.prod(dims[1:])
    step = max(1, CHUNK_BYTES // each)
    with progress(f"reading {path.name}", dims[0], "image", delay=2, lines=False) as bar:
        for begin in range(0, dims[0], step):
            count = min(step, dims[0] - begin)
            with _damage(path):
                content = file.read(count * each)
                if len(content) < count * each:
                    raise EOFError(f"it ends after {begin + len(content) // each} of {dims[0]} images")
            images = np.frombuffer(content, np.uint8).reshape(count, *dims[1:])
            images = images.reshape(*images.shape[:3], layout.channels) if layout.last else images
            images = images.transpose(0, 3, 1, 2) if layout.last else images
            images = premultiply(images) if layout.channels == RGBA else images
            try:
                fitting = with_channels(images, channels)
            except Coloured as error:
                place = begin + int((images != images[:, :1]).any((1, 2, 3)).argmax())
                raise coloured(path, f"the image at index {place} has colours") from error
            yield fitting
            bar.advance(count)
        with _damage(path):
            if file.read(1):  # reading to the end also verifies the zip file's checksum
                raise ValueError("it is longer than its header says")
