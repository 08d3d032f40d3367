"""The modified orthogonal regularisation of Brock et al. 2019, as a term of a player's objective."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from gantry.models.without_autocast import without_autocast

NO_DRAWS: Mapping[str, int] = MappingProxyType({})


class HasNetwork(Protocol):
    """A play whose `network` is that of the player whose turn it is."""

    @property
    def network(self) -> nn.Module: ...


@dataclass(frozen=True)
class Orthogonal:
    """Draws the rows of each weight towards orthogonality, and leaves their lengths free.

    weight / 2 * sum over weights W of |W W^T o (1 - I)|^2 (Brock et al. 2019, Large Scale GAN Training, equation 3),
    where W is flattened to (outputs, inputs) and o is the product by elements. Its gradient is what the official code
    adds to that of the loss, weight * 2 (W W^T o (1 - I)) W (utils.py, `ortho`). The paper's equation has neither the
    half, so that its beta is half of this weight, nor W W^T but W^T W.

    It takes all weights of at least two dimensions, under spectral normalisation the raw ones, and embeddings too,
    except those in `exempt`.

    Args:
        weight: the strength (1e-4 in the paper).
        players: who minimises it, of "generator" and "discriminator".
        exempt: names of submodules whose weights it leaves alone (the official code: the shared embedding).
        every: it is due at each `every`-th turn of a player, with `every` times the weight.
    """

    weight: float = 1e-4
    players: tuple[str, ...] = ("generator",)
    exempt: tuple[str, ...] = ("shared",)
    every: int = 1
    draws: ClassVar[Mapping[str, int]] = NO_DRAWS

    def needs_of(self, player: str) -> frozenset[str]:
        """Return nothing: it reads no outputs of the discriminator."""
        return frozenset()

    def __call__(self, play: HasNetwork) -> Tensor:
        with without_autocast(next(play.network.parameters()).device):  # in float16 it would overflow
            parts = [off_diagonal(weight.flatten(1).float()) for weight in self._weights(play.network)]
            return 0.5 * self.weight * torch.stack(parts).sum()

    def _weights(self, network: nn.Module) -> Iterator[Tensor]:
        prefixes = tuple(f"{name}." for name in self.exempt)
        for name, weight in network.named_parameters():
            if weight.ndim >= 2 and not name.startswith(prefixes):
                yield weight


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the squared norm of M M^T outside its diagonal, of a matrix M (rows, columns).

    Of more rows than columns, it is that of M^T M less the diagonal's, since |M M^T| = |M^T M|: M M^T would fill
    gigabytes for the first dense layer of a large generator.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return (matrix.T @ matrix).square().sum() - matrix.square().sum(1).square().sum()
    products = matrix @ matrix.T
    return (products - torch.diag(products.diagonal())).square().sum()
