"""Shows on stderr how far long work has come: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 10.0  # seconds from one line to the next where stderr is no terminal


@contextmanager
def progress(
    description: str, total: float | None, unit: str, done: float = 0, delay: float = 1.0, lines: bool = True
) -> Iterator[Bar]:
    """Show the progress of the block, which tells the bar of it.

    Args:
        description: of the work, in a word or two.
        total: units in all; None where only `Bar.reach` will tell.
        unit: what is counted.
        done: units that were done before.
        delay: seconds; of work that ends within them nothing is shown.
        lines: whether lines are written where stderr is no terminal.
    """
    bar = Bar(description, total, unit, done, delay, lines)
    try:
        yield bar
    finally:
        bar.close()


class Bar:
    """Counts units of work; see `progress`."""

    def __init__(
        self, description: str, total: float | None, unit: str, done: float, delay: float, lines: bool
    ) -> None:
        self.description, self.total, self.unit, self.done, self.lines = description, total, unit, done, lines
        self._first, self._begun = done, time.monotonic()
        self._next = self._begun + delay  # when something is shown for the first time, then when a line is due
        self._shown = False
        self._drawn: Progress | None = None

    def advance(self, count: float) -> None:
        """Count more units as done."""
        self.reach(self.done + count)

    def reach(self, done: float, total: float | None = None) -> None:
        """Set the units that are done, and where it is given the `total`."""
        self.done, self.total = done, self.total if total is None else total
        now = time.monotonic()
        if now < self._next:
            return
        if sys.stderr.isatty():
            self._draw()
        elif self.lines:
            self._next = now + EVERY
            self._write()

    def close(self) -> None:
        """Show the last state, if any was shown."""
        if self._drawn is not None:
            self._drawn.stop()
        elif self._shown:
            self._write()

    def _rate(self) -> str:
        seconds = time.monotonic() - self._begun
        return f"{(self.done - self._first) / seconds:.3g} {self.unit}/s" if seconds else ""

    def _draw(self) -> None:
        if self._drawn is None:
            from rich import progress as rich
            from rich.console import Console

            self._drawn = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(None),
                *(rich.TaskProgressColumn(), rich.MofNCompleteColumn()),
                *(rich.TextColumn("{task.fields[rate]}"), rich.TimeRemainingColumn()),
                console=Console(stderr=True),
                expand=True,
            )
            self._drawn.add_task(self.description, rate="")
            self._drawn.start()
        (task,) = self._drawn.task_ids
        self._drawn.update(task, completed=self.done, total=self.total, rate=self._rate())

    def _write(self) -> None:
        """Write a line that the last lines of a log leave out, see `gantry.runs.folder`."""
        share = f"{self.done / self.total:4.0%}| " if self.total else ""
        of = f"{self.done:g}/{self.total:g}" if self.total else f"{self.done:g}"
        print(f"{self.description}: {share}{of} {self.unit}, {self._rate()}", file=sys.stderr, flush=True)
        self._shown = True
