"""Standing statistics (Brock et al. 2019, Large Scale GAN Training): BatchNorm's, of the images it normalises now."""

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def standing_statistics(network: nn.Module, latents: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Replace the running statistics of every BatchNorm by their means over batches, each batch with equal weight.

    Within a batch BatchNorm normalises by the batch's own statistics, as while training, but never by those of other
    ranks, so that one rank may do this alone; nothing else is in training mode. The variances are unbiased, as running
    ones are; the official code's are smaller by a share of 1 / (B H W). The modules' modes, and BatchNorm's counters of
    training batches, are as before at the end; so are the statistics of layers that no image from a latent passes, an
    encoder's.

    Args:
        network: a generator on its device; changed in place. One without BatchNorm is left as it is.
        latents: batches of latents (B, z_dim) and labels, None where the network takes none (the official code: 16, of
            the size of a training batch), one of which is held at a time. Equal ones give equal statistics.

    Raises:
        ValueError: there are no batches.
    """
    batches = iter(latents)
    if (first := next(batches, None)) is None:
        raise ValueError("standing statistics need at least one batch of latents")
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counters = [cast(Tensor, norm.num_batches_tracked) for norm in norms]  # absent only where nothing is tracked
    counts = [counter.clone() for counter in counters]
    running = [[cast(Tensor, one) for one in (norm.running_mean, norm.running_var)] for norm in norms]
    trained = [[one.clone() for one in statistics] for statistics in running]
    modes = {module: module.training for module in network.modules()}
    replaced = {norm: vars(norm).get("forward") for norm in norms if _exchanges(norm)}
    try:
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the mean over batches
        for norm in replaced:
            norm.forward = partial(_BatchNorm.forward, norm)  # type: ignore[method-assign]
        for z, labels in chain([first], batches) if norms else []:
            network(z) if labels is None else network(z, labels)
    finally:
        for statistics, before, counter in zip(running, trained, counters, strict=True):
            passed = counter > 0
            for one, old in zip(statistics, before, strict=True):
                one.copy_(torch.where(passed, one, old))
        for norm, momentum, counter, count in zip(norms, momenta, counters, counts, strict=True):
            norm.momentum = momentum
            counter.copy_(count)
        for norm, own in replaced.items():
            if own is None:
                del norm.forward
            else:
                norm.forward = own  # type: ignore[method-assign]
        for module, training in modes.items():
            module.training = training


def _exchanges(norm: _BatchNorm) -> bool:
    """Return True for a BatchNorm that normalises by the images of all ranks (`networks.sync_batch_norm` on a CPU)."""
    return isinstance(norm, nn.SyncBatchNorm) or "forward" in vars(norm)
