"""The one training step that serves every variant."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.images import to_float
from gantry.models.compilation import compiled
from gantry.models.ema import AveragedGenerator
from gantry.models.losses import Loss, generator_sees_real
from gantry.models.memory_format import channels_last, lay_out, lies_channels_last
from gantry.models.penalties import INPUT_GRADIENT, Constraint, Penalty
from gantry.models.step import Objective, OptimizerFactory, Record, frozen, fused

AHEAD = 2**17  # numbers drawn ahead of time, at most: half a MiB


class GAN(LightningModule):
    """A generator and a discriminator trained in turns, composed of parts that know nothing of one another.

    One step is one generator step: `n_critic` discriminator steps, each on a new batch of real images, then
    one step of the generator. `global_step` counts generator steps.

    With `accumulate` each of these steps takes its batch in as many equal parts, one after the other, and adds up
    their gradients: the step of the whole batch, up to rounding, in the memory of a part. Two things see a part
    only: BatchNorm, whose statistics are those of a part as they are those of a rank's share, and spectral
    normalisation, which takes a power iteration at every part.

    Args:
        generator: maps latents (B, z_dim) to images (B, C, H, W) in [-1, 1].
        discriminator: maps images to one logit each, (B,), with no sigmoid at its end.
        loss: a function of real and fake logits from `gantry.models.losses`, or one like them.
        optimizer: makes an optimizer of parameters; used for the discriminator too unless that has its own.
        z_dim: length of the latent vector, drawn from a standard normal distribution.
        seed: of every draw (`gantry.core.randomness`).
        batch_size: images of one step over all devices, in all its parts.
        penalties: terms added to the discriminator's loss.
        constraints: projections applied to the discriminator after each of its steps.
        n_critic: discriminator steps in one generator step.
        ema: `half_life` (images) and `ramp_up` of the averaged generator.
        discriminator_optimizer: where the discriminator's optimizer differs (two time-scales, Heusel et al. 2017).
        accumulate: parts a batch is taken in; divides each device's share of `batch_size`.
        max_grad_norm: the longest a network's gradient, all its weights together, may be; a longer one is
            scaled down to it before the step (Pascanu et al. 2013, algorithm 1). None: as long as it is.
        compile: run the networks through torch.compile, but for penalties (`gantry.models.compilation`).

    Attributes:
        noise_stream: counts how often training went back to a checkpoint for other noise (`gantry.training.rollback`);
            a checkpoint holds it, and loading one never counts it down.

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
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_parts(discriminator, penalties)
        self.generator, self.discriminator = channels_last(generator), channels_last(discriminator)
        self.images_format = torch.channels_last if lies_channels_last(discriminator) else torch.contiguous_format
        self.averaged = AveragedGenerator(generator, **(ema or {}))
        self.loss, self.sees_real = loss, generator_sees_real(loss)
        self.penalties, self.constraints = list(penalties), list(constraints)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer or optimizer
        self.z_dim, self.seed, self.batch_size, self.n_critic = z_dim, seed, batch_size, n_critic
        self.accumulate, self.max_grad_norm = accumulate, max_grad_norm
        self.noise_stream = 0
        self._latents: dict[tuple[str, int, int], Tensor] = {}  # drawn ahead, by purpose, noise_stream and index
        # In a tuple: as an attribute each would be registered, and saved, as a network of its own.
        self._networks = (compiled(generator), compiled(discriminator)) if compile else (generator, discriminator)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes some forty times a step which hook it is in; as an attribute of a module each would be
        # looked at for being a parameter or a network.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> list[Optimizer]:
        """The generator's and the discriminator's optimizers, in this order.

        Raises:
            UserError: gradients are to be clipped that only the optimizer itself unscales.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        factories = (self.optimizer, self.discriminator_optimizer)
        generator_optimizer, discriminator_optimizer = factories if scaled else map(fused, factories)
        optimizers = [
            generator_optimizer(self.generator.parameters()),
            discriminator_optimizer(self.discriminator.parameters()),
        ]
        check_clipping(optimizers, self.max_grad_norm, self.trainer)
        return optimizers

    def on_train_start(self) -> None:
        """Put in order what a checkpoint has brought."""
        lay_out(self.trainer.optimizers)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Record:
        """One generator step on `batch["images"]`, uint8 of shape (n_critic, B, C, H, W).

        Returns what happened, as detached scalars: `loss/discriminator`, `loss/generator` and the mean outputs
        `score/real`, `score/fake` of the last discriminator step, and the last value of each penalty due; each
        the mean over the parts of a batch.
        """
        generator_optimizer, discriminator_optimizer = self._optimizers()
        step = self.global_step
        record: Record = {}
        for k, images in enumerate(batch["images"]):
            critic_step = step * self.n_critic + k
            due = [index for index, penalty in enumerate(self.penalties) if critic_step % penalty.every == 0]
            uniform = [self._draw(critic_step, f"penalty {index}", (), "random").to(self.device) for index in due]
            z = self.noise(critic_step, "discriminator noise")
            objective = partial(self._discriminator_loss, due)
            record |= self._minimise(objective, discriminator_optimizer, generator_optimizer, images, z, *uniform)
            for constraint in self.constraints:
                constraint(self.discriminator)

        z = self.noise(step, "generator noise")
        record |= self._minimise(self._generator_loss, generator_optimizer, discriminator_optimizer, images, z)
        self.averaged.update(self.generator, step * self.batch_size, self.batch_size)
        return record

    def _discriminator_loss(self, due: list[int], images: Tensor, z: Tensor, *uniform: Tensor) -> tuple[Tensor, Record]:
        generate, discriminate = self._networks
        real = self._real(images)
        with torch.no_grad():
            fake = generate(z)
        real_logits, fake_logits = discriminate(real).float(), discriminate(fake).float()
        loss = self.loss(real_logits, fake_logits).discriminator
        record = {"loss/discriminator": loss, "score/real": real_logits.mean(), "score/fake": fake_logits.mean()}
        for index, numbers in zip(due, uniform, strict=True):
            penalty = self.penalties[index]
            term = penalty(self.discriminator, real, fake, numbers)
            loss = loss + penalty.every * term
            record[f"penalty/{index}_{type(penalty).__name__}"] = term
        return loss, record

    def _generator_loss(self, images: Tensor, z: Tensor) -> tuple[Tensor, Record]:
        generate, discriminate = self._networks
        fake_logits = discriminate(generate(z)).float()
        real_logits = discriminate(self._real(images)).float() if self.sees_real else fake_logits.detach()
        loss = self.loss(real_logits, fake_logits).generator
        return loss, {"loss/generator": loss}

    def _real(self, images: Tensor) -> Tensor:
        return to_float(images.contiguous(memory_format=self.images_format))

    def _minimise(
        self, objective: Objective, optimizer: LightningOptimizer, other: LightningOptimizer, *whole: Tensor
    ) -> Record:
        """One step on the mean of the objective over the parts of a batch, with the other optimizer's weights fixed."""
        records: list[Record] = []
        optimizer.zero_grad()
        with frozen(_weights(other)):
            for part in zip(*(values.unflatten(0, (self.accumulate, -1)) for values in whole), strict=True):
                with cached():  # the weights stay: what parametrizations make of them, they make once
                    loss, record = objective(*part)
                records.append({name: value.detach() for name, value in record.items()})
                # The sum over the parts is exchanged between ranks, once.
                with nullcontext() if len(records) == self.accumulate else self._apart():
                    self.manual_backward(loss / self.accumulate)
        optimizer.step()
        if len(records) == 1:
            return records[0]
        return {name: torch.stack([record[name] for record in records]).mean() for name in records[0]}

    def _apart(self) -> AbstractContextManager[None]:
        """A context in which gradients stay on their rank: Lightning's, which strategies of one device lack."""
        return getattr(self.trainer.strategy, "block_backward_sync", nullcontext)()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient: by now it is the whole batch's, the mean over ranks, and no longer scaled."""
        if self.max_grad_norm is not None:
            clip_grad_norm_(_weights(optimizer), self.max_grad_norm)

    def noise(self, index: int, purpose: str) -> Tensor:
        """Latents (B, z_dim) of draw number `index` for `purpose`: this rank's slice of the global batch.

        Those of the next indices are drawn with them. One after the other they take a third of the time: between
        two steps the code of a draw, and its tables, leave the processor's cache.
        """
        wanted = (purpose, self.noise_stream, index)
        if wanted not in self._latents:
            self._latents = {key: latents for key, latents in self._latents.items() if key[0] != purpose}
            for later in range(index, index + max(1, AHEAD // (self.batch_size * self.z_dim))):
                latents = self._draw(later, purpose, (self.z_dim,), "standard_normal")
                self._latents[purpose, self.noise_stream, later] = latents
        return self._latents.pop(wanted).to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights do not say."""
        checkpoint["noise_stream"] = self.noise_stream

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up."""
        self.noise_stream = max(self.noise_stream, checkpoint.get("noise_stream", 0))

    def _draw(self, index: int, purpose: str, shape: tuple[int, ...], distribution: str) -> Tensor:
        stream = f"{purpose}, stream {self.noise_stream}" if self.noise_stream else purpose
        generator = draws(self.seed, index, stream)
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


def _weights(optimizer: Optimizer | LightningOptimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def check_clipping(optimizers: Sequence[Optimizer], max_grad_norm: float | None, trainer: Trainer) -> None:
    """Refuse to clip under a loss scaler what fused optimizers unscale only in their step.

    Raises:
        UserError: naming the keys that exclude each other.
    """
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in optimizers)
    if max_grad_norm is not None and scaled and fused:
        raise UserError(
            f"model.max_grad_norm={max_grad_norm} cannot clip the gradients of a fused optimizer under "
            "trainer.precision=16-mixed, which are still scaled: use model.optimizer.fused=false or "
            "trainer.precision=bf16-mixed"
        )


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
