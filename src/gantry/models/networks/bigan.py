"""BiGAN's dense networks for MNIST (Donahue et al. 2017, Adversarial Feature Learning), as the official code has them.

Where the paper is silent, they are as jeffdonahue/bigan builds them by its train_mnist.sh: the code, a vector of 50
values uniform in (-1, 1), enters the discriminator, and the generator for a second time, through a linear map that is
added to the second hidden layer before BatchNorm. No layer has a bias, BatchNorm no gain; the discriminator's last
weights begin at 0, all others with standard deviation 0.02. Images are in [0, 1] within the networks.
"""

from math import prod

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from .blocks import Shape
from .priors import from_uniform, uniform

SLOPE = 0.2
STD, WIDTH = 0.02, 1024  # of the first weights, at the official width


class Hidden(nn.Module):
    """The second hidden layer: a dense map, plus one of the code where it takes one, then BatchNorm without a gain.

    Args:
        width: of the layer and of the one before.
        z_dim: length of the code; 0: it takes none.
    """

    def __init__(self, width: int, z_dim: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width, bias=False)
        self.of_code = nn.Linear(z_dim, width, bias=False) if z_dim else None
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        """(B, width) of (B, width) and codes (B, z_dim), before the activation."""
        x = self.layer(x)
        return self.norm(x if self.of_code is None or codes is None else x + self.of_code(codes))


class Encoder(nn.Module):
    """Maps images to codes: two hidden layers, of which the second has BatchNorm, and an unbounded linear end.

    Args:
        z_dim: length of a code.
        image_shape: (C, H, W).
        width: of the hidden layers.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 1024) -> None:
        super().__init__()
        self.first = nn.Linear(prod(image_shape), width, bias=False)
        self.second = Hidden(width)
        self.last = nn.Linear(width, z_dim, bias=False)

    def hidden(self, images: Tensor) -> Tensor:
        """Activations (B, width) of the layer before the code, of images (B, C, H, W) in [-1, 1]."""
        x = leaky_relu(self.first((images.flatten(1) + 1) / 2), SLOPE)
        return leaky_relu(self.second(x), SLOPE)

    def forward(self, images: Tensor) -> Tensor:
        """Codes (B, z_dim) of images (B, C, H, W) in [-1, 1]."""
        return self.last(self.hidden(images))


class Generator(nn.Module):
    """The generator's player: the decoder G, which its forward pass is, and the encoder E.

    Args:
        z_dim: length of a latent and of a code.
        image_shape: (C, H, W) of the images to make.
        width: of the hidden layers of both; the paper's: 1024.
    """

    def __init__(self, z_dim: int, image_shape: Shape, width: int = 1024) -> None:
        super().__init__()
        self.first = nn.Linear(z_dim, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.second = Hidden(width, z_dim)
        self.last = nn.Linear(width, prod(image_shape), bias=False)
        self.unflatten = nn.Unflatten(1, tuple(image_shape))
        self.encoder = Encoder(z_dim, image_shape, width)
        initialise(self, width)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from standard normal latents (B, z_dim)."""
        return self.decode(self.code(z))

    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from codes (B, z_dim)."""
        x = relu(self.second(relu(self.norm(self.first(codes))), codes))
        return self.unflatten(2 * self.last(x).sigmoid() - 1)

    def code(self, z: Tensor) -> Tensor:
        """Codes (B, z_dim), uniform in (-1, 1), of standard normal latents."""
        return uniform(z)

    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, z_dim), unbounded, of images (B, C, H, W) in [-1, 1]."""
        return self.encoder(images)

    def hidden(self, images: Tensor) -> Tensor:
        """The encoder's layer before the code, (B, width), of images (B, C, H, W) in [-1, 1]."""
        return self.encoder.hidden(images)

    def latent(self, codes: Tensor) -> Tensor:
        """Latents (B, z_dim) whose codes are these, which are cut off at the ends of (-1, 1)."""
        return from_uniform(codes)


class Discriminator(nn.Module):
    """Judges pairs of an image and a code.

    Args:
        image_shape: (C, H, W).
        z_dim: length of a code.
        width: of the hidden layers.
    """

    def __init__(self, image_shape: Shape, z_dim: int, width: int = 1024) -> None:
        super().__init__()
        self.first = nn.Linear(prod(image_shape), width, bias=False)
        self.second = Hidden(width, z_dim)
        self.last = nn.Linear(width, 1, bias=False)
        initialise(self, width)
        nn.init.zeros_(self.last.weight)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W) in [-1, 1] with codes (B, z_dim)."""
        x = leaky_relu(self.first((images.flatten(1) + 1) / 2), SLOPE)
        return self.last(leaky_relu(self.second(x, codes), SLOPE)).flatten()


def initialise(network: nn.Module, width: int) -> None:
    """Draw the weights of dense layers from a normal distribution of mean 0 and standard deviation 0.02.

    That is the official code's, of hidden layers of 1024. Weights that read narrower ones are larger by the root of the
    ratio, without which hardly a signal passes at first.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=STD * (WIDTH / width) ** 0.5 if module.in_features == width else STD)
