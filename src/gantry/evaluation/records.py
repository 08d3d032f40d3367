"""Reads the records that `python evaluate.py` writes: one for each protocol and settings, and each step."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantry.evaluation.result import CAVEATS, DESCRIPTION, PREFIX, curve_name
from gantry.runs import directions
from gantry.runs.folder import EVALUATIONS
from gantry.runs.tracking.params import flatten

FILE = re.compile(r"(?:.*/)?step_(?P<step>\d+)\.json")


@dataclass(frozen=True)
class Record:
    """One evaluation of one generator.

    Attributes:
        key: the protocol and a hash of all settings.
        step: the generator's.
        values: by name, NaN where it was not finite.
        spread: of some values the standard deviation over repeated draws of the generated images.
        protocol: papers, test10k, quick or custom.
        settings: all settings that determine the values, flat; empty if the record itself is not available.
        description: the settings in a line, if the record is not available.
        higher_is_better: by the name of a value, if the record has it.
        caveats: what speaks against the values, a sentence each.
    """

    key: str
    step: int
    values: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)
    protocol: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.protocol:
            object.__setattr__(self, "protocol", self.key.rpartition("_")[0] or self.key)


def parts(curve: str) -> tuple[str, str] | None:
    """Return the key and the name in `eval/<key>/<name>`; None for other curves."""
    key, _, name = curve.removeprefix(PREFIX).partition("/")
    return (key, name) if curve.startswith(PREFIX) and name else None


def parse(content: str | bytes) -> Record | None:
    """Parse a record file; None if it is incomplete or no record."""
    try:
        values = json.loads(content)
        return Record(
            key=str(values["key"]),
            step=int(values["step"]),
            values={str(name): _number(value) for name, value in values["values"].items()},
            spread={str(name): float(std) for name, std in (values.get("spread") or {}).items() if std is not None},
            protocol=str(values.get("protocol") or ""),
            settings=flatten(values.get("settings") or {}),
            higher_is_better=directions.parse(values.get(directions.HIGHER)),
            caveats=tuple(map(str, said)) if isinstance(said := values.get(CAVEATS), list) else (),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def read_folder(folder: Path) -> list[Record]:
    """Read the records in a run's folder, except those of a generator that has been replaced."""
    paths = (path for path in sorted(folder.glob(f"{EVALUATIONS}/*/*.json")) if FILE.fullmatch(path.name))
    parsed = (parse(path.read_bytes()) for path in paths)
    return [record for record in parsed if record is not None]


def curves(records: Iterable[Record]) -> dict[str, dict[int, float]]:
    """Return the values of records by curve and step."""
    made: dict[str, dict[int, float]] = {}
    for record in sorted(records, key=lambda record: record.step):
        for name, value in record.values.items():
            made.setdefault(curve_name(record.key, name), {})[record.step] = value
    return made


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """Return for each key the record of the latest step."""
    return {record.key: record for record in sorted(records, key=lambda record: record.step)}


def from_curves(made: Mapping[str, Mapping[int, float]], tags: Mapping[str, str]) -> dict[str, Record]:
    """Build for each key a record of the latest step from its curves, if the records are not available."""
    values: dict[str, dict[str, Mapping[int, float]]] = {}
    for curve, points in made.items():
        if points and (named := parts(curve)):
            values.setdefault(named[0], {})[named[1]] = points
    records = {}
    for key, names in values.items():
        step = max(max(points) for points in names.values())
        at = {name: points[step] for name, points in names.items() if step in points}
        tag = f"{DESCRIPTION}{key}"
        higher = directions.parse(tags.get(f"{tag}.{directions.HIGHER}"))
        said = tuple(tags.get(f"{tag}.{CAVEATS}", "").splitlines())
        records[key] = Record(key, step, at, description=tags.get(tag, ""), higher_is_better=higher, caveats=said)
    return records
