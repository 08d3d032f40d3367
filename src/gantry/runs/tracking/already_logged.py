"""What a run in MLflow holds already, where its record is sent a second time."""

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
    """What a run held before it was taken up again: the steps after its checkpoint come a second time.

    Args:
        since: in ms since 1970, when it was last rolled back; what was logged before does not count.
    """

    def __init__(self, client: MlflowClient, run_id: str, since: int = 0) -> None:
        self.images = {
            (match["key"], int(match["step"]))
            for file in client.list_artifacts(run_id, "images")
            if (match := LOGGED_IMAGE.match(Path(file.path).name)) and int(match["time"]) >= since
        }
        self._client, self._run_id, self._since = client, run_id, since
        self._steps: dict[str, set[int]] = {}

    def is_new(self, key: str, step: int) -> bool:
        """Whether the metric has no value at this step yet; one that was sent late may leave gaps before it."""
        if key not in self._steps:
            history = self._client.get_metric_history(self._run_id, key)
            self._steps[key] = {point.step for point in history if point.timestamp >= self._since}
        return step not in self._steps[key]

    def has_image(self, key: str, step: int) -> bool:
        """Whether an image stands under this key and step."""
        return (key.replace("/", "~"), step) in self.images


def last_rollback(client: MlflowClient, run_id: str, folder: Path, before: int) -> int:
    """When the run was last rolled back before the time `before`, both in ms since 1970; 0 for never.

    The record in its folder may be ahead of what MLflow is being told: of a later rollback, which is still to come.
    """
    tags = client.get_run(run_id).data.tags, read_values(folder / TAGS_FILE)
    times = [rolled_back_at(values[ROLLED_BACK]) for values in tags if ROLLED_BACK in values]
    return max((time for time in times if time <= before), default=0)


def rolled_back_at(tag: str) -> int:
    """The time that a tag of `gantry.runs.tracking.tracker.rolled_back` holds."""
    return int(tag.split()[0])


def replenish(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Send what the record in a run's folder holds and MLflow does not: the process was killed before it could."""
    from mlflow.entities import Metric, Param, RunTag

    data = client.get_run(run_id).data
    params, tags = (read_values(folder / name) for name in (PARAMS_FILE, TAGS_FILE))
    for names in parts(params.keys() - data.params.keys(), PARAMS_PER_REQUEST):  # a param never changes
        client.log_batch(run_id, params=[Param(name, params[name]) for name in names], synchronous=True)
    for names in parts((name for name in tags if data.tags.get(name) != tags[name]), PARAMS_PER_REQUEST):
        client.log_batch(run_id, tags=[RunTag(name, tags[name]) for name in names], synchronous=True)
    known = Known(client, run_id)
    metrics = [
        Metric(key, math.nan if value is None else value, int(line["time"] * 1000), line["step"])
        for line in read_metrics(folder)
        for key, value in line.items()
        if key not in ("step", "time") and known.is_new(key, line["step"])
    ]
    for part in parts(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=part, synchronous=True)
    for file in sorted(folder.glob("*/[0-9]*.png")):
        key, step = file.parent.name, file.stem
        logged = key != FILM and len(step) == 7 and step.isdigit()
        if logged and not known.has_image(key, int(step)):
            send_image(client, run_id, file, key, int(step), int(file.stat().st_mtime * 1000))


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` of the items."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
