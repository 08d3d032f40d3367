"""What the pairs of SAGAN and BigGAN share: residual blocks with self-attention, and channels by the image's size."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from .attention import SelfAttention, place
from .blocks import Shape, UnsupportedError, start_of
from .resnet import DownBlock, UpBlock, convolution

Initialisation = Literal["orthogonal", "normal", "xavier"]
# By the number of doublings of a generator (32 pixels: 3), times the width: its channels at the start and after each
# block, and those after each block of a discriminator. From 32 to 256 pixels they are those of BigGAN.py of the
# official code, which has no discriminator for 512; that one is of PyTorch-StudioGAN (big_resnet.py).
GENERATOR = {
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (16, 16, 8, 4, 2),
    5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1),
    7: (16, 16, 8, 8, 4, 2, 1, 1),
}
DISCRIMINATOR = {
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}
SPECTRAL_EPS = 1e-8  # the default of the official utils.py; its script for ImageNet says 1e-6


class ModulatedBatchNorm(nn.Module):
    """BatchNorm whose gain is 1 + f(c) and whose bias is h(c), of a condition c (BigGAN's layers.py, `ccbn`).

    Args:
        channels: of the activations.
        maps: makes f and h, which map conditions to (B, channels): embeddings of labels, or linear maps of vectors.
    """

    def __init__(self, channels: int, maps: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = maps(), maps()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W) and a condition, (B,) or (B, D), to the shape and the precision of x."""
        gain, bias = (one(condition)[..., None, None] for one in (self.gain, self.bias))
        return (self.norm(x) * (1 + gain) + bias).to(x.dtype)


class ResidualGenerator(nn.Module):
    """A dense map to a small start, residual blocks that double the size, self-attention after one, an image.

    Args:
        inputs: length of the vector that the dense map takes.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        width: channels, times those of `GENERATOR`.
        attention: self-attention follows the block whose map is the largest of at most so many pixels, and of at most
            half the image's; None: none.
        norm: makes the normalisation in a block of so many channels, by the block's index, counted from 0.
    """

    def __init__(
        self, inputs: int, image_shape: Shape, width: int, attention: int | None, norm: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = [width * times for times in GENERATOR[count]]
        self.dense = nn.Linear(inputs, channels[0] * start[0] * start[1])
        self.start = nn.Unflatten(1, (channels[0], *start))
        self.blocks = nn.ModuleList()
        for index, (before, after) in enumerate(pairwise(channels)):
            block = UpBlock(before, after, "none")
            block.norm1, block.norm2 = norm(index, before), norm(index, after)
            self.blocks.append(block)
        self.place = place([max(start) << done for done in range(1, count)], attention)
        if self.place is not None:
            self.attention = SelfAttention(channels[self.place + 1])
        self.norm = nn.BatchNorm2d(channels[-1])
        self.image = convolution(channels[-1], image_shape[0], 3)

    def images(self, vectors: Tensor, conditions: Iterable[tuple[Tensor, ...]]) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from vectors (B, inputs), and for each block what its norms take."""
        h = self.start(self.dense(vectors))
        for index, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            h = block(h, *condition)
            if index == self.place:
                h = self.attention(h)
        return torch.tanh(self.image(relu(self.norm(h))))


class ResidualDiscriminator(nn.Module):
    """Residual blocks of which all but the last halve the size, with self-attention after one, and their sum.

    Below four doublings of a generator (images of up to 32 pixels) the blocks halve while both sides are even and over
    8 pixels, and two more follow; all have SMALL times the width.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels, times those of `DISCRIMINATOR`.
        attention: as of `ResidualGenerator`.
    """

    SMALL: ClassVar[int] = 4

    def __init__(self, image_shape: Shape, width: int, attention: int | None) -> None:
        super().__init__()
        count, (before, *sides) = start_of(image_shape)[1], image_shape
        if count in DISCRIMINATOR:
            times, halved = DISCRIMINATOR[count], count
        else:
            halved = 1
            while min(sides) >> halved > 8 and all((side >> halved) % 2 == 0 for side in sides):
                halved += 1
            times = (self.SMALL,) * (halved + 2)
        self.blocks = nn.ModuleList()
        for index, after in enumerate(width * factor for factor in times):
            self.blocks.append(DownBlock(before, after, "none", down=index < halved, first=index == 0))
            before = after
        self.place = place([max(sides) >> done for done in range(1, halved + 1)], attention)
        if self.place is not None:
            self.attention = SelfAttention(width * times[self.place])
        self.width = before  # of the features

    def features(self, images: Tensor) -> Tensor:
        """Features (B, width) of images (B, C, H, W)."""
        h = images
        for index, block in enumerate(self.blocks):
            h = block(h)
            if index == self.place:
                h = self.attention(h)
        return relu(h).sum((2, 3))


def initialise(network: nn.Module, initialisation: Initialisation) -> None:
    """Draw the weights of all convolutions, dense layers and embeddings.

    "orthogonal" (Brock et al. 2019) and "normal", N(0, 0.02), leave biases at PyTorch's default, as the official code
    of BigGAN does. "xavier" makes them 0, and class-conditional gains 1, as the official code of SAGAN does.

    Raises:
        UnsupportedError: it is none of these.
    """
    if initialisation not in get_args(Initialisation):
        raise UnsupportedError(
            f"initialisation: {initialisation!r} is not one of {', '.join(get_args(Initialisation))}"
        )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            module.reset_parameters()
            match initialisation:
                case "orthogonal":
                    nn.init.orthogonal_(module.weight)
                case "normal":
                    nn.init.normal_(module.weight, 0.0, 0.02)
                case "xavier":
                    nn.init.xavier_uniform_(module.weight)
                    if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
                        nn.init.zeros_(bias)
    if initialisation == "xavier":
        for module in network.modules():
            if isinstance(module, ModulatedBatchNorm):
                for weight in module.parameters():
                    nn.init.zeros_(weight)
