"""The run above a sweep's jobs, and the true ending of jobs that could not write their own.

Called by the process that leads a sweep, so these wait for the store (seconds, where a server is away), but like
all of tracking they do not raise: a sweep without its parent run is better than no sweep.
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

from gantry.core.files import write_json
from gantry.core.text import brief, redact
from gantry.runs.folder import RUN_FILE, Status
from gantry.runs.tracking.already_logged import replenish
from gantry.runs.tracking.deliver import deliver, has_left
from gantry.runs.tracking.environment import origin
from gantry.runs.tracking.status import (
    FOLDER,
    PARENT,
    REASON_LIMIT,
    close_dead,
    end_run,
    last_word,
    lives,
    reopen,
    supersede,
)
from gantry.runs.tracking.store import each_run, prepare_store, tagged
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


KIND = "gantry.kind"  # tag; "sweep" on a sweep's own run


@dataclass(frozen=True)
class Child:
    """A job that has ended.

    Args:
        folder: the job's.
        status, reason: how it ended.
        name: for the run table, where it made no run itself.
        tags: for such a run.
        log: its log file; need not exist.
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
    """Create a sweep's run, or open it again.

    Args:
        name: the sweep's name in the run table.
        overrides: the sweep's command line, kept in the tag `overrides`.
        folder: the sweep's.
        run_id: of the sweep that is taken up.

    Returns:
        Its id, to be given to the jobs as `parent_run_id`; None where the store cannot be reached.
    """
    with _warns("The sweep has no parent run in MLflow, its jobs stand alone"):
        client, experiment_id = prepare_store(uri, experiment)
        close_dead(client, experiment_id)
        if run_id is not None and client.get_run(run_id).info.lifecycle_stage == "active":
            reopen(client, run_id)
            return run_id
        tags = origin() | {"overrides": redact(" ".join(overrides)), KIND: "sweep", FOLDER: str(folder)}
        return client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    return None


def close_parent(uri: str | Path, experiment: str, run_id: str, status: Status) -> None:
    """Set the parent run's final status."""
    with _warns(f"MLflow still shows the sweep's parent run {run_id} as RUNNING"):
        client, _ = prepare_store(uri, experiment)
        end_run(client, run_id, status)


def settle(uri: str | Path, experiment: str, parent: str, child: Child) -> None:
    """See that a job's run says how the job ended; a job that died before it had a run gets one."""
    with _warns(f"MLflow may not show how {child.name} ended"):
        client, experiment_id = prepare_store(uri, experiment)
        if has_left(child.folder):
            deliver(child.folder, str(uri))
        run = _run_of(client, experiment_id, parent, child.folder)
        if run is None:
            if child.status == "FINISHED":
                return  # its server was away; the record waits in its folder
            tags = origin() | {key: redact(value) for key, value in child.tags.items()} | {PARENT: parent}
            run = client.create_run(experiment_id, tags=tags, run_name=child.name)
            supersede(client, experiment_id, run)
            write_json({"run_id": run.info.run_id, "experiment": experiment}, child.folder / RUN_FILE)
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
    """End the runs under `parent` that are still RUNNING, but for those whose process lives on (on a cluster, say)."""
    with _warns("MLflow may still show jobs of the sweep as RUNNING"):
        client, experiment_id = prepare_store(uri, experiment)
        mine = f"{tagged(PARENT, parent)} and attributes.status = 'RUNNING'"
        for run in list(each_run(client, experiment_id, mine)):  # which ending them changes
            folder = Path(run.data.tags.get(FOLDER, os.devnull))
            if not lives(run):
                end_run(client, run.info.run_id, *last_word(folder))


def _run_of(client: MlflowClient, experiment_id: str, parent: str, folder: Path) -> Run | None:
    """The run of the job in `folder`: by its own record, or, where it was killed before it wrote one, by its tags."""
    record = folder / RUN_FILE
    if record.exists() and (run_id := json.loads(record.read_text())["run_id"]) is not None:
        return client.get_run(run_id)
    running = f"{tagged(PARENT, parent)} and {tagged(FOLDER, str(folder))} and attributes.status = 'RUNNING'"
    for run in each_run(client, experiment_id, running):
        if run.data.tags.get(FOLDER) == str(folder):
            return run
    return None


def _log_redacted(client: MlflowClient, run_id: str, log: Path) -> None:
    """Log a job's log without the passwords that an error may have shown in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / log.name
        copy.write_text(redact(log.read_text(errors="replace")))
        client.log_artifact(run_id, str(copy))


@contextmanager
def _warns(consequence: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", consequence, brief(error))
