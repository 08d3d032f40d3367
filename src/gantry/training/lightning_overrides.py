"""Lightning's training loop, rid of what it does at every step for nobody."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from pytorch_lightning import Callback
from pytorch_lightning.profilers import PassThroughProfiler

from gantry.core.processes.devices import GPUS

# Hooks called at every step, most of them several times.
STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's own profiler that does nothing, without a new context manager for each of some 150 calls a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """One that does nothing."""
        return NOTHING


def leave_out_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Have Lightning skip each callback at the hooks of a step that it leaves as they are: it skips what is None."""
    for callback in callbacks:
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)


@contextmanager
def gpus_not_looked_for() -> Iterator[None]:
    """Where there is no GPU, let that be known at once: torch's optimizers look for one at every step, for 0.4 ms."""
    if torch.cuda.is_available() or GPUS in os.environ:
        yield
        return
    os.environ[GPUS] = ""
    try:
        yield
    finally:
        del os.environ[GPUS]
