"""What ranks exchange in a generator step, and how long it takes: our strategy against Lightning's.

    python benchmarks/exchange.py [variants] [size] [batch_size] [ranks] [rounds]

Starts the ranks (gloo, one thread each, on the CPU) and has them train short runs on the digits: both strategies in
turn, with plain BatchNorm and with that of all ranks' images. Defaults: dcgan,wgan_gp,sngan,vanilla 32 16 2 5. Prints
Markdown, in megabytes (10^6) a generator step:

- gradients: what DDP gives to its all-reduce, counted by a communication hook in a run of its own.
- theory: 4 bytes for each parameter of the discriminator at each of its n_critic steps and of the generator at its
  one, and 8 for each element of a buffer, which agree in float64; times what a ring sends, 2 (R - 1) / R.
- sent: what the kernel counted on the sockets of rank 0, messages' headers included. BatchNorm over all ranks adds
  its statistics.
- ms a step: the median of the rounds, each the median of its steps.
- time, processor: the median over the rounds, and their range, of the ratio to Lightning's strategy; of the step's
  time, and of what rank 0 spent on the processor in it, which other work on the machine disturbs less.
"""

import logging
import os
import socket
import stat
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from gantry.core.config.instantiate import maker
from gantry.core.processes.ranks import Place
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.models.module import GAN
from gantry.training.distributed.strategy import NetworkwiseDDP, plugins
from gantry.training.model import build_model

CONF = Path(__file__).parents[1] / "conf"
WARM_UP, TIMED = 2, 6  # steps of a run
LIGHTNINGS, OURS = "Lightning's", "networkwise"
STRATEGIES: dict[str, Callable[[], DDPStrategy]] = {
    LIGHTNINGS: partial(DDPStrategy, find_unused_parameters=True),
    OURS: NetworkwiseDDP,
}


class Watch(Callback):
    """Keeps what each step after the first `WARM_UP` took; counts the bytes of gradients where it `hooks`."""

    def __init__(self, hooks: bool) -> None:
        self.hooks, self.gradients = hooks, 0
        self.steps: list[tuple[float, ...]] = []  # seconds, seconds of the processor, bytes sent
        self.mark: tuple[float, ...] = ()

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Count what goes through DDP."""
        if self.hooks:
            strategy: Any = trainer.strategy
            for network in strategy.networks if isinstance(strategy, NetworkwiseDDP) else [strategy.model]:
                network.register_comm_hook(None, self._exchange)

    def _exchange(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.gradients += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Add the step that began where the last one ended."""
        mark = time.perf_counter(), time.process_time(), sent()
        if trainer.global_step > WARM_UP:
            self.steps.append(tuple(now - before for now, before in zip(mark, self.mark, strict=True)))
        self.mark = mark


