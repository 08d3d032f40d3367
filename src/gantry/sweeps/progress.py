"""Shows the progress of a sweep, one line for each job."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gantry.core.files import read_json
from gantry.core.processes.devices import short_name
from gantry.core.text import show
from gantry.runs import checkpoint_files
from gantry.runs.folder import LOG_FILE, PROGRESS_FILE, log_tail
from gantry.sweeps.job import Job
from gantry.training.callbacks.forecast import words

EVERY = 30.0  # seconds between reports where the output is no terminal
SETTLED = 8  # ended jobs shown on a terminal, the most recent ones
# Columns of the table by the width below which a terminal has no room for more: job, run, status, step, time.
NARROW = {24: (0, 3), 40: (0, 3, 4), 64: (0, 1, 3, 4)}
STYLES = {"FINISHED": "green", "FAILED": "bold red", "KILLED": "yellow", "running": "cyan"}


class View(Protocol):
    """Receives the events of a sweep."""

    def started(self, job: Job) -> None:
        """Show that a job has begun."""

    def ended(self, job: Job) -> None:
        """Show that a job has ended, with its status."""

    def given_up(self, failures: int, waiting: int) -> None:
        """Show that after `failures` failed jobs the `waiting` ones will not be started."""

    def tick(self) -> None:
        """Refresh the output, if it is due; called often."""


@contextmanager
def view(jobs: Sequence[Job]) -> Iterator[View]:
    """Yield the view for standard output: a live table on a terminal, else lines."""
    if not sys.stdout.isatty():
        yield Unbreakable(LineView(jobs))
        return
    with ExitStack() as stack:
        live = Live(console=Console(), refresh_per_second=4, transient=True)
        live.start()
        stack.callback(suppressed(live.stop))
        yield Unbreakable(TerminalView(jobs, live))


def suppressed(call: Callable[..., None]) -> Callable[..., None]:
    """Return `call` without the errors of a closed output, such as a closed terminal or `| head`."""

    def silent(*arguments: Any) -> None:
        with suppress(OSError, ValueError):
            call(*arguments)

    return silent


class Unbreakable:
    """A view that ignores a closed output, so that the sweep continues."""

    def __init__(self, shown: View) -> None:
        self.started, self.ended = suppressed(shown.started), suppressed(shown.ended)
        self.given_up, self.tick = suppressed(shown.given_up), suppressed(shown.tick)


class LineView:
    """Prints a line when a job starts or ends, and every `EVERY` seconds one for each running job."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs, self._reported, self._foreseen = jobs, time.monotonic(), False
        for job in jobs:
            if job.state == "finished":
                self._say(job, "FINISHED before, kept")

    def started(self, job: Job) -> None:
        done = checkpoint_files.found(job.folder)
        goes_on = f"continues at step {done[0].step if done else 0}"
        what = {"continues": goes_on, "again": "starts again"}.get(job.state, "started")
        where = f" on GPU {short_name(job.record.device)}" if job.record.device else ""
        self._say(job, f"{what}{where}, log in {show(job.folder / LOG_FILE)}")

    def ended(self, job: Job) -> None:
        said, log = ending(job)
        self._say(job, f"{job.status} after {duration(job.ended - job.started)}{said and f': {said}'}")
        if log:
            print(indented(log), flush=True)

    def given_up(self, failures: int, waiting: int) -> None:
        print(f"{failures} jobs have failed (sweep.max_failures): {waiting} are not started", flush=True)

    def tick(self) -> None:
        if not self._foreseen and (left := seconds_left(self._jobs)) is not None:
            self._foreseen = True
            print(f"time left: about {words(left)}", flush=True)
        if time.monotonic() - self._reported > EVERY:
            self._reported = time.monotonic()
            for job in self._jobs:
                if running(job):
                    self._say(job, " ".join(part for part in progress(job) if part) or "starting")

    def _say(self, job: Job, what: str) -> None:
        print(f"{job.name}: {what}", flush=True)


