"""The pair of Zhang et al. 2019, Self-Attention Generative Adversarial Networks, with labels and without.

The layers are those of the official code (brain-research/self-attention-gan, generator_test and discriminator_test),
which makes images of 128 pixels and attends to maps of 32. For images of 32 pixels they are those of
PyTorch-StudioGAN's SAGAN (resnet.py, CIFAR10/SAGAN.yaml), which attends to maps of 16, after the generator's second and
the discriminator's first block; there the shortcuts carry relu(x) in place of x, by a ReLU in place. All
weights but the generator's embeddings are under spectral normalisation.
"""

from torch import Tensor, nn

from . import biggan
from .big_resnet import SPECTRAL_EPS, ResidualDiscriminator, ResidualGenerator, initialise
from .blocks import Shape, constrain_spectrally


class Generator(biggan.Generator):
    """The generator of images of a class, whose BatchNorms in the blocks are class-conditional.

    Args:
        z_dim: length of the latent vector (the official code: 128).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        n_classes: number of classes.
        width: channels, times those of `big_resnet.GENERATOR`: 4 times it at 32 pixels (the official code: 64).
        attention: self-attention follows the block whose map is the largest of at most so many pixels, and of at most
            half the image's; None: none.
    """

    def __init__(
        self, z_dim: int, image_shape: Shape, n_classes: int, width: int = 64, attention: int | None = 32
    ) -> None:
        super().__init__(z_dim, image_shape, n_classes, width, None, False, attention, "xavier")


class Discriminator(biggan.Discriminator):
    """The projection discriminator; its features are (B, F).

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        n_classes: number of classes.
        width: channels, times those of `big_resnet.DISCRIMINATOR`; twice it up to 32 pixels (the official code: 64).
        attention: as of the generator.
    """

    SMALL = 2

    def __init__(self, image_shape: Shape, n_classes: int, width: int = 64, attention: int | None = 32) -> None:
        super().__init__(image_shape, n_classes, width, attention, "xavier")


class UnconditionalGenerator(ResidualGenerator):
    """`Generator` without labels: its BatchNorms have gains and biases of their own.

    Args:
        z_dim, image_shape, width, attention: as of `Generator`.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 64, attention: int | None = 32) -> None:
        super().__init__(z_dim, image_shape, width, attention, lambda _, channels: nn.BatchNorm2d(channels))
        initialise(self, "xavier")
        constrain_spectrally(self, eps=SPECTRAL_EPS)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim)."""
        return self.images(z, [()] * len(self.blocks))


class UnconditionalDiscriminator(ResidualDiscriminator):
    """`Discriminator` without labels: its logit is a linear map of the features.

    Args:
        image_shape, width, attention: as of `Discriminator`.
    """

    SMALL = 2

    def __init__(self, image_shape: Shape, width: int = 64, attention: int | None = 32) -> None:
        super().__init__(image_shape, width, attention)
        self.dense = nn.Linear(self.width, 1)
        initialise(self, "xavier")
        constrain_spectrally(self, eps=SPECTRAL_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.dense(self.features(images)).flatten()
