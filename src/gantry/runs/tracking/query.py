"""Finds runs, sweeps and their children in an MLflow store. Every call may wait for the store, and may raise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.errors import UserError
from gantry.core.redaction import HIDDEN, redact
from gantry.runs.tracking import variables
from gantry.runs.tracking.description import NOTE, NOTE_LIMIT, described
from gantry.runs.tracking.status import ORIGINAL, SUPERSEDED, close_left, refuse_deleted, restoring
from gantry.runs.tracking.store import check_store, each_run, find_experiment, locate, prepare_store, tagged
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MLflowRun
    from omegaconf import DictConfig


SWEEP = "tags.`gantry.kind` = 'sweep'"


class Unanswered(UserError):
    """A store does not answer."""


class NoExperiment(UserError):
    """A store has no experiment of this name."""


@dataclass(frozen=True)
class Store:
    """An MLflow store and one of its experiments.

    Args:
        client: as `prepare_store` returns it.
        uri: the store's address.
        experiment_id: the experiment.
    """

    client: MlflowClient
    uri: str
    experiment_id: str

    def sweeps(self) -> list[MLflowRun]:
        """Return the sweeps' own runs, the latest first."""
        return list(each_run(self.client, self.experiment_id, SWEEP, "attributes.start_time DESC"))

    def sweep(self, wanted: str | None) -> MLflowRun | None:
        """Return the sweep with this run id, name or folder name, the latest of several; None where there is none.

        Args:
            wanted: None for the latest sweep.
        """
        for run in self.sweeps():
            folder = run.data.tags.get("gantry.folder", "")
            names = run.info.run_name, run.data.tags.get(ORIGINAL)
            if wanted in (None, run.info.run_id, *names, folder, folder.rpartition("/")[2]):
                return run
        return None

    def named(self, name: str) -> MLflowRun | None:
        """The latest run or sweep of this name; a sweep's may be its folder's. None where there is none."""
        for run in each_run(
            self.client, self.experiment_id, tagged("mlflow.runName", name), "attributes.start_time DESC"
        ):
            if run.info.run_name == name and run.data.tags.get(SUPERSEDED) != "true":
                return run
        return self.sweep(name)

    def children(self, parent: str) -> list[MLflowRun]:
        """Return the jobs of a sweep in the order they began, without attempts that were replaced."""
        return self.search(f"tags.`mlflow.parentRunId` = '{parent}'")

    def search(self, condition: str) -> list[MLflowRun]:
        """Return the runs that match an MLflow filter in the order they began, without sweeps' own runs.

        Raises:
            UserError: MLflow does not understand the filter.
        """
        from mlflow.exceptions import MlflowException

        try:
            matches = list(each_run(self.client, self.experiment_id, condition, "attributes.start_time ASC"))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise UserError(
                f"filter: MLflow does not understand {condition!r}: {error.message}\n"
                "such as: filter=\"tags.variant = 'wgan' and params.steps = '3000'\""
            ) from error
        jobs = [run for run in matches if "gantry.kind" not in run.data.tags]
        return [run for run in jobs if run.data.tags.get(SUPERSEDED) != "true"]

    def get(self, run_id: str) -> MLflowRun | None:
        """Return the run with this id; None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # for a path
                raise
            return None

    def publish(self, run_id: str, mark: str, text: str, files: Sequence[Path], folder: str) -> None:
        """Log files to `folder` of a run's artifacts, and put `text` at the end of its description.

        Args:
            mark: see `gantry.runs.tracking.description.described`.
        """
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)
        note = described(self.client.get_run(run_id).data.tags.get(NOTE, ""), mark, text)
        self.client.set_tag(run_id, NOTE, note[:NOTE_LIMIT], synchronous=True)

    def describe(self, mark: str, text: str, limit: int) -> None:
        """Put `text` at the end of the experiment's description, unless the whole has more than `limit` characters."""
        written = self.client.get_experiment(self.experiment_id).tags.get(NOTE, "")
        if len(note := described(written, mark, text)) <= limit:
            self.client.set_experiment_tag(self.experiment_id, NOTE, note)


def open_store(uri: str, experiment: str) -> Store | None:
    """Open the store at `uri` without creating it; None where there is none yet.

    Raises:
        UserError: the store cannot be used, or has no such experiment.
        Unanswered: the store does not answer.
    """
    location = locate(uri)
    if location.database is not None and not location.database.exists():
        return None
    client, _ = answering(uri)
    opened = find_experiment(client, experiment)
    if opened is None:
        names = sorted(other.name for other in client.search_experiments())
        raise NoExperiment(f"tracking.experiment={experiment}: not in {redact(uri)}, which has {', '.join(names)}")
    if opened.lifecycle_stage == "deleted":
        command = restoring(uri, f"experiments restore --experiment-id {opened.experiment_id}")
        log.warning(
            "The MLflow experiment %r was deleted, and its runs with it; to restore it: %s", experiment, command
        )
    else:
        close_left(client, opened.experiment_id)
    return Store(client, uri, opened.experiment_id)


def configured_store(tracking: Mapping[str, Any] | DictConfig, needed: bool = True) -> Store | None:
    """The store that a config's `tracking` names; None where there is none.

    Args:
        tracking: with `uri` and `experiment`; empty for `tracking=none`.
        needed: whether a store that does not answer is an error; else it is a warning, and there is none.

    Raises:
        UserError: see `open_store`.
    """
    if not tracking:
        return None
    try:
        return open_store(str(tracking["uri"]), str(tracking["experiment"]))
    except (Unanswered, NoExperiment) as error:
        typed = isinstance(error, NoExperiment) and str(tracking["uri"]) != variables.store_uri()
        if needed or typed:
            raise
        log.warning("%s; looking in outputs instead", error)
        return None


def store_of_run(run_id: str, uris: Iterable[str], experiment: str) -> Store | None:
    """Return the first of these stores that holds a run; None where none does.

    Args:
        run_id: the run's id in MLflow.
        uris: the stores' addresses; those without their passwords are left out.
        experiment: the experiment in which to look first.

    Raises:
        Deleted: the run was deleted there.
        UserError: none holds it, and this store cannot be used.
    """
    refused: UserError | None = None
    for uri in dict.fromkeys(uris):
        if not uri or HIDDEN in uri:
            continue
        try:
            store = open_store(uri, experiment)
        except NoExperiment:
            client, default = answering(uri)
            store = Store(client, uri, default)
        except UserError as error:
            refused = refused or error
            continue
        if store is not None and (run := store.get(run_id)) is not None:
            refuse_deleted(run, uri)
            return store
    if refused is not None:
        raise refused
    return None


def answering(uri: str, experiment: str = "Default") -> tuple[MlflowClient, str]:
    """Call `prepare_store` and return its result, with a `UserError` where the store does not answer.

    Args:
        experiment: created where it is missing. Every store has the default one, so that reading creates none.

    Raises:
        UserError: the store cannot be used.
        Unanswered: the store does not answer.
    """
    check_store(uri)
    try:
        return prepare_store(uri, experiment)
    except Exception as error:
        from mlflow.exceptions import MlflowException  # after `prepare_store`: MLflow reads its log level when imported

        if not isinstance(error, MlflowException | OSError):
            raise
        reason = redact(str(error)).splitlines()[0]
        raise Unanswered(f"tracking.uri={redact(uri)} does not answer: {reason}") from error
