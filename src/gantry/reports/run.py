"""Holds the data of a run that a comparison uses, and reads it from the run's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantry.core.config.overrides import split_overrides
from gantry.core.files import read_json
from gantry.core.processes.locks import is_dead
from gantry.evaluation import records
from gantry.evaluation.result import PREFIX
from gantry.runs.directions import DIRECTIONS, PRIMARY, higher_is_better, parse
from gantry.runs.folder import (
    METRICS_FILE,
    REAL,
    RUN_FILE,
    SAMPLES,
    SUMMARY_FILE,
    TAGS_FILE,
    log_tail,
    picture,
    read_params,
    read_status,
)
from gantry.runs.tracking.identity import read_plan
from gantry.runs.tracking.status import WORDLESS

NOT_STARTED = "NOT STARTED"
# Of the quality metrics in tables and figures; others follow.
ORDER = (
    *("fid", "fid_infinity", "kid", "inception_score", "precision", "recall", "density", "coverage", "modes"),
    *("asked_class_accuracy", "code_agreement", "intra_fid", "class_fid", "cas_small", "distance_ratio", "copy_rate"),
)
BOOKKEEPING = (
    *("images_seen", "images_per_second", "training_seconds", "evaluation_seconds"),
    *("peak_memory_mib", "peak_gpu_memory_mib"),
)
Curve = dict[int, float]  # value by generator step, NaN where it was not finite
Picture = Callable[[], bytes]  # reads the content of an image file


@dataclass(frozen=True, eq=False)
class Run:
    """A run in a comparison.

    Attributes:
        name: its name in the report.
        status: FINISHED, FAILED, KILLED, RUNNING (no final status recorded) or NOT STARTED.
        reason: why it failed or was stopped.
        params: its whole config, flat.
        tags: variant, dataset, seed, `metrics.*` (the protocol of its metrics), git.*.
        overrides: its command line.
        curves: every metric by step.
        samples: sample grids by step; eight images a row, see `gantry.training.callbacks.evaluation`.
        real: the grid of real images.
        classes: each class's share of the real and of the generated images, 0 to 1.
        log: the last lines of its output, where it did not finish.
        started: seconds since 1970, 0 where unknown.
        run_id: of its MLflow run.
        experiment_id: the MLflow experiment of that run; None where it was not asked for.
        store: the address of that run's store, without a password where read from the run's folder.
        evaluations: the latest record of `python evaluate.py` by key; their values are curves too.
    """

    name: str
    status: str
    reason: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    samples: Mapping[int, Picture] = field(default_factory=dict)
    real: Picture | None = None
    classes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    log: str = ""
    started: float = 0.0
    run_id: str | None = None
    experiment_id: str | None = None
    store: str | None = None
    evaluations: Mapping[str, records.Record] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        return self.tags.get("variant", self.name)

    @property
    def seed(self) -> str:
        return self.tags.get("seed", self.params.get("seed", ""))

    @property
    def quality(self) -> list[str]:
        """Return the names of its quality metrics, without those of spreads."""
        logged = [name.partition("/")[2] for name in self.curves if name.startswith(("best/", "final/"))]
        names = logged or [name for name in self.curves if name in self.directions or name.startswith(ORDER)]
        return in_order(name for name in names if "_std" not in name)

    @property
    def primary(self) -> str | None:
        """Return the metric that picked its best step; of an older run without the tag, the first of FID's family."""
        return self.tags.get(PRIMARY) or next((name for name in self.quality if name.startswith("fid")), None)

    @property
    def directions(self) -> dict[str, bool]:
        """Return for each metric that its record names whether a higher value is better."""
        return parse(self.tags.get(DIRECTIONS))

    @property
    def drawn(self) -> list[str]:
        """Return the metrics to draw as curves: quality first, then losses, scores and all others logged."""
        points = ("best/", "final/", PREFIX)  # values at few steps, shown in tables
        others = (
            name
            for name in self.curves
            if name not in BOOKKEEPING and not name.startswith(points) and "_std" not in name
        )
        return list(dict.fromkeys([*self.quality, *sorted(others)]))

    def last(self, name: str) -> float | None:
        """Return the last value of a metric; NaN where it was not finite, None where there is none."""
        curve = self.curves.get(name)
        return curve[max(curve)] if curve else None


def direction(metric: str, runs: Iterable[Run]) -> bool | None:
    """Return True where a higher `metric` is better by the records of `runs`; None where it is no quality metric."""
    return higher_is_better(metric, {name: higher for run in runs for name, higher in run.directions.items()})


def in_order(metrics: Iterable[str]) -> list[str]:
    """Sort metrics for tables: by `ORDER`, those of the generator without averaging last."""
    return sorted(set(metrics), key=_place)


def _place(metric: str) -> tuple[bool, int, str]:
    statistic = metric.removeprefix("raw/")
    prefix = max((prefix for prefix in ORDER if statistic.startswith(prefix)), key=len, default=None)
    return metric.startswith("raw/"), len(ORDER) if prefix is None else ORDER.index(prefix), metric


def from_folder(folder: Path, overrides: Sequence[str] | None = None) -> Run:
    """Read the run whose record is in `folder`, finished or not.

    Args:
        overrides: its command line, where the caller knows it exactly.
    """
    tags, summary = (_json(folder / file) for file in (TAGS_FILE, SUMMARY_FILE))
    curves, started = _curves(folder / METRICS_FILE)
    samples = {int(file.stem): file.read_bytes for file in sorted((folder / SAMPLES).glob("[0-9]*.png"))}
    real = picture(folder, REAL, 0)
    status, reason = _ending(folder, begun=bool(tags or curves))
    evaluations = records.read_folder(folder)
    plan = read_plan(folder)
    return Run(
        name=folder.name,
        status=status,
        reason=reason,
        params=read_params(folder),
        tags=tags,
        overrides=split_overrides(tags.get("overrides", "")) if overrides is None else overrides,
        curves=curves | records.curves(evaluations),
        samples=samples,
        real=real.read_bytes if real.exists() else None,
        classes=summary.get("classes") or {},
        log=log_tail(folder) if status != "FINISHED" else "",
        started=started,
        run_id=_json(folder / RUN_FILE).get("run_id"),
        experiment_id=None if plan is None else plan.experiment_id,
        store=None if plan is None else plan.uri,
        evaluations=records.latest(evaluations),
    )


def _ending(folder: Path, begun: bool) -> tuple[str, str | None]:
    """Return a run's status, and the reason where it did not finish."""
    status, reason = read_status(folder)
    if status is not None:
        return status, reason
    if not begun:
        return NOT_STARTED, None
    return ("KILLED", WORDLESS) if is_dead(folder) else ("RUNNING", None)


def _json(path: Path) -> dict[str, Any]:
    """Read a file's values; empty where it is missing, or was half written when its run was killed."""
    return read_json(path) or {}


def _curves(path: Path) -> tuple[dict[str, Curve], float]:
    """Read the curves of a metrics.jsonl and the time of its first line; a resumed run's repetitions count once."""
    curves: dict[str, Curve] = {}
    started = 0.0
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a kill can leave a line half written
            continue
        step, time = record.pop("step"), record.pop("time")
        started = started or time
        for name, value in record.items():
            curves.setdefault(name, {})[step] = math.nan if value is None else value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}, started
