"""Writes the record that every run keeps in its own folder, with or without MLflow."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.files import append_lines, write_json, write_png
from gantry.core.redaction import redact
from gantry.runs.folder import METRICS_FILE, PARAMS_FILE, TAGS_FILE, Status, picture, read_values, write_status
from gantry.runs.tracking.tracker import never_raises

if TYPE_CHECKING:
    import numpy as np


MOST_WAITING = 10_000  # calls


class FolderTracker:
    """Writes a run's record as plain files, independent of any server.

    `metrics.jsonl` has a line per call, `{"step": 50, "time": <seconds since 1970>, "loss/generator": 0.7}`,
    with null for values that are not finite; images are `<key>/<step, 7 digits>.png`; `params.json` and `tags.json`
    hold the latest values; `status.json` appears when the run ends: `{"status", "reason", "time"}`. Writes that fail
    on a full disk are retried, in order, at every later call.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = False
        self._waiting: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)

    @never_raises
    def log_params(self, params: Mapping[str, Any]) -> None:
        self._write(partial(self._merge, PARAMS_FILE, dict(params)))

    @never_raises
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._write(partial(self._merge, TAGS_FILE, dict(tags)))

    @never_raises
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "time": time.time(), **finite}
        self._write(partial(append_lines, self._folder / METRICS_FILE, [line]))

    @never_raises
    def log_image(self, image: np.ndarray, key: str, step: int, text: Mapping[str, int] | None = None) -> None:
        self._write(partial(write_png, image.copy(), picture(self._folder, key, step), text))

    @never_raises
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        if not path.resolve().is_relative_to(self._folder.resolve()):
            target = self._folder / (folder or "")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    @never_raises
    def close(self, status: Status, reason: str | None = None) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._catch_up()
            finally:
                write_status(self._folder, status, reason)

    def _write(self, call: Callable[[], None]) -> None:
        self._waiting.append(call)
        self._catch_up()

    def _catch_up(self) -> None:
        while self._waiting:
            try:
                self._waiting[0]()
            except OSError:
                raise
            except Exception:
                self._waiting.popleft()  # it would fail again
                raise
            self._waiting.popleft()

    def _merge(self, name: str, values: Mapping[str, Any]) -> None:
        path = self._folder / name
        write_json(read_values(path) | {key: redact(str(value)) for key, value in values.items()}, path)
