"""What tests of training share: a few random images, and Lightning without its extras."""

import torch
from pytorch_lightning import Trainer

from gantry.core.randomness import draws
from gantry.data.images import ImageSet

NOISE = ImageSet(
    "noise",
    draws(0, 0, "test images").integers(0, 256, (60, 1, 8, 8), dtype="uint8"),
    draws(0, 0, "test labels").integers(0, 3, 60),
    *(("a", "b", "c"), "all", "drawn", "0" * 64),
    flip=False,
)


def bare_trainer(steps, accelerator="cpu", **options):
    """A Trainer of so many steps that writes, logs and shows nothing."""
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator=accelerator,
        **options,
    )


def vector(network):
    """All weights in one vector; torch's `parameters_to_vector` wants them contiguous."""
    return torch.cat([weight.flatten() for weight in network.parameters()])
