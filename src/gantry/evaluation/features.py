"""Extracts features of many images in chunks and stores each chunk on disk, on one device or several.

Memory does not grow with the number of images, a stopped evaluation continues with the chunks on disk, and the chunks
are the same on any number of devices.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantry.core.errors import UserError
from gantry.core.processes.workers import ALONE, Crew
from gantry.core.progress import progress
from gantry.evaluation.extractors.extractor import TF32, Extractor, Features

CHUNK = 512  # images in a file of features
PIECE = 128  # images made at a time, while the extractor works on earlier ones; on a GPU of CUDA a whole chunk
AHEAD = 2  # pieces made ahead of the extractor
POLL = 0.2  # seconds between checks of the other processes
NETWORK = "network"  # the part of the work that an extractor does, the resizing included
P = ParamSpec("P")
T = TypeVar("T")
Note = Callable[[str, float], object]  # is told the name of a part of the work, and its seconds


class Source(Protocol):
    """A sequence of images."""

    def __len__(self) -> int: ...

    def __call__(self, start: int, count: int) -> Tensor:
        """Return the `count` images from number `start` on as uint8 (count, C, H, W), on any device."""
        ...

    def of(self, numbers: np.ndarray) -> Tensor:
        """Return the images with these numbers, int64 (k,), as uint8 (k, C, H, W)."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """The images of a uint8 array (N, C, H, W), which may be memory-mapped."""

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
    note: Note = lambda part, seconds: None,
) -> dict[str, Features]:
    """Return the features of all images by each extractor, memory-mapped from files in `folder`.

    Args:
        source: the images.
        extractors: the extractors by name; the names are part of the files' names.
        folder: used for these images and extractors only; chunks that it holds are not computed again.
        title: the title of the progress bar.
        crew: the processes that share the work.
        between: called between chunks; if it raises, the next call continues after the last chunk.
        note: is told the seconds of this process's parts: "reading" or "drawing" images, which goes on while the
            extractors work, and "network".

    Raises:
        JobFailed: another process of the crew has failed.
        UserError: a file of an earlier, stopped call is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = _remaining(folder, len(source))
    with progress(title, len(source), "image", done=_count_done(folder, len(source))) as bar:
        with (crew if len(left) > 1 else ALONE).at_work(folder) as done:
            size = crew.size if len(left) > 1 else 1
            for chunk in _extract_chunks(source, extractors, folder, 0, size, note):
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
    """Compute every `size`th remaining chunk in a further process, as long as the first process lives."""
    first = multiprocessing.parent_process()
    for _ in _extract_chunks(source, extractors, folder, rank, size):
        if first is not None and not first.is_alive():  # killed; a later command that continues the work holds the lock
            return


def _extract_chunks(
    source: Source,
    extractors: Mapping[str, Extractor],
    folder: Path,
    rank: int,
    size: int,
    note: Note = lambda part, seconds: None,
) -> Iterator[int]:
    """Compute this process's chunks and yield each after its file is written; a thread makes the images ahead."""
    mine = [chunk for chunk in _remaining(folder, len(source)) if chunk % size == rank]
    step = at_a_time(*extractors.values())
    begins = {chunk: range(chunk * CHUNK, chunk * CHUNK + _size(chunk, len(source)), step) for chunk in mine}
    making = _timed(
        _in_a_stream(source, *extractors.values()), "reading" if isinstance(source, ArraySource) else "drawing", note
    )
    with _made_ahead(making, _pieces(begins.values(), step), _ahead(extractors.values())) as pieces:
        for chunk in mine:
            parts: dict[str, list[Tensor]] = {}
            for _ in begins[chunk]:
                images = next(pieces)
                for name, extractor in extractors.items():
                    for kind, part in _timed(extractor, NETWORK, note)(images)._asdict().items():
                        parts.setdefault(f"{name}.{kind}", []).append(part)
            path = _file(folder, chunk)
            partial_file = path.with_suffix(f".{os.getpid()}")
            save_file({name: torch.cat(part) for name, part in parts.items()}, partial_file)
            partial_file.replace(path)
            yield chunk


def at_a_time(*extractors: Extractor) -> int:
    """Return how many images are made at a time for these extractors, on whose device they are."""
    return CHUNK if any(extractor.device.type == "cuda" for extractor in extractors) else PIECE


def _ahead(extractors: Iterable[Extractor]) -> int:
    """Return how many pieces are made ahead; none beside TF32, whose switch would apply to the images too."""
    return 0 if any(TF32 in extractor.arithmetic for extractor in extractors) else AHEAD


def _pieces(begins: Iterable[range], step: int) -> list[tuple[int, int]]:
    """Return the first image and the size of each piece; no piece crosses the end of a chunk."""
    return [(begin, min(step, of_chunk.stop - begin)) for of_chunk in begins for begin in of_chunk]


def _in_a_stream(source: Source, *extractors: Extractor) -> Callable[[int, int], Tensor]:
    """Return the function that makes images; on a GPU in a stream of its own, beside the network's work."""
    device = extractors[0].device
    if device.type != "cuda":
        return source
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # in which the generator was moved there

    def make(begin: int, count: int) -> Tensor:
        with torch.cuda.stream(stream):
            images = source(begin, count)
            stream.synchronize()
        if images.is_cuda:
            images.record_stream(torch.cuda.current_stream(device))
        return images

    return make


def _timed(call: Callable[P, T], part: str, note: Note) -> Callable[P, T]:
    """Return `call`, which then notes its seconds as those of a part."""

    def timed(*arguments: P.args, **options: P.kwargs) -> T:
        began = time.perf_counter()
        result = call(*arguments, **options)
        note(part, time.perf_counter() - began)
        return result

    return timed


@contextmanager
def _made_ahead(
    make: Callable[[int, int], Tensor], pieces: Sequence[tuple[int, int]], ahead: int
) -> Iterator[Iterator[Tensor]]:
    """Yield the pieces of images, of which a thread makes `ahead` while the caller uses earlier ones."""
    if ahead == 0:
        yield (make(begin, count) for begin, count in pieces)
        return
    pool = ThreadPoolExecutor(1)
    tasks = iter(pieces)
    waiting: deque[Future[Tensor]] = deque()

    def made() -> Iterator[Tensor]:
        waiting.extend(pool.submit(make, *piece) for _, piece in zip(range(ahead), tasks, strict=False))
        while waiting:
            images = waiting.popleft().result()
            waiting.extend(pool.submit(make, *piece) for _, piece in zip(range(1), tasks, strict=False))
            yield images

    try:
        yield made()
    finally:
        pool.shutdown(cancel_futures=True)


def _count_done(folder: Path, count: int) -> int:
    return count - sum(_size(chunk, count) for chunk in _remaining(folder, count))


def _size(chunk: int, count: int) -> int:
    return min(CHUNK, count - chunk * CHUNK)


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:06d}.safetensors"


def _remaining(folder: Path, count: int) -> list[int]:
    """Return the chunks without a file."""
    return [chunk for chunk in range(-(-count // CHUNK)) if not _file(folder, chunk).exists()]


def _joined(folder: Path, name: str, count: int) -> Features:
    """Return the features of all `count` images by one extractor, joined from the chunks."""
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
    """Return the array of a .npy file, memory-mapped copy-on-write: read from disk on use, never written back."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))
