"""`trainer.sync_batchnorm`, which Lightning has on a GPU only, on the CPU too."""

from typing import cast

from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from gantry.models.networks.sync_batch_norm import restore, synchronise


class SyncBatchNormAnywhere(TorchSyncBatchNorm):
    """Lightning's plugin on a GPU, `gantry.models.networks.sync_batch_norm` on the CPU: one BatchNorm for all ranks.

    As a kind of Lightning's own plugin it may be given with `Trainer(sync_batchnorm=True)` and takes effect without it.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Have the BatchNorm of a LightningModule that is attached to its trainer use every rank's images.

        Raises:
            UserError: on the CPU, a BatchNorm of a kind of its own.
        """
        if cast(LightningModule, model).trainer.strategy.root_device.type != "cpu":
            return super().apply(model)
        synchronise(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put plain BatchNorm back, in the mode (train or eval) that each module was in."""
        modes = [module.training for module in model.modules()]
        restore(model)
        model = super().revert(model)
        # Lightning's new modules are in train mode, even in the averaged generator, which never trains.
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        return model
