"""Computes metrics and sample grids during training."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from gantry.core.processes.signals import Stop
from gantry.core.randomness import draws
from gantry.data.grid import GRID, enlarged_grid, layout, reduced
from gantry.data.images import quantise
from gantry.evaluation.encoder import Encoder
from gantry.evaluation.evaluator import Evaluator
from gantry.models.code_images import code_images
from gantry.models.labels import from_uniform, label_stream
from gantry.models.module import GAN
from gantry.models.sampling import generate, normal
from gantry.models.standing import standing_statistics
from gantry.runs.folder import CODES, REAL, RECONSTRUCTIONS, SAMPLES
from gantry.runs.tracking.tracker import Tracker
from gantry.training.callbacks.divergence import Guard
from gantry.training.stopwatch import Clock

MOST_ROWS = 16  # of a grid with a class a row
STATE = ("first", "best", "best_step", "final", "last", "classes", "seconds")  # kept in checkpoints


class Evaluation(Callback):
    """Logs metrics and a sample grid every `every` steps, at the start and at the end.

    All ranks measure together.

    Args:
        evaluator: measures the averaged generator, and the raw one under `raw/` where `raw` is set.
        tracker: receives metrics and grids.
        clock: paused during evaluations.
        every: generator steps between evaluations.
        real: uint8 real images (N, C, H, W), logged once for comparison.
        raw: whether to measure the generator without averaging too.
        guard: refuses weights that are not finite, since their output would still be valid uint8 images.
        stop: checked while measuring.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        tracker: Tracker,
        clock: Clock,
        every: int,
        real: Tensor,
        guard: Guard,
        raw: bool = False,
        stop: Stop | None = None,
    ) -> None:
        self.evaluator, self.tracker, self.clock = evaluator, tracker, clock
        self.every, self.real, self.guard, self.raw = every, real, guard, raw
        self.stop = stop or Stop()
        self.first: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_step = 0
        self.last: int | None = None  # the step of the last evaluation
        self.classes: dict[str, tuple[float, float]] | None = None
        self.seconds = 0.0
        self.took = 0.0  # seconds of the last evaluation in this process
        self.drawn: Tensor | None = None  # the images of the last grid, where this process generated it
        self.drawn_at: int | None = None  # its step

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Log real images and evaluate the untrained generator, or repeat an evaluation cut short by a stop."""
        if self.last is None:
            self._log_grid(self.real, REAL, 0)
            self.evaluate(trainer, pl_module)
            self.first = dict(self.final)
        elif self._due(trainer) and self.last != trainer.global_step:
            self.evaluate(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when due."""
        if self._due(trainer):
            self.evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs of earlier evaluations."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        for name in STATE:
            setattr(self, name, state_dict[name])
        self.drawn = None

    def begin_anew(self, trainer: Trainer) -> None:
        """Begin the record of a run at the state of another run's checkpoint, whose best generator is not this run's.

        What was measured at this step, if anything was, is the first and the best that this run has measured.
        """
        self.tracker.log_image(enlarged_grid(self.real), REAL, 0, layout(self.real))
        measured = self.last == trainer.global_step > 0
        self.best, self.best_step = (dict(self.final), trainer.global_step) if measured else ({}, 0)
        if measured:
            best = {f"best/{name}": value for name, value in self.best.items()}
            self.tracker.log_metrics(self.final | best, trainer.global_step)

    def _due(self, trainer: Trainer) -> bool:
        return trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps

    def evaluate(self, trainer: Trainer, gan: GAN) -> None:
        """Measure the generator at this step, and log metrics and samples.

        Raises:
            Diverged: its numbers are not finite.
            Stopped: a stop was requested meanwhile.
        """
        self.guard.check(trainer, gan)
        step = trainer.global_step
        with self.clock.stopped(), torch.autocast(gan.device.type, enabled=False):
            started = time.perf_counter()
            take_standing_statistics(gan)
            values = self._measure(gan, gan.averaged)
            if self.raw:
                values |= {f"raw/{name}": value for name, value in self._measure(gan, gan.generator).items()}
            self.final, self.last = values, step
            if step > 0 and self._improves(values):
                self.best, self.best_step = values, step
            self.took = seconds = time.perf_counter() - started
            self.seconds += seconds
            logged = values | {f"best/{name}": value for name, value in self.best.items()}
            if step == trainer.max_steps:
                logged |= {f"final/{name}": value for name, value in values.items()}
            cost = {"evaluation_seconds": seconds} | peak_memory()
            self.tracker.log_metrics(logged | cost, step)
            self.log_samples(gan, step)
            if step == trainer.max_steps and gan.players.latents is not None:
                self._log_grid(drawn_codes(gan), CODES, step)

    def log_samples(self, gan: GAN, step: int) -> None:
        """Draw the averaged generator's images from the noise of every grid, and log them as those of `step`.

        Where it has an encoder, real images are logged too, each with its reconstruction on its right.
        """
        self.drawn, self.drawn_at = drawn_grid(gan), step
        self._log_grid(self.drawn, SAMPLES, step)
        if (encoder := Encoder.of(gan.averaged)) is not None:
            made = quantise(encoder.reconstructed(self.real.cpu().numpy()))
            self._log_grid(torch.stack([self.real.cpu(), made], 1).flatten(0, 1), RECONSTRUCTIONS, step)

    def _log_grid(self, images: Tensor, key: str, step: int) -> None:
        shown = reduced(images)
        self.tracker.log_image(enlarged_grid(shown), key, step, layout(shown))

    def _improves(self, values: dict[str, float]) -> bool:
        primary = self.evaluator.primary
        return self.evaluator.improves(values[primary], self.best.get(primary))

    def _measure(self, gan: GAN, network: nn.Module) -> dict[str, float]:
        count = self.evaluator.n_generated
        z = measured_latents(gan, count)
        labels = asked_labels(gan, count)

        def images(start: int, count: int) -> Tensor:
            part = slice(start, start + count)
            return generate(network, z[part], None if labels is None else labels[part])

        measured = self.evaluator.evaluate(images, self.stop.check, Encoder.of(network))
        if network is gan.averaged:
            self.classes = measured.classes
        return measured.values


