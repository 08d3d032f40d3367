"""Measures the seconds of an evaluation's parts, and writes them as a line."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

WITHIN = " / "  # between the name of a part and that of a part of it


class Stopwatch:
    """Measures the seconds spent on each named part of the work, and on parts within it: `fid`, `fid / moments`.

    Attributes:
        seconds: by name, in the order in which the parts began.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within: list[str] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Measure the block, as a part of the one that it is in, and wait for what a GPU does for it."""
        import torch  # not for those who only read what was measured

        self.note(part, 0.0)
        self._within.append(part)
        began = time.perf_counter()
        try:
            yield
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
        finally:
            self._within.pop()
            self.note(part, time.perf_counter() - began)

    def note(self, part: str, seconds: float) -> None:
        """Add seconds to a part of the block that is measured now; another thread may call it too."""
        name = WITHIN.join([*self._within, part])
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def written(seconds: Mapping[str, float]) -> str:
    """Write the seconds of all parts: `loading 0.3, fid 2.1 (moments 0.3, distance 0.6)`."""
    within: dict[str, list[str]] = {}
    for name, taken in seconds.items():
        whole, _, part = name.rpartition(WITHIN)
        if whole:
            within.setdefault(whole, []).append(f"{part} {taken:.1f}")
    wholes = {name: taken for name, taken in seconds.items() if WITHIN not in name}
    parts = {name: f" ({', '.join(within[name])})" if name in within else "" for name in wholes}
    return ", ".join(f"{name} {taken:.1f}{parts[name]}" for name, taken in wholes.items())
