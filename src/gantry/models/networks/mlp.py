"""The article's pair: a dense-to-convolutional generator and a dense discriminator (after Goodfellow et al. 2014)."""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from .blocks import Shape, constrain_spectrally, normalisation, start_of


class Generator(nn.Module):
    """Dense layers 128-256-512-1024, a dense map to 256 channels at a quarter of the size, two doublings.

    For 28 pixel images that map is 7x7x256. Normalisation and LeakyReLU follow every layer but the last.

    Args:
        z_dim: length of the latent vector.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        norm: normalisation between the layers.
    """

    def __init__(self, z_dim: int, image_shape: Shape, norm: Literal["batch", "layer", "none"] = "batch") -> None:
        super().__init__()
        start_of(image_shape)  # refuses sides that are no multiples of 4
        height, width = (side // 4 for side in image_shape[1:])
        layers: list[nn.Module] = []
        for before, after in pairwise([z_dim, 128, 256, 512, 1024, height * width * 256]):
            layers += [
                nn.Linear(before, after),
                normalisation(norm, after, dense=True),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [
            nn.Unflatten(1, (256, height, width)),
            nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1),
            normalisation(norm, 128),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(128, image_shape[0], 4, stride=2, padding=1),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim)."""
        return self.layers(z)


class Discriminator(nn.Module):
    """Dense layers 1024-512-256-1 with LeakyReLU between them.

    Args:
        image_shape: (C, H, W).
        norm: normalisation of the hidden layers; the article uses none.
    """

    def __init__(self, image_shape: Shape, norm: Literal["batch", "layer", "spectral", "none"] = "none") -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise([math.prod(image_shape), 1024, 512, 256]):
            layers += [
                nn.Linear(before, after),
                normalisation(norm, after, dense=True),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [nn.Linear(256, 1), nn.Flatten(0)]
        self.layers = nn.Sequential(*layers)
        if norm == "spectral":
            constrain_spectrally(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.layers(images)
