"""The pair of `resnet` with labels: by default that of Miyato and Koyama 2018, cGANs with Projection Discriminator.

Without the bias of the logit it has the layers and the initial weights of the paper's official code for CIFAR-10.
"""

from torch import Tensor, nn

from .blocks import DiscriminatorNorm, GeneratorNorm, Output, Shape
from .conditional import (
    DiscriminatorCondition,
    GeneratorCondition,
    LabelHead,
    condition_on_labels,
    joined,
    with_labels,
)
from .resnet import Discriminator, Generator


class ConditionalGenerator(Generator):
    """`resnet.Generator` of images of a class.

    Args:
        z_dim: length of the latent vector (the paper: 128).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        n_classes: number of classes.
        width: channels of every block up to 128 pixels (the paper: 256 at 32 pixels), halved at each doubling beyond.
        norm: normalisation in the blocks.
        condition: "batch_norm" makes each BatchNorm of the blocks class-conditional, as the paper does, not the last
            one before the image; "concat" joins one-hot labels to the latent vector.

    Raises:
        UnsupportedError: the condition is none of these, or is batch_norm where `norm` is not batch.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        n_classes: int,
        width: int = 256,
        norm: GeneratorNorm = "batch",
        condition: GeneratorCondition = "batch_norm",
    ) -> None:
        super().__init__(z_dim + joined(condition, n_classes), image_shape, width, norm)
        self.n_classes, self.condition = n_classes, condition
        condition_on_labels(self.blocks, condition, n_classes)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim) and labels (B,) or (B, n_classes)."""
        if self.condition == "concat":
            return super().forward(with_labels(z, labels, self.n_classes))
        h = self.start(self.dense(z))
        for block in self.blocks:
            h = block(h, labels)
        return self.to_image(h)


class ConditionalDiscriminator(Discriminator):
    """`resnet.Discriminator` that judges images together with their labels; its features are (B, width).

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        n_classes: number of classes.
        width: channels of every block up to 128 pixels (the paper: 128 at 32 pixels), halved at each doubling beyond.
        norm: normalisation in the blocks ("spectral": on the weights of every layer).
        condition: "concat" joins one-hot labels to the image, as maps; for the others see `LabelHead`.
        embedding_dim: length of the vectors of "embedding".
        bias: of the logit (the official code has none).

    Raises:
        UnsupportedError: the condition is none of these.
    """

    def __init__(
        self,
        image_shape: Shape,
        n_classes: int,
        width: int = 128,
        norm: DiscriminatorNorm = "spectral",
        condition: DiscriminatorCondition = "projection",
        embedding_dim: int = 512,
        bias: bool = True,
    ) -> None:
        channels, height, wide = image_shape
        super().__init__((channels + joined(condition, n_classes), height, wide), width, norm, bias)
        self.n_classes, self.condition = n_classes, condition
        draw = nn.init.xavier_uniform_
        self.head = LabelHead(width, n_classes, condition, embedding_dim, norm == "spectral", draw)

    def forward(self, images: Tensor, labels: Tensor) -> Output:  # type: ignore[override]
        """Logits (B,), features and heads of images (B, C, H, W) and labels (B,) or (B, n_classes)."""
        if self.condition == "concat":
            images = with_labels(images, labels, self.n_classes)
        features = self.features(images)
        return self.head(self.dense(features).flatten(), features, labels)
