"""Compiles the networks of a training step by torch.compile.

torch.compile cannot differentiate twice, so penalties get the uncompiled networks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.models.networks.growing import Growing


def compiled(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a network's forward pass, or another of its functions, compiled at its first call.

    The network itself is not changed.

    All batches have the same size, so the code is compiled for that size only. That of a network that grows is compiled
    for each level and each fade, with gradients and without, which torch would else stop doing after the eighth time.
    """
    if isinstance(network, Growing):
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, 2 * (2 * network.levels + 1))
    return torch.compile(network, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """Compile and run a small function, forwards and backwards.

    Raises:
        UserError: this machine cannot compile; the message says why.
    """
    try:
        layer = nn.Linear(2, 2).to(device)
        compiled(layer)(torch.ones(2, 2, device=device)).sum().backward()
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"compile: torch.compile does not work here on {device.type} ({type(error).__name__}: {reason}); "
            "it needs a C++ compiler, on a GPU Triton too; compile=false trains without"
        ) from error
