"""Compares the memory that a start says a training step needs with what steps take.

    python benchmarks/memory.py model=dcgan data.image_size=256 batch_size=16

It prints the estimate, and what the process (on a GPU: its allocator) held more at the fullest moment of three steps
than before its networks were built.
"""

import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer

from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.data.sizes import sides
from gantry.training.hardware.precision import settled
from gantry.training.memory import need
from gantry.training.model import build_model

ROOT = Path(__file__).parents[1]
STEPS = 3


def main(overrides: list[str]) -> None:
    """Print both figures for a run with these overrides, on random colour images."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = settled(compose("train", ["tracking=none", "paths.root=/none", "paths.cache=/none", *overrides]))
    count = cfg.batch_size * cfg.accumulate
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, *sides(cfg.data.image_size)), np.uint8)
    data = ImageSet("noise", pixels, None, None, "all", "drawn", "0" * 64, flip=False)
    estimate = need(cfg, data)
    assert estimate is not None
    # Torch's own code is loaded by steps of tiny networks, so that it is not counted.
    small = compose_small(cfg)
    train(small, replace(data, images=pixels[: small.batch_size, :, :8, :8].copy()))
    before = held()
    train(cfg, data)
    print(
        f"{' '.join(overrides)}, {cfg.trainer.precision}: estimate {estimate.total / 2**20:.0f} MiB (weights "
        f"{estimate.weights / 2**20:.0f}, activations {estimate.activations / 2**20:.0f}), "
        f"measured {(peak() - before) / 2**20:.0f} MiB"
    )


def compose_small(cfg):
    """Return the config with networks and batches as small as they can be."""
    small = cfg.copy()
    small.batch_size, small.accumulate, small.data.image_size = 2, 1, 8
    for name in ("generator", "discriminator"):
        if "width" in small.model[name]:
            small.model[name].width = 4
    return small


def train(cfg, data: ImageSet) -> None:
    """Run a few steps as train.py does, without measuring."""
    gan, _ = build_model(cfg, data)
    trainer = Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=cfg.trainer.precision,
        accelerator=cfg.trainer.accelerator,
        devices=1,
    )
    trainer.fit(gan, Batches(data, gan.batch_size, gan.n_critic, cfg.seed))


def held() -> int:
    """Return the bytes that this process holds now, on the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Return the most bytes that this process has held since `held`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])
