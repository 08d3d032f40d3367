"""Trains to the end, and again from a checkpoint where training has diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytorch_lightning import Trainer

from gantry.core.processes.signals import deferred
from gantry.models.module import GAN
from gantry.training.build import Callbacks
from gantry.training.callbacks.divergence import Diverged
from gantry.training.lightning_overrides import gpus_not_looked_for
from gantry.training.resume import Start
from gantry.training.rollback import Rollback


def fit(
    trainer: Trainer,
    gan: GAN,
    batches: Callable[[int], Iterable[Any]],
    start: Start,
    rollback: Rollback,
    callbacks: Callbacks,
) -> None:
    """Train to the end from `start`, and again from wherever `rollback` says; measure and keep the end.

    A request to stop is followed after the step that it falls in.

    Args:
        batches: the real batches from a generator step on.
        callbacks: the trainer's.

    Raises:
        RunFailed: training has diverged for good, or its end cannot be written.
        Stopped: asked to stop.
    """
    with deferred(callbacks.stop), gpus_not_looked_for():
        while True:
            try:
                trainer.fit(gan, train_dataloaders=batches(start.step), ckpt_path=start.checkpoint, weights_only=True)
                break
            except Diverged as error:
                start = rollback(error)
        if callbacks.evaluation.last != trainer.global_step:  # stopped while it measured for the last time
            callbacks.evaluation.evaluate(trainer, gan.to(trainer.strategy.root_device))
            if callbacks.film:
                callbacks.film.take(trainer, gan)
        callbacks.checkpointing.finish(trainer, gan)
