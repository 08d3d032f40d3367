"""Reads runs from an MLflow store for a comparison. Every call may wait for the store, and may raise."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.config.overrides import split_overrides
from gantry.core.moved import renamed
from gantry.core.redaction import redact
from gantry.evaluation import records
from gantry.reports.run import Curve, Picture, Run
from gantry.runs.folder import EVALUATIONS, REAL, SAMPLES, SUMMARY_FILE
from gantry.runs.tracking.params import CHANGED
from gantry.runs.tracking.query import Store
from gantry.runs.tracking.store import locate
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MLflowRun


CONNECTIONS = 8  # at once to a server
RUNS_A_QUERY = 500  # of a database
_IMAGE = re.compile(r"images/(?P<key>\w+)[+~]step[+~](?P<step>\d+)[+~]timestamp[+~]\d+[+~].*\.png")


@dataclass(frozen=True)
class Artifacts:
    """A run's artifacts: images by key and step, the summary, and the latest evaluation by key."""

    pictures: dict[str, dict[int, Picture]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, records.Record] = field(default_factory=dict)


def read_runs(store: Store, runs: Sequence[MLflowRun]) -> list[Run]:
    """Read all that a comparison needs of these runs of `store`; images are downloaded only when read."""
    return _Reader(store).read(runs)


@dataclass(frozen=True)
class _Reader:
    store: Store

    @property
    def client(self) -> MlflowClient:
        return self.store.client

    def read(self, runs: Sequence[MLflowRun]) -> list[Run]:
        curves = self._asked_for(runs) if locate(self.store.uri).folder is None else self._selected(runs)
        logged = {run.info.run_id: records.from_curves(curves[run.info.run_id], run.data.tags) for run in runs}
        artifacts = self._reachable(runs, logged)
        return [self._run(run, curves[run.info.run_id], artifacts[run.info.run_id]) for run in runs]

    def _asked_for(self, runs: Sequence[MLflowRun]) -> dict[str, dict[str, Curve]]:
        """Read the curves by run and metric from a server, with one request per curve."""
        wanted = [(run.info.run_id, name) for run in runs for name in run.data.metrics]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            histories = list(pool.map(lambda one: self.client.get_metric_history(*one), wanted))
        curves: dict[str, dict[str, Curve]] = {run.info.run_id: {} for run in runs}
        for (run_id, name), history in zip(wanted, histories, strict=True):
            curves[run_id][name] = _curve((point.step, point.timestamp, point.value) for point in history)
        return curves

    def _selected(self, runs: Sequence[MLflowRun]) -> dict[str, dict[str, Curve]]:
        """Read the curves by run and metric from a database.

        MLflow's client sends three queries per curve and makes an object of each point, which takes more than a
        minute for a thousand runs.
        """
        from mlflow.store.tracking.dbmodels.models import SqlMetric as Point
        from sqlalchemy import select

        curves: dict[str, dict[str, Curve]] = {}
        with self.client._tracking_client.store.engine.connect() as connection:
            for begin in range(0, len(runs), RUNS_A_QUERY):
                ids = [run.info.run_id for run in runs[begin : begin + RUNS_A_QUERY]]
                columns = (Point.run_uuid, Point.key, Point.step, Point.timestamp, Point.value, Point.is_nan)
                points: dict[str, dict[str, list[tuple[int, int, float]]]] = {run_id: {} for run_id in ids}
                for run_id, name, step, when, value, is_nan in connection.execute(
                    select(*columns).where(Point.run_uuid.in_(ids))
                ):
                    points[run_id].setdefault(name, []).append((step, when, math.nan if is_nan else value))
                for run_id, metrics in points.items():
                    curves[run_id] = {name: _curve(history) for name, history in sorted(metrics.items())}
        return curves

    def _run(self, run: MLflowRun, curves: dict[str, Curve], artifacts: Artifacts) -> Run:
        run_id, tags, pictures = run.info.run_id, run.data.tags, artifacts.pictures
        return Run(
            name=run.info.run_name or run_id,
            status=run.info.status if run.info.status != "SCHEDULED" else "RUNNING",
            reason=tags.get("gantry.reason"),
            params={key: renamed(value) for key, value in run.data.params.items()} | _changed(run.data.tags),
            tags=tags,
            overrides=split_overrides(tags.get("overrides", "")),
            curves=curves,
            samples=pictures.get(SAMPLES, {}),
            real=next(iter(pictures.get(REAL, {}).values()), None),
            classes=artifacts.summary.get("classes") or {},
            log=tags.get("gantry.log_tail", ""),
            started=run.info.start_time / 1000,
            run_id=run_id,
            experiment_id=run.info.experiment_id,
            store=self.store.uri,
            evaluations=artifacts.evaluations,
        )

    def _reachable(
        self, runs: Sequence[MLflowRun], logged: Mapping[str, Mapping[str, records.Record]]
    ) -> dict[str, Artifacts]:
        """Read the runs' artifacts, and log a warning where they cannot be reached.

        Args:
            runs: all runs.
            logged: by run and key, evaluations as logged in its curves, used where their records cannot be read.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        read: dict[str, Artifacts] = {}
        errors = []
        for run in runs:
            run_id, evaluations = run.info.run_id, logged[run.info.run_id]
            read[run_id] = Artifacts(evaluations=dict(evaluations))
            try:
                # The client would fetch each run again for its artifact URI.
                place = get_artifact_repository(run.info.artifact_uri, self.client.tracking_uri)
                files = {item.path for item in place.list_artifacts()}
                if "images" in files:
                    read[run_id].pictures.update(self._pictures(run_id))
                if SUMMARY_FILE in files:
                    read[run_id].summary.update(json.loads(self._file(run_id, SUMMARY_FILE)))
                if EVALUATIONS in files:
                    for key, evaluation in evaluations.items():
                        read[run_id].evaluations[key] = self._record(run_id, evaluation) or evaluation
            except (MlflowException, OSError) as error:
                errors.append(redact(str(error)).splitlines()[0])
        if errors:
            log.warning(
                "No images of %d of %d runs, whose artifacts cannot be read: %s", len(errors), len(read), errors[0]
            )
        return read

    def _record(self, run_id: str, logged: records.Record) -> records.Record | None:
        """Read the full record of a logged evaluation; None where it was not delivered."""
        for item in self.client.list_artifacts(run_id, f"{EVALUATIONS}/{logged.key}"):
            file = records.FILE.fullmatch(item.path)
            if file and int(file["step"]) == logged.step:
                return records.parse(self._file(run_id, item.path))
        return None

    def _pictures(self, run_id: str) -> dict[str, dict[int, Picture]]:
        """Return the images by key and step; of two at a step, the later one."""
        pictures: dict[str, dict[int, Picture]] = {}
        for item in sorted(self.client.list_artifacts(run_id, "images"), key=lambda item: item.path):
            if match := _IMAGE.fullmatch(item.path):
                pictures.setdefault(match["key"], {})[int(match["step"])] = partial(self._file, run_id, item.path)
        return pictures

    def _file(self, run_id: str, path: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, path, folder)).read_bytes()


def _curve(points: Iterable[tuple[int, int, float]]) -> Curve:
    """Return values by step from (step, time, value); of two values at a step, the later one."""
    return {step: value for step, _, value in sorted(points, key=lambda point: point[:2])}


def _changed(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the params that changed when a run was resumed, from a tag, since MLflow's params cannot change."""
    try:
        return dict(json.loads(tags.get(CHANGED, "{}")))
    except ValueError:
        return {}
