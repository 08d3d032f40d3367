"""Top-k training (Sinha et al. 2020): the generator learns from those of its images that D takes for the most real."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class TopK:
    """The share of a batch that counts, a schedule over images: max(gamma^epochs, nu) (section 3; nu: appendix).

    Args:
        epoch_images: images in an epoch, above 0: the size of the data set, divided by `n_critic`, since of a step the
            images of one discriminator turn count.
        gamma: the factor after each epoch, in (0, 1].
        nu: the smallest share, in (0, 1].

    Raises:
        ValueError: a factor or a share is none.
    """

    epoch_images: int
    gamma: float = 0.99
    nu: float = 0.5
    unit: ClassVar[Literal["images"]] = "images"

    def __post_init__(self) -> None:
        for name in ("gamma", "nu"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be above 0 and at most 1, not {getattr(self, name)}")

    def at(self, done: float) -> float:
        """Return the share after `done` images."""
        return max(self.gamma ** (done // self.epoch_images), self.nu)


def keep_highest(logits: Tensor, share: float | Tensor, gather: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the logits, with such a gradient that a mean over them becomes the mean over the highest ones.

    That holds for a loss which is a mean of a function of each logit; its value remains that over all, and it has no
    second derivative. Logits that are equal to the lowest one kept share the places left. Does not synchronise with
    the device.

    Args:
        logits: of generated images (B,).
        share: of all images that is kept, above 0; of B images the highest floor(share B), at least one. A number, or
            a tensor ().
        gather: returns the logits (B,) of all ranks, one after the other; None: there is one.

    Returns:
        (B,), equal to `logits`.
    """
    everyone = logits.detach() if gather is None else gather(logits.detach())
    total = len(everyone)
    kept = (torch.ones((), device=logits.device) * share * total).floor().clamp(1, total)
    lowest = everyone.sort(descending=True).values.gather(0, (kept - 1).long()[None])
    above, equal = everyone > lowest, everyone == lowest
    left = (kept - above.sum()) / equal.sum()
    own = logits.detach()
    weights = ((own > lowest) + (own == lowest) * left) * total / kept
    result: Tensor = _Weighted.apply(logits, weights)
    return result


class _Weighted(torch.autograd.Function):
    """The identity, whose gradient is multiplied by weights."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weights,) = ctx.saved_tensors
        return gradient * weights, None
