"""Tests for a significant difference between two values: over seeds, or over repeated draws of the images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gantry.reports.ranking import Spread, spread

APART = 2.0  # standard deviations of the difference, beyond which two values differ


@dataclass(frozen=True)
class Score:
    """A metric's value for a group of runs.

    Attributes:
        shown: the mean over seeds with their standard deviation; of one seed, with that over draws.
        error: the standard error of the mean; None where it is not known.
        freedom: the degrees of freedom of `error`, infinite where it is not estimated from seeds.
    """

    shown: Spread
    error: float | None
    freedom: float


def score(values: Sequence[float | None], draws: Sequence[float | None]) -> Score | None:
    """Return the score of runs that differ only in their seed; None where no run has a value.

    The variance over seeds includes that over draws. Where few seeds happen to agree more closely than repeated
    draws of one seed would, the variance over draws is used.

    Args:
        values: of each run; None where it has none, NaN where it diverged.
        draws: each run's standard deviation over repeated draws of images; None where not known.
    """
    over_seeds = spread(values)
    if over_seeds is None or over_seeds.diverged:
        return None if over_seeds is None else Score(over_seeds, None, math.inf)
    variances = [std**2 for std in draws if std is not None and math.isfinite(std)]
    drawn = statistics.fmean(variances) if variances else None
    if over_seeds.std is None:
        std = None if drawn is None else math.sqrt(drawn)
        return Score(Spread(over_seeds.mean, std, over_seeds.n), std, math.inf)
    return Score(over_seeds, math.sqrt(max(over_seeds.std**2, drawn or 0.0) / over_seeds.n), over_seeds.n - 1)


def told_apart(one: Score, other: Score) -> bool | None:
    """Return True where two finite scores differ by more than two standard errors of their difference.

    Welch 1947, The Generalization of Student's Problem: where a standard error is estimated from few seeds, two is
    replaced by the quantile of Student's t with their degrees of freedom at the same confidence, 95.4 %.

    Returns:
        None where a standard error is not known.
    """
    if one.error is None or other.error is None:
        return None
    variances = one.error**2, other.error**2
    doubt = variances[0] ** 2 / one.freedom + variances[1] ** 2 / other.freedom
    factor = APART if doubt == 0 else _student(sum(variances) ** 2 / doubt)
    return abs(one.shown.mean - other.shown.mean) > factor * math.sqrt(sum(variances))


def _student(freedom: float) -> float:
    """Return the quantile of Student's t at the probability of `APART` standard deviations of the normal."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, statistics.NormalDist().cdf(APART)))
