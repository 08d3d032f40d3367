"""What training knows of tracking: a handful of calls that never raise and never wait."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

from gantry.runs.folder import Status

if TYPE_CHECKING:
    import numpy as np


log = logging.getLogger("gantry.runs.tracking")
ROLLED_BACK = "gantry.rolled_back"  # tag, see `rolled_back`


class Tracker(Protocol):
    """One run's record. No call raises into the caller, whatever the disk or the server does.

    Steps count generator steps.
    """

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record what the run was asked to do: a flat mapping, see `gantry.runs.tracking.flatten`."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record words to filter runs by; a later value replaces an earlier one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at `step`."""

    def log_image(self, image: np.ndarray, key: str, step: int, zoom: int | None = None) -> None:
        """Record an image: uint8, (height, width, channels) with 1 or 3 channels, 0 to 255; `zoom`: see `write_png`."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Record a file as it is now in `folder` of the run's artifacts; the caller may change it later."""

    def close(self, status: Status, reason: str | None = None) -> None:
        """End the run; `reason` says in a line why it failed. A second call does nothing."""


def rolled_back(step: int) -> dict[str, str]:
    """The tag to set when training goes back to `step` in mid-run.

    What was logged beyond it stays in MLflow, and what is logged from now on stands beside it as the truth; a run
    taken up again knows by the tag which of the two it has not to repeat.
    """
    now = int(time.time() * 1000) + 1
    while time.time() * 1000 < now:  # what is logged before and after is told apart by the millisecond
        time.sleep(0.0005)
    return {ROLLED_BACK: f"{now} to step {step}"}


class Trackers:
    """Several trackers as one, called in turn: put the one that never waits first."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log_params(self, params: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log_params(params)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.set_tags(tags)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log_metrics(metrics, step)

    def log_image(self, image: np.ndarray, key: str, step: int, zoom: int | None = None) -> None:
        for tracker in self._trackers:
            tracker.log_image(image, key, step, zoom)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        for tracker in self._trackers:
            tracker.log_artifact(path, folder)

    def close(self, status: Status, reason: str | None = None) -> None:
        for tracker in self._trackers:
            tracker.close(status, reason)


@dataclass(frozen=True)
class DatasetInfo:
    """The data a run trains on, as MLflow shows it beside the run.

    Args:
        name: the data set's name, such as `cifar10`.
        digest: a hash of the images as training sees them; MLflow keeps the first 36 characters.
        source: where they came from: a web address, a folder, or the function that makes them.
        split: which part of them, such as `train`.
        images: how many.
        shape: (height, width, channels) of one.
        classes: how many classes; 0 where there are no labels.
    """

    name: str
    digest: str
    source: str
    split: str
    images: int
    shape: tuple[int, int, int]
    classes: int


P = ParamSpec("P")


def never_raises(method: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """A tracker's method that reports an error as a warning, once per kind of error, and goes on.

    The traceback is shown where the error is a mistake in code, not where it is the disk's.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            warned = self.__dict__.setdefault("_warned", set())
            if type(error) not in warned:
                warned.add(type(error))
                log.warning(
                    "%s.%s failed, training goes on (said once): %s",
                    type(self).__name__,
                    method.__name__,
                    error,
                    exc_info=not isinstance(error, OSError),
                )

    return guarded
