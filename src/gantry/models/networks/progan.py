"""The networks of Karras et al. 2018, Progressive Growing of GANs for Improved Quality, Stability, and Variation.

The defaults are those of the official TensorFlow code: at 32 pixels 512 channels everywhere. A level of detail says for
which size the networks work (`growing`). Images begin with 4 pixels a side, or with 5 to 31 where the side has no more
factors of two. The minibatch standard deviation is that of neighbours in the batch, so that ranks whose shares are
multiples of a group have the groups of one process; the official code takes each n/4-th of n images, whose order is
random.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

from .blocks import Shape, start_of
from .equalised import SLOPE, EqualisedLinear, ScaledConv2d, normalised, with_deviation
from .growing import Growing, enlarged, shrunk

HE = math.sqrt(2)  # gain of a layer before a rectifier (He et al. 2015, Delving Deep into Rectifiers)


def channels_at(width: int, fmap_base: int, side: float) -> int:
    """Return the channels of maps with a longer side of `side` pixels: `width`, or fewer in large maps."""
    return max(1, min(width, int(2 * fmap_base / side)))


class FromLatent(nn.Module):
    """A dense layer to maps, with a bias for each channel: (B, z_dim) to (B, channels, H, W).

    It is scaled as a transposed convolution whose kernel has the maps' size, which at 4 x 4 pixels is the gain of
    sqrt(2) / 4 of the official code.

    Args:
        z_dim: length of a latent.
        channels, height, width: of the maps.
    """

    def __init__(self, z_dim: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (channels, height, width)
        self.scale = HE / math.sqrt(z_dim * height * width)
        self.weight = nn.Parameter(torch.empty(channels * height * width, z_dim))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        nn.init.normal_(self.weight)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_dim) to (B, channels, H, W)."""
        return linear(z, self.scale * self.weight).unflatten(1, self.shape) + self.bias


class GeneratorBlock(nn.Module):
    """Two convolutions, the first of doubled maps: (B, before, H, W) to (B, after, 2H, 2W)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = ScaledConv2d(before, after, 3, HE)
        self.second = ScaledConv2d(after, after, 3, HE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, 2H, 2W)."""
        return rectified(self.second(rectified(self.first(enlarged(x, 2)))))


class DiscriminatorBlock(nn.Module):
    """Two convolutions, after the second of which maps are halved: (B, before, H, W) to (B, after, H/2, W/2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = ScaledConv2d(before, before, 3, HE)
        self.second = ScaledConv2d(before, after, 3, HE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H/2, W/2)."""
        x = self.second(leaky_relu(self.first(x), SLOPE))
        return leaky_relu(shrunk(x, 2), SLOPE)


class Generator(Growing):
    """Latents of length sqrt(z_dim) to images, with each pixel's features normalised after each layer.

    Args:
        z_dim: length of the latent vector (official code: as many as `width`).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        width: channels of the smaller maps.
        fmap_base: maps have at most this, divided by half their side, channels.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 512, fmap_base: int = 8192) -> None:
        start, count = start_of(image_shape)
        super().__init__(count)
        channels = [channels_at(width, fmap_base, max(start) << done) for done in range(count + 1)]
        self.start = FromLatent(z_dim, channels[0], *start)
        self.first = ScaledConv2d(channels[0], channels[0], 3, HE)
        self.blocks = nn.ModuleList([GeneratorBlock(*channels[done : done + 2]) for done in range(count)])
        self.to_image = nn.ModuleList([ScaledConv2d(each, image_shape[0], 1) for each in channels])

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W), about in [-1, 1], from latents (B, z_dim); the last layer is linear."""
        x = before = rectified(self.first(rectified(self.start(normalised(z)))))
        grown = self.levels - self.level
        for block in self.blocks[:grown]:
            before, x = x, block(x)
        images: Tensor = self.to_image[grown](x)
        if self.fades:
            images = self.mixed(images, enlarged(self.to_image[grown - 1](before), 2))
        return enlarged(images, 2**self.level)


class Discriminator(Growing):
    """Images to a logit, which depends on the other images of the batch by their standard deviation.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels of the smaller maps.
        fmap_base: maps have at most this, divided by half their side, channels.
        group: images of which a standard deviation is computed.
    """

    def __init__(self, image_shape: Shape, width: int = 512, fmap_base: int = 8192, group: int = 4) -> None:
        start, count = start_of(image_shape)
        super().__init__(count)
        self.group = group
        channels = [channels_at(width, fmap_base, max(start) << done) for done in range(count + 1)]
        self.from_image = nn.ModuleList([ScaledConv2d(image_shape[0], each, 1, HE) for each in channels])
        self.blocks = nn.ModuleList([DiscriminatorBlock(channels[n + 1], channels[n]) for n in range(count)])
        self.last = ScaledConv2d(channels[0] + 1, channels[0], 3, HE)
        features = channels_at(width, fmap_base, max(start) / 2)
        self.dense = EqualisedLinear(channels[0] * start[0] * start[1], features, gain=HE)
        self.out = EqualisedLinear(features, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        images = shrunk(images, 2**self.level)
        grown = self.levels - self.level
        x = leaky_relu(self.from_image[grown](images), SLOPE)
        for number in reversed(range(grown)):
            x = self.blocks[number](x)
            if self.fades and number == grown - 1:
                x = self.mixed(x, leaky_relu(self.from_image[number](shrunk(images, 2)), SLOPE))
        x = leaky_relu(self.last(with_deviation(x, self.group, neighbours=True)), SLOPE)
        return self.out(leaky_relu(self.dense(x.flatten(1)), SLOPE)).flatten()


def rectified(x: Tensor) -> Tensor:
    """Return LeakyReLU(x) (B, C, H, W), with the mean square of each pixel's features made 1."""
    return normalised(leaky_relu(x, SLOPE))
