"""The progress bar, and the progress file that a sweep reads."""

import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from tqdm import tqdm

from gantry.core.files import write_json
from gantry.models.module import GAN
from gantry.runs.folder import PROGRESS_FILE
from gantry.training.callbacks.evaluation import Evaluation

log = logging.getLogger(__name__)


class Progress(Callback):
    """A bar of generator steps with the time left and the last value of the first metric, and the same as a file.

    `progress.json` in `folder` is `{"step", "steps", "seconds_left", "metric", "value"}`, written at most once
    a second for whoever watches from outside.
    """

    def __init__(self, evaluation: Evaluation, label: str, folder: Path) -> None:
        self.evaluation, self.label, self.file = evaluation, label, folder / PROGRESS_FILE
        self.bar: tqdm | None = None
        self.written = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Open the bar where training starts."""
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=self.label,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )
        self._write(trainer)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by the steps done."""
        if self.bar is not None:
            measured = self.evaluation.last == trainer.global_step
            if measured:
                primary = self.evaluation.evaluator.primary
                self.bar.set_postfix({primary: f"{self.evaluation.final[primary]:.2f}"}, refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)
            if measured or time.monotonic() - self.written > 1.0:
                self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:  # type: ignore[override]
        """Close the bar, so that the message begins on a line of its own."""
        self.on_train_end(trainer, pl_module)

    def _write(self, trainer: Trainer) -> None:
        self.written = time.monotonic()
        step, primary = trainer.global_step, self.evaluation.evaluator.primary
        value = self.evaluation.final.get(primary, math.nan)
        rate = self.bar.format_dict["rate"] if self.bar is not None else None
        record = {
            "step": step,
            "steps": trainer.max_steps,
            "seconds_left": (trainer.max_steps - step) / rate if rate else None,
            "metric": primary,
            "value": value if math.isfinite(value) else None,
        }
        try:
            write_json(record, self.file)
        except OSError as error:
            log.debug("%s: %s", self.file, error)
