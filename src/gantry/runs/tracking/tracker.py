"""Defines the tracker interface for training: a few calls that never raise and never wait."""

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
    """Records one run. No call raises, whatever the disk or the server does.

    Steps count generator steps.
    """

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the run's config, a flat mapping; see `gantry.runs.tracking.flatten`."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record tags to filter runs by; a later value replaces an earlier one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at `step`."""

    def log_image(self, image: np.ndarray, key: str, step: int, text: Mapping[str, int] | None = None) -> None:
        """Record an image: uint8, (height, width, channels) with 1 or 3 channels, 0 to 255; `text`: see `write_png`."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Record a copy of a file in `folder` of the run's artifacts; the caller may change the file later."""

    def close(self, status: Status, reason: str | None = None) -> None:
        """End the run; `reason` says in a line why it failed. A second call does nothing."""


def rolled_back(step: int) -> dict[str, str]:
    """Return the tag to set when training is rolled back to `step`.

    Values logged beyond that step stay in MLflow, beside the valid ones that are logged from now on; a resumed run
    tells the two apart by the time in the tag.
    """
    now = int(time.time() * 1000) + 1
    while time.time() * 1000 < now:  # so that the millisecond separates values logged before and after
        time.sleep(0.0005)
    return {ROLLED_BACK: f"{now} to step {step}"}


class Trackers:
    """Calls several trackers in turn; the one that never waits should be the first."""

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

    def log_image(self, image: np.ndarray, key: str, step: int, text: Mapping[str, int] | None = None) -> None:
        for tracker in self._trackers:
            tracker.log_image(image, key, step, text)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        for tracker in self._trackers:
            tracker.log_artifact(path, folder)

    def close(self, status: Status, reason: str | None = None) -> None:
        for tracker in self._trackers:
            tracker.close(status, reason)


@dataclass(frozen=True)
class DatasetInfo:
    """The data a run trains on, which MLflow shows as the run's input.

    Args:
        name: the data set's name, such as `cifar10`.
        digest: a hash of the images as training sees them; MLflow stores the first 36 characters.
        source: their origin: a web address, a folder, or the function that makes them.
        split: the part of the data set, such as `train`.
        images: number of images.
        shape: (height, width, channels) of one.
        classes: number of classes; 0 where there are no labels.
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
    """Decorate a tracker's method to log an error as a warning, once per type of error, instead of raising it.

    The traceback is included unless the error is an `OSError`, since other errors are mistakes in code.
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
