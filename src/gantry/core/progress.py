"""Shows on stderr how far long work has come: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EVERY = 10.0  # seconds from one line to the next where stderr is no terminal
REDRAWN = 0.5  # seconds from one drawing of a bar to the next
MARKS = 60  # times, a second or more apart, over which the rate is measured
GONE = (OSError, ValueError)  # errors of writing to a terminal or pipe that was closed


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
    except BaseException:
        bar.close(failed=True)
        raise
    bar.close()


class Bar:
    """Counts units of work; see `progress`. Bars that are open at the same time are drawn below one another.

    It is drawn by the calls of `reach` and by no thread, which would take turns with the work it shows. An output
    that is gone ends the drawing and not the work.

    Attributes:
        note: text shown behind the count.
    """

    def __init__(
        self, description: str, total: float | None, unit: str, done: float, delay: float, lines: bool
    ) -> None:
        self.description, self.total, self.unit, self.done, self.lines = description, total, unit, done, lines
        self.note = ""
        now = time.monotonic()
        self._next = now + delay  # when something is shown for the first time, then when it is due again
        self._marks = deque([(now, done)], maxlen=MARKS)
        self._shown = False
        self._drawn: Progress | None = None
        self._streams: list[tuple[TextIO, TextIO]] = []  # stdout and stderr as they were, and while it is drawn

    @property
    def rate(self) -> float:
        """Units a second, over the last minute or longer."""
        begun, first = self._marks[0]
        return (self.done - first) / max(time.monotonic() - begun, 1e-9)

    def advance(self, count: float) -> None:
        """Count more units as done."""
        self.reach(self.done + count)

    def reach(self, done: float, total: float | None = None) -> None:
        """Set the units that are done, and where it is given the `total`."""
        self.done, self.total = done, self.total if total is None else total
        now = time.monotonic()
        if now - self._marks[-1][0] > 1:
            self._marks.append((now, done))
        if now < self._next:
            return
        try:
            if sys.stderr.isatty() and _console().is_interactive:
                self._next = now + REDRAWN
                self._draw()
            elif self.lines:
                self._next = now + EVERY
                self._write()
        except GONE:
            self._next = math.inf

    def close(self, failed: bool = False) -> None:
        """Show the last state, if any was shown; a bar of work that has `failed` is wiped off the terminal."""
        with suppress(*GONE):
            if self._drawn is not None:
                self._drawn.live.transient = failed
                try:
                    self._draw()
                finally:
                    self._drawn.stop()
            elif self._shown:
                self._write()
        _divert((new, old) for old, new in self._streams)

    def _draw(self) -> None:
        self._drawn = self._drawn or self._begin()
        rate = f"{self.rate:.3g} {self.unit}/s"
        (task,) = self._drawn.task_ids
        self._drawn.update(task, completed=self.done, total=self.total, rate=rate, note=self.note)
        self._drawn.refresh()

    def _begin(self) -> Progress:
        from rich import progress as rich

        texts = (rich.TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("rate", "note"))
        drawn = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(None),
            *(rich.TaskProgressColumn(), rich.MofNCompleteColumn()),
            *(rich.TimeRemainingColumn(elapsed_when_finished=True), *texts),
            console=_console(),
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # else what goes to a file or pipe would go to the terminal
            expand=True,
        )
        drawn.add_task(self.description, total=self.total, rate="", note="")
        before = sys.stdout, sys.stderr
        drawn.start()
        self._streams = list(zip(before, (sys.stdout, sys.stderr), strict=True))
        _divert(self._streams)
        return drawn

    def _write(self) -> None:
        """Write a line that the last lines of a log leave out, see `gantry.runs.folder`."""
        share, of, left = "", f"{self.done:g}", ""
        if self.total:
            share, of = f"{self.done / self.total:4.0%}| ", f"{of}/{self.total:g}"
            left = f"{timedelta(seconds=round((self.total - self.done) / self.rate))} left" if self.rate > 0 else ""
        parts = (f"{share}{of} {self.unit}", left, self.note, f"{self.rate:.3g} {self.unit}/s")
        print(f"{self.description}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)
        self._shown = True


@cache
def _console() -> Console:
    """Return the console that all bars share, by which rich knows which are open."""
    from rich.console import Console

    return Console(stderr=True)


def _divert(streams: Iterable[tuple[TextIO, TextIO]]) -> None:
    """Let logging write to the second of each two streams instead of the first, for lines above the bar."""
    for old, new in streams:
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)
