"""Numbers that change in the course of training, as pure functions of the step: nothing to save or to resume.

A learning rate, a beta, a number of a penalty or of a term, the half-life of the average, the probability of an
augmentation and the share of top-k training may be one. `unit` says what the numbers of a schedule count: generator
"steps", or "images", the real images of a discriminator step times the steps done, as the half-life of the average
counts them.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

Unit = Literal["steps", "images"]
T = TypeVar("T")


class Progress(NamedTuple):
    """How far training is before a step: generator steps done, and images seen."""

    steps: int
    images: int


@runtime_checkable
class Schedule(Protocol):
    """A number as a function of progress; `unit` is "steps" or "images"."""

    unit: Unit

    def at(self, done: float) -> float:
        """Return the number after `done` steps or images."""


def passed(done: float, over: float) -> float:
    """Return the share of a change of length `over`, above 0, that is behind, in [0, 1]."""
    return min(max(done / over, 0.0), 1.0)


@dataclass(frozen=True)
class Constant:
    """`value` at any time."""

    value: float
    unit: Unit = "steps"

    def at(self, done: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line over `over` steps or images, then `end`.

    Args:
        start, end: the first and the last value.
        over: how long the change takes, above 0.
        after: what is done before it begins.
    """

    start: float
    end: float
    over: float
    after: float = 0
    unit: Unit = "steps"

    def at(self, done: float) -> float:
        return self.start + (self.end - self.start) * passed(done - self.after, self.over)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine over `over` steps or images, then `end`.

    end + (start - end) (1 + cos(pi done / over)) / 2, as the schedules of R3GAN (Huang et al. 2024) and, for a rate
    that ends at 0, SGDR (Loshchilov and Hutter 2017, equation 5) without restarts.
    """

    start: float
    end: float
    over: float
    after: float = 0
    unit: Unit = "steps"

    def at(self, done: float) -> float:
        share = passed(done - self.after, self.over)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class WarmUp:
    """From 0 to what comes after it in a straight line: `then`, times done / over while that is below 1.

    Args:
        over: how long it takes, above 0.
        then: a number, or a schedule of the same unit.
    """

    over: float
    then: Any
    unit: Unit = "steps"

    def at(self, done: float) -> float:
        goal = self.then.at(done) if isinstance(self.then, Schedule) else float(self.then)
        return goal * passed(done, self.over)


@dataclass(frozen=True)
class Exponential:
    """`start` times `factor` after each `every` steps or images, at once, and never beyond `end`.

    So fall the k of top-k training (Sinha et al. 2020, section 3) and rates that are divided at milestones.
    """

    start: float
    factor: float
    every: float
    end: float = 0.0
    unit: Unit = "steps"

    def at(self, done: float) -> float:
        value = self.start * self.factor ** (done // self.every)
        return max(value, self.end) if self.factor < 1 else min(value, self.end or math.inf)


def value_at(value: Any, progress: Progress) -> Any:
    """Return a number, or a schedule's number before a step."""
    return value.at(getattr(progress, value.unit)) if isinstance(value, Schedule) else value


def found(part: object, place: str) -> Iterator[tuple[str, Schedule]]:
    """Yield the schedules among the attributes of a part, each with its place, as in "penalties.0.gamma"."""
    for name, value in vars(part).items() if hasattr(part, "__dict__") else ():
        if isinstance(value, Schedule):
            yield f"{place}.{name}", value


def settled(part: T, place: str, values: Mapping[str, Tensor]) -> T:
    """Return a part with the present numbers, tensors (), in place of its schedules; the part itself if it has none."""
    mine = {name.removeprefix(f"{place}."): value for name, value in values.items() if name.startswith(f"{place}.")}
    if not mine:
        return part
    now = copy.copy(part)
    vars(now).update(mine)
    return now
