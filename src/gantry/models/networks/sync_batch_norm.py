"""BatchNorm whose statistics are those of the images of all ranks, on the CPU.

torch.nn.SyncBatchNorm does this on a GPU only; it refuses a CPU tensor, and DistributedDataParallel refuses it there.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from gantry.core.errors import UserError


def synchronise(network: nn.Module) -> None:
    """Have every BatchNorm of a network normalise with the statistics of all ranks when it trains, in place.

    The modules stay, with their parameters, buffers, modes and hooks: optimizers and state dicts see no difference.
    As in eval mode, without a process group or with a single rank they compute what they did. In training every
    rank must call the network as often, and not with `create_graph`: there is no second derivative.

    Raises:
        UserError: a BatchNorm of a kind of its own, whose forward would be lost.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, _Synchronised):
            if type(module) not in KINDS:
                choices = ", ".join(kind.__name__ for kind in KINDS)
                raise UserError(
                    f"trainer.sync_batchnorm: on the CPU it knows {choices}, but {name} is a {type(module).__name__}"
                )
            module.__class__ = KINDS[type(module)]


def restore(network: nn.Module) -> None:
    """Undo `synchronise`: every BatchNorm normalises with the images it is given again."""
    plain: dict[type[nn.Module], type[nn.Module]] = {kind: original for original, kind in KINDS.items()}
    for module in network.modules():
        module.__class__ = plain.get(type(module), type(module))


def statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number () of the values of each channel, over all ranks.

    Counts, means and sums of squared deviations are exchanged and merged (Chan et al. 1979, Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances, section 2), as E x^2 - (E x)^2 loses its digits where the mean
    is large. All ranks merge the same numbers in the same order, so their results are equal to the bit.

    Args:
        x: (B, C, ...), where B may differ between ranks, even be 0.
    """
    dims, channels = [0, *range(2, x.ndim)], x.shape[1]
    count = x.numel() // channels
    mean = x.sum(dims) / max(count, 1)
    deviations = (x - _along(mean, x)).square_().sum(dims)
    mine = torch.cat([mean.new_tensor([count]), mean, deviations])
    all_ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_ranks, mine)
    counts, means, deviations = torch.stack(all_ranks).split([1, channels, channels], 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (deviations + counts * (means - mean).square()).sum(0) / total
    return mean, variance, total


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are functions of every rank's x.

    The gradient with respect to x is that of the sum of all ranks' losses (Ioffe and Szegedy 2015, Batch
    Normalization, section 3, with the sums over all ranks); those of weight and bias are this rank's share of it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.has_bias = bias is not None
        # In place here and below: most of the time goes into new memory, not arithmetic.
        y = (x - _along(mean, x)).mul_(_along(scale if weight is None else scale * weight, x))
        return (y if bias is None else y.add_(_along(bias, x))).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient = gradient.to(mean.dtype)
        normal = (x - _along(mean, x)).mul_(_along(scale, x))
        dims = [0, *range(2, x.ndim)]
        of_bias, of_weight = gradient.sum(dims), (gradient * normal).sum(dims)
        of_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_bias, of_weight])
            dist.all_reduce(sums)
            shift, stretch = sums / count
            of_x = normal.mul_(-_along(stretch, x)).add_(gradient).sub_(_along(shift, x))
            of_x.mul_(_along(scale if weight is None else scale * weight, x))
        return of_x, None if weight is None else of_weight, of_bias if ctx.has_bias else None, *[None] * 4


class _Synchronised(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        with torch.no_grad():
            # Two ranks have two values or more, so unlike plain BatchNorm this need not refuse a single image.
            mean, variance, count = statistics(input.to(torch.promote_types(input.dtype, torch.float32)))
            self._track(mean, variance * (count / (count - 1)))
        return _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(variance, alpha=share)


class _BatchNorm1d(_Synchronised, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_Synchronised, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_Synchronised, nn.BatchNorm3d):
    pass


KINDS: dict[type[_BatchNorm], type[_Synchronised]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
}


def _along(values: Tensor, x: Tensor) -> Tensor:
    """(C,) shaped to go with (B, C, ...)."""
    return values.view(-1, *[1] * (x.ndim - 2))
