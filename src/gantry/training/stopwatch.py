"""Measures the seconds spent training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Measures the seconds spent training, without evaluation."""

    seconds: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """Start counting."""
        self._since = time.perf_counter()

    def read(self) -> float:
        """Return the seconds of training so far."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time spent in the block."""
        self.seconds, self._since = self.read(), None
        try:
            yield
        finally:
            self.start()
