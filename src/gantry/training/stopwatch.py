"""Measures the seconds spent training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds spent training, evaluation left out."""

    seconds: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """Count from now on."""
        self._since = time.perf_counter()

    def read(self) -> float:
        """Seconds of training so far."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the time spent inside out of the count."""
        self.seconds, self._since = self.read(), None
        try:
            yield
        finally:
            self.start()
