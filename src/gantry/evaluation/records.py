"""What `python evaluate.py` leaves of a run: one record for each way of measuring and each step."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantry.evaluation.result import DESCRIPTION, PREFIX, curve_name
from gantry.runs import directions
from gantry.runs.folder import EVALUATIONS
from gantry.runs.tracking.params import flatten

FILE = re.compile(r"(?:.*/)?step_(?P<step>\d+)\.json")


@dataclass(frozen=True)
class Record:
    """One evaluation of one generator.

    Attributes:
        key: names the way of measuring: the protocol and a hash of all settings.
        step: the generator's.
        values: by name, NaN where it was not finite.
        spread: of some values the standard deviation over repeated draws of the generated images.
        protocol: papers, test10k, quick or custom.
        settings: all that determines the values, flat; none where the record itself is out of reach.
        description: the settings in a line, where they are out of reach.
        higher_is_better: by the name of a value, where the record says it.
    """

    key: str
    step: int
    values: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)
    protocol: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.protocol:
            object.__setattr__(self, "protocol", self.key.rpartition("_")[0] or self.key)


def parts(curve: str) -> tuple[str, str] | None:
    """The key and the name in `eval/<key>/<name>`; None of another curve."""
    key, _, name = curve.removeprefix(PREFIX).partition("/")
    return (key, name) if curve.startswith(PREFIX) and name else None


def parse(content: str | bytes) -> Record | None:
    """The record that a file holds; None where it is half written, or something else."""
    try:
        found = json.loads(content)
        return Record(
            key=str(found["key"]),
            step=int(found["step"]),
            values={str(name): _number(value) for name, value in found["values"].items()},
            spread={str(name): float(std) for name, std in (found.get("spread") or {}).items() if std is not None},
            protocol=str(found.get("protocol") or ""),
            settings=flatten(found.get("settings") or {}),
            higher_is_better=directions.parse(found.get(directions.HIGHER)),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def read_folder(folder: Path) -> list[Record]:
    """The records in a run's folder; those of a generator that another one has replaced are left out."""
    paths = (path for path in sorted(folder.glob(f"{EVALUATIONS}/*/*.json")) if FILE.fullmatch(path.name))
    found = (parse(path.read_bytes()) for path in paths)
    return [record for record in found if record is not None]


def curves(found: Iterable[Record]) -> dict[str, dict[int, float]]:
    """The values of `found` by curve and step."""
    made: dict[str, dict[int, float]] = {}
    for record in sorted(found, key=lambda record: record.step):
        for name, value in record.values.items():
            made.setdefault(curve_name(record.key, name), {})[record.step] = value
    return made


def latest(found: Iterable[Record]) -> dict[str, Record]:
    """Of each key the record of the latest step."""
    return {record.key: record for record in sorted(found, key=lambda record: record.step)}


def from_curves(made: Mapping[str, Mapping[int, float]], tags: Mapping[str, str]) -> dict[str, Record]:
    """Of each key what its curves tell of the latest step, where the records are out of reach."""
    values: dict[str, dict[str, Mapping[int, float]]] = {}
    for curve, points in made.items():
        if points and (found := parts(curve)):
            values.setdefault(found[0], {})[found[1]] = points
    records = {}
    for key, names in values.items():
        step = max(max(points) for points in names.values())
        at = {name: points[step] for name, points in names.items() if step in points}
        tag = f"{DESCRIPTION}{key}"
        higher = directions.parse(tags.get(f"{tag}.{directions.HIGHER}"))
        records[key] = Record(key, step, at, description=tags.get(tag, ""), higher_is_better=higher)
    return records
