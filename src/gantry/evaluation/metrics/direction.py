"""Which metrics are better when higher, and the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable

HIGHER_IS_BETTER = ("inception_score", "precision", "recall", "density", "coverage", "modes", "distance_ratio")
# Of the quality metrics in tables and figures; others follow.
ORDER = ("fid", "fid_infinity", "kid", *HIGHER_IS_BETTER, "copy_rate")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics as tables show them: by `ORDER`, those of the generator without averaging last."""
    return sorted(set(metrics), key=_place)


def _place(metric: str) -> tuple[bool, int, str]:
    statistic = metric.removeprefix("raw/")
    prefix = max((prefix for prefix in ORDER if statistic.startswith(prefix)), key=len, default=None)
    return metric.startswith("raw/"), len(ORDER) if prefix is None else ORDER.index(prefix), metric


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of a quality metric is the better one."""
    return not metric.removeprefix("raw/").startswith(HIGHER_IS_BETTER)
