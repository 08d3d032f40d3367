"""One run's events, told to MLflow. Runs on the delivery thread; every call may wait and may raise."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gantry.tracking.base import DatasetInfo
from gantry.tracking.ending import close_dead, end_run, reopen, supersede
from gantry.tracking.events import Artifact, Dataset, Ended, Event, Image, Metrics, Params, Tags
from gantry.tracking.folder import PARAMS_FILE, TAGS_FILE, read_metrics, read_values
from gantry.tracking.store import prepare_store

if TYPE_CHECKING:
    import PIL.Image
    from mlflow import MlflowClient

METRICS_PER_REQUEST = 1000  # MLflow's limits
PARAMS_PER_REQUEST = 100
DIGEST_LENGTH = 36

LOGGED_IMAGE = re.compile(r"(?P<key>.+?)[~+]step[~+](?P<step>\d+)[~+]timestamp")  # MLflow's name of an image's file

REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}

T = TypeVar("T")


@dataclass(frozen=True)
class RunPlan:
    """The run to create. `key` is its tag `gantry.id`, by which it is known before it has a run id.

    A run that `goes_on` from a checkpoint has its `continues` id instead, where it had been created.
    """

    uri: str
    experiment: str
    run_name: str | None
    tags: dict[str, str]
    start_time: int
    key: str
    folder: Path
    continues: str | None = None
    goes_on: bool = False


class RunSession:
    """A run in an MLflow store."""

    def __init__(self, plan: RunPlan) -> None:
        self.run_id: str | None = None
        self._plan = plan
        self._tried = False
        self._client: MlflowClient
        self._known: Known | None = None

    def connect(self) -> None:
        """Open the store and create the run; after a failure, take the one the failed call may have made."""
        plan = self._plan
        self._client, experiment_id = prepare_store(plan.uri, plan.experiment)
        if not self._tried:
            close_dead(self._client, experiment_id)
        if plan.continues is not None:
            reopen(self._client, plan.continues)
            self._go_on(plan.continues)
            return
        if self._tried:
            known = self._client.search_runs([experiment_id], f"tags.`gantry.id` = '{plan.key}'", max_results=1)
            if known:
                self.run_id = known[0].info.run_id
                return
        self._tried = True
        tags = plan.tags | {"gantry.id": plan.key}
        run = self._client.create_run(experiment_id, plan.start_time, tags, plan.run_name)
        supersede(self._client, experiment_id, run)
        if plan.goes_on:
            self._go_on(run.info.run_id)
        self.run_id = run.info.run_id

    def _go_on(self, run_id: str) -> None:
        """Send what the attempts before had written and not delivered, and take note of what is there."""
        replenish(self._client, run_id, self._plan.folder)
        self._known = Known(self._client, run_id)
        self.run_id = run_id

    def send(self, events: Sequence[Event]) -> None:
        """Deliver one event, or several of metrics in as few requests as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        assert self.run_id is not None, "connect first"
        run_id, client = self.run_id, self._client
        match events[0]:
            case Metrics():
                metrics = [
                    Metric(key, value, event.time, event.step)
                    for event in events
                    if isinstance(event, Metrics)
                    for key, value in event.values.items()
                    if self._known is None or self._known.is_new(key, event.step)
                ]
                for part in _parts(metrics, METRICS_PER_REQUEST):
                    client.log_batch(run_id, metrics=part, synchronous=True)
            case Params(values):
                for names in _parts(values, PARAMS_PER_REQUEST):
                    params = [Param(name, values[name]) for name in names]
                    client.log_batch(run_id, params=params, synchronous=True)
            case Tags(values):
                for names in _parts(values, PARAMS_PER_REQUEST):
                    tags = [RunTag(name, values[name]) for name in names]
                    client.log_batch(run_id, tags=tags, synchronous=True)
            case Image(_, step, key, _) if self._known is not None and (key, step) in self._known.images:
                pass
            case Image(time, step, key, image):
                pixels = _opened(image) if isinstance(image, Path) else image
                client.log_image(run_id, pixels, key=key, step=step, timestamp=time, synchronous=True)
            case Artifact(file, folder):
                client.log_artifact(run_id, str(file), folder)
            case Dataset(info):
                _log_dataset(client, run_id, info)
            case Ended(time, status, reason):
                end_run(client, run_id, status, reason, time)


def replenish(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Send what the record in a run's folder holds and MLflow does not: the process was killed before it could."""
    from mlflow.entities import Metric, Param, RunTag

    params, tags = (read_values(folder / name) for name in (PARAMS_FILE, TAGS_FILE))
    for names in _parts(params, PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=[Param(name, params[name]) for name in names], synchronous=True)
    for names in _parts(tags, PARAMS_PER_REQUEST):
        client.log_batch(run_id, tags=[RunTag(name, tags[name]) for name in names], synchronous=True)
    known = Known(client, run_id)
    metrics = [
        Metric(key, math.nan if value is None else value, int(line["time"] * 1000), line["step"])
        for line in read_metrics(folder)
        for key, value in line.items()
        if key not in ("step", "time") and known.is_new(key, line["step"])
    ]
    for part in _parts(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=part, synchronous=True)


class Known:
    """What a run held before it was taken up again: the steps after its checkpoint come a second time."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.images = {
            (match["key"], int(match["step"]))
            for file in client.list_artifacts(run_id, "images")
            if (match := LOGGED_IMAGE.match(Path(file.path).name))
        }
        self._client, self._run_id = client, run_id
        self._last: dict[str, int] = {}

    def is_new(self, key: str, step: int) -> bool:
        """Whether the metric has no value at this step yet."""
        if key not in self._last:
            history = self._client.get_metric_history(self._run_id, key)
            self._last[key] = max((point.step for point in history), default=-1)
        return step > self._last[key]


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered, and will never take this event: trying again is no use."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    if isinstance(error, OSError):  # also the parent of everything `requests` raises
        return isinstance(error, FileNotFoundError)
    return isinstance(error, TypeError | ValueError)


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _opened(path: Path) -> PIL.Image.Image:
    import PIL.Image

    with PIL.Image.open(path) as image:
        image.load()
        return image


def _log_dataset(client: MlflowClient, run_id: str, info: DatasetInfo) -> None:
    from mlflow.entities import Dataset as MLflowDataset
    from mlflow.entities import DatasetInput, InputTag

    height, width, channels = info.shape
    web = info.source.startswith(("http://", "https://"))
    features = [
        {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, height, width, channels]}},
    ]
    profile = {
        "num_rows": info.images,  # the two the UI shows
        "num_elements": info.images * height * width * channels,
        "split": info.split,
        "classes": info.classes,
    }
    dataset = MLflowDataset(
        name=info.name,
        digest=info.digest[:DIGEST_LENGTH],
        source_type="http" if web else "local",
        source=json.dumps({"url" if web else "uri": info.source}),
        schema=json.dumps({"mlflow_tensorspec": {"features": json.dumps(features), "targets": None}}),
        profile=json.dumps(profile),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", info.split)])])
