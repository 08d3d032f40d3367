"""A discriminator that compares the images of a batch (Salimans et al. 2016, Improved Techniques for Training GANs)."""

from math import prod

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import dcgan
from .blocks import DiscriminatorNorm, Output, Shape, constrain_spectrally, start_of
from .sync_batch_norm import over_ranks


class MinibatchDiscrimination(nn.Module):
    """Tells of each image how near its features are to those of the other images of the batch (section 3.2).

    Features f(x) times a tensor T are a matrix M of `kernels` rows and `dims` columns, and the result of kernel b is

        o_b(x_i) = bias_b + sum over j other than i of exp(-|M_ib - M_jb|_1).

    As in the official code the columns of T have a learned length, which begins at 1, and the bias begins at -1. In
    training the batch is that of all ranks, and in eval mode, in which ranks compute apart, that which is given.

    Args:
        features: F.
        kernels, dims: of M; 100 and 5 in the code for CIFAR-10.
    """

    def __init__(self, features: int, kernels: int = 100, dims: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.05 * torch.randn(features, kernels, dims))
        self.log_length = nn.Parameter(torch.zeros(kernels, dims))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) to (B, kernels)."""
        columns = self.weight / self.weight.norm(dim=0) * self.log_length.exp()
        mine = torch.einsum("bf,fkd->bkd", features, columns).float()
        everyone = mine
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone = over_ranks(mine, dist.get_world_size(), dist.get_rank())
        distance = (mine[:, None] - everyone[None]).abs().sum(3)
        return torch.exp(-distance).sum(1) - 1 + self.bias  # an image is as near as 1 to itself


class Discriminator(dcgan.Discriminator):
    """`dcgan.Discriminator` with its features, and with `MinibatchDiscrimination` of them before the logit.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels after the first layer.
        norm: normalisation, on all but the first and the last layer ("spectral": on the weights of every layer).
        kernels, dims: of the comparison; kernels 0: none.
    """

    def __init__(
        self,
        image_shape: Shape,
        width: int = 64,
        norm: DiscriminatorNorm = "batch",
        kernels: int = 100,
        dims: int = 5,
    ) -> None:
        super().__init__(image_shape, width, norm)
        start, count = start_of(image_shape)
        features = dcgan.channels_by_depth(width, count)[-1] * prod(start)
        self.layers = nn.Sequential(*list(self.layers)[:-2], nn.Flatten())
        self.nearness = MinibatchDiscrimination(features, kernels, dims) if kernels else None
        self.last = nn.Linear(features + kernels, 1)
        dcgan.initialise(self.last)
        if norm == "spectral":
            constrain_spectrally(self.last)

    def forward(self, images: Tensor) -> Output:  # type: ignore[override]
        """Logits (B,) and features (B, F), those of the convolutions, of images (B, C, H, W)."""
        features = self.layers(images)
        seen = features if self.nearness is None else torch.cat([features, self.nearness(features)], 1)
        return Output(self.last(seen).flatten(), features)
