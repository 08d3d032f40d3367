"""The memory format of images and weights: channels last, so that all channels of a pixel lie together.

Convolutions in bfloat16 want them so, on processors as on GPUs; values are what they are in any order.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def lies_channels_last(network: nn.Module) -> bool:
    """True for a network of images rather than of flat vectors: it has convolutions."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in network.modules())


def channels_last(network: nn.Module) -> nn.Module:
    """The network itself, where it has convolutions with its weights channels last."""
    return network.to(memory_format=torch.channels_last) if lies_channels_last(network) else network


def lay_out(optimizers: Iterable[Optimizer]) -> None:
    """Have what optimizers keep of each weight lie in memory as the weight does.

    A checkpoint may hold it otherwise, and torch's fused optimizers would then pair numbers of different places
    without a word.
    """
    for optimizer in optimizers:
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
