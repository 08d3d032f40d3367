"""Logs losses, scores and speed during training. Metrics are in `gantry.training.callbacks.evaluation`.

Steps are generator steps (`trainer.global_step`), and values go to a tracker, which never raises.
"""

import logging
from contextlib import suppress
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from gantry.core.processes.signals import Stopped
from gantry.models.module import GAN
from gantry.models.schedules import Progress
from gantry.runs.tracking.tracker import Tracker
from gantry.training.callbacks.divergence import Diverged
from gantry.training.distributed.peers import Peers
from gantry.training.hardware.async_copy import Fetched
from gantry.training.hardware.precision import LossScaling
from gantry.training.stopwatch import Clock

log = logging.getLogger(__name__)


class TrainingLog(Callback):
    """Logs the means of losses and scores, since the last log and over all ranks, every `every` steps.

    They are read from the device and exchanged only then; from a GPU during the next step, so that it never waits.
    """

    def __init__(self, tracker: Tracker, clock: Clock, every: int, peers: Peers | None = None) -> None:
        self.tracker, self.clock, self.every = tracker, clock, every
        self.peers = peers or Peers()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.mark = (0, 0.0)
        self.logged: dict[str, float] = {}  # what was logged last
        self.due: tuple[int, float, int, list[str], Fetched, dict[str, float]] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Start measuring the speed."""
        self.clock.start()
        self.mark = (trainer.global_step, self.clock.read())
        self.sums = {name: total.to(pl_module.device) for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the training time and the sums since the last log, averaged over the ranks, which all call this."""
        self.deliver()
        sums = dict(self.sums)
        if sums and self.peers.world_size > 1:  # only rank 0's is stored, and all ranks load it
            means = self.peers.mean(torch.stack(list(sums.values()))).float()
            sums = dict(zip(sums, means, strict=True))
        return {"seconds": self.clock.read(), "sums": sums, "counts": dict(self.counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.clock.seconds = max(self.clock.read(), state_dict["seconds"])  # time before a rollback counts too
        self.sums, self.counts, self.due = state_dict["sums"], state_dict["counts"], None

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Add this step's values, and log when due."""
        self.deliver()
        known = [name for name in outputs if name in self.sums]
        pairs = [self.sums[name] for name in known], [outputs[name] for name in known]
        added = torch._foreach_add(*pairs) if known else ()
        self.sums |= outputs | dict(zip(known, added, strict=True))
        for name in outputs:
            self.counts[name] = self.counts.get(name, 0) + 1
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            means = Fetched(torch.stack([total / self.counts[name] for name, total in self.sums.items()]))
            images = pl_module.batch_size * pl_module.real_batches
            more = plugin.values() if isinstance(plugin := trainer.precision_plugin, LossScaling) else {}
            more |= pl_module.scheduled.logged(Progress(step - 1, (step - 1) * pl_module.batch_size))
            self.due = (step, self.clock.read(), images, list(self.sums), means, more)
            self.sums, self.counts = {}, {}
            if means.here or step == trainer.max_steps:
                self.deliver()

    def deliver(self) -> None:
        """Log the means that are due."""
        if self.due is None:
            return
        (step, now, images, names, means, more), self.due = self.due, None
        ahead = not means.arrived()
        values = dict(zip(names, self.peers.mean(means.read()).tolist(), strict=True))
        if ahead:  # the host was ahead of the device, which has only now finished the step
            now = self.clock.read()
        values["images_seen"] = step * images
        values["training_seconds"] = now
        values["images_per_second"] = (step - self.mark[0]) * images / max(now - self.mark[1], 1e-9)
        self.mark = (step, now)
        self.logged = values | more
        self.tracker.log_metrics(self.logged, step)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Log the means that are due."""
        self.deliver()

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:  # type: ignore[override]
        """Log the means that are due, unless a single rank has failed, since the exchange would wait for it."""
        if self.peers.world_size == 1 or isinstance(exception, Diverged | Stopped):
            with suppress(RuntimeError):  # the device no longer answers
                self.deliver()
