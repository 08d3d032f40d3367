"""What precision and torch.compile do to the training step: time, and the losses of a run.

    python benchmarks/precision.py [variants] [sizes] [steps] [rounds]

Every setting first trains one run of `steps` generator steps on the digits, batch 128, whose losses are shown;
compiling falls into it. Then short runs of all settings take turns, and the median over `rounds` of their time a step
counts. Defaults: dcgan 16,32 40 7; on a GPU dcgan,wgan_gp,sngan 32,64 500 7, with 16-mixed too. Prints Markdown.

`away` is the mean distance of the discriminator's loss from that of 32-true at the same step, over its mean size: the
runs make the same draws, and part by what rounding does to them.
"""

import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Callback, Trainer

from gantry.core.config.instantiate import maker
from gantry.data.batches import Batches
from gantry.models.module import GAN
from gantry.training.hardware.precision import LossScaling, count_skipped_steps
from gantry.training.model import build_model

CONF = Path(__file__).parents[1] / "conf"
WARM_UP, TIMED = 3, 10  # steps of a timed run
ON_GPU = torch.cuda.is_available()


class Setting(NamedTuple):
    """What is compared."""

    precision: str
    compile: bool

    def __str__(self) -> str:
        return self.precision + (", compiled" if self.compile else "")


class Watch(Callback):
    """Keeps each step's losses, on the device, and the seconds a step takes after the first `WARM_UP`."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.began = self.seconds = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Add a step."""
        self.losses.append(torch.stack([outputs["loss/discriminator"], outputs["loss/generator"]]))
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            if ON_GPU:
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.began, self.seconds = now, (now - self.began) / max(trainer.global_step - WARM_UP, 1)


def fit(gan: GAN, batches: Batches, precision: str, steps: int) -> tuple[Watch, Trainer]:
    """Train for some steps, from step 0, with new optimizers."""
    watch = Watch()
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        devices=1,
        precision=precision,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    count_skipped_steps(trainer)
    trainer.fit(gan, batches)
    return watch, trainer


def compare(variant: str, size: int, steps: int, rounds: int, cache: Path) -> list[str]:
    """The rows of one variant at one size."""
    precisions = ["32-true", "bf16-mixed", *(["16-mixed"] if ON_GPU else [])]
    settings = [Setting(precision, compile) for precision in precisions for compile in (False, True)]
    gans, losses, skipped = {}, {}, {}
    for setting in settings:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            options = [f"model={variant}", f"data.image_size={size}", f"compile={setting.compile}"]
            cfg = compose("train", ["tracking=none", "paths.root=.", *options])
        data = maker(cfg.data)(cache=cache)
        gan, _ = build_model(cfg, data)
        gans[setting] = gan, Batches(data, cfg.batch_size, gan.n_critic, cfg.seed)
        watch, trainer = fit(*gans[setting], setting.precision, steps)
        losses[setting] = torch.stack(watch.losses).cpu()
        plugin = trainer.precision_plugin
        skipped[setting] = int(sum(plugin.skipped.values())) if isinstance(plugin, LossScaling) else 0
    times: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for number in range(rounds):
        for setting in settings[number % len(settings) :] + settings[: number % len(settings)]:
            watch, _ = fit(*gans[setting], setting.precision, WARM_UP + TIMED)
            times[setting].append(watch.seconds)
    reference = settings[0]
    base, rows = statistics.median(times[reference]), []
    for setting in settings:
        median = statistics.median(times[setting])
        span = f"{1e3 * min(times[setting]):.1f} to {1e3 * max(times[setting]):.1f}"
        finite = bool(losses[setting].isfinite().all())
        critic, generator = losses[setting].mean(0).tolist()
        distance = (losses[setting] - losses[reference])[:, 0].abs().mean() / losses[reference][:, 0].abs().mean()
        rows.append(
            f"| {variant} | {size} | {setting} | {1e3 * median:.1f} ({span}) | {base / median:.2f} | "
            f"{critic:.3f} | {generator:.3f} | {distance:.3f} | {'yes' if finite else 'NO'} | {skipped[setting]} |"
        )
    return rows


def main(variants: str, sizes: str, steps: int, rounds: int) -> None:
    """Measure and print."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    print(f"`python benchmarks/precision.py {variants} {sizes} {steps} {rounds}`\n")
    print(f"torch {torch.__version__}, {device}. Batch 128; losses are means over {steps} steps.\n", flush=True)
    print(
        "| variant | pixels | setting | ms a step (range) | times as fast | D loss | G loss | away | finite | skipped |"
    )
    print("|" + " --- |" * 10, flush=True)
    for size in map(int, sizes.split(",")):
        for variant in variants.split(","):
            print("\n".join(compare(variant, size, steps, rounds, Path.home() / ".cache" / "gantry")), flush=True)


if __name__ == "__main__":
    defaults = ["dcgan,wgan_gp,sngan", "32,64", "500", "7"] if ON_GPU else ["dcgan", "16,32", "40", "7"]
    given = sys.argv[1:] + defaults[len(sys.argv) - 1 :]
    main(given[0], given[1], int(given[2]), int(given[3]))
