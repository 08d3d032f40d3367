"""Finds the directions of latent space along which images change most."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.models.labels import LabelSource
from gantry.models.sampling import at_a_time

SAMPLES = 2048  # number of gradients; 20 times the usual z_dim
BATCH = 128


class Directions(NamedTuple):
    """Orthonormal directions, those that change the image most first.

    Attributes:
        vectors: float32 (count, z_dim) on the CPU, each of length 1: a step of 1 along one is one standard deviation.
        shares: float32 (count,), the share of the image's expected squared change under a small random step that is due
            to the step's component along each; all z_dim of them sum to 1.
    """

    vectors: Tensor
    shares: Tensor


def directions(network: nn.Module, z_dim: int, seed: int, count: int, labels: LabelSource | None = None) -> Directions:
    """Compute the directions along which the image changes most, on average over latents.

    They are the leading eigenvectors of E[J'J], J the Jacobian of image by latent: the generator's active subspace
    (Constantine 2015, Active Subspaces; of GANs: Wang and Ponce 2021, The Geometry of Deep Generative Image Models and
    its Applications). For u normal in the space of images J'u is the gradient of the product of u and the image, and
    E[J'u u'J] = E[J'J]: one forward and one backward pass a latent, of any network.

    Args:
        network: in eval mode, on its device; maps float32 (B, z_dim), and labels int64 (B,) where it takes them, to
            (B, C, H, W).
        z_dim: length of a latent.
        seed: of the latents and of u.
        count: 1 to z_dim.
        labels: of the latents, where the network takes labels; the average is over them too.

    Returns:
        The directions. The largest number in each is positive, and the same seed gives the same ones on a CPU.

    Raises:
        UserError: `count` is out of range, or the image does not depend on the latent.
    """
    if not 1 <= count <= z_dim:
        raise UserError(f"a generator of {z_dim} latent dimensions has 1 to {z_dim} directions, not {count}")
    device = next(network.parameters()).device
    with torch.no_grad():
        shape = network(torch.zeros(1, z_dim, device=device), *_asked(labels, seed, 0, 1, device)).shape[1:]
    most = at_a_time(shape.numel(), BATCH)
    total = torch.zeros(z_dim, z_dim, dtype=torch.float64)
    for batch in range(SAMPLES // BATCH):
        random = draws(seed, batch, "directions")
        z = torch.from_numpy(random.standard_normal((BATCH, z_dim), dtype="float32")).to(device).requires_grad_()
        with torch.enable_grad():
            u = torch.from_numpy(random.standard_normal((BATCH, *shape), dtype="float32")).to(device)
            asked = _asked(labels, seed, batch * BATCH, BATCH, device)
            parts = zip(z.split(most), u.split(most), *(one.split(most) for one in asked), strict=True)
            gradients = torch.cat(
                [torch.autograd.grad(network(some, *of), some, direction)[0] for some, direction, *of in parts]
            )
        total += (gradients.T @ gradients).double().cpu()
    values, vectors = torch.linalg.eigh(total)
    if not values[-1] > 0:
        raise UserError("the generator's images do not depend on the latent: it has no directions")
    leading = vectors.T.flip(0)[:count]
    largest = leading.gather(1, leading.abs().argmax(1, keepdim=True))
    return Directions((leading * largest.sign()).float(), (values.flip(0)[:count] / values.sum()).float())


def _asked(labels: LabelSource | None, seed: int, first: int, count: int, device: torch.device) -> list[Tensor]:
    """Return what the network takes beside `count` latents: their labels, or nothing."""
    return [] if labels is None else [torch.from_numpy(labels(seed, first, count)).to(device)]


def plane(centre: Tensor, first: Tensor, second: Tensor, points: int, extent: float) -> Tensor:
    """Return latents on a square grid: centre + a first + b second, a and b from -extent to extent.

    Args:
        centre, first, second: shape (z_dim,).
        points: along a side, at least 1; of an odd number the middle one is the centre.
        extent: in lengths of `first` and `second`, standard deviations if they are of length 1; above 0.

    Returns:
        Shape (points, points, z_dim): as a picture's rows and columns, `first` grows from left to right, `second` from
        top to bottom.

    Raises:
        UserError: `points` or `extent` is out of range.
    """
    if points < 1:
        raise UserError(f"a grid has at least 1 point along a side, not {points}")
    if not 0 < extent < float("inf"):
        raise UserError(f"a grid's extent must be a number above 0, not {extent}")
    steps = torch.linspace(-extent, extent, points).to(centre) if points > 1 else torch.zeros(1).to(centre)
    return centre + steps[None, :, None] * first + steps[:, None, None] * second
