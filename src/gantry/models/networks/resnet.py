"""The residual pair of Miyato et al. 2018, Spectral Normalization for GANs, appendix B.4."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from .blocks import (
    DiscriminatorNorm,
    GeneratorNorm,
    Shape,
    constrain_spectrally,
    normalisation,
    start_of,
)

FULL = 128  # pixels of a map's longer side up to which a block has all its channels


def convolution(before: int, after: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """Return a size-preserving convolution, Xavier-initialised as in the reference code (main path: gain sqrt 2)."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def channels_at(width: int, side: int) -> int:
    """Return the channels of a block that works on maps of a longer side of `side` pixels."""
    return max(1, width >> max(0, math.ceil(math.log2(side / FULL))))


class UpBlock(nn.Module):
    """Normalise, ReLU, double, convolve, normalise, ReLU, convolve; the shortcut is doubled and convolved 1x1."""

    def __init__(self, before: int, after: int, norm: GeneratorNorm) -> None:
        super().__init__()
        self.norm1, self.norm2 = normalisation(norm, before), normalisation(norm, after)
        self.conv1 = convolution(before, after, 3, math.sqrt(2))
        self.conv2 = convolution(after, after, 3, math.sqrt(2))
        self.shortcut = convolution(before, after, 1)

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, 2H, 2W); with labels where the normalisations take them."""
        h = self.conv1(interpolate(relu(self.norm1(x, *labels)), scale_factor=2.0))
        h = self.conv2(relu(self.norm2(h, *labels)))
        # A 1x1 convolution and nearest-neighbour doubling commute; convolving first is a quarter of the work.
        return h + interpolate(self.shortcut(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """ReLU, convolve, ReLU, convolve, halve where `down`; the first block of a network starts at its input."""

    def __init__(self, before: int, after: int, norm: DiscriminatorNorm, down: bool, first: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if first else normalisation(norm, before)
        self.norm2 = normalisation(norm, after)
        self.conv1 = convolution(before, after, 3, math.sqrt(2))
        self.conv2 = convolution(after, after, 3, math.sqrt(2))
        self.shortcut = convolution(before, after, 1) if down or before != after else nn.Identity()
        self.down, self.first = down, first

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W), or half of H and W."""
        h = x if self.first else relu(self.norm1(x))
        h = self.conv2(relu(self.norm2(self.conv1(h))))
        if self.down:
            return avg_pool2d(h, 2) + self.shortcut(avg_pool2d(x, 2))
        return h + self.shortcut(x)


class Generator(nn.Module):
    """A dense map to a small start, residual blocks that each double the size, a convolution to the image.

    Args:
        z_dim: length of the latent vector (the paper: 128).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        width: channels of every block up to 128 pixels (the paper: 256 at 32 pixels), halved at each doubling beyond.
        norm: normalisation in the blocks.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 256, norm: GeneratorNorm = "batch") -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = [channels_at(width, max(start) << done) for done in range(count + 1)]
        self.dense = nn.Linear(z_dim, width * start[0] * start[1])
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.start = nn.Unflatten(1, (width, *start))
        self.blocks = nn.Sequential(*[UpBlock(before, after, norm) for before, after in pairwise(channels)])
        self.norm = normalisation(norm, channels[-1])
        self.image = convolution(channels[-1], image_shape[0], 3)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim)."""
        return torch.tanh(self.image(relu(self.norm(self.blocks(self.start(self.dense(z)))))))


class Discriminator(nn.Module):
    """Residual blocks that halve the size while both sides are even and over 8 pixels, two more, a sum, a logit.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels of every block up to 128 pixels (the paper: 128 at 32 pixels), halved at each doubling beyond.
        norm: normalisation in the blocks ("spectral": on the weights of every layer).
    """

    def __init__(self, image_shape: Shape, width: int = 128, norm: DiscriminatorNorm = "spectral") -> None:
        super().__init__()
        start_of(image_shape)  # refuses sides that cannot be halved
        height, wide = image_shape[1] // 2, image_shape[2] // 2
        channels = channels_at(width, max(image_shape[1:]))
        blocks = [DownBlock(image_shape[0], channels, norm, down=True, first=True)]
        while min(height, wide) > 8 and height % 2 == wide % 2 == 0:
            before, channels = channels, channels_at(width, max(height, wide))
            blocks.append(DownBlock(before, channels, norm, down=True))
            height, wide = height // 2, wide // 2
        blocks += [DownBlock(before, width, norm, down=False) for before in (channels, width)]
        self.blocks = nn.Sequential(*blocks)
        self.dense = nn.Linear(width, 1)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        if norm == "spectral":
            constrain_spectrally(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.dense(relu(self.blocks(images)).sum((2, 3))).flatten()