def sent() -> int:
    """Bytes that this process has sent through the TCP sockets it has open, each byte once (Linux)."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        number = int(link.name)
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
        except OSError:  # closed meanwhile, or not of TCP
            continue
        total += struct.unpack_from("Q", info, 200)[0]  # tcpi_bytes_sent of linux/tcp.h
        total -= struct.unpack_from("Q", info, 208)[0]  # tcpi_bytes_retrans
    return total


def fit(cfg: DictConfig, data: ImageSet, strategy: str, sync: bool, place: Place, hooks: bool = False) -> Watch:
    """Train a new GAN for some steps."""
    gan, _ = build_model(cfg, data)
    watch = Watch(hooks)
    trainer = Trainer(
        accelerator="cpu",
        devices=place.world_size,
        strategy=STRATEGIES[strategy](),
        plugins=plugins(place, sync),
        max_steps=1 if hooks else WARM_UP + TIMED,
        max_epochs=-1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, Batches(data, cfg.batch_size, gan.n_critic, cfg.seed, place.rank, place.world_size))
    return watch


def theory(gan: GAN, world_size: int) -> float:
    """Bytes a rank sends in a generator step, if no more than what must be is exchanged."""

    def elements(tensors: Iterable[torch.Tensor]) -> int:
        return sum(tensor.numel() for tensor in tensors)

    gradients = gan.n_critic * elements(gan.discriminator.parameters()) + elements(gan.generator.parameters())
    buffers = elements([*gan.generator.buffers(), *gan.discriminator.buffers()])
    return (4 * gradients + 8 * buffers) * 2 * (world_size - 1) / world_size


def compare(variant: str, size: int, batch_size: int, rounds: int, place: Place) -> list[str]:
    """The rows of one variant."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = [f"model={variant}", f"data.image_size={size}", f"batch_size={batch_size}"]
        cfg = compose("train", ["tracking=none", "paths.root=.", *options])
    data = maker(cfg.data)(cache=Path.home() / ".cache" / "gantry")
    settings = [(strategy, sync) for sync in (False, True) for strategy in STRATEGIES]
    gradients = {setting: fit(cfg, data, *setting, place, hooks=True).gradients for setting in settings}
    rounds_of: dict[tuple[str, bool], list[list[float]]] = {setting: [] for setting in settings}
    for number in range(rounds):
        for setting in settings[number % len(settings) :] + settings[: number % len(settings)]:
            steps = fit(cfg, data, *setting, place).steps
            rounds_of[setting].append([statistics.median(values) for values in zip(*steps, strict=True)])
    least, rows = theory(build_model(cfg, data)[0], place.world_size), []
    for strategy, sync in settings:
        seconds, processor, sent = zip(*rounds_of[strategy, sync], strict=True)
        others = zip(*rounds_of[LIGHTNINGS, sync], strict=True)
        ratios, of_processor, _ = (
            [mine / theirs for mine, theirs in zip(ours, other, strict=True)]
            for ours, other in zip((seconds, processor, sent), others, strict=True)
        )
        measured = statistics.median(sent)
        cells = [
            variant,
            "all ranks" if sync else "plain",
            strategy,
            f"{gradients[strategy, sync] / 1e6:.2f}",
            f"{least / 1e6:.3f}",
            f"{measured / 1e6:.3f}",
            f"{measured / least:.3f}",
            f"{1e3 * statistics.median(seconds):.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{statistics.median(of_processor):.2f} ({min(of_processor):.2f} to {max(of_processor):.2f})",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def rank(variants: str, size: int, batch_size: int, rounds: int, place: Place, folder: str) -> None:
    """Be one of the ranks; the first prints."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=place.rank, world_size=place.world_size
    )
    for variant in variants.split(","):
        rows = compare(variant, size, batch_size, rounds, place)
        if place.rank == 0:
            print("\n".join(rows), flush=True)
    dist.destroy_process_group()


def main(variants: str, size: int, batch_size: int, ranks: int, rounds: int) -> None:
    """Measure and print."""
    print(f"`python benchmarks/exchange.py {variants} {size} {batch_size} {ranks} {rounds}`\n")
    print(f"torch {torch.__version__}, gloo, {os.cpu_count()} cores, one thread a rank.\n")
    print(
        "| variant | BatchNorm | strategy | gradients | theory | sent | sent / theory | ms a step | time | processor |"
    )
    print("|" + " --- |" * 10, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        children = [
            subprocess.Popen(
                [sys.executable, __file__, *map(str, (variants, size, batch_size, ranks, rounds, number, folder))],
                env=os.environ | {"LOCAL_RANK": str(number), "OMP_NUM_THREADS": "1"},
            )
            for number in range(ranks)
        ]
        sys.exit(max(child.wait() for child in children))


if __name__ == "__main__":
    defaults = ["dcgan,wgan_gp,sngan,vanilla", "32", "16", "2", "5"]
    given, inner = sys.argv[1:6] + defaults[len(sys.argv[1:6]) :], sys.argv[6:]
    numbers = list(map(int, given[1:]))
    if inner:
        place = Place(int(inner[0]), numbers[2], numbers[2], "gantry")
        rank(given[0], numbers[0], numbers[1], numbers[3], place, inner[1])
    else:
        main(given[0], *numbers)
