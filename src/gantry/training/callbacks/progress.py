"""The progress bar with its panel, the time that a run takes, and the progress file that a sweep reads."""

import logging
import math
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from gantry.core.files import write_json
from gantry.core.progress import GONE, Bar
from gantry.models.module import GAN
from gantry.runs.folder import PROGRESS_FILE
from gantry.training.callbacks.evaluation import Evaluation
from gantry.training.callbacks.forecast import Forecast
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.callbacks.panel import State, lines

log = logging.getLogger(__name__)


class Progress(Callback):
    """A bar of generator steps with the time left and the last value of the first metric, and the same as a file.

    On a terminal, lines below the bar show what `TrainingLog` and `Evaluation`, which precede this callback in the
    trainer's list, have read from the device anyway. After the first steps a line says how long the run takes.

    `progress.json` in `folder` is `{"step", "steps", "seconds_left", "metric", "value"}`, written at most once
    a second for whoever watches from outside.
    """

    def __init__(self, evaluation: Evaluation, training: TrainingLog, label: str, folder: Path) -> None:
        self.evaluation, self.training, self.label, self.file = evaluation, training, label, folder / PROGRESS_FILE
        evaluator = evaluation.evaluator
        self.state = State(evaluator.primary, evaluator.higher_is_better[evaluator.primary], folder)
        self.forecast: Forecast | None = None
        self.bar: Bar | None = None
        self.written = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Open the bar where training starts."""
        if self.forecast is None or not self.forecast.done:  # begun anew after a rollback
            self.forecast = Forecast(trainer.max_steps, self.evaluation.every)
        self.state.measured = {step: each for step, each in self.state.measured.items() if step <= trainer.global_step}
        self._look()
        self.bar = Bar(self.label, trainer.max_steps, "step", done=trainer.global_step, delay=0, lines=True)
        self.bar.below = partial(lines, self.state)
        self.bar.reach(trainer.global_step)
        self._write(trainer)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by the steps done."""
        if self.bar is not None:
            measured = self.evaluation.last == trainer.global_step
            if measured:
                primary = self.evaluation.evaluator.primary
                self.bar.note = f"{primary}={self.evaluation.final[primary]:.2f}"
            self._look()
            self._foresee(trainer)
            self.bar.reach(trainer.global_step)
            if measured or time.monotonic() - self.written > 1.0:
                self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:  # type: ignore[override]
        """Wipe the bar off the terminal, where the message takes its place."""
        self._close(failed=True)

    def _look(self) -> None:
        """Take over what the callbacks before this one have logged since."""
        self.state.values, self.state.drawn_at = self.training.logged, self.evaluation.drawn_at
        if (step := self.evaluation.last) is not None:
            self.state.measured[step] = self.evaluation.final[self.state.metric]

    def _foresee(self, trainer: Trainer) -> None:
        if self.forecast is not None and not self.forecast.done:
            seconds, step = self.evaluation.clock.read(), trainer.global_step
            each = self.evaluation.took or self.evaluation.seconds / (1 + step // self.evaluation.every)
            if said := self.forecast.after(step, seconds, each):
                with suppress(*GONE):
                    print(said, flush=True)

    def _close(self, failed: bool = False) -> None:
        if self.bar is not None:
            self.bar.close(failed)
            self.bar = None

    def _write(self, trainer: Trainer) -> None:
        self.written = time.monotonic()
        step, primary = trainer.global_step, self.evaluation.evaluator.primary
        value = self.evaluation.final.get(primary, math.nan)
        rate = self.bar.rate if self.bar is not None else None
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
