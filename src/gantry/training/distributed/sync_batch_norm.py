"""Extends `trainer.sync_batchnorm`, which Lightning supports on GPUs only, to the CPU."""

from typing import cast

from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from gantry.models.networks.sync_batch_norm import restore, synchronise


class SyncBatchNormAnywhere(TorchSyncBatchNorm):
    """Synchronises BatchNorm: by Lightning's plugin on a GPU, by `gantry.models.networks.sync_batch_norm` on a CPU.

    As a subclass of Lightning's plugin it is allowed beside `Trainer(sync_batchnorm=True)`, and it works without that.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise the BatchNorm modules of a LightningModule that is attached to its trainer.

        Raises:
            UserError: the device is a CPU and the model has a BatchNorm of another class than torch's.
        """
        if cast(LightningModule, model).trainer.strategy.root_device.type != "cpu":
            return super().apply(model)
        synchronise(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore plain BatchNorm and keep each module's mode (train or eval)."""
        modes = [module.training for module in model.modules()]
        restore(model)
        model = super().revert(model)
        # Lightning's new modules are in train mode, also in the averaged generator, which is always in eval mode.
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        return model
