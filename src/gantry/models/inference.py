"""What a generator with an encoder offers beside its forward pass, which is the decoder."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Inference(Protocol):
    """A generator whose player has an encoder too.

    One whose encoder is stochastic has `encoder_draws` besides, by purpose how many uniform numbers it takes an image,
    and `draws` among the arguments of `encode`: those numbers, (B, width) by purpose; without them the code is the
    most likely one.
    """

    def code(self, z: Tensor) -> Tensor:
        """Return the codes (B, z_dim) of standard normal latents (B, z_dim): draws of the prior."""

    def decode(self, codes: Tensor) -> Tensor:
        """Return the images (B, C, H, W) in [-1, 1] of codes (B, z_dim), for codes of latents those of the latents."""

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes (B, z_dim) of images (B, C, H, W) in [-1, 1]."""

    def hidden(self, images: Tensor) -> Tensor:
        """Return the activations (B, F) of the encoder's layer before the code."""

    def latent(self, codes: Tensor) -> Tensor:
        """Return latents (B, z_dim) of codes, as near as the prior's map allows."""


def encoder_draws(generator: object) -> Mapping[str, int]:
    """Return the uniform numbers that a generator's encoder takes an image, by purpose; none where it has none."""
    return getattr(generator, "encoder_draws", None) or {}
