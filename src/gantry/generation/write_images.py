"""Writes many images of a generator; a second start continues where the first ended."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from gantry.core.errors import UserError
from gantry.core.files import read_json, write_json
from gantry.core.processes.devices import cores
from gantry.core.processes.locks import LOCK_FILE, held
from gantry.core.processes.workers import Crew
from gantry.core.progress import progress
from gantry.data.alpha import RGBA, straighten
from gantry.data.named_files import LABELS_FILE
from gantry.evaluation.features import POLL
from gantry.generation.output_paths import SETTINGS, check_free
from gantry.models.labels import BY_SHARES, LabelSource
from gantry.models.latents import TILE
from gantry.models.sampling import Tiles
from gantry.runs.generators import ExportedFiles, GeneratorFiles, check_finite

VERSION = 1  # raise it when the same settings give other images


@dataclass(frozen=True)
class Order:
    """The requested images and the generator and devices to use; picklable, for the processes that share the work.

    Attributes:
        files: the generator.
        n: number of images, 0 to n of the seed.
        seed, truncation: see `gantry.models.latents.stream`.
        batch_size: images on the device at a time, in whole tiles.
        accelerator: "cpu", "cuda" or "mps".
        devices: processes that share the work, a GPU each where there are.
        labels: of the images, where the generator takes labels.
    """

    files: ExportedFiles | GeneratorFiles
    n: int
    seed: int
    truncation: float | None
    batch_size: int
    accelerator: str
    devices: int
    labels: LabelSource | None = None

    @property
    def tiles(self) -> range:
        """Return the numbers of the tiles that contain the images."""
        return range(-(-self.n // TILE))

    def network(self, rank: int) -> Tiles:
        """Load the generator on the device of process `rank`."""
        device = torch.device("cuda", rank) if self.accelerator == "cuda" else torch.device(self.accelerator)
        network = self.files.load()
        check_finite(network, self.files.folder)
        return Tiles(network.to(device), self.files.z_dim, self.seed, self.truncation, self.labels)

    def asked(self) -> np.ndarray | None:
        """Return the labels of the images, int64 (n,); None where the generator takes none."""
        return None if self.labels is None else self.labels(self.seed, 0, self.n)

    def settings(self) -> dict[str, Any]:
        """Return the settings on which image i depends."""
        asked = {
            "generator_sha256": self.files.digest(),
            "seed": self.seed,
            "truncation": self.truncation,
            "device": self.accelerator,
            "version": VERSION,
        }
        if self.labels is None:
            return asked
        return asked | {"labels": BY_SHARES if self.labels.cycle is None else list(self.labels.cycle)}


class Target(Protocol):
    """A destination for images, written a tile at a time from several threads and processes."""

    def has(self, tile: int) -> bool:
        """Return True if the tile has been written completely."""
        ...

    def write(self, tile: int, images: np.ndarray) -> None:
        """Write uint8 images (k, C, H, W) of a tile, k at most `TILE`; those with alpha have it straight."""
        ...


@dataclass(frozen=True)
class PngFolder:
    """A folder of PNG files 000000.png, 000001.png ..., each written atomically.

    Attributes:
        folder: of the files.
        n: final number of files.
    """

    folder: Path
    n: int

    def has(self, tile: int) -> bool:
        return all(self._file(number).exists() for number in self._numbers(tile))

    def write(self, tile: int, images: np.ndarray) -> None:
        for number, image in zip(self._numbers(tile), images, strict=True):
            path = self._file(number)
            partial_file = path.with_suffix(".partial")
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(partial_file, "PNG", compress_level=1)
            partial_file.replace(path)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"

    def _numbers(self, tile: int) -> range:
        return range(tile * TILE, min((tile + 1) * TILE, self.n))


@dataclass(frozen=True)
class ArrayFolder:
    """The array that becomes an .npz, and a byte for each tile that has been written.

    Attributes:
        folder: of images.npy, uint8 (n, H, W, C), and tiles.
        n: final number of images.
    """

    folder: Path
    n: int

    @property
    def array(self) -> Path:
        """The file of the images."""
        return self.folder / "images.npy"

    def prepare(self, shape: Sequence[int]) -> None:
        """Create the files for images (C, H, W)."""
        channels, height, width = shape
        partial_file = self.array.with_suffix(".partial")
        np.lib.format.open_memmap(partial_file, "w+", np.uint8, (self.n, height, width, channels))
        (self.folder / "tiles").write_bytes(bytes(-(-self.n // TILE)))
        partial_file.replace(self.array)

    def has(self, tile: int) -> bool:
        with (self.folder / "tiles").open("rb") as file:
            file.seek(tile)
            return file.read(1) == b"\1"

    def write(self, tile: int, images: np.ndarray) -> None:
        data = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        with self.array.open("r+b") as file:  # with a memory map a full disk would kill the process by a signal
            file.seek((tile * TILE - self.n) * data[0].nbytes, os.SEEK_END)
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / "tiles").open("r+b") as file:
            file.seek(tile)
            file.write(b"\1")


def draw_folder(order: Order, folder: Path) -> None:
    """Write the images as numbered PNG files. Existing ones are kept, and more can be requested later.

    The classes that were asked for are written to dataset.json, as StyleGAN's tools and Gantry read it.

    Raises:
        UserError: the folder contains other files, or images of another generator or seed, or more of them; it cannot
            be written; another process writes to it.
    """
    with writing(folder):
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder, "what writes to"):
            _check_settings(order, folder, folder / SETTINGS)
            highest = max((int(path.stem) for path in folder.glob("[0-9]*.png")), default=-1)
            if highest >= order.n:
                raise UserError(f"out={folder} holds {highest + 1} images already, more than n={order.n}")
            for left in folder.glob("[0-9]*.partial"):
                left.unlink()
            _draw(order, PngFolder(folder, order.n), folder)
            if (asked := order.asked()) is not None:
                named = [[f"{number:06d}.png", int(label)] for number, label in enumerate(asked)]
                write_json({"labels": named}, folder / LABELS_FILE)
        (folder / LOCK_FILE).unlink(missing_ok=True)


def draw_archive(order: Order, path: Path) -> None:
    """Write the images as `arr_0`, uint8 (n, H, W, C), of an uncompressed .npz, as guided-diffusion's tools read it.

    Images with alpha have it straight, as PNG files do. The classes that were asked for are `labels`, int64 (n,).

    Unfinished work is stored in a folder beside it, `path`.partial, and continued by the next call.

    Raises:
        UserError: the file exists already, cannot be written, or another process writes it.
    """
    check_free(path)
    work = path.with_name(path.name + ".partial")
    with writing(path):
        work.mkdir(parents=True, exist_ok=True)
        with held(work, "what writes to"):
            _check_settings(order, work, work / SETTINGS, n=order.n)
            target = ArrayFolder(work, order.n)
            if not target.array.exists():
                target.prepare(order.network(0).tile(0).shape[1:])
            _draw(order, target, work)
            partial_file = work / "samples.npz"
            images, asked = np.load(target.array, mmap_mode="r"), order.asked()
            if asked is None:
                np.savez(partial_file, images)
            else:
                np.savez(partial_file, images, labels=asked)
            partial_file.replace(path)
        shutil.rmtree(work)


def share_drawing(order: Order, target: Target, folder: Path, rank: int, size: int) -> None:
    """Generate every `size`th missing tile while the first process is alive; run by the other processes."""
    if order.accelerator == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // size))
    first = multiprocessing.parent_process()
    for _ in _drawn(order, target, rank, size):
        if first is not None and not first.is_alive():  # it was killed, and another command may resume the work
            return


def _draw(order: Order, target: Target, folder: Path) -> None:
    """Make what is missing."""

    def missing() -> int:
        return sum(_size(order, tile) for tile in order.tiles if not target.has(tile))

    if not (left := missing()):
        return
    with progress("images", order.n, "image", done=order.n - left, delay=0) as bar:
        crew = Crew(order.devices, partial(share_drawing, order, target))
        with crew.at_work(folder) as done:
            for count in _drawn(order, target, 0, order.devices):
                bar.advance(count)
                done()
            while not done():
                time.sleep(POLL)
                bar.reach(order.n - missing())
        bar.reach(order.n - missing())


def _drawn(order: Order, target: Target, rank: int, size: int) -> Iterator[int]:
    """Make this process's tiles that are missing, and tell how many images came with each batch.

    Files are written by threads while the device makes the next ones.
    """
    mine = [tile for tile in order.tiles if tile % size == rank and not target.has(tile)]
    if not mine:
        return
    network = order.network(rank)
    at_once = max(1, order.batch_size // TILE)
    waiting: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for begin in range(0, len(mine), at_once):
            group = mine[begin : begin + at_once]
            images = torch.cat([network.tile(tile) for tile in group]).cpu().numpy()
            images = straighten(images) if images.shape[1] == RGBA else images
            for tile, part in zip(group, np.split(images, len(group)), strict=True):
                waiting.append(pool.submit(target.write, tile, part[: _size(order, tile)]))
            while len(waiting) > 2 * at_once:
                waiting.popleft().result()
            yield sum(_size(order, tile) for tile in group)
        for writing in waiting:
            writing.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _size(order: Order, tile: int) -> int:
    return min(TILE, order.n - tile * TILE)


def _check_settings(order: Order, folder: Path, file: Path, **more: Any) -> None:
    """Record the settings of the images, or refuse those that differ from what was recorded before."""
    wanted = order.settings() | more
    before = read_json(file)
    if before is None:
        write_json(wanted, file)
        return
    differ = [f"{name}={before.get(name)}" for name in wanted if before.get(name) != wanted[name]]
    if differ:
        asked = ", ".join(f"{name}={wanted[name]}" for name in wanted if before.get(name) != wanted[name])
        raise UserError(f"{folder} holds images with {', '.join(differ)}; asked for is {asked}. Choose another out=...")


@contextmanager
def writing(path: Path, left: str = "; what is there is kept, the same command goes on") -> Iterator[None]:
    """Raise an error of the disk as a `UserError`, whose message ends with what is `left`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"out={path} cannot be written: {why}{left}") from error
