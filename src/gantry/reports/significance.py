"""Whether two values differ by more than chance: over seeds, or over repeated draws of the images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gantry.reports.ranking import Spread, spread

APART = 2.0  # standard deviations of the difference, beyond which two values differ


@dataclass(frozen=True)
class Score:
    """A value of a group.

    Attributes:
        shown: its mean over seeds with their standard deviation; of one seed, with that over draws.
        error: the standard deviation of the mean; None where it is not known.
        freedom: the degrees of freedom of `error`, infinite where it is not estimated from seeds.
    """

    shown: Spread
    error: float | None
    freedom: float


def score(values: Sequence[float | None], draws: Sequence[float | None]) -> Score | None:
    """The score of runs that differ in their seed.

    The spread over seeds holds that over draws too. Where few seeds happen to agree more closely than repeated
    draws of any one of them would, the latter stands.

    Args:
        values: of each run; None where it has none, NaN where it diverged.
        draws: of each run the value's standard deviation over repeated draws of images; None where not known.
    """
    found = spread(values)
    if found is None or found.diverged:
        return None if found is None else Score(found, None, math.inf)
    known = [std**2 for std in draws if std is not None and math.isfinite(std)]
    drawn = statistics.fmean(known) if known else None
    if found.std is None:
        std = None if drawn is None else math.sqrt(drawn)
        return Score(Spread(found.mean, std, found.n), std, math.inf)
    return Score(found, math.sqrt(max(found.std**2, drawn or 0.0) / found.n), found.n - 1)


def told_apart(one: Score, other: Score) -> bool | None:
    """Whether two finite scores differ by more than two standard deviations of their difference.

    Welch 1947, The Generalization of Student's Problem: where a standard deviation is estimated from a few seeds,
    two become as many as Student's t with their degrees of freedom takes for the same confidence, 95.4 %.

    Returns:
        None where a standard deviation is not known.
    """
    if one.error is None or other.error is None:
        return None
    variances = one.error**2, other.error**2
    doubt = variances[0] ** 2 / one.freedom + variances[1] ** 2 / other.freedom
    factor = APART if doubt == 0 else _student(sum(variances) ** 2 / doubt)
    return abs(one.shown.mean - other.shown.mean) > factor * math.sqrt(sum(variances))


def _student(freedom: float) -> float:
    """As far from 0 on Student's t as `APART` standard deviations are on the normal distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, statistics.NormalDist().cdf(APART)))
