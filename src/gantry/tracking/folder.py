"""The record every run keeps in its own folder, with or without MLflow."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.tracking.base import Status, never_raises
from gantry.tracking.params import redact

if TYPE_CHECKING:
    import numpy as np

METRICS_FILE, STATUS_FILE, PROGRESS_FILE = "metrics.jsonl", "status.json", "progress.json"
PARAMS_FILE, TAGS_FILE = "params.json", "tags.json"
FILM = "film"  # folder of the frames of the film of training (see `gantry.film`)
MOST_WAITING = 10_000  # calls


class FolderTracker:
    """Writes plain files that outlive any server.

    `metrics.jsonl` has a line a call, `{"step": 50, "time": <seconds since 1970>, "loss/generator": 0.7}`,
    with null for what is not finite; images are `<key>/<step, 7 digits>.png`; `params.json` and `tags.json`
    hold the latest values; `status.json` appears when the run ends: `{"status", "reason", "time"}`. What a full
    disk does not take is written, in order, as soon as a later call finds that it does.
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
    def log_image(self, image: np.ndarray, key: str, step: int) -> None:
        self._write(partial(write_png, image.copy(), self._folder / key / f"{step:07d}.png"))

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


def write_status(folder: Path, status: Status, reason: str | None) -> None:
    """Say in a run's folder how it ended."""
    said = redact(reason) if reason is not None else None
    write_json({"status": status, "reason": said, "time": time.time()}, folder / STATUS_FILE)


def read_status(folder: Path) -> tuple[Status | None, str | None]:
    """How the run in `folder` says it ended, and why; (None, None) where it has not said."""
    try:
        record = json.loads((folder / STATUS_FILE).read_text())
    except (OSError, ValueError):
        return None, None
    return record.get("status"), record.get("reason")


def read_values(path: Path) -> dict[str, str]:
    """The values of params.json or tags.json; none where the file is missing."""
    return json.loads(path.read_text()) if path.exists() else {}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a kill left half written is left out."""
    path = folder / METRICS_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for line in lines if (record := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def rewind(folder: Path, step: int) -> None:
    """Take back what the record in `folder` holds beyond `step`: the run goes on from there."""
    (folder / STATUS_FILE).unlink(missing_ok=True)
    path = folder / METRICS_FILE
    kept = [record for record in read_metrics(folder) if record["step"] <= step]
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text("".join(json.dumps(record) + "\n" for record in kept))
    part.replace(path)
    for frame in (folder / FILM).glob("[0-9]*.png"):
        if int(frame.stem) > step:
            frame.unlink()


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write `values` so that a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(values, indent=2) + "\n")
    part.replace(path)


def append_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Append one JSON line a record; a line that a killed run left half written stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        torn = file.tell() > 0 and _last_byte(file) != b"\n"
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        file.write(b"\n" * torn + lines.encode())


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def write_png(image: np.ndarray, path: Path) -> None:
    """Write a uint8 (height, width, 1 or 3) image as PNG, atomically."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part, format="PNG", compress_level=1)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # of a full disk
