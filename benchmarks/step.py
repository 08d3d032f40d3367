"""What a training step costs in Gantry, against the same networks in loops written by hand.

    python benchmarks/step.py [variants] [sizes] [rounds] [bound=1.3] [key=value ...]

Three contenders take turns in one process, of a few steps each: Gantry as `python train.py` runs it, callbacks,
tracking and all; a bare loop that does the same as fast as PyTorch can (channels last, the run's precision, fused
Adam, no gradients of weights that are not stepped, one spectral normalisation a step); and a naive one (float32,
contiguous, plain Adam), as tutorials write it. All of them average the generator's weights, draw noise and batches at
every step and log once in a round of turns. A step is one generator step with its `n_critic` discriminator steps.
Every contender has at least ten steps to warm up; ratios are taken within a round, of the clock and of the
processor's time, and the medians over `rounds` rounds count. key=value overrides the config, such as
trainer.precision=32-true or batch_size=64. Defaults: vanilla,dcgan,wgan_gp,sngan 16,32,64 7. Prints Markdown.

Of variants with labels, further terms, augmentation, schedules or other turns the bare loop takes its terms from
Gantry, with PyTorch's own random numbers, and there is no naive one.

With `bound` it exits with 1 where Gantry takes more than so many times as long as the bare loop.
"""

import contextlib
import copy
import io
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from composed_loop import ComposedLoop
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.nn.utils import parametrize

from gantry.core.config.instantiate import maker
from gantry.data.images import ImageSet
from gantry.models.module import GAN
from gantry.models.step_inputs import Order
from gantry.training.hardware.allocator import keep_freed_memory
from gantry.training.hardware.precision import settled
from gantry.training.model import build_model
from gantry.training.run import train

ROOT = Path(__file__).parents[1]
WARM_UP = 10  # steps
TURN, ROUND = 0.25, 4.0  # seconds of the naive loop in a turn and in a round, about
LONGEST = 50  # steps in a round
USUAL = 3000  # steps of a run
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "non_saturating": (lambda r, f: softplus(-r).mean() + softplus(f).mean(), lambda f: softplus(-f).mean()),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
    "hinge": (lambda r, f: relu(1 - r).mean() + relu(1 + f).mean(), lambda f: -f.mean()),
}


class Taken(NamedTuple):
    """Seconds, of the clock and of this process on the processor, all its threads together."""

    clock: float
    processor: float


