"""The pair of Brock et al. 2019, Large Scale GAN Training for High Fidelity Natural Image Synthesis, in two forms.

The full one has the paper's shared embedding, hierarchical latents, self-attention and orthogonal initialisation. The
one of the official script for CIFAR-10 (scripts/launch_cifar_ema.sh) has none of them: `width` 64,
`shared_dim` and `attention` None, `hierarchical` false, `initialisation` normal.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .big_resnet import (
    SPECTRAL_EPS,
    Initialisation,
    ModulatedBatchNorm,
    ResidualDiscriminator,
    ResidualGenerator,
    initialise,
)
from .blocks import Output, Shape, UnsupportedError, constrain_spectrally, start_of
from .conditional import ClassEmbedding, LabelHead

Condition = Literal["projection", "classifier", "embedding"]


class Generator(ResidualGenerator):
    """The generator, with spectral normalisation of all weights but embeddings.

    Args:
        z_dim: length of the latent vector (the paper: 120 at 128 pixels; the script: 128).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        n_classes: number of classes.
        width: channels, times those of `big_resnet.GENERATOR`: at 32 pixels 4 times it (the paper: 96).
        shared_dim: length of the classes' vectors of which each BatchNorm has linear maps; None: each BatchNorm has
            embeddings of its own.
        hierarchical: the dense map and each block take a part of the latent vector of their own, as equal ones as
            possible, the first ones the longer; a block's is joined to the class's vector.
        attention: self-attention follows the block whose map is the largest of at most so many pixels, and of at most
            half the image's; None: none.
        initialisation: of the weights, see `initialise`.

    Raises:
        UnsupportedError: hierarchical latents without a shared embedding, or with fewer values than parts; or sizes or
            an initialisation that are not supported.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        n_classes: int,
        width: int = 96,
        shared_dim: int | None = 128,
        hierarchical: bool = True,
        attention: int | None = 64,
        initialisation: Initialisation = "orthogonal",
    ) -> None:
        parts = parts_of(z_dim, start_of(image_shape)[1] + 1) if hierarchical else [z_dim]
        if hierarchical and shared_dim is None:
            raise UnsupportedError("hierarchical: needs a shared embedding: shared_dim=128, say, or hierarchical=false")

        def norm(index: int, channels: int) -> nn.Module:
            if shared_dim is None:
                return ModulatedBatchNorm(channels, lambda: ClassEmbedding(n_classes, channels))
            inputs = shared_dim + (parts[index + 1] if hierarchical else 0)
            return ModulatedBatchNorm(channels, lambda: nn.Linear(inputs, channels, bias=False))

        super().__init__(parts[0], image_shape, width, attention, norm)
        self.parts = parts
        self.shared = None if shared_dim is None else ClassEmbedding(n_classes, shared_dim)
        initialise(self, initialisation)
        constrain_spectrally(self, eps=SPECTRAL_EPS)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim) and labels (B,) or (B, n_classes)."""
        first, *rest = z.split(self.parts, 1)
        condition = labels if self.shared is None else self.shared(labels)
        if not rest:
            return self.images(first, [(condition,)] * len(self.blocks))
        return self.images(first, [(torch.cat([condition, part], 1),) for part in rest])


class Discriminator(ResidualDiscriminator):
    """The discriminator, with spectral normalisation of all weights; its features are (B, F).

    The logit is a linear map of the features plus their inner product with an embedding of the label
    (Miyato and Koyama 2018, cGANs with Projection Discriminator, equation 6). Without that product it has the heads of
    `LabelHead`, as PyTorch-StudioGAN's BigGAN has for ReACGAN.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        n_classes: number of classes.
        width: channels, times those of `big_resnet.DISCRIMINATOR`; up to 32 pixels 4 times it (the paper: 96).
        attention: as of the generator.
        initialisation: of the weights, see `initialise`.
        condition: how the label enters, see `LabelHead`.
        embedding_dim: length of its embeddings.
    """

    def __init__(
        self,
        image_shape: Shape,
        n_classes: int,
        width: int = 96,
        attention: int | None = 64,
        initialisation: Initialisation = "orthogonal",
        condition: Condition = "projection",
        embedding_dim: int = 512,
    ) -> None:
        super().__init__(image_shape, width, attention)
        if condition not in get_args(Condition):
            raise UnsupportedError(f"condition: {condition!r} is not one of {', '.join(get_args(Condition))}")
        self.dense = nn.Linear(self.width, 1)
        if condition == "projection":
            self.embedding = ClassEmbedding(n_classes, self.width)
        else:
            self.head = LabelHead(self.width, n_classes, condition, embedding_dim, False, nn.init.zeros_)
        initialise(self, initialisation)
        constrain_spectrally(self, embeddings=True, eps=SPECTRAL_EPS)

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        """Logits (B,), features and heads of images (B, C, H, W) and labels (B,) or (B, n_classes)."""
        features = self.features(images)
        logits = self.dense(features).flatten()
        if hasattr(self, "head"):
            return self.head(logits, features, labels)
        return Output(logits + (self.embedding(labels) * features).sum(1), features)


def parts_of(z_dim: int, count: int) -> list[int]:
    """Return the lengths of `count` parts of a latent vector, as equal as possible, the first ones the longer.

    Raises:
        UnsupportedError: it has fewer values than parts.
    """
    if z_dim < count:
        raise UnsupportedError(f"model.z_dim: hierarchical latents have {count} parts here, so at least {count}")
    return [z_dim // count + (index < z_dim % count) for index in range(count)]
