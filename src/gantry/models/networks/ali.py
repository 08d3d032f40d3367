"""ALI's stochastic encoder and normal prior (Dumoulin et al. 2017, Adversarially Learned Inference) on dense networks.

The encoder's code is normal, with a mean and a deviation for each of its values (the paper's section 2.6). The official
networks are convolutional, each for one size of images, with dropout and maxout in the discriminator; these are those
of `bigan`, of any size, with their first weights, since a deviation of 0.01, as in ALI's code, leaves dense layers
silent. With them ALI differs from BiGAN in the encoder's noise and the prior alone.
"""

from collections.abc import Mapping

from torch import Tensor

from . import bigan
from .blocks import Shape
from .priors import standard_normal

SAMPLE = "sample"


class Generator(bigan.Generator):
    """The generator's player: `bigan.Generator` with a standard normal prior and an encoder that draws its code.

    Args:
        z_dim: length of a latent and of a code.
        image_shape: (C, H, W) of the images to make.
        width: of the hidden layers of both.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 1024) -> None:
        super().__init__(z_dim, image_shape, width)
        self.encoder = bigan.Encoder(2 * z_dim, image_shape, width)
        bigan.initialise(self, width)
        self.encoder_draws = {SAMPLE: z_dim}

    def code(self, z: Tensor) -> Tensor:
        """The latents (B, z_dim) themselves."""
        return z

    def encode(self, images: Tensor, draws: Mapping[str, Tensor] | None = None) -> Tensor:
        """Codes (B, z_dim) of images (B, C, H, W) in [-1, 1]: draws of each one's normal distribution, or its means.

        Args:
            draws: uniform numbers in [0, 1), (B, z_dim) as "sample"; None: the means are returned.
        """
        mean, log_deviation = self.encoder(images).chunk(2, 1)
        return mean if draws is None else mean + log_deviation.exp() * standard_normal(draws[SAMPLE])

    def latent(self, codes: Tensor) -> Tensor:
        """The codes (B, z_dim) themselves."""
        return codes


class Discriminator(bigan.Discriminator):
    """`bigan.Discriminator`, whose last weights do not begin at 0.

    Args:
        image_shape: (C, H, W).
        z_dim: length of a code.
        width: of the hidden layers.
    """

    def __init__(self, image_shape: Shape, z_dim: int, width: int = 1024) -> None:
        super().__init__(image_shape, z_dim, width)
        bigan.initialise(self, width)
