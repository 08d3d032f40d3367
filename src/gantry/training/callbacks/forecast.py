"""Foresees how long a run takes, from its first steps."""

from __future__ import annotations

import time
from dataclasses import dataclass

UNTIMED = 3  # first steps, in which much is set up
FEWEST = 3  # timed steps
SECONDS = 3.0  # of them at least


@dataclass
class Forecast:
    """Times the first steps of a run and says once how long the rest takes.

    Attributes:
        steps: the run's generator steps.
        every: generator steps between evaluations.
    """

    steps: int
    every: int
    begun: tuple[int, float] | None = None  # step and seconds at which the timing began
    first: int | None = None  # the step at which this process began
    done: bool = False

    def after(self, step: int, seconds: float, evaluation: float) -> str | None:
        """Return the line that says how long the rest takes; None before it is known, and once it was returned.

        Args:
            step: the generator steps done.
            seconds: spent training so far, without evaluations.
            evaluation: seconds of one evaluation.
        """
        if self.done:
            return None
        self.first = step - 1 if self.first is None else self.first
        if self.begun is None:
            if step - self.first >= UNTIMED:
                self.begun = step, seconds
            return None
        timed, took = step - self.begun[0], seconds - self.begun[1]
        if timed < FEWEST or took < SECONDS:
            return None
        self.done = True
        return said(self.steps - step, timed / took, evaluations_left(step, self.steps, self.every), evaluation)


def evaluations_left(step: int, steps: int, every: int) -> int:
    """Return how many evaluations come after `step`: every so many steps, and after the last one."""
    return steps // every - step // every + (steps % every > 0 and step < steps)


def said(left: int, rate: float, evaluations: int, seconds: float) -> str:
    """Return the line for so many steps left at a rate (steps a second), and evaluations of so many seconds each."""
    whole = left / rate + evaluations * seconds
    until = time.localtime(time.time() + whole)
    clock = time.strftime("%H:%M" if whole < 12 * 3600 else "%Y-%m-%d %H:%M", until)
    measuring = f", and {evaluations} x {words(seconds)} of measuring" if evaluations and seconds >= 0.5 else ""
    return f"time left: about {words(whole)}, until {clock} ({left:,} steps at {rate:.3g} a second{measuring})"


def words(seconds: float) -> str:
    """Round seconds as people say them, such as 4 s, 40 s, 3 min, 2 h 10 min or 3 days 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds < 10 else f"{5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(minutes / 60)
    if hours < 48:
        minutes = 10 * round(minutes / 10)
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"
