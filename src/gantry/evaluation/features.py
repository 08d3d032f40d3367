"""Looks at many images through feature extractors: chunk by chunk onto the disk, on one device or several.

Memory does not grow with the number of images, what was looked at before a stop is not looked at again, and the
chunks are the same on any number of devices.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantry.core.errors import UserError
from gantry.core.processes.workers import ALONE, Crew
from gantry.core.progress import progress
from gantry.evaluation.extractors.extractor import Extractor, Features

CHUNK = 512  # images in a file of features
PIECE = 128  # images made at a time, one piece ahead of the extractor
AHEAD = 2  # pieces that wait for it
POLL = 0.2  # seconds between two looks at the other processes


class Source(Protocol):
    """Images by number."""

    def __len__(self) -> int: ...

    def __call__(self, start: int, count: int) -> Tensor:
        """Images `start` to `start + count` as uint8 (count, C, H, W), on any device."""
        ...

    def of(self, numbers: np.ndarray) -> Tensor:
        """The images with these numbers, int64 (k,)."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Images of a numpy array (N, C, H, W), uint8, which may be mapped from a file."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, start: int, count: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[start : start + count]))

    def of(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(self.images[numbers]))


def look_at(
    source: Source,
    extractors: Mapping[str, Extractor],
    folder: Path,
    title: str,
    crew: Crew = ALONE,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Features]:
    """Compute the features of all images by each extractor, mapped from files in `folder`.

    Args:
        source: the images.
        extractors: by a name of the caller's, which is part of the files' names.
        folder: for these images and extractors alone; what is in it already is kept.
        title: of the progress bar.
        crew: who shares the work.
        between: called between chunks; may raise, and the next call goes on where this one ended.

    Raises:
        JobFailed: another process of the crew has failed.
        UserError: a file from before a stop is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = _left(folder, len(source))
    with progress(title, len(source), "image", done=_count_done(folder, len(source))) as bar:
        with (crew if len(left) > 1 else ALONE).at_work(folder) as done:
            size = crew.size if len(left) > 1 else 1
            for chunk in _looked_at(source, extractors, folder, 0, size):
                between()
                bar.advance(_size(chunk, len(source)))
                done()
            while not done():
                between()
                time.sleep(POLL)
                bar.reach(_count_done(folder, len(source)))
        bar.reach(len(source))
    return {name: _joined(folder, name, len(source)) for name in extractors}


def look_at_share(source: Source, extractors: Mapping[str, Extractor], folder: Path, rank: int, size: int) -> None:
    """Compute every `size`th remaining chunk in one of the other processes, while the first process lives."""
    first = multiprocessing.parent_process()
    for _ in _looked_at(source, extractors, folder, rank, size):
        if first is not None and not first.is_alive():  # killed; whoever takes the work up has the lock
            return


def _looked_at(
    source: Source, extractors: Mapping[str, Extractor], folder: Path, rank: int, size: int
) -> Iterator[int]:
    """The chunks of this process, each once its file is there; the images are made while others are looked at."""
    mine = [chunk for chunk in _left(folder, len(source)) if chunk % size == rank]
    begins = {chunk: range(chunk * CHUNK, chunk * CHUNK + _size(chunk, len(source)), PIECE) for chunk in mine}
    with _made_ahead(source, list(chain(*begins.values()))) as pieces:
        for chunk in mine:
            parts: dict[str, list[Tensor]] = {}
            for _ in begins[chunk]:
                images = next(pieces)
                for name, extractor in extractors.items():
                    for kind, part in extractor(images)._asdict().items():
                        parts.setdefault(f"{name}.{kind}", []).append(part)
            path = _file(folder, chunk)
            partial_file = path.with_suffix(f".{os.getpid()}")
            save_file({name: torch.cat(part) for name, part in parts.items()}, partial_file)
            partial_file.replace(path)
            yield chunk


@contextmanager
def _made_ahead(source: Source, begins: list[int]) -> Iterator[Iterator[Tensor]]:
    """The pieces of images beginning at `begins`, made by a thread while the caller works on those before."""

    def make(begin: int) -> Tensor:
        end = min(begin + PIECE, begin // CHUNK * CHUNK + _size(begin // CHUNK, len(source)))
        return source(begin, end - begin)

    pool = ThreadPoolExecutor(1)
    tasks = iter(begins)
    waiting: deque[Future[Tensor]] = deque()

    def pieces() -> Iterator[Tensor]:
        waiting.extend(pool.submit(make, begin) for _, begin in zip(range(AHEAD), tasks, strict=False))
        while waiting:
            piece = waiting.popleft().result()
            waiting.extend(pool.submit(make, begin) for _, begin in zip(range(1), tasks, strict=False))
            yield piece

    try:
        yield pieces()
    finally:
        pool.shutdown(cancel_futures=True)


def _count_done(folder: Path, count: int) -> int:
    return count - sum(_size(chunk, count) for chunk in _left(folder, count))


def _size(chunk: int, count: int) -> int:
    return min(CHUNK, count - chunk * CHUNK)


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:06d}.safetensors"


def _left(folder: Path, count: int) -> list[int]:
    """The chunks that nobody has looked at."""
    return [chunk for chunk in range(-(-count // CHUNK)) if not _file(folder, chunk).exists()]


def _joined(folder: Path, name: str, count: int) -> Features:
    """The chunks' parts of one extractor as arrays of all `count` images."""
    chunks = [_file(folder, chunk) for chunk in range(-(-count // CHUNK))]
    first = _loaded(chunks[0])
    return Features(*(_join(folder, chunks, f"{name}.{kind}", first, count) for kind in Features._fields))


def _loaded(chunk: Path) -> dict[str, Tensor]:
    try:
        return load_file(chunk)
    except SafetensorError as error:
        chunk.unlink()
        raise UserError(f"{chunk} was damaged and is deleted; the same command again looks at its images") from error


def _join(folder: Path, chunks: list[Path], key: str, first: Mapping[str, Tensor], count: int) -> Tensor:
    path = folder / f"{key}.npy"
    if not path.exists():
        partial_file = path.with_suffix(".partial")
        array = np.lib.format.open_memmap(partial_file, "w+", np.float32, (count, *first[key].shape[1:]))
        for begin, chunk in zip(range(0, count, CHUNK), chunks, strict=True):
            array[begin : begin + CHUNK] = _loaded(chunk)[key].numpy()
        array.flush()
        partial_file.replace(path)
    return mapped(path)


def mapped(path: Path) -> Tensor:
    """The array of a .npy file, read from the disk as it is used; never written back."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))
