"""Defines the events of a run for MLflow and their JSON lines on disk (see `gantry.runs.tracking.journal`)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.runs.folder import Status
from gantry.runs.tracking.tracker import DatasetInfo

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Params:
    values: dict[str, str]


@dataclass(frozen=True)
class Tags:
    values: dict[str, str]


@dataclass(frozen=True)
class Metrics:
    time: int
    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Image:
    time: int
    step: int
    key: str
    image: np.ndarray | Path  # a PNG on disk; uint8 (height, width, channels) where it could not be written


@dataclass(frozen=True)
class Artifact:
    file: Path  # a copy that later writes do not change
    folder: str | None


@dataclass(frozen=True)
class Dataset:
    info: DatasetInfo


@dataclass(frozen=True)
class Resumed:
    """The run continues in a new process: values at steps that MLflow holds already are repetitions."""

    time: int


@dataclass(frozen=True)
class Ended:
    time: int
    status: Status
    reason: str | None


Event = Params | Tags | Metrics | Image | Artifact | Dataset | Resumed | Ended

PLAIN: dict[str, type[Params | Tags | Resumed | Ended]] = {
    kind.__name__.lower(): kind for kind in (Params, Tags, Resumed, Ended)
}


def to_line(event: Event, folder: Path) -> dict[str, Any]:
    """Convert an event to JSON values: null for NaN, files relative to the run's `folder`."""
    kind = {"kind": type(event).__name__.lower()}
    match event:
        case Metrics(time, step, values):
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            return kind | {"time": time, "step": step, "values": finite}
        case Image(time, step, key, file):
            assert isinstance(file, Path), "hold it on disk first"
            return kind | {"time": time, "step": step, "key": key, "file": _relative(file, folder)}
        case Artifact(file, target):
            return kind | {"file": _relative(file, folder), "folder": target}
        case Dataset(info):
            return kind | {"info": asdict(info)}
        case _:
            return kind | asdict(event)


def from_line(text: str | bytes, folder: Path) -> Event | None:
    """Return the event of a line; None where a kill or a full disk left the line half written."""
    try:
        line = json.loads(text)
        kind = line.pop("kind")
        if kind == "metrics":
            values = {key: math.nan if value is None else value for key, value in line["values"].items()}
            return Metrics(line["time"], line["step"], values)
        if kind == "image":
            return Image(line["time"], line["step"], line["key"], folder / line["file"])
        if kind == "artifact":
            return Artifact(folder / line["file"], line["folder"])
        if kind == "dataset":
            return Dataset(DatasetInfo(**line["info"] | {"shape": tuple(line["info"]["shape"])}))
        return PLAIN[kind](**line)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _relative(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file.absolute())
