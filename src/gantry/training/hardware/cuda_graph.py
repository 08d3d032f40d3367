"""Decides how the steps of a run are carried out on a GPU: where its images lie, and whether steps are CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, ListConfig
from pytorch_lightning import Callback, Trainer

from gantry.core.cuda_graph import CudaGraphs
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.data.resident import Resident, fits
from gantry.models.fixed_step import FixedStep
from gantry.training.lightning_overrides import STEP_HOOKS

AUTO = "auto"
INSIDE = [hook for hook in STEP_HOOKS if not hook.startswith("on_train_batch")]  # called in the middle of a step


def check_cuda_graph(cfg: DictConfig, trainer: Trainer, callbacks: Sequence[Callback]) -> None:
    """Refuse `cuda_graph=true` where steps cannot be CUDA graphs, before anything is measured or recorded.

    Raises:
        UserError: names the reason.
    """
    if cfg.get("cuda_graph", AUTO) is not True:
        return
    if (device := trainer.strategy.root_device).type != "cuda":
        raise UserError(
            f"cuda_graph=true needs a CUDA device, and this run is on {device.type}; cuda_graph=auto takes what there "
            "is"
        )
    if (why := next(reasons(cfg, trainer, callbacks), None)) is not None:
        raise UserError(f"cuda_graph=true: steps cannot be CUDA graphs, since {why}; cuda_graph=auto runs them eagerly")


def fixed_step(cfg: DictConfig, trainer: Trainer, data: ImageSet, callbacks: Sequence[Callback]) -> FixedStep | None:
    """Return what carries out the steps of a run on a CUDA device; None on any other device.

    A data set that takes at most a quarter of the free memory is copied to the device. Rank 0 prints both choices.

    Args:
        cfg: the run's config with its precision resolved.
        trainer: the run's.
        data: the images to train on.
        callbacks: the user's.
    """
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return None
    why = next(reasons(cfg, trainer, callbacks), None)
    here = fits(data.images, device)
    if trainer.is_global_zero:
        how = "replayed as CUDA graphs (cuda_graph=false: eagerly)" if why is None else f"run eagerly, since {why}"
        where = "on the GPU" if here else "in the host's memory, above a quarter of what is free on the GPU"
        print(f"steps are {how}; images are {where}", flush=True)
    return FixedStep(CudaGraphs if why is None else None, Resident(data.images, device) if here else None)


def reasons(cfg: DictConfig, trainer: Trainer, callbacks: Sequence[Callback]) -> Iterator[str]:
    """Yield the reasons for which steps cannot be CUDA graphs, as the ends of a sentence after "since"."""
    if cfg.get("cuda_graph", AUTO) is False:
        yield "cuda_graph=false"
    if trainer.world_size > 1 or cfg.trainer.get("strategy") is not None:
        yield "trainer.strategy exchanges gradients between ranks in the middle of a step"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        yield f"under trainer.precision={cfg.trainer.precision} the host decides whether a step counts"
    if cfg.trainer.get("detect_anomaly"):
        yield "trainer.detect_anomaly looks at each operation"
    for name in ("optimizer", "discriminator_optimizer"):
        for option, value in (cfg.model.get(name) or {}).items():
            scheduled = any(
                isinstance(one, DictConfig) for one in (value if isinstance(value, ListConfig) else [value])
            )
            if scheduled and option != "lr":
                yield f"model.{name}.{option} changes from step to step, and a graph holds it fixed"
    for callback in callbacks:
        for hook in INSIDE:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                yield f"{type(callback).__name__} has {hook}, which is called in the middle of a step"
