"""How a training step's time and memory grow: with steps, with the data, with the resolution, with ranks.

    python benchmarks/scaling.py [steps,data,resolution,ranks]

- steps: a whole run of `python train.py`, small and of many steps, in tenths: the median of their steps and the memory.
- data: steps of a DCGAN on 16 pixels, drawn from 1,000 to 100,000 images, in turns.
- resolution: steps of a DCGAN, batch 32, beside the floating-point operations that its networks do in one.
- ranks: DDP on gloo, one core for each rank, a DCGAN on 32 pixels: the same images a rank, and the same batch.

Prints Markdown.
"""

import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from step import ROOT, machine, spread
from torch.utils.flop_counter import FlopCounterMode

from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.training.hardware.allocator import keep_freed_memory
from gantry.training.hardware.precision import settled
from gantry.training.lightning_overrides import NoProfiler
from gantry.training.model import build_model
from gantry.training.run import train

MANY, TENTHS = 3000, 10
PAGE = resource.getpagesize()
CACHE = Path(os.environ.get("GANTRY_CACHE", Path.home() / ".cache" / "gantry"))


class Watch(Callback):
    """Keeps when each step ended, and the memory resident then, in MiB."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.memory: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Of the step before, all callbacks of which have come."""
        self.ends.append(time.perf_counter())
        self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20)

    def milliseconds(self) -> list[float]:
        """Of each step."""
        return [1e3 * taken for taken in np.diff(self.ends)]


def composed(folder: str, *overrides: str) -> DictConfig:
    """A config, its precision settled."""
    paths = [f"paths.root={folder}", f"paths.cache={CACHE}", "tracking.run_name=scaling"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return settled(compose("train", [*paths, *overrides]), quiet=True)


def steps() -> None:
    """Print the tenths of a run."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = composed(folder, "model=vanilla", "batch_size=16", f"steps={MANY}", f"metrics.every={MANY}")
        (run := Path(folder) / "run").mkdir()
        watch = Watch()
        train(cfg, run, {"variant": "vanilla", "dataset": "digits"}, watching=[watch])
    print("\n| steps | median ms a step | resident, MiB |\n" + "| --- " * 3 + "|")
    taken, part = watch.milliseconds(), MANY // TENTHS
    for begin in range(0, MANY, part):
        here = taken[begin : begin + part]
        memory = watch.memory[min(begin + part, MANY) - 1]
        print(f"| {begin} to {begin + part} | {statistics.median(here):.2f} | {memory:.0f} |")


def fitted(cfg: DictConfig, data: ImageSet, count: int) -> list[float]:
    """Milliseconds of each of so many steps, after three."""
    gan, _ = build_model(cfg, data)
    watch = Watch()
    trainer = Trainer(
        max_steps=count + 4,
        max_epochs=-1,
        devices=1,
        precision=cfg.trainer.precision,
        callbacks=[watch],
        profiler=NoProfiler(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, Batches(data, cfg.batch_size, gan.n_critic, cfg.seed))
    return watch.milliseconds()[3:]


def noise(count: int, size: int) -> ImageSet:
    """Random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, size, size), dtype=np.uint8)
    return ImageSet("noise", pixels, None, None, "all", "drawn", "0" * 64, flip=False)


def data() -> None:
    """Print the time of a step over the number of images, each in that of 1,000 within its round."""
    cfg, counts = composed("."), (1000, 10_000, 100_000)
    sets = {count: noise(count, 16) for count in counts}
    rounds = [{count: statistics.median(fitted(cfg, sets[count], 15)) for count in counts} for _ in range(5)]
    print("\n| images | median ms a step | of that of 1,000 (range) |\n" + "| --- " * 3 + "|")
    for count in counts:
        ratios = [taken[count] / taken[counts[0]] for taken in rounds]
        print(f"| {count:,} | {statistics.median(taken[count] for taken in rounds):.1f} | {spread(ratios)} |")


def resolution() -> None:
    """Print time and operations of a step over the side of an image."""
    print("\n| pixels | GFLOP a step | median ms a step | GFLOP a second |\n" + "| --- " * 4 + "|", flush=True)
    for size in (16, 32, 64, 128):
        cfg, images = composed(".", "batch_size=32"), noise(64, size)
        taken = statistics.median(fitted(cfg, images, 5))
        with FlopCounterMode(display=False) as counter:
            fitted(cfg, images, 0)
        operations = counter.get_total_flops() / 4 / 1e9  # of the four steps it makes
        print(f"| {size} | {operations:.1f} | {taken:.0f} | {1e3 * operations / taken:.0f} |", flush=True)


def ranks() -> None:
    """Print images a second of one rank and of two, and of two runs that have nothing to do with one another."""
    cores = sorted(os.sched_getaffinity(0))[:2]

    def rate(count: int, batch: int, more: list[str], on: list[int]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            ddp = ["trainer=ddp", f"trainer.devices={count}", *more] if count > 1 else []
            small = ["steps=40", "log_every=5", "metrics.every=40", "metrics.n_generated=64", "tracking=none"]
            command = [sys.executable, str(ROOT / "train.py"), "data.image_size=32", f"batch_size={batch}", *small]
            subprocess.run(
                ["taskset", "-c", ",".join(map(str, on)), *command, *ddp, f"hydra.run.dir={folder}/run"],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                cwd=folder,
                check=True,
                capture_output=True,
            )
            lines = map(json.loads, (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines())
            rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
        return statistics.median(rates[2:])

    def apart() -> float:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda core: rate(1, 64, [], [core]), cores))

    own = ["trainer.sync_batchnorm=false"]
    contenders = {
        "one rank, batch 64": (1, lambda: rate(1, 64, [], cores[:1])),
        "two runs at once, batch 64 each": (2, apart),
        "two ranks, batch 128": (2, lambda: rate(2, 128, [], cores)),
        "two ranks, batch 128, each its own BatchNorm": (2, lambda: rate(2, 128, own, cores)),
        "two ranks, batch 64": (2, lambda: rate(2, 64, [], cores)),
    }
    rounds = [{name: call() for name, (_, call) in contenders.items()} for _ in range(3)]
    print("\n| | images a second | efficiency (range) |\n" + "| --- " * 3 + "|")
    for name, (count, _) in contenders.items():
        shares = [taken[name] / taken["one rank, batch 64"] / count for taken in rounds]
        print(f"| {name} | {statistics.median(taken[name] for taken in rounds):.0f} | {spread(shares)} |")


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    print(f"`{' '.join(['python benchmarks/scaling.py', *sys.argv[1:]])}`\n\n{machine()}.")
    for name in (sys.argv[1] if len(sys.argv) > 1 else "steps,data,resolution,ranks").split(","):
        {"steps": steps, "data": data, "resolution": resolution, "ranks": ranks}[name]()
