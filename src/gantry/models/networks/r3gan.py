"""The networks of Huang et al. 2024, The GAN is dead; long live the GAN! A Modern Baseline GAN, section 4.

Residual blocks of grouped convolutions without normalisation. The defaults are those of the official code for CIFAR-10
(preset CIFAR10, z_dim 64): 20,732,160 weights in the generator and 20,683,776 in the discriminator; with ten classes
20,781,952 and 21,280,512. The official code computes all stages but that of the smallest maps in bfloat16; here
`trainer.precision` decides for the whole network.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from .blocks import Shape, UnsupportedError, start_of
from .conditional import ClassEmbedding
from .resample import Downsample, Upsample

PerStage = int | Sequence[int]  # one number for all stages, or one for each, from the smallest maps to the image's size
SLOPE = 0.2
GROUP = 16  # channels of a group of a grouped convolution, where the cardinality is not given


def draw(weight: Tensor, gain: float = 1.0) -> None:
    """Draw a weight (out, in, ...) from N(0, gain^2 / fan-in) (He et al. 2015, Delving Deep into Rectifiers)."""
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


class Block(nn.Module):
    """A 1x1 convolution to more channels, a grouped 3x3 convolution, a 1x1 convolution back, and the shortcut.

    The last convolution starts at zero, so that the block starts as the identity; `depth` blocks in a row start with
    the gain of Zhang et al. 2019, Fixup Initialization, for branches of three layers.

    Args:
        width: channels of its input and output.
        expansion: times as many channels between the convolutions.
        cardinality: groups of the 3x3 convolution.
        depth: number of blocks of the network.
    """

    def __init__(self, width: int, expansion: int, cardinality: int, depth: int) -> None:
        super().__init__()
        inner = width * expansion
        if inner % cardinality:
            raise UnsupportedError(
                f"cardinality: {cardinality} groups do not divide width * expansion = {width} * {expansion} channels"
            )
        self.widen = nn.Conv2d(width, inner, 1)
        self.grouped = nn.Conv2d(inner, inner, 3, padding=1, groups=cardinality)
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)
        for layer in (self.widen, self.grouped):
            draw(layer.weight, math.sqrt(2 / (1 + SLOPE**2)) * depth**-0.25)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        h = leaky_relu(self.widen(x), SLOPE, inplace=True)
        return x + self.narrow(leaky_relu(self.grouped(h), SLOPE, inplace=True))


class Stage(NamedTuple):
    """The blocks that work on maps of one size."""

    width: int
    blocks: list[nn.Module]


def stages_of(
    count: int, width: PerStage, cardinality: PerStage | None, expansion: int, blocks: PerStage
) -> list[Stage]:
    """Return `count` stages, that of the smallest maps first.

    Raises:
        UnsupportedError: a sequence has another length, or a cardinality divides no number of channels.
    """
    widths, numbers = _each("width", width, count), _each("blocks", blocks, count)
    if cardinality is None:
        groups = [most_groups(width * expansion) for width in widths]
    else:
        groups = _each("cardinality", cardinality, count)
    depth = sum(numbers)
    return [
        Stage(width, [Block(width, expansion, cardinality, depth) for _ in range(number)])
        for width, cardinality, number in zip(widths, groups, numbers, strict=True)
    ]


def most_groups(channels: int) -> int:
    """Return the largest number of equal groups of at least `GROUP` channels; 1 where there are fewer channels."""
    return max((count for count in range(1, channels // GROUP + 1) if channels % count == 0), default=1)


def _each(name: str, value: PerStage, count: int) -> list[int]:
    if isinstance(value, int):
        return [value] * count
    if len(value) != count:
        raise UnsupportedError(
            f"{name}: {list(value)} has {len(value)} numbers, but images of this size take {count} stages; "
            f"give one number for all, or {count}"
        )
    return list(value)


def resized(resampler: nn.Module, before: int, after: int) -> list[nn.Module]:
    """Return a resampler and, where the number of channels changes, a 1x1 convolution on its side of smaller maps."""
    if before == after:
        return [resampler]
    convolution = nn.Conv2d(before, after, 1, bias=False)
    draw(convolution.weight)
    return [convolution, resampler] if isinstance(resampler, Upsample) else [resampler, convolution]


def chained(stages: Sequence[Stage], resampler: Callable[[], nn.Module]) -> nn.Sequential:
    """Return the blocks of the stages in turn, with a resampler between two stages."""
    layers = [*stages[0].blocks]
    for before, after in pairwise(stages):
        layers += [*resized(resampler(), before.width, after.width), *after.blocks]
    return nn.Sequential(*layers)


class Generator(nn.Module):
    """A basis of maps weighted by the latents, stages of blocks with a doubling between them, a 1x1 convolution.

    Args:
        z_dim: length of the latent vector (the paper: 64).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides; a stage follows each doubling.
        width: channels of the stages (32 pixels: 768; 64: 768, and 384 at the last stage).
        cardinality: groups of the 3x3 convolutions; None: as many as have 16 channels or more (96 of 1536 channels).
        expansion: times as many channels between the convolutions of a block.
        blocks: number of a stage's blocks.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        width: PerStage = 768,
        cardinality: PerStage | None = None,
        expansion: int = 2,
        blocks: PerStage = 2,
    ) -> None:
        super().__init__()
        start, count = start_of(image_shape)
        stages = stages_of(count + 1, width, cardinality, expansion, blocks)
        self.weights = nn.Linear(z_dim, stages[0].width, bias=False)
        self.basis = nn.Parameter(torch.empty(stages[0].width, *start))
        self.layers = chained(stages, Upsample)
        self.image = nn.Conv2d(stages[-1].width, image_shape[0], 1, bias=False)
        nn.init.normal_(self.basis)
        draw(self.weights.weight)
        draw(self.image.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W), about in [-1, 1], from latents (B, z_dim); the last layer is linear."""
        return self.image(self.layers(self.basis * self.weights(z)[:, :, None, None]))


class ConditionalGenerator(nn.Module):
    """A `Generator` of latents with an embedding of the class behind them.

    Args:
        z_dim, image_shape, width, cardinality, expansion, blocks: see `Generator`.
        n_classes: number of classes.
        embedding: length of a class's vector.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        n_classes: int,
        embedding: int = 64,
        width: PerStage = 768,
        cardinality: PerStage | None = None,
        expansion: int = 2,
        blocks: PerStage = 2,
    ) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(n_classes, embedding)
        nn.init.normal_(self.embedding.weight, 0.0, 1 / math.sqrt(n_classes))
        self.network = Generator(z_dim + embedding, image_shape, width, cardinality, expansion, blocks)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W), about in [-1, 1], from latents (B, z_dim) and labels (`ClassEmbedding`)."""
        return self.network(torch.cat([z, self.embedding(labels)], 1))


class Trunk(nn.Module):
    """The generator's stages in reverse: a 1x1 convolution, stages with a halving between them, a basis, a linear map.

    Args:
        image_shape, width, cardinality, expansion, blocks: see `Generator`; numbers by stage in the same order.
        features: outputs; None: as many as the stage of the smallest maps has channels.
    """

    def __init__(
        self,
        image_shape: Shape,
        width: PerStage,
        cardinality: PerStage | None,
        expansion: int,
        blocks: PerStage,
        features: int | None = None,
    ) -> None:
        super().__init__()
        start, count = start_of(image_shape)
        stages = stages_of(count + 1, width, cardinality, expansion, blocks)[::-1]
        self.image = nn.Conv2d(image_shape[0], stages[0].width, 1, bias=False)
        self.layers = chained(stages, Downsample)
        channels = stages[-1].width
        self.features = channels if features is None else features
        self.basis = nn.Parameter(torch.empty(channels, *start))
        self.weights = nn.Linear(channels, self.features, bias=False)
        for weight in (self.image.weight, self.basis, self.weights.weight):
            draw(weight)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features)."""
        return self.weights((self.layers(self.image(images)) * self.basis).sum((2, 3)))


