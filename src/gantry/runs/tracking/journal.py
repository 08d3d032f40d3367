"""Queues events for MLflow on disk, from the moment they are logged until they are delivered.

`<run folder>/undelivered.jsonl` exists while events wait and can be replayed from top to bottom, even where some have
arrived already, since every request is idempotent (see `gantry.runs.tracking.session`). A line is one event:
`params`, `tags`, `metrics` (null for NaN), `image`, `artifact`, `dataset`, `resumed`, `ended`; times are in ms since
1970, files are named relative to the run's folder, and copies that wait are in `<run folder>/undelivered/`.
`refused.jsonl` holds the events that MLflow has refused for good, each with its `error`.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.files import append_lines, write_png
from gantry.runs.folder import REFUSED, UNDELIVERED
from gantry.runs.tracking.events import Artifact, Event, Image, Metrics, from_line, to_line

if TYPE_CHECKING:
    import numpy as np


VALUES_AT_ONCE = 1000  # metric values that MLflow accepts in a request
LOOSE_EVENTS = 10_000  # most events held in memory while the disk is full
LOOSE_BYTES = 256 * 2**20  # most bytes of images among them


class Journal:
    """A queue on disk between the thread that logs (`put`) and the one that delivers (`take`, `done`, `clear`).

    Memory holds one batch of it, and, while the disk is full, at most `LOOSE_EVENTS`.

    Args:
        folder: the run's folder.
        fresh: delete the events that an earlier run left there.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.path = folder / UNDELIVERED
        self.refused = folder / REFUSED
        self._folder, self._files = folder, folder / "undelivered"
        if fresh:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(self._files, ignore_errors=True)
        self._places = threading.Lock()  # guards the folder of held files
        self._lock = threading.Lock()  # guards the file and all fields below; never held while waiting for MLflow
        self._size = self.path.stat().st_size if self.path.exists() else 0
        self._offset = 0  # end of the delivered events in the file
        self._taken = 0  # end of the batch under way
        self._loose: deque[Event] = deque()  # events not on disk yet
        self._from_memory = False  # the batch under way; `_loose_taken` of its events are still not on disk
        self._loose_taken = 0
        self._aside: deque[Event] = deque()  # events that wait behind all others, still in the file
        self._from_aside = False  # the batch under way is one of them
        self.waiting = self._count() if self._size else 0  # events

    def put(self, event: Event) -> None:
        """Add an event, in memory while the disk is full.

        Raises:
            OSError: the disk is full, and so is the space in memory.
        """
        with self._lock:
            self._loose.append(event)
            try:
                self._flush()
            except OSError:
                images = sum(
                    e.image.nbytes for e in self._loose if isinstance(e, Image) and not isinstance(e.image, Path)
                )
                if len(self._loose) > LOOSE_EVENTS or images > LOOSE_BYTES:
                    self._loose.pop()
                    raise
            self.waiting += 1

    def hold(self, path: Path) -> Path:
        """Copy `path`, so that later writes do not change it, and return the copy; `path` where the disk is full."""
        if not path.exists():
            raise FileNotFoundError(2, "No such file", str(path))
        try:
            return Path(shutil.copy2(path, self._place() / path.name))
        except OSError:
            return path

    def hold_image(self, image: np.ndarray, key: str, step: int, text: Mapping[str, int] | None = None) -> Path:
        """Write the image as a PNG file and return its path."""
        path = self._place() / f"{key.replace('/', '~')}-{step:07d}.png"
        write_png(image, path, text)
        return path

    @property
    def aside(self) -> int:
        """Return how many of the waiting events are set aside."""
        return len(self._aside)

    def set_aside(self, batch: list[Event]) -> None:
        """Let the batch that `take` returned wait behind all other events; it stays in the file."""
        self.done(batch)
        with self._lock:
            self._aside.extend(batch)
            self.waiting += len(batch)

    def take(self, aside: bool = False) -> list[Event]:
        """Return the oldest event, or all metrics events at the head of the queue; they stay queued until `done`.

        Args:
            aside: where nothing else waits, return the first event that was set aside.
        """
        batch = self._take()
        self._from_aside = aside and not batch and bool(self._aside)
        return [self._aside[0]] if self._from_aside else batch

    def _take(self) -> list[Event]:
        with self._lock:
            offset, size = self._offset, self._size
        if offset < size:
            try:
                batch, self._taken = self._read(offset, size)
            except FileNotFoundError:
                batch, self._taken = [], size
            if batch:
                self._from_memory = False
                return batch
            with self._lock:
                self._offset = self._taken
        with self._lock:
            batch = [] if self._offset < self._size else _head(self._loose)
            self._from_memory, self._loose_taken = True, len(batch)
            return batch

    def done(self, batch: list[Event]) -> None:
        """Remove the batch that `take` returned from the queue, once it is delivered or refused for good."""
        with self._lock:
            if self._from_aside:
                self._aside.popleft()
                self.waiting -= 1
            elif self._from_memory:  # events of it that reached the disk meanwhile are delivered again
                for _ in range(self._loose_taken):
                    self._loose.popleft()
                self.waiting -= self._loose_taken
                self._loose_taken = 0
            else:
                self._offset = self._taken
                self.waiting -= len(batch)

    def clear(self) -> bool:
        """Remove the file where all events are delivered; return True where none waits."""
        with self._lock:
            if self._offset < self._size or self._loose or self._aside:
                return False
            if self._size:
                self.path.unlink(missing_ok=True)
            self._size = self._offset = self._taken = 0
            return True

    def release(self, event: Event) -> None:
        """Remove the copied file of a delivered event, and the folders it leaves empty."""
        path = _file(event)
        if path is None or not path.is_relative_to(self._files):
            return
        with self._places:
            path.unlink(missing_ok=True)
            for folder in (path.parent, self._files):
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()

    def is_gone(self, event: Event) -> bool:
        """Return True where the event's copied file has been removed, which means that it was delivered."""
        path = _file(event)
        return path is not None and path.is_relative_to(self._files) and not path.exists()

    def refuse(self, event: Event, error: str) -> None:
        """Record an event that MLflow has refused for good."""
        with self._lock:
            append_lines(self.refused, [to_line(self._held(event), self._folder) | {"error": error}])

    def save(self) -> None:
        """Write the events that only memory holds to disk.

        Raises:
            OSError: the disk is still full.
        """
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._loose:
            try:
                append_lines(self.path, [to_line(self._held(self._loose[0]), self._folder)])
            finally:
                self._size = self.path.stat().st_size if self.path.exists() else 0
                if self._size < self._offset:  # another process has delivered and removed the file
                    self._offset = 0
            self._loose.popleft()
            self._loose_taken = max(0, self._loose_taken - 1)

    def _held(self, event: Event) -> Event:
        if isinstance(event, Image) and not isinstance(event.image, Path):
            return replace(event, image=self.hold_image(event.image, event.key, event.step))
        return event

    def _place(self) -> Path:
        with self._places:
            self._files.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self._files))

    def _read(self, offset: int, size: int) -> tuple[list[Event], int]:
        """Return the batch that begins at `offset`, and its end; half-written lines are skipped."""
        ends = [offset]

        def events() -> Iterator[Event]:
            with self.path.open("rb") as file:
                file.seek(offset)
                while file.tell() < size:
                    event = from_line(file.readline(), self._folder)
                    if event is not None:
                        yield event
                    ends.append(file.tell())

        batch = _head(events())
        return batch, ends[-1]

    def _count(self) -> int:
        with self.path.open("rb") as file:
            return sum(from_line(line, self._folder) is not None for line in file)


def _head(events: Iterable[Event]) -> list[Event]:
    """Return the first event, or the leading metrics events, as many as fit in a request."""
    batch: list[Event] = []
    values = 0
    for event in events:
        values += len(event.values) if isinstance(event, Metrics) else VALUES_AT_ONCE
        if batch and (values > VALUES_AT_ONCE or not isinstance(batch[0], Metrics)):
            break
        batch.append(event)
    return batch


def _file(event: Event) -> Path | None:
    if isinstance(event, Artifact):
        return event.file
    return event.image if isinstance(event, Image) and isinstance(event.image, Path) else None
