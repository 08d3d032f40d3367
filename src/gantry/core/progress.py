"""Shows the progress of long work on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.text import Text

EVERY = 10.0  # seconds between lines where stderr is no terminal
REDRAWN = 0.5  # seconds between drawings of a bar
MARKS = 60  # measurements, a second or more apart, from which the rate is computed
NARROW = 50  # columns of a terminal below which a bar is its name and its count
GONE = (OSError, ValueError)  # errors of writing to a closed terminal or pipe


@contextmanager
def progress(
    description: str, total: float | None, unit: str, done: float = 0, delay: float = 1.0, lines: bool = True
) -> Iterator[Bar]:
    """Yield a bar to which the block reports its progress.

    Args:
        description: the work, in a word or two.
        total: number of units; None where `Bar.reach` will set it.
        unit: the name of a unit.
        done: units that were done before.
        delay: seconds after which the bar is shown; shorter work shows nothing.
        lines: True to write lines where stderr is no terminal.
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

    The calls of `reach` draw the bar, since a thread would compete with the work for the interpreter. A closed output
    ends the drawing, but not the work.

    Attributes:
        note: the text behind the count.
        below: returns lines to draw below the bar on a terminal of so many columns and that encoding, instead of the
            note; called at each drawing.
    """

    def __init__(
        self, description: str, total: float | None, unit: str, done: float, delay: float, lines: bool
    ) -> None:
        self.description, self.total, self.unit, self.done, self.lines = description, total, unit, done, lines
        self.note = ""
        self.below: Callable[[int, str], Sequence[Text]] | None = None
        now = time.monotonic()
        self._next = now + delay  # when the next drawing or line is due
        self._marks = deque([(now, done)], maxlen=MARKS)
        self._shown = False
        self._drawn: Progress | None = None
        self._streams: list[tuple[TextIO, TextIO]] = []  # stdout and stderr before the bar, and while it is drawn

    @property
    def rate(self) -> float:
        """Units per second, over the last minute or longer."""
        begun, first = self._marks[0]
        return (self.done - first) / max(time.monotonic() - begun, 1e-9)

    def advance(self, count: float) -> None:
        """Count more units as done."""
        self.reach(self.done + count)

    def reach(self, done: float, total: float | None = None) -> None:
        """Set the number of units done, and `total` if it is given."""
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
        """Show the last state if an earlier one was shown; the bar of `failed` work is erased from the terminal."""
        with suppress(*GONE):
            if self._drawn is not None:
                self.below = None
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
        note = self.note if self.below is None else ""
        self._drawn.update(task, completed=self.done, total=self.total, rate=rate, note=note)
        self._drawn.refresh()

    def _begin(self) -> Progress:
        from rich import progress as rich
        from rich.table import Column

        bar, console = self, _console()

        class Panel(rich.Progress):
            def get_renderables(self) -> Iterator[RenderableType]:
                yield from super().get_renderables()
                if bar.below is not None and console.width >= NARROW:
                    yield from bar.below(console.width, console.encoding)

        cut = Column(no_wrap=True, overflow="crop")  # an ellipsis is wider where the encoding lacks it
        fields = (f"{{task.{field}}}" for field in ("description", "fields[rate]", "fields[note]"))
        name, *texts = (rich.TextColumn(field, markup=False, table_column=cut) for field in fields)
        columns: list[rich.ProgressColumn] = [rich.MofNCompleteColumn(table_column=cut)]
        if console.width >= NARROW:
            left = rich.TimeRemainingColumn(elapsed_when_finished=True, table_column=cut)
            columns = [rich.BarColumn(None), rich.TaskProgressColumn(table_column=cut), *columns, left, *texts]
        drawn = Panel(
            name,
            *columns,
            console=console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # else output to a file or pipe would go to the terminal
            expand=True,
        )
        drawn.add_task(self.description, total=self.total, rate="", note="")
        before = sys.stdout, sys.stderr
        drawn.start()
        self._streams = list(zip(before, (sys.stdout, sys.stderr), strict=True))
        _divert(self._streams)
        return drawn

    def _write(self) -> None:
        """Write a line in a form that `gantry.runs.folder` leaves out of the last lines of a log."""
        share, of, left = "", f"{self.done:g}", ""
        if self.total:
            share, of = f"{self.done / self.total:4.0%}| ", f"{of}/{self.total:g}"
            left = f"{timedelta(seconds=round((self.total - self.done) / self.rate))} left" if self.rate > 0 else ""
        parts = (f"{share}{of} {self.unit}", left, self.note, f"{self.rate:.3g} {self.unit}/s")
        print(f"{self.description}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)
        self._shown = True


@cache
def _console() -> Console:
    """Return the console that all bars share, by which rich tracks the open bars."""
    from rich.console import Console

    return Console(stderr=True)


def _divert(streams: Iterable[tuple[TextIO, TextIO]]) -> None:
    """Redirect logging from the first to the second stream of each pair, so that its lines are above the bar."""
    for old, new in streams:
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)
