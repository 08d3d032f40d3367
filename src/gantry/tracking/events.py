"""What waits for delivery, and the form it takes on disk when it could not be delivered.

`<run folder>/undelivered.jsonl` can be replayed from top to bottom. A line `{"kind": "run", ...}` begins a
section: the run the following lines belong to, with its `run_id`, or null where it was never created (its tag
`gantry.id` then says whether the server created it after all). Each further line is one event: `params`,
`tags`, `metrics` (null for NaN), `image`, `artifact`, `dataset`, `ended`; files are named relative to the run
folder. Times are in ms since 1970. A line with `error` was refused by the server and would be again. An event
under way when waiting ended may have arrived too: replaying a metric or a tag twice changes nothing, an image
stands twice.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.tracking.base import UNDELIVERED, DatasetInfo, Status
from gantry.tracking.folder import append_lines, write_png

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Params:
    values: dict[str, str]


@dataclass(frozen=True)
class Tags:
    values: dict[str, str]


@dataclass(frozen=True)
class Metrics:
    time: int
    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Image:
    time: int
    step: int
    key: str
    image: np.ndarray | Path  # uint8 (height, width, channels), or a PNG held on disk


@dataclass(frozen=True)
class Artifact:
    file: Path  # our copy
    folder: str | None


@dataclass(frozen=True)
class Dataset:
    info: DatasetInfo


@dataclass(frozen=True)
class Ended:
    time: int
    status: Status
    reason: str | None


Event = Params | Tags | Metrics | Image | Artifact | Dataset | Ended


class Spool:
    """The files of events that wait, in `<run folder>/undelivered/`, and the record of what never arrived."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / UNDELIVERED
        self._folder = folder
        self._files = folder / "undelivered"
        self._begun = False
        self._lock = threading.Lock()  # the caller's thread takes a place while the delivery's gives one up

    def hold(self, path: Path) -> Path:
        """A copy of `path` that the caller's later writes do not reach."""
        return Path(shutil.copy2(path, self._place() / path.name))

    def hold_image(self, image: np.ndarray, key: str, step: int) -> Path:
        """The image as a PNG file."""
        path = self._place() / f"{key.replace('/', '~')}-{step:07d}.png"
        write_png(image, path)
        return path

    def release(self, path: Path) -> None:
        """Remove a held file, delivered by now, and the folders it leaves empty."""
        path.unlink(missing_ok=True)
        with self._lock:
            path.parent.rmdir()
            if not any(self._files.iterdir()):
                self._files.rmdir()

    def write(self, run: dict[str, Any], events: Sequence[Event], error: str | None = None) -> None:
        """Append events to the record, under their run's line the first time."""
        records = [] if self._begun else [{"kind": "run"} | run]
        refused = {} if error is None else {"error": error}
        append_lines(self.record, records + [self._line(event) | refused for event in events])
        self._begun = True

    def _place(self) -> Path:
        with self._lock:
            self._files.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self._files))

    def _line(self, event: Event) -> dict[str, Any]:
        kind = {"kind": type(event).__name__.lower()}
        match event:
            case Metrics(time, step, values):
                finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
                return kind | {"time": time, "step": step, "values": finite}
            case Image(time, step, key, image):
                file = image if isinstance(image, Path) else self.hold_image(image, key, step)
                return kind | {
                    "time": time,
                    "step": step,
                    "key": key,
                    "file": str(file.relative_to(self._folder)),
                }
            case Artifact(file, folder):
                return kind | {"file": str(file.relative_to(self._folder)), "folder": folder}
            case _:
                return kind | asdict(event)
