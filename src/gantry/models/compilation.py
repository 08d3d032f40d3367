"""torch.compile for the networks of a training step.

It cannot compile a gradient of a gradient, so penalties are given the networks themselves.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network's forward pass, compiled at its first call; the network itself stays as it is.

    Every batch has one size, so the code is for that size only.
    """
    return torch.compile(network, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """Compile and run something small, forwards and backwards.

    Raises:
        UserError: this machine cannot, and why.
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
