"""What happens around the training step: losses logged, metrics, sample grids and checkpoints, the progress bar.

All of them count generator steps (`trainer.global_step`), and write to a tracker, which never raises.
"""

import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torchvision.utils import make_grid
from tqdm import tqdm

from gantry.data.images import quantise
from gantry.export import save_generator
from gantry.gan import GAN
from gantry.metrics.evaluator import Evaluator
from gantry.randomness import draws
from gantry.tracking import Tracker

log = logging.getLogger(__name__)

GRID = 8  # images along a side of the sample grid
TILE = 48  # pixels an image of the grid is enlarged to, at least


@dataclass
class Clock:
    """Seconds spent training, evaluation left out."""

    seconds: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """Count from now on."""
        self._since = time.perf_counter()

    def read(self) -> float:
        """Seconds of training so far."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the time spent inside out of the count."""
        self.seconds, self._since = self.read(), None
        try:
            yield
        finally:
            self.start()


def enlarged_grid(images: Tensor) -> np.ndarray:
    """uint8 images (N, C, H, W) as one uint8 picture (H', W', 3), rows of eight, enlarged without smoothing."""
    scale = max(1, -(-TILE // images.shape[-1]))
    grid = make_grid(images.cpu(), nrow=GRID, padding=1).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(grid.repeat(scale, 0).repeat(scale, 1))


def generate(network: nn.Module, z: Tensor) -> Tensor:
    """uint8 images (B, C, H, W) of a generator in eval mode from latents (B, z_dim); its mode is put back."""
    training = network.training
    network.eval()
    with torch.inference_mode():
        images = quantise(network(z.to(next(network.parameters()).device)))
    network.train(training)
    return images


class TrainingLog(Callback):
    """Log the means of losses and scores since the last log every `every` steps, read from the device only then."""

    def __init__(self, tracker: Tracker, clock: Clock, every: int) -> None:
        self.tracker, self.clock, self.every = tracker, clock, every
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.mark = (0, 0.0)
        self.diverged = False

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Begin to measure the speed here."""
        self.clock.start()
        self.mark = (trainer.global_step, self.clock.read())

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Add this step's values, and log when due."""
        for name, value in outputs.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            images = pl_module.batch_size * pl_module.n_critic
            values = {name: (total / self.counts[name]).item() for name, total in self.sums.items()}
            lost = [name for name, value in values.items() if not math.isfinite(value)]
            if lost and not self.diverged:
                self.diverged = True
                log.warning("Training has diverged: %s not finite at step %d", ", ".join(lost), step)
            now = self.clock.read()
            values["images_seen"] = step * images
            values["images_per_second"] = (step - self.mark[0]) * images / max(now - self.mark[1], 1e-9)
            self.mark, self.sums, self.counts = (step, now), {}, {}
            self.tracker.log_metrics(values, step)


class Evaluation(Callback):
    """Every `every` steps, and at the start and the end: metrics, a sample grid, checkpoints, the exported generator.

    Args:
        evaluator: measures the averaged generator, and the raw one under `raw/` where `raw` is set.
        tracker: receives metrics and grids.
        clock: stopped meanwhile.
        folder: where `checkpoints/` and `generator/` go.
        every: generator steps between evaluations.
        network: the generator's config, from which the export is rebuilt.
        real: uint8 real images (N, C, H, W) shown beside the samples, once.
        raw: measure the generator without averaging too.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        tracker: Tracker,
        clock: Clock,
        folder: Path,
        every: int,
        network: dict[str, Any],
        real: Tensor,
        raw: bool = False,
    ) -> None:
        self.evaluator, self.tracker, self.clock, self.folder = evaluator, tracker, clock, folder
        self.every, self.network, self.real, self.raw = every, network, real, raw
        self.first: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_step = 0
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Show the real images, and where the untrained generator stands."""
        self.tracker.log_image(enlarged_grid(self.real), "real", 0)
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module)
            self.first = dict(self.final)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when due."""
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self._evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of the evaluations before."""
        return {"first": self.first, "best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up `state_dict`."""
        self.first, self.best, self.best_step = (
            state_dict["first"],
            state_dict["best"],
            state_dict["best_step"],
        )

    def _evaluate(self, trainer: Trainer, gan: GAN) -> None:
        step = trainer.global_step
        with self.clock.stopped(), torch.autocast(gan.device.type, enabled=False):
            started = time.perf_counter()
            values = self._measure(gan, gan.averaged)
            if self.raw:
                values |= {f"raw/{name}": value for name, value in self._measure(gan, gan.generator).items()}
            self.final = values
            if step > 0 and self._improves(values):
                self.best, self.best_step = values, step
            seconds = time.perf_counter() - started
            self.seconds += seconds
            z = torch.from_numpy(normal(gan.seed, "grid noise", (GRID * GRID, gan.z_dim)))
            picture = enlarged_grid(generate(gan.averaged, z))
            logged = values | {f"best/{name}": value for name, value in self.best.items()}
            if step == trainer.max_steps:
                logged |= {f"final/{name}": value for name, value in values.items()}
            self.tracker.log_metrics(logged | {"evaluation_seconds": seconds}, step)
            self.tracker.log_image(picture, "samples", step)
            if step > 0:
                self._save(trainer, gan)

    def _improves(self, values: dict[str, float]) -> bool:
        primary = self.evaluator.primary
        return math.isfinite(values[primary]) and (not self.best or values[primary] < self.best[primary])

    def _measure(self, gan: GAN, network: nn.Module) -> dict[str, float]:
        if not all(value.isfinite().all() for value in network.state_dict().values()):
            return dict.fromkeys(self.evaluator.names.values(), math.nan)  # as uint8 its images would look like images
        z = torch.from_numpy(normal(gan.seed, "metrics noise", (self.evaluator.n_generated, gan.z_dim)))
        return self.evaluator.evaluate(lambda start, count: generate(network, z[start : start + count])).values

    def _save(self, trainer: Trainer, gan: GAN) -> None:
        checkpoints = self.folder / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(checkpoints / "writing.ckpt")
        (checkpoints / "writing.ckpt").replace(checkpoints / "last.ckpt")
        save_generator(self.folder / "generator" / "last", gan.averaged.module, self.network)
        if self.best_step == trainer.global_step:
            shutil.copyfile(checkpoints / "last.ckpt", checkpoints / "writing.ckpt")
            (checkpoints / "writing.ckpt").replace(checkpoints / "best.ckpt")
            save_generator(self.folder / "generator" / "best", gan.averaged.module, self.network)


class Progress(Callback):
    """A bar of generator steps, with the time left and the last value of the first metric."""

    def __init__(self, evaluation: Evaluation, label: str) -> None:
        self.evaluation, self.label = evaluation, label
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Open the bar where training starts."""
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=self.label,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by the steps done."""
        if self.bar is not None:
            primary = self.evaluation.evaluator.primary
            if trainer.global_step % self.evaluation.every == 0 or trainer.global_step == trainer.max_steps:
                self.bar.set_postfix({primary: f"{self.evaluation.final[primary]:.2f}"}, refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:  # type: ignore[override]
        """Close the bar, so that the message begins on a line of its own."""
        self.on_train_end(trainer, pl_module)


def normal(seed: int, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fixed float32 noise of a purpose: the same at every step and for every variant of one z_dim."""
    return draws(seed, 0, purpose).standard_normal(shape, dtype="float32")
