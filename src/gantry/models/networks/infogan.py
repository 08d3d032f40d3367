"""The networks of Chen et al. 2016 for MNIST (InfoGAN, appendix C.1), as the official code has them."""

from itertools import pairwise
from math import prod

from torch import Tensor, nn

from .blocks import DiscriminatorNorm, GeneratorNorm, Shape, constrain_spectrally, normalisation, start_of
from .dcgan import channels_by_depth, doubling, halving, initialise

LEAK = 0.01  # of the official code; the paper says 0.1
DENSE = 16  # times the width: the dense layer


class Generator(nn.Module):
    """A dense layer, a dense map to a small start (see `start_of`), and fractionally strided convolutions.

    Args:
        z_dim: length of the latent vector.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        width: channels before the last layer, 64 in the paper; the dense layer has 16 times as many.
        norm: normalisation between the layers: batch, layer or none.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 64, norm: GeneratorNorm = "batch") -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = channels_by_depth(width, count)[::-1]
        layers: list[nn.Module] = []
        for before, after in pairwise([z_dim, DENSE * width, channels[0] * prod(start)]):
            layers += [nn.Linear(before, after), normalisation(norm, after, dense=True), nn.ReLU(inplace=True)]
        layers += [nn.Unflatten(1, (channels[0], *start))]
        layers += doubling(channels, norm)
        layers += [nn.ConvTranspose2d(channels[-1], image_shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim); the official code's lie in (0, 1)."""
        return self.layers(z)


class Discriminator(nn.Module):
    """Strided convolutions, a dense layer, and a logit.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels after the first layer; the dense layer has 16 times as many.
        norm: normalisation, on all but the first and the last layer: batch, layer, none, or spectral, on the weights of
            every layer.
    """

    def __init__(self, image_shape: Shape, width: int = 64, norm: DiscriminatorNorm = "batch") -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = channels_by_depth(width, count)
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], channels[0], 4, stride=2, padding=1)]
        layers += [nn.LeakyReLU(LEAK, inplace=True)]
        layers += halving(channels, norm, slope=LEAK)
        layers += [
            nn.Flatten(),
            nn.Linear(channels[-1] * prod(start), DENSE * width),
            normalisation(norm, DENSE * width, dense=True),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Linear(DENSE * width, 1),
            nn.Flatten(0),
        ]
        self.layers = nn.Sequential(*layers)
        initialise(self)
        if norm == "spectral":
            constrain_spectrally(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.layers(images)
