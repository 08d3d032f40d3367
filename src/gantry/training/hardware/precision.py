"""Chooses the precision that suits the device, and counts the steps that float16 loss scaling skips."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from gantry.models.step import PLAYERS

AUTO = "auto"


def choose(accelerator: str) -> tuple[str, str]:
    """Return the precision that `trainer.precision=auto` means on this machine, and the reason.

    It is bf16-mixed where the device computes with bfloat16 natively, else 32-true, since torch's emulation of
    bfloat16 is slower than float32. Nothing is timed, so that a machine always makes the same choice.

    Args:
        accelerator: `trainer.accelerator`.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"the GPU ({name}) computes with bfloat16"
        return "32-true", f"the GPU ({name}) does not compute with bfloat16"
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return "32-true", "Gantry is not tried with bfloat16 on Apple's GPUs"
    sets = (("avx512_bf16", torch.cpu._is_avx512_bf16_supported()), ("amx", torch.cpu._is_amx_tile_supported()))
    supported = [name for name, there in sets if there]
    if supported:
        return "bf16-mixed", f"the processor has bfloat16 instructions ({', '.join(supported)})"
    return "32-true", "the processor has no bfloat16 instructions (avx512_bf16 or amx)"


def settled(cfg: DictConfig, quiet: bool = False) -> DictConfig:
    """Return the config with a precision instead of `auto`; print the choice and its reason unless `quiet`."""
    if cfg.trainer.precision != AUTO:
        return cfg
    precision, reason = choose(cfg.trainer.accelerator)
    if not quiet:
        print(f"trainer.precision={precision}: {reason}", flush=True)
    return cast(DictConfig, OmegaConf.merge(cfg, {"trainer": {"precision": precision}}))


class LossScaling(MixedPrecision):
    """Lightning's 16-mixed precision, which also counts each network's steps skipped because a gradient overflowed.

    The loss is scaled up so that float16 gradients do not underflow; where one is not finite, the step is skipped and
    the scale halved (Micikevicius et al. 2018, Mixed Precision Training, section 3.2). Both networks share the scale.
    """

    def __init__(self, device: str, scaler: torch.amp.GradScaler | None = None) -> None:
        super().__init__("16-mixed", device, scaler)
        self.skipped: dict[str, int | Tensor] = dict.fromkeys(PLAYERS, 0)
        self._held = False  # whether the scale is not to change yet

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Step, or skip and count; the counts stay on the device, so that nothing waits for it."""
        scaler = cast(torch.amp.GradScaler, self.scaler)
        one = torch.ones((), device=model.device)
        before = scaler.scale(one)
        result = super().optimizer_step(optimizer, model, closure, **kwargs)
        name = PLAYERS[model.trainer.optimizers.index(optimizer)]
        skipped = scaler.scale(one) < before
        if self._held:
            skipped = torch.stack(list(scaler._found_inf_per_device(optimizer).values())).sum() > 0
        self.skipped[name] = self.skipped[name] + skipped
        return result

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this context all optimizers step under one scale, that of their gradients; it is updated at the end.

        Lightning updates it after each optimizer's step, so that the next one would unscale by another scale than
        that of its backward pass, where this was done before.
        """
        scaler = cast(torch.amp.GradScaler, self.scaler)
        self._held, scaler.update = True, lambda new_scale=None: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            self._held = False
            del scaler.update
        scaler.update()

    def values(self) -> dict[str, float]:
        """Return `skipped/generator` and `skipped/discriminator`, counts so far, and the current `loss_scale`."""
        counts = {f"skipped/{name}": float(count) for name, count in self.skipped.items()}
        return counts | {"loss_scale": cast(torch.amp.GradScaler, self.scaler).get_scale()}

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state and the counts."""
        return super().state_dict() | {"skipped": {name: int(count) for name, count in self.skipped.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.skipped = dict(state_dict["skipped"])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "skipped"})


def count_skipped_steps(trainer: Trainer) -> None:
    """Replace the trainer's loss scaling, where it has one, with `LossScaling`, which counts the skipped steps."""
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
        trainer.strategy.precision_plugin = LossScaling(plugin.device, plugin.scaler)
