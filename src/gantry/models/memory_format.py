"""Sets the memory format of images and weights to channels last: all channels of a pixel are adjacent.

Convolutions in bfloat16 use this format on CPUs and GPUs; the values do not depend on the format.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def lies_channels_last(network: nn.Module) -> bool:
    """Return True for a network with convolutions, as opposed to one of flat vectors."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in network.modules())


def channels_last(network: nn.Module) -> nn.Module:
    """Put the weights of a network with convolutions into channels last, and return the network."""
    return network.to(memory_format=torch.channels_last) if lies_channels_last(network) else network


def lay_out(optimizers: Iterable[Optimizer]) -> None:
    """Give the optimizers' state of each weight the memory format of the weight.

    A checkpoint may hold it in another format, and torch's fused optimizers would then combine values of different
    positions without an error.
    """
    for optimizer in optimizers:
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
