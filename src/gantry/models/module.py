"""The GAN as a LightningModule: prepares the tensors of a step and hands them to `gantry.models.step`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gantry.core.errors import UserError
from gantry.models.compilation import compiled
from gantry.models.ema import AveragedGenerator
from gantry.models.fixed_step import FixedStep
from gantry.models.losses import Loss
from gantry.models.memory_format import channels_last, lay_out, lies_channels_last
from gantry.models.objective import objective
from gantry.models.optimizers import OptimizerFactory, capturable, check_clipping, fused, keep_capturable
from gantry.models.penalties import INPUT_GRADIENT, Constraint, Penalty
from gantry.models.static_inputs import Kind
from gantry.models.step import (
    GRADIENT,
    PLAYERS,
    Engine,
    Plain,
    Players,
    Record,
    Term,
    gradient_norm,
    step,
    weights_of,
)
from gantry.models.step_inputs import SHARE, Draws, Planned, plan, turns


@dataclass(frozen=True)
class LightningEngine:
    """Lightning's backward passes and optimizer steps: its precision, loss scaling, ranks and hooks.

    Args:
        module: attached to its trainer; the first of its optimizers counts.
    """

    module: LightningModule

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


class GAN(LightningModule):
    """A generator and a discriminator trained in turns, composed of independent parts.

    One step is one generator step: `n_critic` discriminator steps, each on a new batch of real images, then
    one step of the generator. `global_step` counts generator steps.

    With `accumulate` each of these steps splits its batch into as many equal parts, runs them in turn and adds up their
    gradients: up to rounding the step of the whole batch, in the memory of one part. Two things differ: BatchNorm
    takes its statistics over a part (as it does over a rank's share), and spectral normalisation does a power iteration
    at every part.

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
        accumulate: number of parts a batch is split into; divides each device's share of `batch_size`.
        max_grad_norm: largest norm of a network's gradient over all its weights; a larger gradient is scaled down to
            it before the step (Pascanu et al. 2013, algorithm 1). None: no clipping.
        compile: run the networks through torch.compile, except for penalties (`gantry.models.compilation`).

    Attributes:
        noise_stream: counts how often training went back to a checkpoint for other noise (`gantry.training.rollback`);
            saved in checkpoints; loading one never lowers it.
        fixed: carries out steps on inputs at fixed addresses, on a GPU; None: a batch is passed as it is.
        gradient_norms: by player, those of the last step, before clipping.

    Raises:
        UserError: the parts are not compatible.
    """

    averaged: AveragedGenerator
    objective: tuple[Term, ...]

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
        self.loss, self.penalties, self.constraints = loss, list(penalties), list(constraints)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer or optimizer
        self.z_dim, self.seed, self.batch_size, self.n_critic = z_dim, seed, batch_size, n_critic
        self.accumulate, self.max_grad_norm = accumulate, max_grad_norm
        self.noise_stream = 0
        self.fixed: FixedStep | None = None
        self._asking_for_norms: list[Callable[[GAN, str, int], bool]] = []
        self.gradient_norms: Record = {}
        self.draws = Draws(seed, batch_size)
        forward = (compiled(generator), compiled(discriminator)) if compile else (generator, discriminator)
        self.players = Players(self.generator, self.discriminator, self.averaged, *forward)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the generator's and the discriminator's optimizers, in this order.

        Raises:
            UserError: `max_grad_norm` is set, and only the optimizer itself unscales the gradients.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        optimizers = []
        for factory, network in ((self.optimizer, self.generator), (self.discriminator_optimizer, self.discriminator)):
            made = factory if scaled else fused(factory)
            if self._captures():
                made = capturable(made)
            optimizers.append(made(network.parameters()))
        check_clipping(optimizers, self.max_grad_norm, scaled)
        return optimizers

    def on_train_start(self) -> None:
        """Adapt the optimizers' loaded state to the weights and the device, and build the terms of the objective."""
        lay_out(self.trainer.optimizers)
        keep_capturable(self.trainer.optimizers, self._captures())
        self.objective = objective(self.loss, self.penalties)
        if self.fixed is not None:
            networks = {name: getattr(self, name) for name in (*PLAYERS, "averaged")}
            # A user's may have state of its own.
            parts = {"loss": self.loss, **{f"penalty {n}": part for n, part in enumerate(self.penalties)}}
            parts |= {f"constraint {n}": part for n, part in enumerate(self.constraints)}
            networks |= {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
            self.fixed.begin(networks, self.trainer.optimizers, self.device)

    def on_train_end(self) -> None:
        """Drop what holds addresses on the device, from which Lightning now takes the networks."""
        if self.fixed is not None:
            self.fixed.end()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch on the CPU that `fixed` takes to the device with the other inputs of a step."""
        if self.fixed is not None:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Record:
        """Run one generator step on a batch of `gantry.data.batches.Batches`.

        Returns detached scalars: `loss/discriminator`, `loss/generator` and the mean outputs
        `score/real`, `score/fake` of the last discriminator step, and the last value of each penalty due; each
        the mean over the parts of a batch. The gradients' norms are in `gradient_norms`.
        """
        index = self.global_step
        planned = plan(self.objective, index, self.n_critic, partial(self._watched, index + 1))
        values = {**batch, **self.drawn(planned)}
        share = self.averaged.share(index * self.batch_size, self.batch_size)
        if self.fixed is None:
            inputs = {name: value.to(self.device) for name, value in values.items()}
            record = self._step(planned, LightningEngine(self), inputs | {SHARE: share})
        else:
            graphed = self.fixed.graphed is not None
            engine = Plain(self.max_grad_norm) if graphed else LightningEngine(self)
            kind = tuple(turn.kind for turn in planned)
            values |= {SHARE: torch.scalar_tensor(share)}
            kinds = partial(self._kinds, planned, values)
            record = self.fixed(kind, kinds, values, partial(self._step, planned, engine), self.device)
            if graphed:
                self._count()
        norms = [name for name in record if name.startswith(GRADIENT)]
        self.gradient_norms = {name.removeprefix(GRADIENT): record.pop(name) for name in norms}
        return record

    def drawn(self, planned: Sequence[Planned]) -> dict[str, Tensor]:
        """Draw what a step needs, on the CPU: latents (B, z_dim) and uniform numbers (B,) of each turn."""
        values = {}
        for number, turn in enumerate(planned):
            noise, *uniform = turn.names(number, turn.terms)
            values[noise] = self.noise(turn.index, f"{turn.player} noise")
            purposes = [purpose for term in turn.terms for purpose in term.draws]
            for name, purpose in zip(uniform, purposes, strict=True):
                values[name] = self.uniform(turn.index, purpose)
        return values

    def _step(self, planned: Sequence[Planned], engine: Engine, inputs: Mapping[str, Any]) -> Record:
        made = turns(planned, inputs, self.constraints, self.images_format)
        optimizers = dict(zip(PLAYERS, self.trainer.optimizers, strict=True))
        return step(self.players, made, optimizers, inputs[SHARE], engine, self.accumulate)

    def _kinds(self, planned: Sequence[Planned], values: Mapping[str, Tensor]) -> dict[str, Kind]:
        """Return the inputs that any step has: those of this one, and what terms draw that are not due in it."""
        kinds = {name: Kind(tuple(value.shape), value.dtype) for name, value in values.items()}
        for number, turn in enumerate(planned):
            noise, *uniform = turn.names(number, [term for term in self.objective if term.player == turn.player])
            kinds |= dict.fromkeys(uniform, Kind((len(values[noise]),), torch.float32))
        return kinds

    def ask_for_norms(self, asks: Callable[["GAN", str, int], bool]) -> None:
        """Record the norm of a player's gradient, in `gradient_norms`, in each step in which a callable returns True.

        Args:
            asks: called once a step for each player with the GAN, the player and the step, counted from 1.
        """
        if asks not in self._asking_for_norms:
            self._asking_for_norms.append(asks)

    def _captures(self) -> bool:
        """Return True where optimizers step inside CUDA graphs."""
        graphed = self.fixed is not None and self.fixed.capture is not None
        return graphed and self.trainer.strategy.root_device.type == "cuda"

    def _watched(self, step: int, player: str) -> bool:
        answers = [
            asks(self, player, step) for asks in self._asking_for_norms
        ]  # each is asked, and may note its answer
        return any(answers)

    def _count(self) -> None:
        """Have Lightning count a step of the generator, which its wrapper of the optimizer has not seen."""
        counted = cast(list[LightningOptimizer], self.optimizers())[0]
        counted._on_before_step()
        counted._on_after_step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient, which at this point is that of the whole batch, averaged over ranks and unscaled."""
        if self.max_grad_norm is not None:
            clip_grad_norm_(weights_of(optimizer), self.max_grad_norm)

    def noise(self, index: int, purpose: str) -> Tensor:
        """Return this rank's latents (B, z_dim) of draw number `index` for `purpose`, on the CPU."""
        return self._mine(self.draws.latents(index, self._stream(purpose), self.z_dim))

    def uniform(self, index: int, purpose: str) -> Tensor:
        """Return this rank's uniform numbers (B,) of draw number `index` for `purpose`, on the CPU."""
        return self._mine(self.draws.uniform(index, self._stream(purpose)))

    def _stream(self, purpose: str) -> str:
        return f"{purpose}, stream {self.noise_stream}" if self.noise_stream else purpose

    def _mine(self, values: Tensor) -> Tensor:
        if (ranks := self.trainer.world_size) == 1:
            return values
        local = self.batch_size // ranks
        return values[self.trainer.global_rank * local :][:local]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save `noise_stream`."""
        checkpoint["noise_stream"] = self.noise_stream

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore `noise_stream`."""
        self.noise_stream = max(self.noise_stream, checkpoint.get("noise_stream", 0))


def _nothing() -> None:
    """Do nothing: the closure of a step whose gradients are computed already."""


def check_parts(discriminator: nn.Module, penalties: Sequence[Penalty]) -> None:
    """Refuse a discriminator that ends in a sigmoid, or one with BatchNorm where a penalty needs per-image gradients.

    Raises:
        UserError: names the part and the alternatives.
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
