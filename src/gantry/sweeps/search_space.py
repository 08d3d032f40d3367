"""Reads the search space, keys and the values they may take, from overrides in Hydra's own grammar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from gantry.core.config.overrides import of_the_run
from gantry.core.errors import UserError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from optuna.distributions import BaseDistribution


DIGITS = 6  # significant digits of a proposed number; another seed changes the result far more than rounding


@dataclass(frozen=True)
class Axis:
    """The values of one key: one of `choices`, as typed, or a number from `low` to `high`, both included."""

    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    def distribution(self) -> BaseDistribution:
        """Return the axis as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def rounded(self, value: str | float) -> str | float:
        """Return a proposed value as the job gets it, rounded to `DIGITS`."""
        if not isinstance(value, float):
            return value
        short = float(f"{value:.{DIGITS}g}")
        return short if self.low <= short <= self.high else value


@dataclass(frozen=True)
class Space:
    """The axes of a search by key, and the overrides that all its trials share."""

    axes: dict[str, Axis]
    fixed: tuple[str, ...]

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """Return the overrides of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in self.values(params).items())]

    def values(self, params: dict[str, Any]) -> dict[str, str | float]:
        """Return the params of a trial as its job gets them."""
        return {key: axis.rounded(params[key]) for key, axis in self.axes.items()}


def read_space(arguments: Sequence[str], config_loader: ConfigLoader | None = None) -> Space:
    """Read the search space from overrides in Hydra's grammar; of a key given twice the last counts.

    `a,b` and `choice(a,b)` are choices, `range(1,6)` is 1 to 5, `interval(0.0,0.9)` is continuous, `int(interval(1,8))`
    is the whole numbers between; `tag(log,...)` samples on a logarithmic scale. A single value is fixed.

    Args:
        config_loader: resolves the groups of `glob(...)`.

    Raises:
        UserError: no key varies, or an axis cannot be searched.
        hydra.errors.HydraException: an override cannot be read.
    """
    parsed = OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments))
    last = {override.get_key_element(): override for override in parsed}
    axes = {key: _axis(override) for key, override in last.items() if override.is_sweep_override()}
    if not axes:
        raise UserError(
            "a search needs something to vary: model.optimizer.lr=tag(log,interval(1e-5,1e-3)), "
            "model.n_critic=range(1,6), model=dcgan,wgan"
        )
    if "seed" in axes:
        raise UserError("seed: a search over seeds finds the luckiest; give one (seed=0)")
    if ours := sorted(axes.keys() - set(of_the_run(list(axes)))):
        raise UserError(f"{ours[0]}: says how to run the search, not what it varies; give one value")
    fixed = tuple(override.input_line or "" for override in last.values() if not override.is_sweep_override())
    return Space(axes, fixed)


def _axis(override: Override) -> Axis:
    value, line = override.value(), override.input_line
    tags: set[str] = getattr(value, "tags", set())
    if tags - {"log"}:
        raise UserError(f"{line}: the only tag a search knows is log, not {', '.join(sorted(tags - {'log'}))}")
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        axis = Axis(low=value.start, high=value.end, log="log" in tags)
        if not axis.low < axis.high:
            raise UserError(f"{line}: an interval goes from a smaller to a larger number")
    elif isinstance(value, RangeSweep):
        numbers = value.range()
        ends = [numbers[0], numbers[-1]] if isinstance(numbers, range) and numbers else list(numbers)
        if not ends:
            raise UserError(f"{line}: this range is empty")
        axis = Axis(low=min(ends), high=max(ends), step=abs(value.step), log="log" in tags)
        if axis.log and (axis.step != 1 or not isinstance(axis.low, int)):
            raise UserError(f"{line}: on a log scale a range has whole numbers and step 1; or use interval")
    elif tags:
        raise UserError(f"{line}: choices have no log scale; use interval or range")
    else:
        return Axis(choices=tuple(dict.fromkeys(override.sweep_string_iterator())))
    if not math.isfinite(axis.low) or not math.isfinite(axis.high):
        raise UserError(f"{line}: the numbers must be finite")
    if axis.log and axis.low <= 0:
        raise UserError(f"{line}: on a log scale all numbers are above 0")
    return axis
