"""Determines whether a higher value of a metric is better: from the run's record, or in older records by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping

PRIMARY, DIRECTIONS = "metrics.primary", "metrics.higher_is_better"  # tags of a run
HIGHER = "higher_is_better"  # in summary.json and in an evaluation's record: true or false by the metric's name
# Prefixes of the metrics that older records, without the field, can contain.
HIGHER_BEFORE = ("inception_score", "precision", "recall", "density", "coverage", "modes", "distance_ratio")
LOWER_BEFORE = ("fid", "kid", "copy_rate")


def higher_is_better(metric: str, recorded: Mapping[str, bool]) -> bool | None:
    """Return True if a higher value of `metric` is better; None if it is not a known metric of quality.

    Args:
        recorded: the directions in its record, see `parse`.
    """
    name = metric.removeprefix("raw/")
    if name in recorded:
        return recorded[name]
    return True if name.startswith(HIGHER_BEFORE) else False if name.startswith(LOWER_BEFORE) else None


def parse(value: object) -> dict[str, bool]:
    """Parse the directions by name from a record's field or a tag's JSON; empty where there are none."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return {}
    return {str(name): higher is True for name, higher in found.items()} if isinstance(found, dict) else {}
