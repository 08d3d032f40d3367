"""Lightning's DDP for a GAN: each network exchanges its own gradients, in its own step only."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.utilities.distributed import _destroy_dist_connection
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.overrides.distributed import prepare_for_backward
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gantry.core.errors import UserError
from gantry.core.processes.ranks import Place
from gantry.training.distributed.sync_batch_norm import SyncBatchNormAnywhere
from gantry.training.lightning_overrides import leave_signals


def plugins(place: Place, sync_batchnorm: bool) -> list[Any]:
    """Return the plugins of Lightning's Trainer for several ranks: their launcher, and BatchNorm over all of them."""
    environments: dict[str, Callable[[], Any]] = {
        "nobody": LightningEnvironment,
        "gantry": LightningEnvironment,
        "torchrun": TorchElasticEnvironment,
        "slurm": partial(SLURMEnvironment, auto_requeue=False),
    }
    return [environments[place.by](), *([SyncBatchNormAnywhere()] if sync_batchnorm else [])]


class NetworkwiseDDP(DDPStrategy):
    """DDP with the generator and the discriminator each in a `DistributedDataParallel` of its own.

    Around the whole LightningModule, as Lightning puts it, DDP must search each graph for the parameters of the
    network that is not being trained, and exchanges their zero gradients too. Here a backward pass exchanges the
    gradients of those networks whose parameters require one at that moment: the one being trained. The networks
    themselves are called as they are, so that penalties, checkpoints and exports see no wrapper.

    After each of the generator's steps the networks' buffers agree on all ranks, each being the mean over them
    (exact for the mean of a BatchNorm; its variance lacks that between the ranks' means, which `sync_batchnorm`
    includes). Under manual optimization Lightning never brings them together, so that every rank would evaluate
    another generator, and the checkpoint would hold one nobody has measured.

    Args:
        **options: of Lightning's `DDPStrategy` and of `DistributedDataParallel`.

    Raises:
        UserError: `static_graph`, for which only a wrapper's own forward would start the first exchange: the ranks
            would train networks of their own, and nobody would be told.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("static_graph"):
            raise UserError("trainer.strategy.static_graph: leave it out; under it nothing would be exchanged")
        super().__init__(**{"broadcast_buffers": False, "gradient_as_bucket_view": True} | options)
        self.networks: list[DistributedDataParallel] = []
        self.store: dist.Store | None = None  # where the ranks meet; None: as Lightning's environment says

    def setup_distributed(self) -> None:
        """Meet the other ranks, at `store` where there is one: Lightning's own listens on every interface."""
        if self.store is not None and not dist.is_initialized():
            self.set_world_ranks()
            backend, device = self._get_process_group_backend(), self.root_device
            dist.init_process_group(
                backend,
                store=self.store,
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=None if device.type == "cpu" else device,
            )
            if backend == "nccl":
                atexit.register(_destroy_dist_connection)  # as Lightning does for a group of its own
        super().setup_distributed()

    def setup(self, trainer: Trainer) -> None:
        """Prepare for `trainer`."""
        leave_signals(trainer)
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """Wrap each network; the module that holds them stays bare."""
        gan = self.lightning_module
        assert gan is not None
        self.networks = [self._setup_model(network) for network in (gan.generator, gan.discriminator)]  # type: ignore[arg-type]

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Have the network being trained, and no other, exchange the gradients of the coming backward pass."""
        for network in self.networks:
            if any(parameter.requires_grad for parameter in network.module.parameters()):
                prepare_for_backward(network, closure_loss)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Backward passes inside only add to the gradients of their own rank."""
        with ExitStack() as stack:
            for network in self.networks:
                stack.enter_context(network.no_sync())
            yield

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **options: Any,
    ) -> Any:
        """Step, and after the generator's bring the buffers into agreement."""
        output = super().optimizer_step(optimizer, closure, model, **options)
        if optimizer is self.optimizers[0]:
            agree([buffer for network in self.networks for buffer in network.module.buffers()])
        return output

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Rank 0's file, at every rank: the others' machines need not have it."""
        mine = self.is_global_zero
        return self.broadcast(super().load_checkpoint(checkpoint_path, weights_only) if mine else {})

    def teardown(self) -> None:
        """Leave the networks bare."""
        self.networks = []
        super().teardown()


@torch.no_grad()
def agree(buffers: list[Tensor]) -> None:
    """Replace each buffer by its mean over all ranks, in one exchange; whole numbers by the nearest to it."""
    if not buffers:
        return
    flat = torch.cat([buffer.reshape(-1).double() for buffer in buffers])  # exact for counters too
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_((mean if buffer.is_floating_point() else mean.round()).view_as(buffer))
