"""Draws sample grids before the first evaluations, so that the first pictures of a run are there after seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from gantry.models.module import GAN
from gantry.runs.folder import SAMPLES, picture
from gantry.training.callbacks.evaluation import Evaluation, standing_while_drawn


@cache
def early_steps(every: int) -> frozenset[int]:
    """Return the generator steps of the early grids: 10, then 50, 100, 200, 500 and so on, those below `every`."""
    steps = {10} | {digit * 10**power for power in range(1, 10) for digit in (1, 2, 5)} - {20}
    return frozenset(step for step in steps if step < every)


class EarlyGrids(Callback):
    """Logs a sample grid at the `early_steps` of a run, which its evaluations follow.

    It runs on rank 0 alone, with the averaged generator and the noise of the evaluations' grids: it neither
    communicates nor uses random numbers of training. A grid is logged before the checkpoint of its step, so that a
    resumed run lacks none.

    Args:
        folder: the run's folder.
        evaluation: must precede this callback in the trainer's list; it logs the grids.
    """

    def __init__(self, folder: Path, evaluation: Evaluation) -> None:
        self.folder, self.evaluation = folder, evaluation
        self.steps = early_steps(evaluation.every)

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Log a grid that a stop prevented."""
        if not picture(self.folder, SAMPLES, trainer.global_step).exists():
            self.draw(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a grid when due."""
        self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, gan: GAN) -> None:
        """Log a grid, if this step is an early one and no evaluation has logged it."""
        step = trainer.global_step
        if step in self.steps and step != self.evaluation.last:
            exact = torch.autocast(gan.device.type, enabled=False)
            with self.evaluation.clock.stopped(), exact, standing_while_drawn(gan):
                self.evaluation.log_samples(gan, step)
