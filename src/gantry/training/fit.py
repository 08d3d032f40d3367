"""Trains a run to its end, and restarts it from a checkpoint when training has diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from pytorch_lightning import Trainer

from gantry.core.determinism import repeatable
from gantry.core.processes.signals import deferred
from gantry.models.module import GAN
from gantry.training.build import Callbacks
from gantry.training.callbacks.divergence import Diverged
from gantry.training.lightning_overrides import gpus_not_looked_for, return_to_device
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
    """Train from `start` to the end, restart where `rollback` says after divergence, measure and save the last state.

    A request to stop takes effect after the current step. On a GPU, cuDNN's deterministic algorithms are used.

    Args:
        batches: returns the real batches from a given generator step on.
        callbacks: the trainer's callbacks.

    Raises:
        RunFailed: training has diverged too often, or the last state cannot be written.
        Stopped: a signal asked the run to stop.
    """
    # trainer.benchmark=true asks for cuDNN's fastest algorithms instead.
    same = nullcontext() if torch.backends.cudnn.benchmark else repeatable()
    with deferred(callbacks.stop), gpus_not_looked_for(), same:
        while True:
            try:
                trainer.fit(gan, train_dataloaders=batches(start.step), ckpt_path=start.checkpoint, weights_only=True)
                break
            except Diverged as error:
                start = rollback(error)
        return_to_device(trainer, gan)
        if callbacks.evaluation.last != trainer.global_step:  # a signal stopped it, or a callback has ended training
            callbacks.evaluation.evaluate(trainer, gan)
            if callbacks.film:
                callbacks.film.take(trainer, gan)
        callbacks.checkpointing.finish(trainer, gan)
