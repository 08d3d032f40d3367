"""A callback and a logger of one's own choice: trainer=watched names this class and Lightning's CSVLogger.

PYTHONPATH=examples python train.py --config-dir=examples/conf trainer=watched experiment=smoke tracking=none
"""

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from gantry.models.module import GAN


class WeightNorm(Callback):
    """Logs the norm of all the generator's weights, every `every` generator steps."""

    def __init__(self, every: int = 2) -> None:
        self.every = every

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, torch.Tensor], batch: Any, batch_idx: int
    ) -> None:
        """See a step's losses in `outputs`, and the networks as the step has left them."""
        if trainer.global_step % self.every == 0:
            norm = torch.cat([weight.detach().flatten() for weight in pl_module.generator.parameters()]).norm()
            for logger in trainer.loggers:  # the CSV file, and the run's own record
                logger.log_metrics({"weight_norm": float(norm)}, trainer.global_step)
