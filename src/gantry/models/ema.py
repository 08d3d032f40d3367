"""Exponential moving average of the generator's weights; the average is evaluated and exported."""

import copy

import torch
from torch import Tensor, nn

from gantry.models.schedules import Progress, Schedule, value_at


class AveragedGenerator(nn.Module):
    """A float32 copy of a generator that follows it with a half-life counted in images.

    Counting in images makes the average independent of the batch size (Karras et al. 2020, StyleGAN2-ADA).
    Buffers (BatchNorm statistics, counters) are copied, not averaged: they belong to the newest weights.

    Args:
        generator: the network to follow; copied.
        half_life: images after which a weight's share has halved, or a schedule of it; 0 keeps a plain copy.
        standing: batches over which BatchNorm's statistics are taken anew before the average is measured and drawn,
            Brock et al. 2019 (`gantry.models.standing`); 0: those of training.
        ramp_up: the half-life is at most this share of the images seen so far, so that the untrained start
            is forgotten early (0.05 in StyleGAN2-ADA). None: no such bound.
    """

    def __init__(
        self,
        generator: nn.Module,
        half_life: float | Schedule = 10_000,
        ramp_up: float | None = 0.05,
        standing: int = 0,
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(generator).requires_grad_(False).eval()
        self.half_life, self.ramp_up, self.standing = half_life, ramp_up, standing

    def share(self, progress: Progress, batch: int) -> float:
        """Return the new weights' share after a step of `batch` images, from the progress before that step.

        1 - 0.5 ** (batch / half-life), in [0, 1].
        """
        half_life: float = value_at(self.half_life, progress)
        if self.ramp_up is not None:
            half_life = min(half_life, self.ramp_up * progress.images)
        return 1 - 0.5 ** (batch / half_life) if half_life > 0 else 1.0

    @torch.no_grad()
    def update(self, generator: nn.Module, share: float | Tensor) -> None:
        """Move the average towards `generator` by `share`; a float32 tensor () gives the same values as a float."""
        old: list[Tensor] = list(self.module.parameters())
        new = [weight.float() for weight in generator.parameters()]
        if isinstance(share, Tensor):
            torch._foreach_lerp_(old, new, [share] * len(new))
        else:
            torch._foreach_lerp_(old, new, share)
        for buffer, source in zip(self.module.buffers(), generator.buffers(), strict=True):
            buffer.copy_(source)

    def train(self, mode: bool = True) -> "AveragedGenerator":
        """Stay in eval mode, since the average is never trained."""
        return super().train(False)

    def forward(self, z: Tensor, *further: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from latents (B, z_dim) and what else the generator takes."""
        return self.module(z, *further)
