"""Parts of the training step that know nothing of Lightning."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature

from torch import Tensor, nn
from torch.optim import Optimizer

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
Record = dict[str, Tensor]
Objective = Callable[..., tuple[Tensor, Record]]


@contextmanager
def frozen(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Meanwhile these weights take no gradient; those that did before do again afterwards."""
    taking = [weight for weight in weights if weight.requires_grad]
    for weight in taking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in taking:
            weight.requires_grad_(True)


def fused(factory: OptimizerFactory) -> OptimizerFactory:
    """Have an optimizer of torch's step all weights in one pass, where it can and the config does not say how.

    Not for 16-mixed: gradients would be unscaled only in that pass, after clipping and after anyone looks at them.
    """
    options = signature(factory).parameters if isinstance(factory, partial) else {}
    said = factory.keywords if isinstance(factory, partial) else {}
    asks = "fused" in options and not {"fused", "foreach", "differentiable", "capturable"} & said.keys()
    return partial(factory, **{"fused": True}) if asks else factory
