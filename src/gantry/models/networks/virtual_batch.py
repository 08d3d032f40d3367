"""A generator with virtual batch normalisation (Salimans et al. 2016, Improved Techniques for Training GANs)."""

from typing import Literal

import torch
from torch import Tensor, nn

from . import dcgan
from .blocks import Shape


class VirtualBatchNorm(nn.Module):
    """Normalises each image by the statistics of a fixed reference batch and of itself (section 3.5).

    As the official code (`imagenet/ops.py`), an image has the weight of one in a batch of it and the reference: with R
    reference images its mean, and its mean square, are R / (R + 1) times the reference's and 1 / (R + 1) times its own.
    The reference images are normalised by their own statistics. So no image depends on another one of its batch.

    Args:
        channels: of the activations.
        reference: R, images at the beginning of each batch, at least 1.
        eps: added to the variance.
    """

    def __init__(self, channels: int, reference: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.reference, self.eps = reference, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(R + B, C, H, W) to the same shape."""
        values = x.float()
        own = torch.stack([values.mean((2, 3)), values.square().mean((2, 3))])  # (2, R + B, C)
        fixed = own[:, : self.reference].mean(1, keepdim=True)
        share = 1 / (self.reference + 1)
        mixed = (1 - share) * fixed + share * own[:, self.reference :]
        mean, square = torch.cat([fixed.expand(-1, self.reference, -1), mixed], 1)[..., None, None]
        scale = ((square - mean.square()).clamp_min(0) + self.eps).rsqrt()
        normal = (values - mean) * scale
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class Generator(dcgan.Generator):
    """`dcgan.Generator` with `VirtualBatchNorm` in the place of BatchNorm, whose reference is a batch of fixed latents.

    Each pass generates the reference images too. Training and evaluation compute alike, and any number of ranks.

    Args:
        z_dim: length of the latent vector.
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        width: channels before the last layer.
        norm: "virtual" alone.
        reference: latents in the reference batch, which are drawn once, and saved with the weights.
    """

    latents: Tensor

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        width: int = 64,
        norm: Literal["virtual"] = "virtual",
        reference: int = 64,
    ) -> None:
        super().__init__(z_dim, image_shape, width, "batch")
        for number, layer in enumerate(self.layers):
            if isinstance(layer, nn.BatchNorm2d):
                self.layers[number] = VirtualBatchNorm(layer.num_features, reference)
        self.register_buffer("latents", torch.randn(reference, z_dim))

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in (-1, 1) from latents (B, z_dim)."""
        return super().forward(torch.cat([self.latents.to(z.dtype), z]))[len(self.latents) :]
