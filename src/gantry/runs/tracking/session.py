"""A run in an MLflow store: created, continued, and told one event at a time.

Every call may wait and may raise; the caller tries again. Sending an event twice changes nothing, because nobody knows
whether a request whose answer was lost has arrived: MLflow ignores a metric of the same key, step, time and value; a
param, tag, data set or artifact replaces itself; an image's name is a function of its contents
(`gantry.runs.tracking.media`); and a run is identified by its tag `gantry.id`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.redaction import redact
from gantry.runs.tracking.already_logged import (
    METRICS_PER_REQUEST,
    PARAMS_PER_REQUEST,
    Known,
    last_rollback,
    parts,
    replenish,
    rolled_back_at,
)
from gantry.runs.tracking.description import describe_run
from gantry.runs.tracking.events import Artifact, Dataset, Ended, Event, Image, Metrics, Params, Resumed, Tags
from gantry.runs.tracking.identity import RunPlan, write_plan
from gantry.runs.tracking.media import send_dataset, send_image
from gantry.runs.tracking.params import CHANGED
from gantry.runs.tracking.reachable import FilesAway, check_files
from gantry.runs.tracking.status import (
    HEARTBEAT,
    HOST,
    KIND,
    close_dead,
    end_run,
    refuse_deleted,
    reopen,
    supersede,
)
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.tracker import ROLLED_BACK, log, never_raises

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class RunSession:
    """A run in an MLflow store.

    Args:
        plan: identifies the run.
        folder: the run's folder.
        lives: whether this is the run's own process: the run is RUNNING while it delivers.
    """

    def __init__(self, plan: RunPlan, folder: Path, lives: bool = True) -> None:
        self.plan = plan
        self.client: MlflowClient
        self._folder, self._lives = folder, lives
        self._connected = False
        self._asked = False  # whether this session has requested the creation of a run
        self._tried = plan.uncertain
        self._experiment_id = ""
        self._logged: Known | None = None
        self.files_away: str | None = None  # why the store takes no files of the run
        self._given: Mapping[str, str] = {}  # params that an adopted run had already

    @property
    def run_id(self) -> str | None:
        """Return the run's id; None until the store has created it."""
        return self.plan.run_id if self._connected else None

    def connect(self) -> None:
        """Open the store and create the run or continue it, including one that a failed call may have created."""
        plan = self.plan
        self.client, self._experiment_id = prepare_store(plan.uri, plan.experiment, plan.by_id)
        if plan.by_id:  # the record holds its name, which means the same without the variable
            self.plan = plan = replace(
                plan, experiment=self.client.get_experiment(self._experiment_id).name, by_id=False
            )
        if not self._asked:
            close_dead(self.client, self._experiment_id)
        if plan.adopted:
            self.plan = plan = self._adopt(plan)
        elif plan.run_id is not None:
            run = self._found(plan.run_id)
            if run is None:  # not the store in which the run began
                self._tried, plan = True, replace(plan, run_id=None)
            else:
                refuse_deleted(run, plan.uri)
        if plan.run_id is None and self._tried:
            self.plan = plan = replace(plan, run_id=next(iter(self._twins()), None))
        if plan.run_id is None:
            self._asked = self._tried = True
            tags = plan.tags | {"gantry.id": plan.key} | _beat()
            run = self.client.create_run(self._experiment_id, plan.start_time, tags, plan.run_name)
            supersede(self.client, self._experiment_id, run)
            self.plan = replace(plan, run_id=run.info.run_id)
        elif self._lives:
            reopen(self.client, plan.run_id)
            self.beat()
        self.plan = replace(self.plan, experiment_id=self._experiment_id)
        self._note()
        self._connected = True
        if self._lives:
            with suppress(FilesAway):  # it is logged; what else the store takes is delivered
                self.check_files()

    def check_files(self) -> None:
        """Check that the run's files can be kept where the store wants them; waits for the store.

        Raises:
            FilesAway: they cannot; a warning says so the first time.
            Exception: see `look`.
        """
        try:
            check_files(self.look(), self.plan.uri)
        except FilesAway as error:
            if self.files_away is None:
                log.warning("MLflow takes this run's numbers, but %s", redact(str(error)))
            self.files_away = str(error)
            raise
        self.files_away = None

    def beat(self) -> None:
        """Send a heartbeat; set the run RUNNING again where another process has closed it as dead."""
        from mlflow.entities import RunTag

        info = self.look().info
        self.client.log_batch(info.run_id, tags=[RunTag(*tag) for tag in _beat().items()], synchronous=True)
        if info.status != "RUNNING":
            reopen(self.client, info.run_id)

    def look(self) -> Run:
        """Return the run as the store has it.

        Raises:
            Deleted: it was deleted.
            Exception: the store does not answer.
        """
        assert self.plan.run_id is not None, "connect first"
        run = self.client.get_run(self.plan.run_id)
        refuse_deleted(run, self.plan.uri)
        return run

    def send(self, events: Sequence[Event]) -> None:
        """Deliver one event, or several metrics events in as few requests as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        assert self.run_id is not None, "connect first"
        run_id, client, logged = self.run_id, self.client, self._logged
        match events[0]:
            case Metrics():
                metrics = [
                    Metric(key, value, event.time, event.step)
                    for event in events
                    if isinstance(event, Metrics)
                    for key, value in event.values.items()
                    if logged is None or logged.is_new(key, event.step)
                ]
                for part in parts(metrics, METRICS_PER_REQUEST):
                    client.log_batch(run_id, metrics=part, synchronous=True)
            case Params(values):
                self._note_other_params(values)
                for names in parts(values.keys() - self._given.keys(), PARAMS_PER_REQUEST):
                    params = [Param(name, values[name]) for name in names]
                    client.log_batch(run_id, params=params, synchronous=True)
            case Tags(values):
                for names in parts(values, PARAMS_PER_REQUEST):
                    tags = [RunTag(name, values[name]) for name in names]
                    client.log_batch(run_id, tags=tags, synchronous=True)
                if ROLLED_BACK in values and logged is not None:
                    since = rolled_back_at(values[ROLLED_BACK])
                    self._logged = Known(client, run_id, since, files=self.files_away is None)
            case Image(_, step, key, _) if logged is not None and logged.has_image(key, step):
                pass
            case Image(time, step, key, image):
                send_image(client, run_id, image, key, step, time)
            case Artifact(file, folder):
                client.log_artifact(run_id, str(file), folder)
            case Dataset(info):
                send_dataset(client, run_id, info)
            case Resumed(time):
                since = last_rollback(client, run_id, self._folder, time)
                if self._lives:
                    reopen(client, run_id)
                    replenish(client, run_id, self._folder, files=self.files_away is None)
                self._logged = Known(client, run_id, since, files=self.files_away is None)
            case Ended(time, status, reason):
                self._remove_twins()
                end_run(client, run_id, status, reason, time)
                self._describe()

    def _adopt(self, plan: RunPlan) -> RunPlan:
        """Return the plan to continue the run that was created for this one, or to create another, with a warning."""
        assert plan.run_id is not None
        run = self._found(plan.run_id)
        if run is None:
            why = f"is not in {redact(plan.uri)}"
        elif KIND in run.data.tags or run.data.tags.get("gantry.id", plan.key) != plan.key:
            why = "holds a run of Gantry's already"
        else:
            refuse_deleted(run, plan.uri)
            self._experiment_id, self._given = run.info.experiment_id, run.data.params
            return replace(plan, adopted=False)
        log.warning("The MLflow run %s that was meant for this run %s: it gets one of its own.", plan.run_id, why)
        return replace(plan, run_id=None, adopted=False)

    def _note_other_params(self, values: Mapping[str, str]) -> None:
        """Set the tag of changed params where an adopted run has a param of another value, which never changes."""
        if others := {name: values[name] for name in values if self._given.get(name, values[name]) != values[name]}:
            assert self.run_id is not None
            self.client.set_tag(self.run_id, CHANGED, json.dumps(others), synchronous=True)

    def _found(self, run_id: str) -> Run | None:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _twins(self) -> list[str]:
        mine = f"tags.`gantry.id` = '{self.plan.key}'"
        runs = self.client.search_runs([self._experiment_id], mine, order_by=["attributes.start_time ASC"])
        return [run.info.run_id for run in runs]

    def _remove_twins(self) -> None:
        """Delete the empty duplicates of the run that a server created for requests whose answers were lost."""
        if self._tried:
            for run_id in self._twins():
                if run_id != self.run_id:
                    self.client.delete_run(run_id)

    @never_raises
    def _describe(self) -> None:
        assert self.run_id is not None
        if self.files_away is None and (view := describe_run(self.client, self.run_id)) is not None:
            self.plan = replace(self.plan, view=view)
            self._note()

    @never_raises
    def _note(self) -> None:
        write_plan(self.plan, self._folder)


def _beat() -> dict[str, str]:
    return {HEARTBEAT: str(int(time.time())), HOST: socket.gethostname()}
