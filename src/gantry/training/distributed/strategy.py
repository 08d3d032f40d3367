"""Adapts Lightning's DDP to GANs: each network exchanges its own gradients, only in its own step."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.utilities.distributed import _destroy_dist_connection
from pytorch_lightning import Trainer
from pytorch_lightning.overrides.distributed import prepare_for_backward
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gantry.core.errors import UserError
from gantry.core.processes.ranks import Place
from gantry.training.distributed.sync_batch_norm import SyncBatchNormAnywhere
from gantry.training.lightning_overrides import leave_signals


def plugins(place: Place, sync_batchnorm: bool) -> list[Any]:
    """Return the Trainer's plugins for several ranks: the launcher's environment and, if asked for, SyncBatchNorm."""
    environments: dict[str, Callable[[], Any]] = {
        "nobody": LightningEnvironment,
        "gantry": LightningEnvironment,
        "torchrun": TorchElasticEnvironment,
        "slurm": partial(SLURMEnvironment, auto_requeue=False),
    }
    return [environments[place.by](), *([SyncBatchNormAnywhere()] if sync_batchnorm else [])]


class NetworkwiseDDP(DDPStrategy):
    """DDP with the generator and the discriminator each in its own `DistributedDataParallel`.

    Lightning wraps the whole LightningModule; DDP must then search each graph for the parameters of the network that
    is not being trained, and exchanges their zero gradients too. Here a backward pass exchanges only the gradients of
    the network being trained, whose parameters require them. The networks are called without their wrappers, so that
    penalties, checkpoints and exports do not see these.

    After each generator step the networks' buffers are averaged over the ranks (exact for BatchNorm's mean; its
    variance lacks the variance between the ranks' means, which `sync_batchnorm` includes). Under manual optimization
    Lightning does not synchronise them, so that each rank would evaluate another generator and the checkpoint would
    hold one that was never measured.

    Args:
        **options: options of Lightning's `DDPStrategy` and of `DistributedDataParallel`.

    Raises:
        UserError: `static_graph` is set; then only the wrapper's forward starts the first exchange, and the ranks
            would train separate networks without an error.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("static_graph"):
            raise UserError("trainer.strategy.static_graph: leave it out; under it nothing would be exchanged")
        super().__init__(**{"broadcast_buffers": False, "gradient_as_bucket_view": True} | options)
        self.networks: list[DistributedDataParallel] = []
        self.store: dist.Store | None = None  # of the process group; None: Lightning's environment determines it

    def setup_distributed(self) -> None:
        """Join the process group, by `store` if it is set, since Lightning's own store listens on every interface."""
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
                atexit.register(_destroy_dist_connection)  # as Lightning does for its own group
        super().setup_distributed()

    def setup(self, trainer: Trainer) -> None:
        """Set up for `trainer`, without Lightning's signal handlers."""
        leave_signals(trainer)
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """Wrap each network, but not the module that holds them."""
        gan = self.lightning_module
        assert gan is not None
        self.networks = [self._setup_model(network) for network in (gan.generator, gan.discriminator)]  # type: ignore[arg-type]

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Prepare only the network being trained to exchange gradients in the next backward pass."""
        for network in self.networks:
            if any(parameter.requires_grad for parameter in network.module.parameters()):
                prepare_for_backward(network, closure_loss)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Accumulate the gradients of backward passes in the block on each rank, without an exchange."""
        with ExitStack() as stack:
            for network in self.networks:
                stack.enter_context(network.no_sync())
            yield

    def agree(self) -> None:
        """Average the networks' buffers over the ranks, after the last turn of a step and before the moving average."""
        agree([buffer for network in self.networks for buffer in network.module.buffers()])

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load the checkpoint on rank 0 and broadcast it, since other machines may lack the file."""
        mine = self.is_global_zero
        return self.broadcast(super().load_checkpoint(checkpoint_path, weights_only) if mine else {})

    def teardown(self) -> None:
        """Drop the wrappers of the networks."""
        self.networks = []
        super().teardown()


@torch.no_grad()
def agree(buffers: list[Tensor]) -> None:
    """Replace each buffer by its mean over all ranks, rounded for whole numbers, in one all-reduce."""
    if not buffers:
        return
    flat = torch.cat([buffer.reshape(-1).double() for buffer in buffers])  # exact for counters too
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_((mean if buffer.is_floating_point() else mean.round()).view_as(buffer))
