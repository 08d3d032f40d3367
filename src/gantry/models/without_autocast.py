"""Keeps computations out of mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which operations on a device compute in the precision of their inputs.

    A backward pass belongs outside autocast too: within it, the matrix products of a gradient are computed in the lower
    precision even where their forward pass was kept out of it (torch 2.14; those of convolutions are not).
    """
    kind = device.type
    # Not available on the meta device, where a step's memory is counted.
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
