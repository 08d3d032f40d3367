"""How fast images reach the disk, against the generator alone.

    python benchmarks/drawing.py [sizes] [images] [rounds]

An untrained DCGAN of width 64 (colour) draws `images` into an .npz, into a folder of PNG files, and into nothing; the
three take turns, and the medians over `rounds` of their ratios count. Defaults: 32,64 2048 7. Prints Markdown.
"""

import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from operator import truediv
from pathlib import Path

import torch

from gantry.generation.write_images import Order, draw_archive, draw_folder
from gantry.models.networks.dcgan import Generator
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import ExportedFiles


def main() -> None:
    """Measure, and print a table."""
    given = sys.argv[1:]
    sizes = [int(size) for size in (given[0] if given else "32,64").split(",")]
    images, rounds = (int(given[i]) if len(given) > i else default for i, default in ((1, 2048), (2, 7)))
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if accelerator == "cuda" else f"{torch.get_num_threads()} threads"
    print(
        f"{platform.machine()}, {where}, torch {torch.__version__}; `python benchmarks/drawing.py {' '.join(given)}`\n"
    )
    print("| pixels | generator alone, images a second | .npz | folder of PNG files |\n| --- | --- | --- | --- |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            seconds = measure(order(Path(temporary), size, images, accelerator), Path(temporary), rounds)
        speed = images / statistics.median(seconds[0])
        archive, folder = (statistics.median(map(truediv, seconds[0], taken)) for taken in seconds[1:])
        print(f"| {size} | {speed:,.0f} | {archive:.2f} of it | {folder:.2f} of it |", flush=True)


def order(folder: Path, size: int, images: int, accelerator: str) -> Order:
    """What is drawn."""
    shape = (3, size, size)
    described = {"_target_": "gantry.models.networks.dcgan.Generator", "z_dim": 100, "image_shape": list(shape)}
    save_generator(folder / "generator", Generator(100, shape), described, 0)
    return Order(
        ExportedFiles(folder / "generator", ("gantry.models.networks.",)), images, 0, None, 512, accelerator, 1
    )


def measure(wanted: Order, folder: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each round: the generator alone, with the image left on its device; an .npz; a folder."""
    seconds: tuple[list[float], list[float], list[float]] = ([], [], [])
    draw_folder(replace(wanted, n=512), folder / "warm")
    for number in range(rounds):
        began = time.perf_counter()
        network = wanted.network(0)
        for tile in wanted.tiles:
            made = network.tile(tile)
        made.cpu()
        seconds[0].append(time.perf_counter() - began)
        began = time.perf_counter()
        draw_archive(wanted, folder / f"{number}.npz")
        seconds[1].append(time.perf_counter() - began)
        began = time.perf_counter()
        draw_folder(wanted, folder / f"{number}")
        seconds[2].append(time.perf_counter() - began)
        shutil.rmtree(folder / f"{number}")
        (folder / f"{number}.npz").unlink()
    return seconds


if __name__ == "__main__":
    main()
