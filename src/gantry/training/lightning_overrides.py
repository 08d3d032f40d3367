"""Everything that Gantry changes inside Lightning; tests/training/test_lightning_overrides.py pins each.

It removes work that Lightning does at every step and Gantry does not use: profiler contexts, empty hooks, searches for
GPUs and attributes. And it leaves signals to `gantry.core.processes.signals`.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler
from torch import nn

from gantry.core.processes.devices import GPUS

# Hooks called at every step, most of them several times.
STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
HOOK = "_current_fx_name"  # of a LightningModule: the hook that is running
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


def note_hooks_quickly() -> None:
    """Have Lightning note which hook it is in, some forty times a step, without a search.

    It does so by an attribute of the LightningModule, and torch looks at each for being a parameter or a network.
    """
    LightningModule.__setattr__ = _set_attribute  # type: ignore[method-assign, assignment]


def _set_attribute(module: LightningModule, name: str, value: Any) -> None:
    if name == HOOK:
        module.__dict__[name] = value
    else:
        nn.Module.__setattr__(module, name, value)


def leave_signals(trainer: Trainer) -> None:
    """Have Lightning neither handle signals nor agree on them between ranks.

    Its handlers take the place of those of `deferred`, and end a run with exit code 0. Its way to stop together waits
    for the other ranks within the handler, which ends in a deadlock, and for the device at every step; `AgreedStop`
    sees to that.
    """
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    """Stands for what Lightning does about signals."""


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
