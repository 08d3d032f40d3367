"""A folder of images: how long until it is ready for training, the first time and again, and what a batch of it costs.

    python benchmarks/data.py [images] [where]

Writes `images` JPEG files of 178x218 pixels into a folder under `where` (default 20000 in the temporary folder). Prints
Markdown: the first opening against the bare decoding of the same files by as many threads; openings of the decoded
cache; a batch of 64 drawn as training draws it, from memory, from the cache, and from a cache that the kernel has
forgotten, as of a data set larger than memory; and steps of a DCGAN from each, in turns. Seconds of the processor stand
beside those of the clock.
"""

import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scaling import composed, fitted
from step import machine, spread

from gantry.data import read_ahead
from gantry.data.batches import Batches
from gantry.data.image_folder import image_folder, listing
from gantry.data.images import ImageSet, decode

SIDE, BATCH, DRAWN = 64, 64, 100  # pixels, images, batches a round
ROUNDS, STEPS = 5, 12


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the clock, seconds of the processor, the result."""
    began, spent = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - began, time.process_time() - spent, result


def make(folder: Path, count: int) -> None:
    """Files as a camera's are, smooth and coloured."""

    def one(number: int) -> None:
        coarse = np.random.default_rng(number).integers(0, 256, (12, 14, 3), dtype=np.uint8)
        path = folder / str(number % 10) / f"{number:06d}.jpg"
        Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC).save(path, quality=90)

    for number in range(10):
        (folder / str(number)).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(count)))


def bare(folder: Path, names: list[str]) -> None:
    """Decode all files and keep none."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(names), 1024):
            list(pool.map(lambda name: decode(folder / name, SIDE, 3).nbytes, names[begin : begin + 1024]))


def drawn(data: ImageSet, seed: int) -> float:
    """Milliseconds a batch."""
    batches = iter(Batches(data, BATCH, 1, seed))
    next(batches)  # the order of the first epoch
    return 1e3 * timed(lambda: [next(batches) for _ in range(DRAWN)])[0] / DRAWN


def forget(data: ImageSet) -> None:
    """Have the kernel drop the cache's pages from memory."""
    base: Any = data.images
    base._mmap.madvise(mmap.MADV_DONTNEED)  # pages that are mapped stay otherwise
    with Path(base.filename).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def steps(memory: ImageSet, data: ImageSet) -> None:
    """Print what a step takes on the average, each round's beside that of the images in memory.

    The kernel forgets the cache before each step's images are chosen, as it would if others needed the memory.
    """
    cfg, usual = composed(".", "model=dcgan", f"batch_size={BATCH}", f"data.image_size={SIDE}"), read_ahead.LARGE
    contenders = {
        "memory": (memory, usual),
        "the cache, forgotten at every step, read ahead": (data, 0),
        "the cache, forgotten at every step, not read ahead": (data, usual),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    ask = read_ahead.ReadAhead.ask

    def asked(self: read_ahead.ReadAhead, chosen: Iterable[int]) -> None:
        forget(data)
        ask(self, chosen)

    read_ahead.ReadAhead.ask = asked  # type: ignore[method-assign]
    for number in range(ROUNDS):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            images, read_ahead.LARGE = contenders[name]
            taken[name].append(statistics.mean(fitted(cfg, images, STEPS)))
    print(f"\n| a step of a DCGAN, {SIDE} pixels, batch {BATCH}, from | ms | of memory's (range) |")
    print("| --- | --- | --- |")
    for name, means in taken.items():
        ratios = [mine / theirs for mine, theirs in zip(means, taken["memory"], strict=True)]
        print(f"| {name} | {statistics.median(means):.1f} | {spread(ratios)} |")


def main(count: int, where: str | None) -> None:
    """Measure and print."""
    print(f"`python benchmarks/data.py {count}`\n\n{machine()}.\n")
    with tempfile.TemporaryDirectory(dir=where) as root:
        folder, cache = Path(root) / "images", Path(root) / "cache"
        make(folder, count)

        def opened() -> ImageSet:
            return image_folder(folder=str(folder), cache=cache, image_size=SIDE)

        names = listing(folder)
        before, first, after = timed(lambda: bare(folder, names)), timed(opened), timed(lambda: bare(folder, names))
        again = [timed(opened) for _ in range(ROUNDS)]
        decoding = [(before[i] + after[i]) / 2 for i in (0, 1)]
        print("| | seconds | of the processor | against decoding |\n| --- | --- | --- | --- |")
        print(f"| decoding {count} files | {decoding[0]:.1f} | {decoding[1]:.1f} | 1 |")
        ratios = f"{first[0] / decoding[0]:.2f}, processor {first[1] / decoding[1]:.2f}"
        print(f"| the first opening | {first[0]:.1f} | {first[1]:.1f} | {ratios} |")
        seconds = [statistics.median(one[i] for one in again) for i in (0, 1)]
        print(f"| opening it again | {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[0] / decoding[0]:.3f} |\n")
        data: ImageSet = first[2]
        memory = replace(data, images=np.array(data.images))
        rounds: dict[str, list[float]] = {"memory": [], "the cache": [], "the cache, forgotten by the kernel": []}
        for number in range(ROUNDS):
            rounds["memory"].append(drawn(memory, number))
            forget(data)
            rounds["the cache, forgotten by the kernel"].append(drawn(data, number))
            data.images.sum()  # read it whole
            rounds["the cache"].append(drawn(data, number))
        print(f"| a batch of {BATCH} from | ms | range |\n| --- | --- | --- |")
        for name, taken in rounds.items():
            print(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} to {max(taken):.2f} |")
        steps(memory, data)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, sys.argv[2] if len(sys.argv) > 2 else None)
