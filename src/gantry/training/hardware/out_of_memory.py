"""Turns out-of-memory errors into advice for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig

from gantry.core.errors import OUT_OF_MEMORY, RunFailed
from gantry.core.processes.devices import jobs_sharing

OF_THE_DEVICE = ("out of memory", "alloc_failed")  # in messages of CUDA, MPS, cuBLAS and cuDNN
OF_THE_HOST = ("can't allocate memory", "not enough memory", "std::bad_alloc")  # of torch's allocator and of C++


def advice(
    error: BaseException, batch_size: int, accumulate: int, precision: str, world_size: int = 1, jobs: int = 1
) -> str | None:
    """Return advice on an out-of-memory error; None for any other error.

    Args:
        error: the error that has ended a run.
        batch_size, accumulate, precision: of the run's config.
        world_size: number of its ranks, which divide `batch_size` equally.
        jobs: number of a sweep's jobs that share its GPU (`sweep.jobs_per_device`).
    """
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    device = type(error).__name__ == "OutOfMemoryError" or any(words in text for words in OF_THE_DEVICE)
    if not device and not isinstance(error, MemoryError) and not any(words in text for words in OF_THE_HOST):
        return None
    choices = []
    if device and jobs > 1:
        choices.append(f"sweep.jobs_per_device={jobs // 2} gives each job of the sweep a larger part of its GPU")
    share = batch_size // world_size
    if (parts := next((parts for parts in range(2, share + 1) if share % parts == 0), None)) is not None:
        smaller = f"batch_size={batch_size // parts} accumulate={accumulate * parts}"
        choices.append(f"{smaller} takes the same step of {batch_size * accumulate} images in smaller parts")
    if device and not precision.startswith(("bf16", "16")):
        choices.append("trainer.precision=bf16-mixed keeps activations in half the memory")
    if device:
        choices.append(f"trainer=ddp trainer.devices={2 * world_size} has each GPU take half as many images")
    else:
        choices.append("a smaller max_images keeps fewer images of the data set in memory")
    choices.append("smaller networks (model.generator.width, model.discriminator.width) need less of everything")
    whose = f"this job's part of the GPU's memory (sweep.jobs_per_device={jobs})" if jobs > 1 else "the GPU's memory"
    where = whose if device else "this machine's memory"
    return "\n  ".join([f"out of memory: {where} does not suffice. What helps, in this order:", *choices])


@contextmanager
def advised(cfg: DictConfig, world_size: int) -> Iterator[None]:
    """Convert an out-of-memory error in this context into one with advice.

    Raises:
        RunFailed: the message holds the advice and the original error.
    """
    try:
        yield
    except Exception as error:
        asked = cfg.batch_size, cfg.accumulate, cfg.trainer.precision
        if (text := advice(error, *asked, world_size, jobs_sharing())) is None:
            raise
        raise RunFailed(
            f"{text}\n({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            kind=OUT_OF_MEMORY,
        ) from error
