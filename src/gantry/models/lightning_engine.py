"""Carries out backward passes and optimizer steps through Lightning, and exchanges values between its ranks."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from gantry.models.networks.sync_batch_norm import over_ranks
from gantry.models.play import Alone, Ranks
from gantry.models.step import gradient_norm


@dataclass(frozen=True)
class DistributedRanks:
    """The ranks of torch's process group, as the `Ranks` of a turn.

    Args:
        count: number of ranks.
        rank: of this process.
    """

    count: int
    rank: int

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, without a gradient."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def gather(self, value: Tensor) -> Tensor:
        """Return the tensors (B, ...) of all ranks, each as long, one after the other.

        A gradient to it reaches the rank whose part it is, summed over the ranks' losses.
        """
        if value.is_floating_point():
            return over_ranks(value, self.count, self.rank)
        padded = value.new_zeros((self.count, *value.shape))
        padded[self.rank] = value
        dist.all_reduce(padded)
        return padded.flatten(0, 1)


@dataclass(frozen=True)
class LightningEngine:
    """Lightning's backward passes and optimizer steps: its precision, loss scaling, ranks and hooks.

    Args:
        module: attached to its trainer; the first of its optimizers counts.
    """

    module: LightningModule

    @property
    def ranks(self) -> Ranks:
        """The ranks that share a batch."""
        trainer = self.module.trainer
        return Alone() if trainer.world_size == 1 else DistributedRanks(trainer.world_size, trainer.global_rank)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to the weights' gradients, scaled by the loss scaler if there is one."""
        self.module.manual_backward(loss)

    def no_sync(self) -> AbstractContextManager[None]:
        """Return Lightning's context without gradient synchronisation; strategies of one device have none."""
        return getattr(self.module.trainer.strategy, "block_backward_sync", nullcontext)()

    def gradient_norm(self, optimizer: Optimizer) -> Tensor:
        """Return the norm of the gradient of an optimizer's weights, averaged over ranks and unscaled."""
        scaler = getattr(self.module.trainer.precision_plugin, "scaler", None)
        norm = gradient_norm(optimizer)
        return norm if scaler is None else norm / scaler.scale(torch.ones_like(norm))

    def update(self, optimizer: Optimizer) -> None:
        """Step an optimizer; `global_step` counts the generator's steps alone, whose optimizer is the first.

        Lightning's wrapper of an optimizer counts, then calls the strategy; for the others only the strategy is called.
        """
        counted = cast(list[LightningOptimizer], self.module.optimizers())[0]
        if optimizer is counted.optimizer:
            counted.step()
        else:
            self.module.trainer.strategy.optimizer_step(optimizer, _nothing)

    def at_once(self) -> AbstractContextManager[None]:
        """Return the context of 16-mixed precision in which updates have one loss scale; others need none."""
        return getattr(self.module.trainer.precision_plugin, "at_once", nullcontext)()

    def agree(self) -> None:
        """Have a strategy that averages the networks' buffers over the ranks do so."""
        getattr(self.module.trainer.strategy, "agree", _nothing)()


def count_step(module: LightningModule) -> None:
    """Have Lightning count a step of the generator, which its wrapper of the optimizer has not seen."""
    counted: Any = cast(list[LightningOptimizer], module.optimizers())[0]
    counted._on_before_step()
    counted._on_after_step()


def _nothing() -> None:
    """Do nothing: the closure of a step whose gradients are computed already."""
