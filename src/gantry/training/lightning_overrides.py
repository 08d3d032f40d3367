"""All of Gantry's changes to Lightning's internals; tests/training/test_lightning_overrides.py tests each.

They remove work that Lightning does at every step and Gantry does not use: profiler contexts, empty hooks, searches for
GPUs and attributes. They also leave signals to `gantry.core.processes.signals`, and bring the state of training back to
the device after `fit`.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.optimizer import _optimizers_to_device
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler, Profiler
from torch import nn

from gantry.core.processes.devices import GPUS
from gantry.runs.folder import PROFILE

# Hooks called at every step, most of them several times.
STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
HOOK = "_current_fx_name"  # attribute of a LightningModule: the hook that is running
NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's empty profiler, without the new context manager that it makes for each of some 150 calls a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Return a context manager that does nothing."""
        return NOTHING


def write_profile(trainer: Trainer, folder: Path) -> None:
    """Let a profiler that names no file write its table to `folder`; Lightning would log it where nobody sees it."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    if not isinstance(profiler, PassThroughProfiler):
        profiler.dirpath = profiler.dirpath or folder
        profiler.filename = profiler.filename or PROFILE


def leave_out_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Set the step hooks that a callback does not override to None, which Lightning skips."""
    for callback in callbacks:
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)


def note_hooks_quickly() -> None:
    """Set the attribute in which Lightning stores the current hook, some forty times a step, without torch's checks.

    `torch.nn.Module.__setattr__` checks each attribute for being a parameter, a buffer or a module.
    """
    LightningModule.__setattr__ = _set_attribute  # type: ignore[method-assign, assignment]


def _set_attribute(module: LightningModule, name: str, value: Any) -> None:
    if name == HOOK:
        module.__dict__[name] = value
    else:
        nn.Module.__setattr__(module, name, value)


def leave_signals(trainer: Trainer) -> None:
    """Keep Lightning from handling signals and from agreeing on them between ranks.

    Its handlers would replace those of `deferred` and end a run with exit code 0. To stop all ranks it waits for the
    others within the handler, which deadlocks, and for the device at every step; `AgreedStop` is used instead.
    """
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    """Replace a method of Lightning by one that does nothing."""


def know_the_arguments_of_a_step(trainer: Trainer) -> None:
    """Keep Lightning from reading the signature of `training_step` at every step, to see if it takes `batch_idx`."""
    trainer.fit_loop.epoch_loop._build_kwargs = _arguments_of_a_step  # type: ignore[method-assign, assignment]


def _arguments_of_a_step(kwargs: dict[str, Any], batch: Any, batch_idx: int) -> dict[str, Any]:
    kwargs |= {"batch": batch, "batch_idx": batch_idx}
    return kwargs


def return_to_device(trainer: Trainer, module: LightningModule) -> None:
    """Move the module and the optimizers' state back to the trainer's device; Lightning's `fit` leaves them on the CPU.

    `module.to` alone would leave the optimizers' state there.
    """
    device = trainer.strategy.root_device
    module.to(device)
    _optimizers_to_device(trainer.optimizers, device)


@contextmanager
def gpus_not_looked_for() -> Iterator[None]:
    """Hide GPUs from torch where there are none: its optimizers else look for one at every step, which takes 0.4 ms."""
    if torch.cuda.is_available() or GPUS in os.environ:
        yield
        return
    os.environ[GPUS] = ""
    try:
        yield
    finally:
        del os.environ[GPUS]
