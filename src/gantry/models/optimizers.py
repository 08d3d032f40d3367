"""Options of the networks' optimizers that follow from the precision."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature

from torch import nn
from torch.optim import Optimizer

from gantry.core.errors import UserError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def fused(factory: OptimizerFactory) -> OptimizerFactory:
    """Have an optimizer of torch's step all weights in one pass, where it can and the config does not say how.

    Not for 16-mixed: gradients would be unscaled only in that pass, after clipping and after anyone looks at them.
    """
    options = signature(factory).parameters if isinstance(factory, partial) else {}
    said = factory.keywords if isinstance(factory, partial) else {}
    asks = "fused" in options and not {"fused", "foreach", "differentiable", "capturable"} & said.keys()
    return partial(factory, **{"fused": True}) if asks else factory


def check_clipping(optimizers: Sequence[Optimizer], max_grad_norm: float | None, scaled: bool) -> None:
    """Refuse to clip under a loss scaler what fused optimizers unscale only in their step.

    Raises:
        UserError: naming the keys that exclude each other.
    """
    fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in optimizers)
    if max_grad_norm is not None and scaled and fused:
        raise UserError(
            f"model.max_grad_norm={max_grad_norm} cannot clip the gradients of a fused optimizer under "
            "trainer.precision=16-mixed, which are still scaled: use model.optimizer.fused=false or "
            "trainer.precision=bf16-mixed"
        )
