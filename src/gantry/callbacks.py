"""What happens around the training step: losses logged, the progress bar. Metrics are in `gantry.evaluation`.

All of them count generator steps (`trainer.global_step`), and write to a tracker, which never raises.
"""

import logging
import math
import sys
from typing import Any

from pytorch_lightning import Callback, Trainer
from torch import Tensor
from tqdm import tqdm

from gantry.clock import Clock
from gantry.evaluation import Evaluation
from gantry.gan import GAN
from gantry.tracking import Tracker

log = logging.getLogger(__name__)


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