def now() -> Taken:
    """When all that was begun on the device, if there is one, is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Taken(time.perf_counter(), time.process_time())


def since(began: Taken) -> Taken:
    """What has gone by."""
    ended = now()
    return Taken(ended.clock - began.clock, ended.processor - began.processor)


class Loop:
    """A training loop by hand.

    Args:
        cfg: the run's config.
        images: uint8 (N, C, H, W).
        generator, discriminator: copied.
        fast: with all that makes it fast, or naive.
    """

    def __init__(
        self, cfg: DictConfig, images: Tensor, generator: nn.Module, discriminator: nn.Module, fast: bool
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.images, self.batch, self.n_critic, self.z_dim = images, cfg.batch_size, cfg.model.n_critic, cfg.model.z_dim
        self.fast, self.half = fast, fast and cfg.trainer.precision == "bf16-mixed"
        dense = not any(isinstance(module, nn.Conv2d) for module in discriminator.modules())
        self.format = torch.channels_last if fast and not dense else torch.contiguous_format
        networks = (copy.deepcopy(network).to(self.device) for network in (generator, discriminator))
        self.generator, self.discriminator = (network.to(memory_format=self.format) for network in networks)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        given = cfg.model.optimizer
        options = {"lr": given.lr, "betas": tuple(map(float, given.betas)), **({"fused": True} if fast else {})}
        self.optimizers = [torch.optim.Adam(n.parameters(), **options) for n in (self.generator, self.discriminator)]
        self.of_discriminator, self.of_generator = LOSSES[cfg.model.loss._target_.rpartition(".")[2]]
        self.penalty = cfg.model.penalties[0].weight if cfg.model.penalties else 0.0
        self.sums = torch.zeros(2, device=self.device)

    def noise(self) -> Tensor:
        """Latents (B, z_dim)."""
        return torch.randn(self.batch, self.z_dim, device=self.device)

    def gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """Of WGAN-GP."""
        share = torch.rand(self.batch, 1, 1, 1, device=self.device)
        mixed = (share * real + (1 - share) * fake.float()).requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(mixed).sum(), mixed, create_graph=True)
        return self.penalty * ((gradient.float().flatten(1).square().sum(1) + 1e-12).sqrt() - 1).square().mean()

    def step(self) -> None:
        """One generator step."""
        for optimizer, network in zip(self.optimizers, (self.generator, self.discriminator), strict=True):
            optimizer.zero_grad()
            network.train()
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)
        once = parametrize.cached if self.fast else contextlib.nullcontext
        for _ in range(self.n_critic):
            indices = torch.randint(len(self.images), (self.batch,), device=self.images.device)
            chosen = self.images[indices].to(self.device)
            real = chosen.contiguous(memory_format=self.format).float() / 127.5 - 1
            with half, once():
                with torch.no_grad():
                    fake = self.generator(self.noise())
                loss = self.of_discriminator(self.discriminator(real).float(), self.discriminator(fake).float())
                if self.penalty:
                    loss = loss + self.gradient_penalty(real, fake)
            self.optimizers[1].zero_grad()
            loss.backward()
            self.optimizers[1].step()
            self.sums[0] += loss.detach()
        self.discriminator.requires_grad_(not self.fast)
        with half:
            loss = self.of_generator(self.discriminator(self.generator(self.noise())).float())
        loss.backward()
        self.optimizers[0].step()
        self.discriminator.requires_grad_(True)
        self.sums[1] += loss.detach()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 0.01)
            for mine, theirs in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                mine.copy_(theirs)

    def look(self) -> None:
        """Read what the losses sum up to."""
        if not all(map(math.isfinite, self.sums.tolist())):
            raise ArithmeticError("the loop by hand has diverged")
        self.sums.zero_()


def turn(loop: Loop | ComposedLoop, steps: int, log: bool) -> Taken:
    """What a few steps of a loop take, and if so a look at what they have summed up."""
    began = now()
    for _ in range(steps):
        loop.step()
    if log:
        loop.look()
    return since(began)


def by_hand(cfg: DictConfig, gan: GAN, data: ImageSet) -> dict[str, Loop | ComposedLoop]:
    """The loops that Gantry is compared with: for variants of plain parts two, for others one around their terms."""
    images = torch.from_numpy(data.images[:].copy())
    model = cfg.model
    plain = not (gan.classes or gan.terms or gan.augment or gan.scheduled.parts or gan.order != Order(gan.n_critic))
    penalties = [str(one._target_).rpartition(".")[2] for one in model.penalties]
    known = model.loss._target_.rpartition(".")[2] in LOSSES and penalties in ([], ["GradientPenalty"])
    if plain and known and not gan.at_every_pass and not gan.inputs.pixels:
        made = {name: Loop(cfg, images, gan.generator, gan.discriminator, name == "bare") for name in ("bare", "naive")}
        return {**made}
    labels = None if data.labels is None else torch.from_numpy(data.labels)
    return {"bare": ComposedLoop(cfg, gan, images, labels)}


class Turns(Callback):
    """Has each loop take a turn after each turn of the run it is a callback of, the first of the run's.

    After `rounds` rounds of `turns` turns of `steps` steps each, and one round that does not count, the run ends.
    """

    def __init__(self, loops: dict[str, Loop | ComposedLoop], steps: int, turns: int, rounds: int) -> None:
        self.loops, self.steps, self.turns, self.rounds = loops, steps, turns, rounds
        self.taken: dict[str, list[Taken]] = {name: [] for name in ("gantry", *loops)}
        self.began: Taken | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """At the end of a turn."""
        done, left = divmod(trainer.global_step - WARM_UP, self.steps)
        if done < 0 or left:
            return
        if self.began is not None:
            self.taken["gantry"].append(since(self.began))
            for name in list(self.loops) if done % 2 else list(self.loops)[::-1]:
                self.taken[name].append(turn(self.loops[name], self.steps, log=done % self.turns == 0))
        trainer.should_stop = done == (self.rounds + 1) * self.turns
        self.began = now()

    def a_step(self, contender: str) -> list[Taken]:
        """What one took in each round that counts, on the average: a log and a frame of the film are in it by share."""
        steps, taken = self.steps * self.turns, self.taken[contender]
        rounds = [taken[first : first + self.turns] for first in range(self.turns, len(taken), self.turns)]
        return [Taken(*(sum(part) / steps for part in zip(*taken, strict=True))) for taken in rounds]


def compare(variant: str, size: int, rounds: int, overrides: list[str], folder: Path) -> tuple[str, float]:
    """A row of the table, and Gantry's time in that of the bare loop."""
    cache = Path(os.environ.get("GANTRY_CACHE", Path.home() / ".cache" / "gantry"))

    def composed(*more: str) -> DictConfig:
        paths = [f"paths.root={folder}", f"paths.cache={cache}", "tracking.run_name=step"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            given = [f"model={variant}", f"data.image_size={size}", "metrics.n_generated=100", *paths, *overrides]
            return settled(compose("train", [*given, *more]), quiet=True)

    cfg = composed()
    data = maker(cfg.data)(cache=cache)
    gan, _ = build_model(cfg, data)
    loops = by_hand(cfg, gan, data)
    keep_freed_memory()
    for loop in loops.values():
        slow = min(turn(loop, 1, log=False).clock for _ in range(WARM_UP))
    in_turn = max(1, round(TURN / slow))
    steps = in_turn * max(2, round(min(LONGEST, ROUND / slow) / in_turn))
    # The first round does not count: MLflow is imported meanwhile.
    turns = Turns(loops, in_turn, steps // in_turn, rounds)
    # A run's film is densest where it begins: of a run as long as this, so many steps have a film of as many frames
    # as they have on the average of a run of the usual length.
    long = USUAL**2 // ((rounds + 1) * steps)
    cfg = composed(f"log_every={steps}", f"metrics.every={long}", f"steps={long}")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        (run := folder / f"{variant}_{size}").mkdir()
        train(cfg, run, {"variant": variant, "dataset": data.name}, watching=[turns])
    seconds = {name: turns.a_step(name) for name in ("gantry", *loops)}
    pairs = list(zip(seconds["gantry"], seconds["bare"], strict=True))
    ratios = [ours.clock / bare.clock for ours, bare in pairs]
    worked = statistics.median(ours.processor / bare.processor for ours, bare in pairs)
    naive = seconds.get("naive", [])
    gains = [slow.clock / ours.clock for ours, slow in zip(seconds["gantry"], naive, strict=bool(naive))]
    gain = f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})" if gains else ""
    ratio = statistics.median(ratios)
    clocks = {name: statistics.median(taken.clock for taken in turns) for name, turns in seconds.items()}
    times = " | ".join(f"{1e3 * clocks[name]:.1f}" if name in clocks else "" for name in ("gantry", "bare", "naive"))
    row = f"| {variant} | {size} | {in_turn}, {steps} | {times} | {spread(ratios)} | {worked:.3f} | {gain} |"
    return row, ratio


