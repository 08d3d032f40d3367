"""Writes a run's checkpoints on schedule, and ends the run where they repeatedly cannot be written."""

from __future__ import annotations

import copy
import io
import logging
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from safetensors import SafetensorError
from torch import nn

from gantry.core.errors import RunFailed
from gantry.core.processes.signals import Stop, Stopped
from gantry.core.safe_load import load_plain
from gantry.models.module import GAN
from gantry.runs import checkpoint_files
from gantry.runs.find_checkpoint import BEGAN_AT
from gantry.runs.folder import BEST, GENERATOR, LAST, TAGS_FILE, read_values
from gantry.runs.generator_files import save_generator
from gantry.training.callbacks.divergence import Diverged, Guard
from gantry.training.callbacks.evaluation import Evaluation
from gantry.training.stopwatch import Clock

log = logging.getLogger(__name__)


class CheckpointFailed(RunFailed):
    """Several checkpoints in a row, or the one at the end of training, could not be written."""


class DurableIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints by `gantry.runs.checkpoint_files`; reads them without running code in them.

    Errors are kept in `error`, since Lightning's own class raises on rank 0 only, while the other ranks wait for it.

    Args:
        run: the run's folder.

    Attributes:
        written: the file of the last attempt; None where that failed.
        error: the error of the last attempt; None where it succeeded.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.written: Path | None = None
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` under the name that its step and digest give; `path` is not used."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        self.written = self.error = None
        try:
            self.written = checkpoint_files.write(self.run, checkpoint["global_step"], content.getbuffer())
        except OSError as error:
            self.error = error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Load the checkpoint at `path`: tensors and plain values only.

        Raises:
            UserError: the file cannot be read, or holds anything else.
        """
        loaded: dict[str, Any] = load_plain(Path(path), f"the checkpoint {path}")
        return loaded


class Checkpointing(Callback):
    """Writes a checkpoint every `every` steps, after each evaluation, and when the run is stopped.

    `guard` checks first, so that a checkpoint holds finite numbers only. Where one cannot be written, a warning is
    logged and earlier ones stay; training continues until `max_failures` in a row. All ranks must call it together;
    rank 0 writes the files.

    Args:
        io: the trainer's checkpoint plugin.
        settings: the config's `checkpoint`: `every` (generator steps), `keep` (number of latest checkpoints, beside
            the best evaluation's) and `max_failures` (in a row, at which the run ends).
        evaluation: must precede this callback in the trainer's list.
        network: the generator's config, from which the export is rebuilt.
        guard: refuses numbers that are not finite.
        clock: paused while a checkpoint is written.
        stop: checked after every step.
    """

    def __init__(
        self,
        io: DurableIO,
        settings: DictConfig,
        evaluation: Evaluation,
        network: dict[str, Any],
        guard: Guard,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self.io = io
        self.every, self.keep, self.max_failures = settings.every, settings.keep, settings.max_failures
        self.evaluation, self.network, self.guard, self.clock, self.stop = evaluation, network, guard, clock, stop
        self.seen: int | None = None  # step of the last evaluation that a checkpoint was due for
        self.kept: int | None = None  # step of the last evaluation whose checkpoint and export are written
        self.stream = 0  # the noise stream of the last checkpoint
        self.failures = 0  # in a row
        self.unsaved: tuple[int, nn.Module] | None = None  # step and best generator that could not be written yet

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Save the initial state, the checkpoint of an evaluation cut short by a stop, or a rollback's new noise.

        In a run that begins at another run's checkpoint, what that run had exported does not count.
        """
        if self.guard.peers.tell(self._begins_elsewhere()):
            self.evaluation.begin_anew(trainer)
            self.kept = None
        if self.kept != self.evaluation.last or self.stream != pl_module.noise_stream:
            self.save(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when due, and stop on request."""
        if trainer.global_step % self.every == 0 or self.seen != self.evaluation.last:
            self.save(trainer, pl_module)
        self.stop.check()

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:  # type: ignore[override]
        """Save where the run was stopped between two steps, so that it can resume there; not where it has diverged."""
        if isinstance(exception, Stopped):
            try:
                self.guard.check(trainer, pl_module)
            except Diverged as error:
                log.warning(
                    "Stopped without a checkpoint of step %d; those before it stay: %s", trainer.global_step, error
                )
            else:
                self._write(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps of the evaluation due with this checkpoint and of the last exported, and the noise."""
        return {"seen": self.seen, "kept": self.kept, "stream": self.stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.seen, self.kept, self.stream = (state_dict[name] for name in ("seen", "kept", "stream"))

    def save(self, trainer: Trainer, gan: GAN) -> None:
        """Write a checkpoint and, after an evaluation, export the generator, also as the best one where it is.

        Raises:
            Diverged: the numbers are not finite.
            CheckpointFailed: `max_failures` checkpoints in a row could not be written.
        """
        with self.clock.stopped():
            self.guard.check(trainer, gan)
            self._write(trainer, gan)
        if self.failures >= self.max_failures:
            raise CheckpointFailed(
                f"{self.failures} checkpoints in a row could not be written (checkpoint.max_failures): {self.io.error}"
            )

    def _begins_elsewhere(self) -> bool:
        """Return True in a run that began at another run's checkpoint and has exported nothing yet."""
        return BEGAN_AT in read_values(self.io.run / TAGS_FILE) and not (self.io.run / GENERATOR).is_dir()

    def finish(self, trainer: Trainer, gan: GAN) -> None:
        """Write the final state where its checkpoint failed before.

        Raises:
            CheckpointFailed: it cannot be written now either.
        """
        if self.guard.peers.tell(self.kept != self.evaluation.last or self.failures > 0):
            self._write(trainer, gan)
        if self.failures:
            raise CheckpointFailed(f"the trained networks could not be written: {self.io.error}")

    def _export(self, which: str, network: nn.Module, step: int, gan: GAN) -> None:
        save_generator(self.io.run / GENERATOR / which, network, self.network, step, gan.classes)

    def _write(self, trainer: Trainer, gan: GAN) -> None:
        step, new = trainer.global_step, self.kept != self.evaluation.last
        self.seen, self.stream = self.evaluation.last, gan.noise_stream
        trainer.save_checkpoint(self.io.run / checkpoint_files.FOLDER)  # by rank 0, while the others wait
        if not trainer.is_global_zero:
            return
        best = new and step == self.evaluation.best_step > 0
        if best or (self.unsaved is not None and self.unsaved[0] != self.evaluation.best_step):  # rolled back since
            self.unsaved = None
        try:
            if self.unsaved is not None:
                self._export(BEST, self.unsaved[1], self.unsaved[0], gan)
                self.unsaved = None
            if self.io.error is not None:
                raise self.io.error
            assert self.io.written is not None
            if best:
                checkpoint_files.mark_best(self.io.run, self.io.written)
            checkpoint_files.keep(self.io.run, self.keep)
            if new and step > 0:
                for which in (LAST, BEST) if best else (LAST,):
                    self._export(which, gan.averaged.module, step, gan)
        except (OSError, SafetensorError) as error:
            self.io.error = error
            self.failures += 1
            if best:
                self.unsaved = step, copy.deepcopy(gan.averaged.module).cpu()
            log.warning(
                "The checkpoint of step %d could not be written (%d of checkpoint.max_failures=%d in a row); "
                "those before it stay: %s",
                step,
                self.failures,
                self.max_failures,
                error,
            )
        else:
            self.failures, self.kept = 0, self.seen
