"""The one training step that serves every variant."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from gantry.averaging import AveragedGenerator
from gantry.data.images import to_float
from gantry.errors import UserError
from gantry.losses import Loss, generator_sees_real
from gantry.penalties import INPUT_GRADIENT, Constraint, Penalty
from gantry.randomness import draws

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class GAN(LightningModule):
    """A generator and a discriminator trained in turns, composed of parts that know nothing of one another.

    One step is one generator step: `n_critic` discriminator steps, each on a new batch of real images, then
    one step of the generator. `global_step` counts generator steps.

    Args:
        generator: maps latents (B, z_dim) to images (B, C, H, W) in [-1, 1].
        discriminator: maps images to one logit each, (B,), with no sigmoid at its end.
        loss: a function of real and fake logits from `gantry.losses`, or one like them.
        optimizer: makes an optimizer of parameters; used for the discriminator too unless that has its own.
        z_dim: length of the latent vector, drawn from a standard normal distribution.
        seed: of every draw (`gantry.randomness`).
        batch_size: images of one step over all devices.
        penalties: terms added to the discriminator's loss.
        constraints: projections applied to the discriminator after each of its steps.
        n_critic: discriminator steps in one generator step.
        ema: `half_life` (images) and `ramp_up` of the averaged generator.
        discriminator_optimizer: where the discriminator's optimizer differs (two time-scales, Heusel et al. 2017).

    Raises:
        UserError: the parts do not go together.
    """

    averaged: AveragedGenerator

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        optimizer: OptimizerFactory,
        z_dim: int,
        seed: int,
        batch_size: int,
        penalties: Sequence[Penalty] = (),
        constraints: Sequence[Constraint] = (),
        n_critic: int = 1,
        ema: dict[str, float] | None = None,
        discriminator_optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_parts(discriminator, penalties)
        self.generator, self.discriminator = generator, discriminator
        self.averaged = AveragedGenerator(generator, **(ema or {}))
        self.loss, self.sees_real = loss, generator_sees_real(loss)
        self.penalties, self.constraints = list(penalties), list(constraints)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer or optimizer
        self.z_dim, self.seed, self.batch_size, self.n_critic = z_dim, seed, batch_size, n_critic

    def configure_optimizers(self) -> list[Optimizer]:
        """The generator's and the discriminator's optimizers, in this order."""
        return [
            self.optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One generator step on `batch["images"]`, uint8 of shape (n_critic, B, C, H, W).

        Returns what happened, as detached scalars: `loss/discriminator`, `loss/generator` and the mean outputs
        `score/real`, `score/fake` of the last discriminator step, and the last value of each penalty due.
        """
        generator_optimizer, discriminator_optimizer = self._optimizers()
        step = self.global_step
        record: dict[str, Tensor] = {}
        for k, images in enumerate(batch["images"]):
            real, critic_step = to_float(images), step * self.n_critic + k
            with torch.no_grad():
                fake = self.generator(self.noise(critic_step, "discriminator noise"))
            record |= self._discriminator_step(discriminator_optimizer, real, fake, critic_step)

        self.discriminator.requires_grad_(False)
        fake_logits = self.discriminator(self.generator(self.noise(step, "generator noise"))).float()
        real_logits = self.discriminator(real).float() if self.sees_real else fake_logits.detach()
        loss = self.loss(real_logits, fake_logits).generator
        generator_optimizer.zero_grad()
        self.manual_backward(loss)
        generator_optimizer.step()
        self.discriminator.requires_grad_(True)

        self.averaged.update(self.generator, step * self.batch_size, self.batch_size)
        return {"loss/generator": loss.detach()} | record

    def _discriminator_step(
        self, optimizer: LightningOptimizer, real: Tensor, fake: Tensor, critic_step: int
    ) -> dict[str, Tensor]:
        real_logits, fake_logits = self.discriminator(real).float(), self.discriminator(fake).float()
        loss = self.loss(real_logits, fake_logits).discriminator
        record = {
            "loss/discriminator": loss,
            "score/real": real_logits.mean(),
            "score/fake": fake_logits.mean(),
        }
        for index, penalty in enumerate(self.penalties):
            if critic_step % penalty.every == 0:
                uniform = self._draw(critic_step, f"penalty {index}", (), "random").to(real.device)
                term = penalty(self.discriminator, real, fake, uniform)
                loss = loss + penalty.every * term
                record[f"penalty/{index}_{type(penalty).__name__}"] = term
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        for constraint in self.constraints:
            constraint(self.discriminator)
        return {name: value.detach() for name, value in record.items()}

    def noise(self, index: int, purpose: str) -> Tensor:
        """Latents (B, z_dim) of draw number `index` for `purpose`: this rank's slice of the global batch."""
        return self._draw(index, purpose, (self.z_dim,), "standard_normal").to(self.device)

    def _draw(self, index: int, purpose: str, shape: tuple[int, ...], distribution: str) -> Tensor:
        generator = draws(self.seed, index, purpose)
        values = getattr(generator, distribution)((self.batch_size, *shape), dtype="float32")
        local = self.batch_size // self.trainer.world_size
        return torch.from_numpy(values[self.trainer.global_rank * local :][:local])

    def _optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        generator_optimizer, discriminator_optimizer = cast(list[LightningOptimizer], self.optimizers())
        # Lightning counts every optimizer's step in global_step; here only the generator's are progress.
        # The loop hangs its counter on these two hooks anew at every batch.
        discriminator_optimizer._on_before_step = discriminator_optimizer._on_after_step = _nothing
        return generator_optimizer, discriminator_optimizer


def _nothing(*_: Any) -> None:
    """Stands for a hook of the discriminator's optimizer."""


def check_parts(discriminator: nn.Module, penalties: Sequence[Penalty]) -> None:
    """Refuse a discriminator whose outputs are no logits, or one whose images have no gradient of their own.

    Raises:
        UserError: naming the part and what to use instead.
    """
    modules = list(discriminator.modules())
    if isinstance(modules[-1], nn.Sigmoid):
        raise UserError(
            "model.discriminator ends in a sigmoid, but the losses work on its raw output "
            "(a Wasserstein critic is unbounded; the others apply their own log-sigmoid): remove it"
        )
    names = ", ".join(type(penalty).__name__ for penalty in penalties if isinstance(penalty, INPUT_GRADIENT))
    if names and any(isinstance(module, _BatchNorm) for module in modules):
        raise UserError(
            f"model.discriminator uses BatchNorm, under which an image has no gradient of its own for {names}: "
            "choose model.discriminator.norm=none (or layer, instance, spectral)"
        )