class TerminalView:
    """Redraws a table of running jobs, the last ended ones and the number of waiting ones; failures stay above it."""

    def __init__(self, jobs: Sequence[Job], live: Live) -> None:
        self._jobs, self._live = jobs, live
        self._drawn = 0.0

    def started(self, job: Job) -> None:
        self.refresh()

    def ended(self, job: Job) -> None:
        if job.status != "FINISHED":
            said, log = ending(job)
            style = STYLES[str(job.status)]
            self._live.console.print(Text(f"{job.name}: {job.status}{said and f', {said}'}", style))
            if log:
                self._live.console.print(Text(indented(log), "dim"))
        self.refresh()

    def given_up(self, failures: int, waiting: int) -> None:
        self._live.console.print(f"{failures} jobs have failed (sweep.max_failures): {waiting} are not started")

    def tick(self) -> None:
        if time.monotonic() - self._drawn > 0.5:
            self.refresh()

    def refresh(self) -> None:
        """Draw the table with the current state."""
        self._drawn = time.monotonic()
        self._live.update(self._table())

    def _table(self) -> Group:
        ended = [job for job in self._jobs if job.status is not None or job.state == "finished"]
        active = [job for job in self._jobs if running(job)]
        waiting = len(self._jobs) - len(ended) - len(active)
        rows = []
        for job in [*sorted(ended, key=lambda job: job.ended)[-SETTLED:], *active]:
            status = str(job.status or ("FINISHED" if job.state == "finished" else "running"))
            step, left, metric, value = progress(job)
            left = f"took {duration(job.ended - job.started)}" if job.status else left
            at = short_name(job.record.device or "")
            rows.append((str(job.record.number), job.label, status, step, left, metric, value, at))
        metrics = {row[5] for row in rows if row[5]}
        metric = metrics.pop() if len(metrics) == 1 else "metric"
        cells = [(*row[:5], row[6] if metric != "metric" else f"{row[5]} {row[6]}".strip(), row[7]) for row in rows]
        columns = 7 if any(cell[-1] for cell in cells) else 6
        head = ("job", "run", "status", "step", "time", metric, "GPU")[:columns]
        room = self._live.console.width
        chosen = next((each for least, each in NARROW.items() if room < least), tuple(range(columns)))
        head = tuple(head[at] for at in chosen)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in head:  # as Text: in a str rich would parse brackets and colons as markup
            table.add_column(Text(name), no_wrap=name != "run")  # only the run's name may be shortened
        for row in cells:
            label = Text(row[1], no_wrap=True, overflow="ellipsis")
            parts = [Text(row[0]), label, Text(row[2], STYLES[row[2]]), *map(Text, row[3:])]
            table.add_row(*(parts[at] for at in chosen))
        finished = sum(job.status == "FINISHED" or job.state == "finished" for job in ended)
        rest = f"{finished} finished, {len(ended) - finished} failed, {waiting} waiting"
        if (seconds := seconds_left(self._jobs)) is not None:
            rest += f", about {words(seconds)} left"
        return Group(table, Text(rest, "dim"))


def ending(job: Job) -> tuple[str, str]:
    """Return why a job has ended, and the end of a failed one's log; the log alone where it says why."""
    log, reason = log_tail(job.folder) if job.status == "FAILED" else "", job.reason or ""
    return ("" if reason and " ".join(reason.split()) in " ".join(log.split()) else reason), log


def seconds_left(jobs: Sequence[Job]) -> float | None:
    """Estimate how long a sweep still takes, with as many jobs at a time as run now; None before it is known.

    A waiting job is taken to last as long as those on average that have finished or can say how long they take.
    """
    now = time.time()
    active, rest, lasting = [job for job in jobs if running(job)], [], []
    for job in active:
        left = (read_json(job.folder / PROGRESS_FILE) or {}).get("seconds_left")
        rest.append(left)
        lasting += [] if left is None else [now - job.started + left]
    lasting += [job.ended - job.started for job in jobs if job.status == "FINISHED" and job.process is not None]
    if not active or not lasting:
        return None
    each = sum(lasting) / len(lasting)
    known = [each if left is None else left for left in rest]
    waiting = sum(job.process is None and job.status is None and job.state != "finished" for job in jobs)
    return max(*known, (sum(known) + waiting * each) / len(active))


def running(job: Job) -> bool:
    """Return True if the job has started and has not ended."""
    return job.process is not None and job.status is None


def progress(job: Job) -> tuple[str, str, str, str]:
    """Return step, time left, metric and its last value as texts, empty before training begins."""
    record = read_json(job.folder / PROGRESS_FILE)
    if record is None:
        return "", "", "", ""
    left = record.get("seconds_left")
    value = record.get("value")
    return (
        f"{record['step']}/{record['steps']}",
        f"{duration(left)} left" if left is not None else "",
        record["metric"] if value is not None else "",
        f"{value:.4g}" if value is not None else "",
    )


def duration(seconds: float) -> str:
    """Format seconds, such as 42 s, 3:05 or 2:10:00."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def indented(text: str) -> str:
    """Indent lines of a log, to print them below the line of their job."""
    return "\n".join(f"    | {line}" for line in text.splitlines())
