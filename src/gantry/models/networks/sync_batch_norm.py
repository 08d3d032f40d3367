"""Synchronises BatchNorm's statistics over all ranks on the CPU.

torch.nn.SyncBatchNorm does this on a GPU only; it refuses a CPU tensor, and DistributedDataParallel refuses it there.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantry.core.errors import UserError

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronise(network: nn.Module) -> None:
    """Make every BatchNorm of a network use the statistics of all ranks in training mode, in place.

    Modules, parameters, buffers, modes and hooks stay the same objects, so optimizers and state dicts do not change.
    In eval mode, without a process group or with a single rank they compute as before. In training every rank must
    call the network equally often and take equally many derivatives.

    Raises:
        UserError: a subclass of BatchNorm with its own forward, which would be replaced.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            if type(module) not in KINDS:
                choices = ", ".join(kind.__name__ for kind in KINDS)
                raise UserError(
                    f"trainer.sync_batchnorm: on the CPU it knows {choices}, but {name} is a {type(module).__name__}"
                )
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def restore(network: nn.Module) -> None:
    """Undo `synchronise`: every BatchNorm normalises with its own rank's images again."""
    for module in network.modules():
        if type(module) in KINDS:
            vars(module).pop("forward", None)


class SumOverRanks(torch.autograd.Function):
    """The sum over ranks, differentiable twice; replaces that of torch.distributed.nn, which torch 2.14 deprecates."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The losses of all ranks depend on each rank's summand.
        return SumOverRanks.apply(gradient.contiguous())


def over_ranks(value: Tensor, count: int, rank: int) -> Tensor:
    """Return the tensors (B, ...) of floats of `count` ranks, each as long, one after the other, on rank `rank`.

    A gradient to it reaches the rank whose part it is, summed over the ranks' losses.
    """
    mine = (torch.arange(count, device=value.device) == rank).view(-1, *[1] * value.ndim)
    padded = torch.where(mine, value, value.new_zeros((count, *value.shape)))
    total: Tensor = SumOverRanks.apply(padded)
    return total.flatten(0, 1)


def _forward(module: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise x (B, C, ...); B may differ between ranks and be 0 (Ioffe and Szegedy 2015, section 3)."""
    if not (module.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return type(module).forward(module, x)
    module._check_input_dim(x)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    dims, shape = [0, *range(2, x.ndim)], [-1, *[1] * (x.ndim - 2)]
    # Two ranks have two values or more, so unlike plain BatchNorm this can accept a single image.
    sums = SumOverRanks.apply(torch.cat([values.sum(dims), values.new_tensor([x.numel() // x.shape[1]])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    # E x^2 - (E x)^2 in one exchange would cancel digits where the mean is large.
    centred = values - mean.view(shape)
    variance = SumOverRanks.apply(centred.square().sum(dims)) / count
    _track(module, mean.detach(), variance.detach() * (count / (count - 1)))
    scale = (variance + module.eps).rsqrt()
    y = centred * (scale if module.weight is None else scale * module.weight).view(shape)
    return (y if module.bias is None else y + module.bias.view(shape)).to(x.dtype)


def _track(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if module.running_mean is None or module.running_var is None or module.num_batches_tracked is None:
        return
    module.num_batches_tracked.add_(1)
    share = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
    module.running_mean.lerp_(mean, share)
    module.running_var.lerp_(variance, share)
