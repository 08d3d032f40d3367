"""Trains to the end, and again from a checkpoint where training has diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytorch_lightning import Trainer

from gantry.models.module import GAN
from gantry.training.callbacks.divergence import Diverged
from gantry.training.resume import Start
from gantry.training.rollback import Rollback


def fit(trainer: Trainer, gan: GAN, batches: Callable[[int], Iterable[Any]], start: Start, rollback: Rollback) -> None:
    """Train to the end from `start`, and again from wherever `rollback` says.

    Args:
        batches: the real batches from a generator step on.

    Raises:
        RunFailed: training has diverged, for good.
    """
    while True:
        try:
            trainer.fit(gan, train_dataloaders=batches(start.step), ckpt_path=start.checkpoint, weights_only=True)
            return
        except Diverged as error:
            start = rollback(error)
