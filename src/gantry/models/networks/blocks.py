"""Sizes, normalisations and layers that the networks of this folder share.

The networks import torch and this module, relatively, and nothing else, since an export contains copies of the files.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.parametrizations import spectral_norm

Shape = tuple[int, int, int]
GeneratorNorm = Literal["batch", "layer", "instance", "none"]
DiscriminatorNorm = Literal["batch", "layer", "instance", "spectral", "none"]


class Output(NamedTuple):
    """What a discriminator returns that has more to say of an image than a logit.

    Attributes:
        logits: (B,).
        features: (B, F), of its last hidden layer.
        heads: further outputs by name, such as "class", logits of classes (B, n_classes).
    """

    logits: Tensor
    features: Tensor | None = None
    heads: Mapping[str, Tensor] = MappingProxyType({})


class UnsupportedError(ValueError):
    """An argument that the networks do not support; the message names the valid ones."""


def doublings(size: int) -> tuple[int, int]:
    """Return the initial size and the number of doublings by which a generator reaches an image's side.

    The initial size is 4 to 7 pixels, or 4 to 31 where the size has no more factors of two; below three doublings
    (images under 32 pixels) it may be 2 or 3, since two layers are too few to distinguish digits.
    32 is 4 doubled 3 times, 28 is 7 doubled twice, 16 is 2 doubled 3 times, 512 is 4 doubled 7 times.

    Raises:
        UnsupportedError: the size is neither a multiple of 4 between 8 and 128 nor a multiple of 16 up to 512.
    """
    if not 8 <= size <= 512 or size % (4 if size <= 128 else 16):
        raise UnsupportedError(
            "data.image_size: networks make images of 8 to 128 pixels a side, a multiple of 4, "
            f"or of up to 512, a multiple of 16, not {size}"
        )
    count = 0
    while size % 2 == 0 and (size >= 8 or (size >= 4 and count < 3)):
        size //= 2
        count += 1
    return size, count


def start_of(image_shape: Shape) -> tuple[tuple[int, int], int]:
    """Return the initial (height, width) and the number of doublings by which a generator reaches a shape (C, H, W).

    The side that halves less often decides: 48x64 is 6x8 doubled 3 times, 36x512 is 9x128 doubled twice.

    Raises:
        UnsupportedError: see `doublings`.
    """
    _, height, width = image_shape
    count = min(doublings(height)[1], doublings(width)[1])
    return (height >> count, width >> count), count


def normalisation(norm: str, channels: int, dense: bool = False) -> nn.Module:
    """Return a normalisation of (B, channels, H, W) activations, or of (B, channels) if `dense`.

    "layer" normalises each image over all its activations; "spectral" normalises weights, so it gives an identity here.
    """
    match norm:
        case "batch":
            return nn.BatchNorm1d(channels) if dense else nn.BatchNorm2d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "instance" if not dense:
            return nn.InstanceNorm2d(channels, affine=True)
        case "none" | "spectral":
            return nn.Identity()
    choices = "batch, layer, spectral, none" if dense else "batch, layer, instance, spectral, none"
    raise UnsupportedError(f"norm: {norm!r} is not one of {choices} (spectral: discriminators only)")


def constrain_spectrally(network: nn.Module, embeddings: bool = False, eps: float = 1e-12) -> None:
    """Put spectral normalisation on every convolution and dense layer (Miyato et al. 2018, algorithm 1).

    Args:
        network: changed in place.
        embeddings: put it on embeddings too.
        eps: the shortest vector that the power iteration divides by its length.
    """
    kinds = (nn.Conv2d, nn.Linear, nn.Embedding) if embeddings else (nn.Conv2d, nn.Linear)
    for module in list(network.modules()):
        if isinstance(module, kinds):
            spectral_norm(module, eps=eps)


class FromVector(nn.ConvTranspose2d):
    """A transposed convolution of a map of one pixel: (B, C, 1, 1) to (B, C', k, k) for a kernel of k.

    It is computed as a matrix product, which takes a seventh of the time on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, 1, 1) to (B, C', k, k), channels last in memory."""
        product = linear(x.flatten(1), self.weight.permute(2, 3, 1, 0).flatten(0, 2))
        result = product.unflatten(1, (*self.kernel_size, self.out_channels)).permute(0, 3, 1, 2)
        return result if self.bias is None else result + self.bias[:, None, None]


class ToVector(nn.Conv2d):
    """A convolution whose kernel has the size of its input: (B, C, k, k) to (B, C', 1, 1), as a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, k, k) to (B, C', 1, 1)."""
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return linear(x.permute(0, 2, 3, 1).flatten(1), weight, self.bias)[:, :, None, None]