def spread(ratios: Sequence[float]) -> str:
    """Their median and range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def machine() -> str:
    """Processor, cores, threads, versions, commit."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else (names or [platform.processor()])[0]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {device}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, commit {commit or 'unknown'}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main(arguments: list[str]) -> None:
    """Measure and print."""
    plain = [text for text in arguments if "=" not in text]
    variants, sizes, rounds = plain + ["vanilla,dcgan,wgan_gp,sngan", "16,32,64", "7"][len(plain) :]
    bounds = [float(text.partition("=")[2]) for text in arguments if text.startswith("bound=")]
    overrides = [text for text in arguments if "=" in text and not text.startswith("bound=")]
    print(f"`python benchmarks/step.py {' '.join(arguments)}`\n".replace(" `", "`"))
    print(f"{machine()}.\n")
    print(
        "| variant | pixels | steps a turn, a round | Gantry, ms a step | bare | naive "
        "| Gantry / bare | by processor | naive / Gantry |"
    )
    print("|" + " --- |" * 9, flush=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants.split(","):
            for size in map(int, sizes.split(",")):
                row, ratio = compare(variant, size, int(rounds), overrides, Path(folder))
                print(row, flush=True)
                worst = max(worst, ratio)
    if bounds and worst > bounds[0]:
        sys.exit(f"a step takes {worst:.2f} times as long as the bare loop's, more than {bounds[0]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
