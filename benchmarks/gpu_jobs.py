"""What several small jobs on one device train together, against the same jobs one after the other.

    python benchmarks/gpu_jobs.py [jobs=4] [steps=400] [rounds=3] [size=32] [batch=64] [width=64] [device=auto]

A job is a process that trains a DCGAN on random images, as `sweep.jobs_per_device` starts it: with its part of the
GPU's memory and of the processor's cores, through `GAN` and Lightning, without callbacks. All have warmed up before
the clock starts, and it stops when the last one is done. Jobs one after the other make as many steps a second as one
job alone, whose start-up is left out too. A round measures one job alone and all of them together; the medians over
the rounds count. It needs torch and Lightning; without omegaconf, Lightning's loop is as it comes, without
`gantry.training.lightning_overrides`. Prints Markdown.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # on a bare image Gantry is not installed

from gantry.core.processes.devices import JOBS, THREADS, cores  # noqa: E402

WARM_UP = 50  # steps of each job, in which libraries choose their algorithms and a graph may be captured
IMAGES = 2048  # of the data set
READY, GO, DONE = "ready", "go", "done"  # what a job and whoever started it tell each other, a line each


@dataclass(frozen=True)
class Work:
    """What every job does: `steps` generator steps of a DCGAN.

    Attributes:
        size: pixels of an image's side.
        batch: images in a step.
        width: of both networks.
        device: cuda, cpu, or auto: a GPU where there is one.
    """

    steps: int = 400
    size: int = 32
    batch: int = 64
    width: int = 64
    device: str = "auto"


class Rates(NamedTuple):
    """Generator steps a second, of all jobs together: one after the other, at the same time, and their ratio."""

    serial: float
    together: float
    ratio: float


def measure(jobs: int = 4, rounds: int = 3, work: Work | None = None) -> Rates:
    """Measure `jobs` jobs in `rounds` rounds; the ratio is the median of the rounds' ratios.

    Raises:
        RuntimeError: a job has failed; its error is on standard error.
    """
    pairs = [(rate(1, work or Work()), rate(jobs, work or Work())) for _ in range(rounds)]
    ratios = [together / serial for serial, together in pairs]
    return Rates(*(statistics.median(rates) for rates in zip(*pairs, strict=True)), statistics.median(ratios))


def rate(jobs: int, work: Work) -> float:
    """Run so many jobs at a time; return their steps a second, all together.

    Raises:
        RuntimeError: see `measure`.
    """
    share = {JOBS: str(jobs), THREADS: os.environ.get(THREADS, str(max(1, cores() // jobs)))}
    command = [sys.executable, __file__, "job", json.dumps(asdict(work))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=os.environ | share, **pipes) for _ in range(jobs)]
    try:
        for process in running:
            wait_for(READY, process.stdout)
        began = perf_counter()
        for process in running:
            process.stdin.write(f"{GO}\n")
            process.stdin.flush()
        for process in running:
            wait_for(DONE, process.stdout)
        return jobs * work.steps / (perf_counter() - began)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def wait_for(word: str, said: IO[str]) -> None:
    """Read until a line says `word`.

    Raises:
        RuntimeError: it ends before.
    """
    if not any(line.strip() == word for line in said):
        raise RuntimeError(f"a job has ended before it was {word}")


def job(work: Work, told: IO[str], says: IO[str]) -> None:
    """Train: warm up, say so, wait to be told to go on, and say when the last step is done on the device."""
    import torch
    from pytorch_lightning import Callback, Trainer

    from gantry.data.batches import Batches
    from gantry.models.losses import non_saturating
    from gantry.models.module import GAN
    from gantry.models.networks import dcgan
    from gantry.training.hardware.memory_share import keep_to_share

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    on_gpu = torch.cuda.is_available() if work.device == "auto" else work.device == "cuda"
    if on_gpu:
        keep_to_share(torch.device("cuda", 0))

    class Waiting(Callback):
        """Waits after the steps that do not count."""

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in (WARM_UP, trainer.max_steps):
                if on_gpu:
                    torch.cuda.synchronize()
                print(READY if trainer.global_step == WARM_UP else DONE, file=says, flush=True)
            if trainer.global_step == WARM_UP:
                wait_for(GO, told)

    shape = (3, work.size, work.size)
    networks = dcgan.Generator(100, shape, work.width), dcgan.Discriminator(shape, work.width)
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
    gan = GAN(*networks, non_saturating, adam, z_dim=100, seed=0, batch_size=work.batch)
    trainer = Trainer(
        max_steps=WARM_UP + work.steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true",
        callbacks=[Waiting()],
        **lean(),
    )
    trainer.fit(gan, Batches(random_images(shape), work.batch, gan.n_critic, gan.seed))


def lean() -> dict[str, Any]:
    """Return the options by which a run spares Lightning's loop work that it does not use, and change the rest."""
    try:
        from gantry.training.lightning_overrides import NoProfiler, note_hooks_quickly
    except ImportError:  # on a bare image
        return {}
    note_hooks_quickly()
    return {"profiler": NoProfiler()}


def random_images(shape: tuple[int, int, int]) -> Any:
    """Return a data set of random images (C, H, W)."""
    from gantry.core.randomness import draws
    from gantry.data.images import ImageSet

    pixels = draws(0, 0, "benchmark images").integers(0, 256, (IMAGES, *shape), dtype="uint8")
    return ImageSet("random", pixels, None, None, "all", "drawn", "0" * 64, flip=False)


def table(jobs: int, rates: Rates, work: Work) -> str:
    """Return the figures as Markdown."""
    return "\n".join(
        [
            "| networks | jobs | one after the other, steps a second | together | together / one after the other |",
            "|" + " --- |" * 5,
            f"| dcgan, {work.size} px, width {work.width}, batch {work.batch} | {jobs} | {rates.serial:.1f} | "
            f"{rates.together:.1f} | {rates.ratio:.2f} |",
        ]
    )


def main(arguments: list[str]) -> None:
    """Measure and print, or be one of the jobs."""
    if arguments[:1] == ["job"]:
        job(Work(**json.loads(arguments[1])), sys.stdin, sys.stdout)
        return
    given = dict(text.split("=") for text in arguments)
    device = given.pop("device", "auto")
    jobs, rounds = int(given.pop("jobs", 4)), int(given.pop("rounds", 3))
    work = Work(device=device, **{name: int(value) for name, value in given.items()})
    print(f"`{' '.join(['python benchmarks/gpu_jobs.py', *arguments])}`\n")
    print(table(jobs, measure(jobs, rounds, work), work))


if __name__ == "__main__":
    main(sys.argv[1:])
