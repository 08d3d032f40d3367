"""Which way a metric is better: as the record of its run says, or, of a record from before it did, by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping

PRIMARY, DIRECTIONS = "metrics.primary", "metrics.higher_is_better"  # tags of a run
HIGHER = "higher_is_better"  # in summary.json and in an evaluation's record: true or false by the metric's name
# Beginnings of the names there were when no record said it.
HIGHER_BEFORE = ("inception_score", "precision", "recall", "density", "coverage", "modes", "distance_ratio")
LOWER_BEFORE = ("fid", "kid", "copy_rate")


def higher_is_better(metric: str, recorded: Mapping[str, bool]) -> bool | None:
    """Whether a higher value of `metric` is the better one; None where it is no metric of quality that is known.

    Args:
        recorded: what its record says, see `parse`.
    """
    name = metric.removeprefix("raw/")
    if name in recorded:
        return recorded[name]
    return True if name.startswith(HIGHER_BEFORE) else False if name.startswith(LOWER_BEFORE) else None


def parse(said: object) -> dict[str, bool]:
    """The directions by name in a record's field, or in a tag's JSON; none where it says none."""
    try:
        found = json.loads(said) if isinstance(said, str) else said
    except ValueError:
        return {}
    return {str(name): higher is True for name, higher in found.items()} if isinstance(found, dict) else {}
