"""The scheduled numbers of a GAN: which there are, what they are before a step, and the optimizers that take them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.optim import Optimizer

from gantry.models.optimizers import OptimizerFactory
from gantry.models.penalties import Penalty
from gantry.models.schedules import Progress, Schedule, found, value_at


@dataclass(frozen=True)
class OptimizerSchedules:
    """The scheduled options of a player's optimizer.

    Attributes:
        place: of the optimizer in the config, as in "optimizer".
        schedules: by option, as "lr", or "betas" with the number of a place in it.
        optimizer: of the player; its options are numbers.
        interval: the player's turns from one step of its own of a penalty to the next; None: no penalty has one.
    """

    place: str
    schedules: dict[tuple[str, int | None], Schedule]
    optimizer: Optimizer
    interval: int | None

    def begin(self) -> None:
        """Rescale rate and betas for the further steps of penalties (see `rescaled`)."""
        for group in self.optimizer.param_groups:
            for name in ("lr", "betas"):
                if name in group:
                    group[name] = rescaled(name, group[name], self.interval)

    def set(self, progress: Progress) -> None:
        """Give the optimizer the numbers of a step."""
        for (name, place), schedule in self.schedules.items():
            for group in self.optimizer.param_groups:
                value = value_at(schedule, progress)
                if place is None:
                    group[name] = rescaled(name, value, self.interval)
                else:
                    now = list(group[name])
                    now[place] = rescaled(name, [value], self.interval)[0]
                    group[name] = type(group[name])(now)

    def values(self, progress: Progress) -> dict[str, float]:
        """Return the scheduled numbers before rescaling, by their place in the config."""
        return {
            f"{self.place}.{name}" + ("" if place is None else f".{place}"): value_at(schedule, progress)
            for (name, place), schedule in self.schedules.items()
        }


@dataclass(frozen=True)
class Scheduled:
    """The scheduled numbers of a GAN.

    Attributes:
        parts: schedules of penalties, terms and the augmentation, by their place in the config.
        optimizers: those of the optimizers, once these are made.
    """

    parts: dict[str, Schedule]
    optimizers: list[OptimizerSchedules] = field(default_factory=list)

    @classmethod
    def of(cls, penalties: Sequence[object], terms: Sequence[object], further: dict[str, object]) -> "Scheduled":
        """Find the schedules among parts and their attributes; `further` parts are named by their place."""
        numbers = {place: part for place, part in further.items() if isinstance(part, Schedule)}
        places = {f"penalties.{n}": part for n, part in enumerate(penalties)}
        places |= {f"terms.{n}": part for n, part in enumerate(terms)} | further
        return cls({n: schedule for place, part in places.items() for n, schedule in found(part, place)} | numbers)

    def values(self, progress: Progress) -> dict[str, float]:
        """Return the numbers of the parts before a step."""
        return {place: float(value_at(schedule, progress)) for place, schedule in self.parts.items()}

    def set_optimizers(self, progress: Progress) -> None:
        """Give the optimizers the numbers of a step."""
        for one in self.optimizers:
            one.set(progress)

    def logged(self, progress: Progress) -> dict[str, float]:
        """Return all scheduled numbers before a step, each under `schedule/` and its place."""
        values = self.values(progress)
        for one in self.optimizers:
            values |= one.values(progress)
        return {f"schedule/{place}": value for place, value in values.items()}


def without_schedules(factory: OptimizerFactory) -> tuple[OptimizerFactory, dict[tuple[str, int | None], Schedule]]:
    """Return an optimizer's factory with the first numbers of schedules in their place, and the schedules."""
    schedules: dict[tuple[str, int | None], Schedule] = {}
    if not isinstance(factory, partial):
        return factory, schedules
    first: dict[str, Any] = {}
    for name, value in factory.keywords.items():
        if isinstance(value, Schedule):
            schedules[name, None] = value
            first[name] = value_at(value, Progress(0, 0))
        elif isinstance(value, list | tuple) and any(isinstance(one, Schedule) for one in value):
            schedules |= {(name, place): one for place, one in enumerate(value) if isinstance(one, Schedule)}
            first[name] = [value_at(one, Progress(0, 0)) for one in value]
    return (partial(factory, **first) if first else factory), schedules


def rescaled(name: str, value: Any, interval: int | None) -> Any:
    """Return a rate or betas for an optimizer that steps once more at each `interval`-th turn, for a penalty alone.

    With c = interval / (interval + 1) the rate is multiplied by c and the betas are taken to the power c, so that
    Adam's averages reach as many turns back (Karras et al. 2020, StyleGAN2, appendix B, as its code).
    """
    if interval is None:
        return value
    share = interval / (interval + 1)
    return value * share if name == "lr" else type(value)(beta**share for beta in value)


def own_step_interval(penalties: Iterable[Penalty]) -> int | None:
    """Return the turns from one step of its own of a penalty to the next; None where no penalty has one."""
    return next((penalty.every for penalty in penalties if getattr(penalty, "own_step", False)), None)
