"""The pair of `mlp` with labels."""

from math import prod
from typing import Literal

from torch import Tensor, nn

from .blocks import Output, Shape
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
from .mlp import Discriminator, Generator


class ConditionalGenerator(Generator):
    """`mlp.Generator` of images of a class.

    Args:
        z_dim: length of the latent vector.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        n_classes: number of classes.
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
        norm: Literal["batch", "layer", "none"] = "batch",
        condition: GeneratorCondition = "concat",
    ) -> None:
        super().__init__(z_dim + joined(condition, n_classes), image_shape, norm)
        self.n_classes, self.condition = n_classes, condition
        condition_on_labels(self, condition, n_classes)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim) and labels (B,) or (B, n_classes)."""
        if self.condition == "concat":
            z = with_labels(z, labels, self.n_classes)
        return through(self.layers, z, labels)


class ConditionalDiscriminator(Discriminator):
    """`mlp.Discriminator` that judges images together with their labels; its features are (B, 256).

    Args:
        image_shape: (C, H, W).
        n_classes: number of classes.
        norm: normalisation of the hidden layers.
        condition: "concat" joins one-hot labels to the flattened image; for the others see `LabelHead`.
        embedding_dim: length of the vectors of "embedding".

    Raises:
        UnsupportedError: the condition is none of these.
    """

    def __init__(
        self,
        image_shape: Shape,
        n_classes: int,
        norm: Literal["batch", "layer", "spectral", "none"] = "none",
        condition: DiscriminatorCondition = "concat",
        embedding_dim: int = 512,
    ) -> None:
        super().__init__((prod(image_shape) + joined(condition, n_classes), 1, 1), norm)
        self.n_classes, self.condition = n_classes, condition
        draw = nn.init.xavier_uniform_
        self.head = LabelHead(256, n_classes, condition, embedding_dim, norm == "spectral", draw)

    def forward(self, images: Tensor, labels: Tensor) -> Output:  # type: ignore[override]
        """Logits (B,), features and heads of images (B, C, H, W) and labels (B,) or (B, n_classes)."""
        images = images.flatten(1)
        if self.condition == "concat":
            images = with_labels(images, labels, self.n_classes)
        return judge(self.layers, self.head, images, labels)
