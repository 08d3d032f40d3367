"""Self-attention of Zhang et al. 2019, Self-Attention Generative Adversarial Networks, as the official code has it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class SelfAttention(nn.Module):
    """Adds to each place of a map what it gathers from all places, times `gamma`, which begins at 0.

    With theta and phi of C/8 channels, g of C/2 and o back to C, all 1x1 convolutions without bias, and phi and g
    max-pooled 2x2:

        beta = softmax over j of theta(x)_i . phi(x)_j,    y_i = x_i + gamma * o(sum over j of beta_ij g(x)_j)

    The paper differs (section 3, equations 1 to 3): it writes keys f, queries g and values h without pooling, and says
    that the values have C/8 channels, too. This is what its code does (brain-research/self-attention-gan,
    non_local.py), and BigGAN's (layers.py). Products are not divided by the square root of their length.

    The product is written out, since torch's scaled_dot_product_attention has no second derivative on a GPU, which
    penalties of the discriminator's gradient take.

    Args:
        channels: C of the map; theta and phi have at least one channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, values = max(1, channels // 8), max(1, channels // 2)
        self.theta, self.phi = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(2))
        self.g = nn.Conv2d(channels, values, 1, bias=False)
        self.o = nn.Conv2d(values, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; H and W at least 2."""
        queries = self.theta(x).flatten(2)
        keys, values = (max_pool2d(layer(x), 2).flatten(2) for layer in (self.phi, self.g))
        beta = torch.softmax(queries.transpose(1, 2) @ keys, -1)  # (B, H W, H W / 4)
        gathered = (values @ beta.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.o(gathered)


def place(sides: Sequence[int], largest: int | None) -> int | None:
    """Return the index of the map that self-attention follows: the largest one of at most `largest` pixels a side.

    It is the first of several of one size, and the smallest map where all are larger.

    Args:
        sides: the longer side of each map that may have it, in pixels.
        largest: None: no map, and None is returned.
    """
    if largest is None:
        return None
    return sides.index(max((side for side in sides if side <= largest), default=min(sides)))
