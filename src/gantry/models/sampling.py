"""Generates images of a generator from latents."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gantry.core.determinism import repeatable, whole_float32
from gantry.core.randomness import draws
from gantry.data.images import quantise
from gantry.models.latents import TILE, stream


def generate(network: nn.Module, z: Tensor) -> Tensor:
    """Generate uint8 images (B, C, H, W) in eval mode from latents (B, z_dim); the modules' modes are restored."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    with torch.inference_mode():
        images = quantise(network(z.to(next(network.parameters()).device)))
    for module in training:
        module.training = True
    return images


def normal(seed: int, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return fixed float32 noise for a purpose: the same at every step and for every variant of one z_dim."""
    return draws(seed, 0, purpose).standard_normal(shape, dtype="float32")


@dataclass(frozen=True)
class Tiles:
    """Generates the images of a seed's latents, `TILE` at a time.

    On one kind of device an image is bitwise the same for any requested range and any number of threads, since it is
    always generated in the same batch.

    Args:
        network: in eval mode, on its device; maps (B, z_dim) to (B, C, H, W) in [-1, 1].
        z_dim: length of a latent.
        seed: of the latents.
        truncation: see `gantry.models.latents.stream`.
    """

    network: nn.Module
    z_dim: int
    seed: int
    truncation: float | None = None

    def tile(self, number: int) -> Tensor:
        """Return the `TILE` images from `TILE * number` on, uint8 (TILE, C, H, W) on the network's device."""
        z = stream(self.seed, number * TILE, TILE, self.z_dim, self.truncation)
        with whole_float32(), repeatable():
            return generate(self.network, torch.from_numpy(z))

    def first(self, count: int) -> Tensor:
        """Return images 0 to `count`, uint8 (count, C, H, W)."""
        return torch.cat([self.tile(number) for number in range(-(-count // TILE))])[:count]
