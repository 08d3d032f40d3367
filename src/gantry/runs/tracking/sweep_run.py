"""Manages a sweep's parent run in MLflow, and records the end of jobs that could not do so themselves.

The sweep's leading process calls these functions, so they may wait for the store (seconds, where a server is away),
but like all of tracking they do not raise: a sweep can do without its parent run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.files import write_json
from gantry.core.redaction import brief, redact
from gantry.runs.folder import RUN_FILE, Status
from gantry.runs.tracking import variables
from gantry.runs.tracking.already_logged import replenish
from gantry.runs.tracking.deliver import deliver, has_left
from gantry.runs.tracking.environment import origin
from gantry.runs.tracking.status import (
    FOLDER,
    KIND,
    ORIGINAL,
    PARENT,
    REASON_LIMIT,
    Deleted,
    close_dead,
    end_run,
    last_word,
    lives,
    refuse_deleted,
    reopen,
    supersede,
)
from gantry.runs.tracking.store import each_run, prepare_store, tagged
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Child:
    """A job that has ended.

    Args:
        folder: the job's folder.
        status, reason: how it ended.
        name: for the run table, where the job created no run itself.
        tags: for such a run.
        log: its log file; may be missing.
        tail: the log's last lines.
    """

    folder: Path
    status: Status
    reason: str | None
    name: str
    tags: dict[str, str]
    log: Path
    tail: str


def open_parent(
    uri: str | Path, experiment: str, name: str, overrides: Sequence[str], folder: Path, run_id: str | None = None
) -> str | None:
    """Create a sweep's run, or reopen it, or take the one that `mlflow run` has begun for this process.

    Args:
        name: the sweep's name in the run table until its jobs are compared.
        overrides: the sweep's command line, stored in the tag `overrides`.
        folder: the sweep's folder.
        run_id: of the sweep that is resumed.

    Returns:
        Its id, the `parent_run_id` of the jobs; None where the store cannot be reached.
    """
    with _warns("The sweep has no parent run in MLflow, its jobs stand alone"):
        client, experiment_id = prepare_store(uri, experiment)
        close_dead(client, experiment_id)
        tags = origin() | {"overrides": redact(" ".join(overrides)), KIND: "sweep", FOLDER: str(folder)}
        if run_id is not None:
            try:
                refuse_deleted(client.get_run(run_id), uri)
            except Deleted as error:
                log.warning("The sweep goes on under another run of its own: %s", error)
            else:
                reopen(client, run_id)
                return run_id
        elif (assigned := _assigned(client)) is not None:
            for key in tags.keys() - origin().keys():
                client.set_tag(assigned, key, tags[key], synchronous=True)
            reopen(client, assigned)
            return assigned
        return client.create_run(experiment_id, tags=tags | {ORIGINAL: name}, run_name=name).info.run_id
    return None


def _assigned(client: MlflowClient) -> str | None:
    """Return the id of the run that was begun for this process; None where there is none, or Gantry has used it."""
    from mlflow.exceptions import MlflowException

    run_id = variables.assigned_run()
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        used = "is not in this store"
    else:
        used = "holds a run of Gantry's already" if {KIND, "gantry.id"} & run.data.tags.keys() else ""
        used = "was deleted" if run.info.lifecycle_stage == "deleted" else used
    if used:
        log.warning("The MLflow run %s that was meant for this sweep %s: it gets one of its own.", run_id, used)
    return None if used else run_id


def experiment_name(uri: str | Path, experiment: str) -> str:
    """Return the name of the experiment that a variable gives by its id; `experiment` where the store is away."""
    if variables.is_id(experiment):
        with _warns(f"The sweep's record holds {variables.ID} in place of the experiment's name"):
            client, experiment_id = prepare_store(uri, experiment)
            return str(client.get_experiment(experiment_id).name)
    return experiment


def close_parent(uri: str | Path, experiment: str, run_id: str, status: Status) -> None:
    """Set the parent run's final status."""
    with _warns(f"MLflow still shows the sweep's parent run {run_id} as RUNNING"):
        client, _ = prepare_store(uri, experiment)
        refuse_deleted(client.get_run(run_id), uri)
        end_run(client, run_id, status)


def settle(uri: str | Path, experiment: str, parent: str, child: Child) -> None:
    """Record in MLflow how a job ended; create a run for a job that died before it had one."""
    with _warns(f"MLflow may not show how {child.name} ended"):
        client, experiment_id = prepare_store(uri, experiment)
        if has_left(child.folder):
            deliver(child.folder, str(uri))
        run = _run_of(client, experiment_id, parent, child.folder)
        if run is None:
            if child.status == "FINISHED":
                return  # the server was away; the job's events wait in its folder
            tags = origin() | {key: redact(value) for key, value in child.tags.items()} | {PARENT: parent}
            run = client.create_run(experiment_id, tags=tags, run_name=child.name)
            supersede(client, experiment_id, run)
            write_json({"run_id": run.info.run_id, "experiment": experiment}, child.folder / RUN_FILE)
        refuse_deleted(run, uri)
        if child.status != "FINISHED":
            replenish(client, run.info.run_id, child.folder)
        if run.info.status != child.status or (child.reason and run.data.tags.get("gantry.reason") != child.reason):
            end_run(client, run.info.run_id, child.status, child.reason)
        if child.status != "FINISHED":
            if child.log.exists():
                _log_redacted(client, run.info.run_id, child.log)
            if child.tail:
                tail = redact(child.tail)[-REASON_LIMIT:]
                client.set_tag(run.info.run_id, "gantry.log_tail", tail, synchronous=True)


def close_children(uri: str | Path, experiment: str, parent: str) -> None:
    """Close the runs under `parent` that are still RUNNING, except those whose process is alive, as on a cluster."""
    with _warns("MLflow may still show jobs of the sweep as RUNNING"):
        client, experiment_id = prepare_store(uri, experiment)
        mine = f"{tagged(PARENT, parent)} and attributes.status = 'RUNNING'"
        for run in list(each_run(client, experiment_id, mine)):  # closing runs changes the query
            folder = Path(run.data.tags.get(FOLDER, os.devnull))
            if not lives(run):
                end_run(client, run.info.run_id, *last_word(folder))


def _run_of(client: MlflowClient, experiment_id: str, parent: str, folder: Path) -> Run | None:
    """Return the run of the job in `folder`: by its record, or by its tags where it was killed before writing one."""
    record = folder / RUN_FILE
    if record.exists() and (run_id := json.loads(record.read_text())["run_id"]) is not None:
        return client.get_run(run_id)
    running = f"{tagged(PARENT, parent)} and {tagged(FOLDER, str(folder))} and attributes.status = 'RUNNING'"
    for run in each_run(client, experiment_id, running):
        if run.data.tags.get(FOLDER) == str(folder):
            return run
    return None


def _log_redacted(client: MlflowClient, run_id: str, log: Path) -> None:
    """Log a job's log file, with passwords in its error messages hidden."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / log.name
        copy.write_text(redact(log.read_text(errors="replace")))
        client.log_artifact(run_id, str(copy))


@contextmanager
def _warns(consequence: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        log.warning("%s: %s", consequence, redact(str(error)))
    except Exception as error:
        log.warning("%s: %s", consequence, brief(error))
