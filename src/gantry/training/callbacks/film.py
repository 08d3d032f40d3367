"""Makes a film of training: samples of fixed latents at many steps, more densely early on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torchvision.utils import make_grid

from gantry.core.processes.signals import undisturbed
from gantry.data.alpha import on_checks
from gantry.data.grid import GRID, reduced
from gantry.generation.animation import save_animation
from gantry.models.module import GAN
from gantry.runs.folder import FILM, FILM_FILE, picture
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.tracker import Tracker
from gantry.training.callbacks.evaluation import Evaluation, drawn_grid, standing_while_drawn
from gantry.training.stopwatch import Clock

FRAMES = 48  # of a run
FPS, HOLD = 8, 2.0  # frames a second, seconds that the last one stays
LARGEST = 104  # pixels of an image's longer side, above which it is reduced
SIDE = 340  # most pixels of a frame's side: smaller images are enlarged, larger ones are fewer in a frame

log = logging.getLogger(__name__)


@cache
def moments(steps: int) -> frozenset[int]:
    """Return the generator steps in the film of a run of `steps` steps, the first and the last among them."""
    return frozenset(round(steps * (number / (FRAMES - 1)) ** 2) for number in range(FRAMES))


class Film(Callback):
    """Saves the samples at a run's `moments` as `film/<step, 7 digits>.png` in its folder.

    It runs on rank 0 alone: it neither communicates nor uses random numbers of training. A frame is written before
    the checkpoint of its step, so that a resumed run lacks none.

    Args:
        folder: the run's folder.
        evaluation: must precede this callback in the trainer's list; samples that it has logged are reused.
        clock: paused while a frame is made.
    """

    def __init__(self, folder: Path, evaluation: Evaluation, clock: Clock) -> None:
        self.folder, self.evaluation, self.clock = folder, evaluation, clock
        self.record = FolderTracker(folder)  # retries a frame that a full disk refused with the next one

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Take the first frame, or one that a stop prevented."""
        if not picture(self.folder, FILM, trainer.global_step).exists():
            self.take(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a frame when due."""
        self.take(trainer, pl_module)

    def take(self, trainer: Trainer, gan: GAN) -> None:
        """Save the generator's samples, if this step is one of the film's moments."""
        step = trainer.global_step
        if step in moments(trainer.max_steps):
            with self.clock.stopped(), trainer.precision_plugin.forward_context():  # training precision suffices
                drawn = self.evaluation.drawn if self.evaluation.drawn_at == step else None
                if drawn is None:
                    with standing_while_drawn(gan):
                        drawn = drawn_grid(gan)
                self.record.log_image(frame(drawn, gan.conditional), FILM, step)


def frame(images: Tensor, by_class: bool = False) -> np.ndarray:
    """Arrange the first of uint8 images (N, C, H, W), as many as fit in `SIDE`, in rows: uint8 (H', W', 1 or 3).

    Transparent ones are laid on a board of white and grey squares.

    Args:
        by_class: whether each row of `GRID` images is of a class; the first classes are the rows of the frame.
    """
    longest = max(images.shape[-2:])
    columns = min(GRID, (SIDE - 1) // (min(longest, LARGEST) + 1))
    chosen = images[: columns**2]
    if by_class:
        rows = max(1, (SIDE - 1) // (min(longest, LARGEST) + 1))
        chosen = images.unflatten(0, (-1, GRID))[:rows, :columns].flatten(0, 1)
    shown = chosen.cpu()
    shown = on_checks(reduced(shown, LARGEST))
    grid = make_grid(shown, nrow=columns, padding=1)[: shown.shape[1]]
    return np.ascontiguousarray(grid.permute(1, 2, 0).numpy())


@contextmanager
def film_logged(tracker: Tracker, folder: Path) -> Iterator[None]:
    """Make the run's film and log it, however the run ends; a failure is only logged as a warning."""
    try:
        yield
    finally:
        with undisturbed():
            try:
                if develop(folder):
                    tracker.log_artifact(folder / FILM_FILE)
            except Exception as error:
                log.warning("The film of %s was not made: %s", folder, error, exc_info=not isinstance(error, OSError))


def develop(folder: Path) -> bool:
    """Make `samples.gif` from the frames in a run's folder; return False where there are fewer than two.

    Raises:
        OSError: a frame cannot be read, or the film cannot be written.
    """
    frames = sorted((folder / FILM).glob("[0-9]*.png"), key=lambda path: int(path.stem))
    pictures = list(_readable(frames))
    if len(pictures) > 1:
        save_animation(pictures, folder / FILM_FILE, FPS, HOLD)
    return len(pictures) > 1


def _readable(frames: list[Path]) -> Iterator[np.ndarray]:
    """Yield the frames' pictures, except damaged ones."""
    for path in frames:
        try:
            yield enlarged(path)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises these for damaged files
            log.warning("The film lacks the frame %s: %s", path, error)


def enlarged(path: Path) -> np.ndarray:
    """Read the frame at `path`, uint8 (H, W, 3), enlarged without smoothing as far as `SIDE` allows."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB"))
    scale = max(1, SIDE // max(picture.shape[:2]))
    return picture.repeat(scale, 0).repeat(scale, 1)
