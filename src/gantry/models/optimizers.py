"""Sets the options of optimizers that depend on the precision."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantry.core.errors import UserError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def fused(factory: OptimizerFactory) -> OptimizerFactory:
    """Use the fused implementation of a torch optimizer, if it has one and the config does not choose another.

    Not for 16-mixed: gradients would be unscaled only inside the fused step, after clipping and after callbacks.
    """
    options = signature(factory).parameters if isinstance(factory, partial) else {}
    keywords = factory.keywords if isinstance(factory, partial) else {}
    asks = "fused" in options and not {"fused", "foreach", "differentiable", "capturable"} & keywords.keys()
    return partial(factory, **{"fused": True}) if asks else factory


def capturable(factory: OptimizerFactory) -> OptimizerFactory:
    """Let a torch optimizer count its steps on the device, so that its step can be a CUDA graph, if it has the option.

    On a CPU the option raises; there it changes nothing but rounding.
    """
    options = signature(factory).parameters if isinstance(factory, partial) else {}
    keywords = factory.keywords if isinstance(factory, partial) else {}
    asks = "capturable" in options and not {"differentiable", "capturable"} & keywords.keys()
    return partial(factory, **{"capturable": True}) if asks else factory


def keep_capturable(optimizers: Iterable[Optimizer], capturable: bool) -> None:
    """Set the option after a checkpoint was loaded, which holds that of the device on which it was written.

    A capturable optimizer counts its steps on the device of the weights, and raises on a CPU.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "capturable" not in group:
                continue
            group["capturable"] = capturable
            for weight in group["params"]:
                count = optimizer.state.get(weight, {}).get("step")
                if capturable and isinstance(count, Tensor):
                    optimizer.state[weight]["step"] = count.to(weight.device, torch.float32)


def check_clipping(optimizers: Sequence[Optimizer], max_grad_norm: float | None, scaled: bool) -> None:
    """Refuse gradient clipping with a loss scaler and fused optimizers, which unscale gradients only in their step.

    Raises:
        UserError: names the keys that exclude each other.
    """
    fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in optimizers)
    if max_grad_norm is not None and scaled and fused:
        raise UserError(
            f"model.max_grad_norm={max_grad_norm} cannot clip the gradients of a fused optimizer under "
            "trainer.precision=16-mixed, which are still scaled: use model.optimizer.fused=false or "
            "trainer.precision=bf16-mixed"
        )