class Discriminator(nn.Module):
    """A `Trunk` with a logit.

    Args:
        image_shape, width, cardinality, expansion, blocks: see `Generator`; numbers by stage in the same order.
    """

    def __init__(
        self,
        image_shape: Shape,
        width: PerStage = 768,
        cardinality: PerStage | None = None,
        expansion: int = 2,
        blocks: PerStage = 2,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(image_shape, width, cardinality, expansion, blocks, features=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.trunk(images).flatten()


class ConditionalDiscriminator(nn.Module):
    """The inner product of a `Trunk`'s features and an embedding of the class (Miyato and Koyama 2018).

    The official code draws an embedding's values from N(0, 1 / (n_classes * features)), and divides by nothing later.

    Args:
        image_shape, width, cardinality, expansion, blocks: see `Generator`; numbers by stage in the same order.
        n_classes: number of classes.
    """

    def __init__(
        self,
        image_shape: Shape,
        n_classes: int,
        width: PerStage = 768,
        cardinality: PerStage | None = None,
        expansion: int = 2,
        blocks: PerStage = 2,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(image_shape, width, cardinality, expansion, blocks)
        self.embedding = ClassEmbedding(n_classes, self.trunk.features)
        nn.init.normal_(self.embedding.weight, 0.0, 1 / math.sqrt(n_classes * self.trunk.features))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W) with labels (`ClassEmbedding`)."""
        return (self.trunk(images) * self.embedding(labels)).sum(1)
