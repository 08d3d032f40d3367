"""Generates images of a generator from latents."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from gantry.core.determinism import repeatable, whole_float32
from gantry.core.randomness import draws
from gantry.data.images import quantise
from gantry.models.labels import LabelSource
from gantry.models.latents import TILE, stream

LARGE = 3 * 128 * 128  # values of an image, above which images are computed a few at a time
AT_ONCE = 2**23  # values of the images that are then computed at a time
_values: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # of one image of a network


def at_a_time(values: int, most: int) -> int:
    """Return how many of `most` images of so many values are computed at a time, to bound the memory."""
    return most if values <= LARGE else max(1, min(most, AT_ONCE // values))


def generate(network: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Generate uint8 images (B, C, H, W) in eval mode from latents (B, z_dim); the modules' modes are restored.

    Images of more than 128 pixels are computed a few at a time.

    Args:
        labels: int64 (B,), or weights of the classes, float (B, n_classes), where the network takes labels.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    with torch.inference_mode():
        device = next(network.parameters()).device
        inputs = [value.to(device) for value in (z, labels) if value is not None]
        if network not in _values:
            _values[network] = network(*(value[:1] for value in inputs)).numel()
        count = at_a_time(_values[network], len(z))
        parts = [quantise(network(*part)) for part in zip(*(value.split(count) for value in inputs), strict=True)]
        images = parts[0] if len(parts) == 1 else torch.cat(parts)
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
        labels: of the images, where the network takes labels.
    """

    network: nn.Module
    z_dim: int
    seed: int
    truncation: float | None = None
    labels: LabelSource | None = None

    def tile(self, number: int) -> Tensor:
        """Return the `TILE` images from `TILE * number` on, uint8 (TILE, C, H, W) on the network's device."""
        z = torch.from_numpy(stream(self.seed, number * TILE, TILE, self.z_dim, self.truncation))
        labels = None if self.labels is None else torch.from_numpy(self.labels(self.seed, number * TILE, TILE))
        with whole_float32(), repeatable():
            return generate(self.network, z, labels)

    def first(self, count: int) -> Tensor:
        """Return images 0 to `count`, uint8 (count, C, H, W)."""
        return torch.cat([self.tile(number) for number in range(-(-count // TILE))])[:count]
