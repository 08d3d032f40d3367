"""The DCGAN step of a checkout from before there were graphs, for `gpu.py before=...`; its `src` comes first.

    python benchmarks/gpu_before.py <batch> <size> <width>

It reads numbers of steps, a line each, trains so many through Lightning with the callbacks of every step, and prints
"seconds <number>". It needs nothing that came later: networks and callbacks are built here.
"""

import logging
import sys
import time
from functools import partial
from types import SimpleNamespace

import torch
from pytorch_lightning import Callback, Trainer

from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.training.callbacks.diagnostics import Health
from gantry.training.callbacks.divergence import Guard
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.lightning_overrides import NoProfiler, leave_out_empty_hooks, note_hooks_quickly
from gantry.training.stopwatch import Clock


class Asked(Callback):
    """Trains as many steps as a line says, and prints what they took."""

    def __init__(self) -> None:
        self.left, self.began = 0, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Where the asked steps are done, report and wait for the next line."""
        if self.left == 0:
            if batch_idx:
                print(f"seconds {waited() - self.began}", flush=True)
            line = sys.stdin.readline()
            if not line:
                raise SystemExit
            self.left, self.began = int(line), waited()
        self.left -= 1


def waited() -> float:
    """The time once the device has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(batch: int, size: int, width: int) -> None:
    """Train."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.backends.cudnn.deterministic = True  # as `train.py` has it
    torch.manual_seed(0)
    shape = (3, size, size)
    pixels = draws(0, 0, "benchmark images").integers(0, 256, (2048, *shape), dtype="uint8")
    data = ImageSet("random", pixels, None, None, "all", "drawn", "0" * 64, flip=False)
    networks = dcgan.Generator(100, shape, width), dcgan.Discriminator(shape, width)
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
    gan = GAN(*networks, non_saturating, adam, z_dim=100, seed=0, batch_size=batch)
    tracker = SimpleNamespace(set_tags=lambda tags: None, log_metrics=lambda values, step: None)
    health = Health(tracker, 250, torch.from_numpy(pixels[:64].copy()))  # type: ignore[arg-type]
    callbacks = [Asked(), Guard(50), TrainingLog(tracker, Clock(), 50), health]  # type: ignore[arg-type]
    leave_out_empty_hooks(callbacks)
    note_hooks_quickly()
    trainer = Trainer(
        max_steps=10**9,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed",
        profiler=NoProfiler(),
        callbacks=callbacks,
    )
    trainer.fit(gan, Batches(data, batch, gan.n_critic, gan.seed))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
