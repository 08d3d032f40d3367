"""A pair of networks of one's own, for any variant: conf/model/network/one_layer.yaml names them.

PYTHONPATH=examples python train.py --config-dir=examples/conf model/network=one_layer experiment=smoke tracking=none
"""

import math

from torch import Tensor, nn


class Generator(nn.Module):
    """Latents (B, z_dim) to images (B, C, H, W) in (-1, 1)."""

    def __init__(self, z_dim: int, image_shape: tuple[int, int, int], width: int = 128) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.layers = nn.Sequential(
            nn.Linear(z_dim, width), nn.ReLU(), nn.Linear(width, math.prod(image_shape)), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.image_shape)


class Discriminator(nn.Module):
    """Images to logits (B,), without a sigmoid."""

    def __init__(self, image_shape: tuple[int, int, int], width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(math.prod(image_shape), width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1)).flatten()
