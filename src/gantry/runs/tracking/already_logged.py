"""Finds what a run in MLflow holds already, so that a record sent a second time adds only what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gantry.runs.folder import FILM, PARAMS_FILE, TAGS_FILE, read_metrics, read_values
from gantry.runs.tracking.media import send_image
from gantry.runs.tracking.tracker import ROLLED_BACK

if TYPE_CHECKING:
    from mlflow import MlflowClient


METRICS_PER_REQUEST = 1000  # MLflow's limits
PARAMS_PER_REQUEST = 100

LOGGED_IMAGE = re.compile(r"(?P<key>.+?)[~+]step[~+](?P<step>\d+)[~+]timestamp[~+](?P<time>\d+)")  # an image's file

T = TypeVar("T")


class Known:
    """The values and images a run held before it was resumed, since the steps after its checkpoint are logged again.

    Args:
        since: time of the last rollback in ms since 1970; values logged before it do not count.
        files: whether the run's files can be listed; else none count as logged.
    """

    def __init__(self, client: MlflowClient, run_id: str, since: int = 0, files: bool = True) -> None:
        self.images = {
            (match["key"], int(match["step"]))
            for file in (client.list_artifacts(run_id, "images") if files else ())
            if (match := LOGGED_IMAGE.match(Path(file.path).name)) and int(match["time"]) >= since
        }
        self._client, self._run_id, self._since = client, run_id, since
        self._steps: dict[str, set[int]] = {}

    def is_new(self, key: str, step: int) -> bool:
        """Return True where the metric has no value at this step yet; gaps are possible, as values may arrive late."""
        if key not in self._steps:
            history = self._client.get_metric_history(self._run_id, key)
            self._steps[key] = {point.step for point in history if point.timestamp >= self._since}
        return step not in self._steps[key]

    def has_image(self, key: str, step: int) -> bool:
        """Return True where the run has an image of this key and step."""
        return (key.replace("/", "~"), step) in self.images


def last_rollback(client: MlflowClient, run_id: str, folder: Path, before: int) -> int:
    """Return the time of the run's last rollback before the time `before`, both in ms since 1970; 0 for never.

    The record in its folder may be ahead of the delivery and hold a later rollback, which is not delivered yet.
    """
    tags = client.get_run(run_id).data.tags, read_values(folder / TAGS_FILE)
    times = [rolled_back_at(values[ROLLED_BACK]) for values in tags if ROLLED_BACK in values]
    return max((time for time in times if time <= before), default=0)


def rolled_back_at(tag: str) -> int:
    """Return the time in a tag of `gantry.runs.tracking.tracker.rolled_back`, in ms since 1970."""
    return int(tag.split()[0])


def replenish(client: MlflowClient, run_id: str, folder: Path, files: bool = True) -> None:
    """Send what the run's folder records and MLflow lacks, such as after a kill before the delivery.

    Args:
        files: whether files can be kept where the store wants them; else no images are sent.
    """
    from mlflow.entities import Metric, Param, RunTag

    data = client.get_run(run_id).data
    params, tags = (read_values(folder / name) for name in (PARAMS_FILE, TAGS_FILE))
    for names in parts(params.keys() - data.params.keys(), PARAMS_PER_REQUEST):  # a param never changes
        client.log_batch(run_id, params=[Param(name, params[name]) for name in names], synchronous=True)
    for names in parts((name for name in tags if data.tags.get(name) != tags[name]), PARAMS_PER_REQUEST):
        client.log_batch(run_id, tags=[RunTag(name, tags[name]) for name in names], synchronous=True)
    logged = Known(client, run_id, files=files)
    metrics = [
        Metric(key, math.nan if value is None else value, int(line["time"] * 1000), line["step"])
        for line in read_metrics(folder)
        for key, value in line.items()
        if key not in ("step", "time") and logged.is_new(key, line["step"])
    ]
    for part in parts(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=part, synchronous=True)
    for file in sorted(folder.glob("*/[0-9]*.png")) if files else ():
        key, step = file.parent.name, file.stem
        is_image = key != FILM and len(step) == 7 and step.isdigit()
        if is_image and not logged.has_image(key, int(step)):
            send_image(client, run_id, file, key, int(step), int(file.stat().st_mtime * 1000))


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split the items into lists of at most `size`."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
