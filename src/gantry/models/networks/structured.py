"""Generators whose latents have named parts, and discriminators that tell them: any pair without labels of this folder.

A configuration of a generator holds plain values alone, so that the network inside is chosen by its name.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

from torch import Tensor, nn

from . import dcgan, infogan, mlp, resnet
from .blocks import (
    DiscriminatorNorm,
    GeneratorNorm,
    Output,
    Shape,
    UnsupportedError,
    constrain_spectrally,
    normalisation,
)
from .latent_map import Codes, LatentMap, code_size

Network = Literal["infogan", "dcgan", "mlp", "resnet"]
PAIRS: Mapping[str, Any] = MappingProxyType({"infogan": infogan, "dcgan": dcgan, "mlp": mlp, "resnet": resnet})
HIDDEN = 128  # units of the layer of the code's own (Chen et al. 2016, appendix C.1)


class Generator(nn.Module):
    """A latent map, and a generator that takes what it gives.

    Args:
        z_dim: length of the latent vector: of the noise and of all codes together.
        image_shape: (C, H, W) of the images to make.
        network: the generator behind the map, of the module of that name.
        width: of that network; None: its own, or it has none (mlp).
        norm: of that network; None: its own.
        codes: by name, a number of equally likely values, or [low, high] of a uniform number (`LatentMap`).
        prior: [low, high] of uniform noise; None: standard normal.

    Raises:
        UnsupportedError: there is no such network, or it takes no such width, norm or codes.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        network: Network = "infogan",
        width: int | None = None,
        norm: GeneratorNorm | None = None,
        codes: Codes | None = None,
        prior: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.latents = LatentMap(z_dim, codes, prior)
        self.network: nn.Module = _pair(network).Generator(z_dim, image_shape, **_given(network, width, norm))

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from standard normal latents (B, z_dim)."""
        return self.network(self.latents(z))


class Discriminator(nn.Module):
    """A discriminator with a head that tells the codes of generated images, by one hidden layer of its own.

    Args:
        image_shape: (C, H, W).
        codes: those of the generator.
        network: the discriminator that shares its body with the head, of the module of that name.
        width: of that network; None: its own, or it has none (mlp).
        norm: of that network, and of the head: batch, layer, spectral or none.

    Raises:
        UnsupportedError: there is no such network, or it takes no such width, norm or codes.
    """

    def __init__(
        self,
        image_shape: Shape,
        codes: Codes,
        network: Network = "infogan",
        width: int | None = None,
        norm: DiscriminatorNorm = "batch",
    ) -> None:
        super().__init__()
        self.network = _pair(network).Discriminator(image_shape, **_given(network, width, norm))
        last = self.network.dense if network == "resnet" else self.network.layers[-2]
        self.head = nn.Sequential(
            nn.Linear(last.weight[0].numel(), HIDDEN),
            normalisation(norm, HIDDEN, dense=True),
            nn.LeakyReLU(infogan.LEAK, inplace=True),
            nn.Linear(HIDDEN, code_size(codes)),
        )
        dcgan.initialise(self.head)
        if norm == "spectral":
            constrain_spectrally(self.head)

    def forward(self, images: Tensor) -> Output:
        """Logits (B,), features (B, F) and the head "code" (B, Q) of images (B, C, H, W).

        Of Q entries each categorical code has the logits of its values, each uniform one the mean of a normal
        distribution of variance 1, in the order of the codes.
        """
        if isinstance(self.network, resnet.Discriminator):
            features = self.network.features(images)
            logits = self.network.dense(features).flatten()
        else:
            *hidden, last, flatten = self.network.layers
            for layer in hidden:
                images = layer(images)
            logits, features = flatten(last(images)), images.flatten(1)
        return Output(logits, features, {"code": self.head(features)})


def _pair(network: str) -> Any:
    """Return the module of a pair of networks."""
    if network not in get_args(Network):
        raise UnsupportedError(f"network: {network!r} is not one of {', '.join(get_args(Network))}")
    return PAIRS[network]


def _given(network: str, width: int | None, norm: str | None) -> dict[str, Any]:
    """Return the options of a network that are not left to it."""
    if network == "mlp" and width is not None:
        raise UnsupportedError("width: the networks of mlp have one size: leave it out (null)")
    return {name: value for name, value in (("width", width), ("norm", norm)) if value is not None}