def drawn_grid(gan: GAN) -> Tensor:
    """Return the averaged generator's images of every sample grid and of the film, uint8 (N, C, H, W), rows of `GRID`.

    They are 64 images; of a generator that takes labels a row of each class, of the first `MOST_ROWS` classes.
    """
    rows = GRID if gan.classes is None or not gan.conditional else min(len(gan.classes), MOST_ROWS)
    z = torch.from_numpy(normal(gan.seed, "grid noise", (rows * GRID, gan.z_dim)))
    labels = torch.arange(rows).repeat_interleave(GRID) if gan.conditional else None
    return generate(gan.averaged, z, labels)


def drawn_codes(gan: GAN) -> Tensor:
    """Return the images of the averaged generator's codes, uint8 (N, C, H, W), rows of `GRID` (`code_images`)."""
    z = torch.from_numpy(normal(gan.seed, "grid noise", (GRID, gan.z_dim)))
    return code_images(gan.averaged.module, z)  # type: ignore[arg-type]


def take_standing_statistics(gan: GAN) -> None:
    """Take the averaged generator's BatchNorm statistics anew, over `standing` batches of fixed latents and labels.

    Where a batch is accumulated in parts, so it is here, and any rank gets the same by itself. The next step of
    training replaces them by those of the generator.
    """
    if gan.averaged.standing:
        standing_statistics(gan.averaged.module, _standing_batches(gan))


def _standing_batches(gan: GAN) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield latents (B, z_dim) and labels (B,), None where the generator takes none, B the size of a batch's part."""
    size = gan.batch_size // gan.accumulate
    noise, uniform = (draws(gan.seed, 0, f"standing {what}") for what in ("noise", "labels"))
    for _ in range(gan.averaged.standing * gan.accumulate):
        labels = None
        if gan.classes is not None and gan.conditional:
            drawn = from_uniform(uniform.random(size), gan.classes.shares_of(gan.inputs.labels["generator"]))
            labels = torch.from_numpy(drawn).to(gan.device)
        yield torch.from_numpy(noise.standard_normal((size, gan.z_dim), dtype="float32")).to(gan.device), labels


@contextmanager
def standing_while_drawn(gan: GAN) -> Iterator[None]:
    """Within this context the averaged generator has its standing statistics, where it has some; then training's."""
    buffers = list(gan.averaged.module.buffers()) if gan.averaged.standing else []
    kept = [buffer.clone() for buffer in buffers]
    take_standing_statistics(gan)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)


def asked_labels(gan: GAN, count: int) -> Tensor | None:
    """Return the labels of the images of every evaluation while training, int64 (count,), with the data's shares.

    Returns:
        None where the generator takes no labels.
    """
    if gan.classes is None or not gan.conditional:
        return None
    return torch.from_numpy(label_stream(gan.seed, 0, count, gan.classes.shares))


def measured_latents(gan: GAN, count: int) -> Tensor:
    """Return the latents of the images of every evaluation while training, (count, z_dim)."""
    return torch.from_numpy(normal(gan.seed, "metrics noise", (count, gan.z_dim)))


def measured_codes(gan: GAN, count: int) -> dict[str, Tensor]:
    """Return the categorical codes of those latents by name, int64 (count,); none where the generator has none."""
    latents = gan.players.latents
    return {} if latents is None else latents.categories(measured_latents(gan, count))


def peak_memory() -> dict[str, float]:
    """Return this process's peak memory so far in MiB: resident, and on the GPU where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of `ru_maxrss`
    peak = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
