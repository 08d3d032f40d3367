"""The pair of `dcgan` with labels."""

from functools import partial
from math import prod

from torch import Tensor, nn

from .blocks import DiscriminatorNorm, GeneratorNorm, Output, Shape, start_of
from .conditional import (
    DiscriminatorCondition,
    GeneratorCondition,
    LabelHead,
    condition_on_labels,
    joined,
    judge,
    through,
    with_labels,
)
from .dcgan import Discriminator, Generator, channels_by_depth


class ConditionalGenerator(Generator):
    """`dcgan.Generator` of images of a class.

    Args:
        z_dim: length of the latent vector.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        n_classes: number of classes.
        width: channels before the last layer.
        norm: normalisation between the layers.
        condition: "concat" joins one-hot labels to the latent vector (Mirza and Osindero 2014, Conditional Generative
            Adversarial Nets, section 3.2); "batch_norm" makes each BatchNorm class-conditional.

    Raises:
        UnsupportedError: the condition is none of these, or is batch_norm where `norm` is not batch.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        n_classes: int,
        width: int = 64,
        norm: GeneratorNorm = "batch",
        condition: GeneratorCondition = "concat",
    ) -> None:
        super().__init__(z_dim + joined(condition, n_classes), image_shape, width, norm)
        self.n_classes, self.condition = n_classes, condition
        condition_on_labels(self, condition, n_classes)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim) and labels (B,) or (B, n_classes)."""
        if self.condition == "concat":
            z = with_labels(z, labels, self.n_classes)
        return through(self.layers, z, labels)


class ConditionalDiscriminator(Discriminator):
    """`dcgan.Discriminator` that judges images together with their labels.

    Its features are those that the last convolution sees, flattened: (B, C h w) of h x w maps at the generator's start.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        n_classes: number of classes.
        width: channels after the first layer.
        norm: normalisation, on all but the first and the last layer ("spectral": on the weights of every layer).
        condition: "concat" joins one-hot labels to the image, as maps; for the others see `LabelHead`.
        embedding_dim: length of the vectors of "embedding".

    Raises:
        UnsupportedError: the condition is none of these.
    """

    def __init__(
        self,
        image_shape: Shape,
        n_classes: int,
        width: int = 64,
        norm: DiscriminatorNorm = "batch",
        condition: DiscriminatorCondition = "concat",
        embedding_dim: int = 512,
    ) -> None:
        channels, height, wide = image_shape
        super().__init__((channels + joined(condition, n_classes), height, wide), width, norm)
        self.n_classes, self.condition = n_classes, condition
        start, count = start_of(image_shape)
        features = channels_by_depth(width, count)[-1] * prod(start)
        draw = partial(nn.init.normal_, std=0.02)  # as all weights of the network
        self.head = LabelHead(features, n_classes, condition, embedding_dim, norm == "spectral", draw)

    def forward(self, images: Tensor, labels: Tensor) -> Output:  # type: ignore[override]
        """Logits (B,), features and heads of images (B, C, H, W) and labels (B,) or (B, n_classes)."""
        if self.condition == "concat":
            images = with_labels(images, labels, self.n_classes)
        return judge(self.layers, self.head, images, labels)
