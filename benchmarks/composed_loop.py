"""A bare loop around the mathematics of any variant, for `step.py`: no Lightning, no tracking, PyTorch's own draws."""

import contextlib
import copy
import math
from dataclasses import replace

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils import parametrize

from gantry.models.module import GAN
from gantry.models.objective import objective
from gantry.models.play import Alone
from gantry.models.scheduled import without_schedules
from gantry.models.schedules import Progress
from gantry.models.step import minimised
from gantry.models.step_inputs import IMAGES, LABELS, VALUE, Drawn, plan, turns


class ComposedLoop:
    """Trains a copy of a GAN: terms, views and labels are Gantry's functions, all around them is written by hand.

    Args:
        cfg: the run's config.
        gan: copied.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), or None.
    """

    def __init__(self, cfg: DictConfig, gan: GAN, images: Tensor, labels: Tensor | None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.gan = copy.deepcopy(gan).to(self.device)
        self.images, self.labels, self.batch = images, labels, cfg.batch_size
        self.half, self.steps = cfg.trainer.precision == "bf16-mixed", 0
        self.terms = objective(self.gan.loss, self.gan.penalties, self.gan.terms, self.gan.top_k)
        networks = (self.gan.generator, self.gan.discriminator)
        self.players = replace(
            self.gan.players,
            **dict(zip(("generator", "discriminator"), networks, strict=True)),
            **dict(zip(("generate", "discriminate"), networks, strict=True)),
            view=self.gan.augment,
            averaged=self.gan.averaged,
        )
        self.optimizers = {
            name: without_schedules(factory)[0](network.parameters(), fused=True)  # type: ignore[call-arg]
            for name, factory, network in zip(
                ("generator", "discriminator"), (gan.optimizer, gan.discriminator_optimizer), networks, strict=True
            )
        }
        self.sum = torch.zeros((), device=self.device)

    def drawn(self, draw: Drawn) -> Tensor:
        """Random numbers on the device."""
        shape = draw.shape(self.batch)
        if draw.kind == "labels":
            return torch.randint(len(self.gan.classes or ()), shape, device=self.device)
        return (torch.randn if draw.kind == "normal" else torch.rand)(shape, device=self.device)

    def step(self) -> None:
        """One generator step."""
        for network in (self.gan.generator, self.gan.discriminator):
            network.train()
        planned = plan(self.terms, self.steps, self.gan.order)
        indices = torch.randint(len(self.images), (self.gan.real_batches, self.batch))
        inputs = {IMAGES: self.images[indices].to(self.device)}
        if self.labels is not None:
            inputs[LABELS] = self.labels[indices].to(self.device)
        for turn in planned:
            inputs |= {turn.key(purpose): self.drawn(d) for purpose, d in turn.drawn(self.gan.inputs).items()}
        progress = Progress(self.steps, self.steps * self.batch)
        for place, value in self.gan.scheduled.values(progress).items():
            inputs[VALUE + place] = torch.tensor(value, device=self.device)
        for turn in turns(planned, self.gan.inputs, inputs, self.gan.constraints, self.gan.images_format):
            others = [p for name, o in self.optimizers.items() if name != turn.player for p in weights(o)]
            self.optimizers[turn.player].zero_grad()
            for weight in others:
                weight.requires_grad_(False)
            half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)
            with half, contextlib.nullcontext() if self.gan.at_every_pass else parametrize.cached():
                loss, _ = minimised(turn, self.players, Alone())
            loss.backward()
            for weight in others:
                weight.requires_grad_(True)
            self.optimizers[turn.player].step()
            for constraint in turn.after:
                constraint(self.gan.discriminator)
            self.sum += loss.detach()
        self.gan.averaged.update(self.gan.generator, 0.01)
        self.steps += 1

    def look(self) -> None:
        """Read what the losses sum up to."""
        if not math.isfinite(float(self.sum)):
            raise ArithmeticError("the loop by hand has diverged")
        self.sum.zero_()


def weights(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Those that an optimizer updates."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]
