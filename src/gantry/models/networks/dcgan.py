"""The convolutional pair of Radford et al. 2015, Unsupervised Representation Learning with DCGANs."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .blocks import (
    DiscriminatorNorm,
    FromVector,
    GeneratorNorm,
    Shape,
    ToVector,
    constrain_spectrally,
    normalisation,
    start_of,
)

MOST = 16  # times the width: the channels at the start of 128 pixels; larger images have no more


def initialise(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02), BatchNorm gains from N(1, 0.02), zero biases (Radford et al. 2015, section 4)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            nn.init.zeros_(bias)


def channels_by_depth(width: int, count: int) -> list[int]:
    """Return the channels of `count` layers from the image inwards: `width`, doubled up to `MOST` times of it."""
    return [width * min(2**depth, MOST) for depth in range(count)]


def doubling(channels: Sequence[int], norm: GeneratorNorm, bias: bool = True) -> list[nn.Module]:
    """Return fractionally strided convolutions from each number of channels to the next, normalised and rectified."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=bias),
            normalisation(norm, after),
            nn.ReLU(inplace=True),
        ]
    return layers


def halving(channels: Sequence[int], norm: DiscriminatorNorm, slope: float, bias: bool = True) -> list[nn.Module]:
    """Return strided convolutions from each number of channels to the next, normalised, with a leaky rectifier."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=bias),
            normalisation(norm, after),
            nn.LeakyReLU(slope, inplace=True),
        ]
    return layers


class Generator(nn.Module):
    """Fractionally strided convolutions from a small start (see `start_of`), doubling size and halving channels.

    Args:
        z_dim: length of the latent vector.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        width: channels before the last layer, 64 in most ports (the paper: 128).
        norm: normalisation between the layers.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 64, norm: GeneratorNorm = "batch") -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = channels_by_depth(width, count)[::-1]
        layers: list[nn.Module] = [
            nn.Unflatten(1, (z_dim, 1, 1)),
            FromVector(z_dim, channels[0], start, bias=norm == "none"),
            normalisation(norm, channels[0]),
            nn.ReLU(inplace=True),
        ]
        layers += doubling(channels, norm, bias=norm == "none")
        layers += [nn.ConvTranspose2d(channels[-1], image_shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim)."""
        return self.layers(z)


class Discriminator(nn.Module):
    """Strided convolutions, halving size and doubling channels, down to one logit an image.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels after the first layer.
        norm: normalisation, on all but the first and the last layer ("spectral": on the weights of every layer).
    """

    def __init__(self, image_shape: Shape, width: int = 64, norm: DiscriminatorNorm = "batch") -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = channels_by_depth(width, count)
        layers: list[nn.Module] = [
            nn.Conv2d(image_shape[0], channels[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        layers += halving(channels, norm, bias=norm in ("none", "spectral"), slope=0.2)
        layers += [ToVector(channels[-1], 1, start), nn.Flatten(0)]
        self.layers = nn.Sequential(*layers)
        initialise(self)
        if norm == "spectral":
            constrain_spectrally(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.layers(images)
