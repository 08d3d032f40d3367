"""Sets the status of runs in MLflow, and closes runs whose processes have died."""

from __future__ import annotations

import shlex
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.processes.locks import is_dead, is_held
from gantry.core.redaction import redact
from gantry.core.text import here, show
from gantry.runs.folder import Status, read_status
from gantry.runs.tracking.store import each_run, locate, prepare_store, tagged, with_secrets
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


WORDLESS = "its process ended without a word: killed, or out of memory"
PARENT = "mlflow.parentRunId"
SUPERSEDED = "gantry.superseded"  # tag of an attempt that a later one replaced
KIND = "gantry.kind"  # tag; "sweep" on a sweep's own run
ORIGINAL = "gantry.name"  # tag of a sweep's own run: the name under which it began
FOLDER = "gantry.folder"  # tag: the run's folder
HEARTBEAT = "gantry.heartbeat"  # tag: when the run's process last showed that it lives, in seconds since 1970
HOST = "gantry.host"  # tag: the machine it runs on
BEAT = 60.0  # seconds between heartbeats
SILENCE = 15 * 60.0  # seconds without one after which a process of another machine is taken for dead
REASON_LIMIT = 5000  # characters, the smallest limit of MLflow's stores


class Deleted(UserError):
    """A run was deleted in MLflow, which takes nothing more for it until it is restored."""


def refuse_deleted(run: Run, uri: str | Path) -> None:
    """Refuse a run that was deleted in MLflow.

    Args:
        run: as the store returns it.
        uri: the store's address.

    Raises:
        Deleted: it was; the message holds the command that restores it.
    """
    if run.info.lifecycle_stage == "deleted":
        run_id = run.info.run_id
        command = restoring(uri, f"runs restore --run-id {run_id}")
        raise Deleted(
            f"the run {run_id} was deleted in MLflow, which takes nothing more for it; to restore it: {command}"
        )


def restoring(uri: str | Path, command: str) -> str:
    """Return what to type for a command of `mlflow` on the store at `uri`."""
    address = shlex.quote(redact(locate(uri).tracking_uri))
    return with_secrets(f"MLFLOW_TRACKING_URI={address} {here('mlflow')} {command}")


def delivering(folder: Path) -> str:
    """Return what to type to tell MLflow what it lacks of the run in `folder`."""
    return f"{here('python')} -m gantry.runs.tracking.deliver {shlex.quote(show(folder))}"


def end_run(
    client: MlflowClient, run_id: str, status: Status, reason: str | None = None, end_time: int | None = None
) -> None:
    """Set a run's status and, where given, its tag `gantry.reason`; `end_time` in ms since 1970."""
    if reason is not None:
        client.set_tag(run_id, "gantry.reason", redact(reason)[:REASON_LIMIT], synchronous=True)
    client.set_terminated(run_id, status=status, end_time=end_time)


def reopen(client: MlflowClient, run_id: str) -> None:
    """Set a run RUNNING again, and delete the tags that describe its end."""
    client.update_run(run_id, status="RUNNING")
    for tag in client.get_run(run_id).data.tags.keys() & {"gantry.reason", "gantry.log_tail"}:
        client.delete_tag(run_id, tag)


def supersede(client: MlflowClient, experiment_id: str, run: Run) -> None:
    """Tag all but the latest attempt at a job (same folder, same sweep) as superseded.

    Args:
        run: just created; after an outage the store may receive the latest attempt first.
    """
    parent, folder = (run.data.tags.get(tag) for tag in (PARENT, FOLDER))
    if parent is None or folder is None:
        return
    attempts = f"{tagged(PARENT, parent)} and {tagged(FOLDER, folder)}"
    for other in each_run(client, experiment_id, attempts):
        if other.info.run_id == run.info.run_id or other.data.tags.get(FOLDER) != folder:
            continue
        older = run if other.info.start_time > run.info.start_time else other
        client.set_tag(older.info.run_id, SUPERSEDED, "true", synchronous=True)
        if older is other and other.info.status == "RUNNING":
            end_run(client, other.info.run_id, "KILLED", WORDLESS)


def close_dead(client: MlflowClient, experiment_id: str) -> None:
    """Close the runs shown as RUNNING whose processes are gone: with their recorded status, else as KILLED.

    A process of this machine holds its run's folder; one of another machine sends a heartbeat every minute. A process
    that is alive after all sets its run RUNNING again.
    """
    # A list, since closing runs changes the result of the query.
    for run in list(each_run(client, experiment_id, "attributes.status = 'RUNNING'")):
        folder, beat = run.data.tags.get(FOLDER), _heartbeat(run)
        if folder is not None and _is_here(run) and is_dead(Path(folder)):
            status, reason = last_word(Path(folder))
            end_run(client, run.info.run_id, status, reason)
        elif beat is not None and time.time() - beat > SILENCE and not _is_held(run):
            status = "KILLED"
            end_run(client, run.info.run_id, status, WORDLESS, int(beat * 1000))
        else:
            continue
        log.warning("%s in %s had been left RUNNING by a process that is gone: %s", run.info.run_name, folder, status)


def lives(run: Run) -> bool:
    """Return True where a run's process is alive: it holds its folder here, or has a recent heartbeat elsewhere."""
    return _is_held(run) or lives_elsewhere(run)


def lives_elsewhere(run: Run) -> bool:
    """Return True where a run has a recent heartbeat from another machine."""
    beat = _heartbeat(run)
    return not _is_here(run) and beat is not None and time.time() - beat <= SILENCE


def _is_here(run: Run) -> bool:
    return run.data.tags.get(HOST, socket.gethostname()) == socket.gethostname()


def _is_held(run: Run) -> bool:
    return FOLDER in run.data.tags and is_held(Path(run.data.tags[FOLDER]))


def _heartbeat(run: Run) -> float | None:
    try:
        return float(run.data.tags[HEARTBEAT])
    except (KeyError, ValueError):
        return None


def close_runs_left(uri: str | Path, experiment: str) -> None:
    """Open the store and call `close_dead`; log a warning instead of raising."""
    try:
        client, experiment_id = prepare_store(uri, experiment)
    except Exception as error:
        log.warning("MLflow may still show the run as RUNNING: %s", redact(str(error)))
    else:
        close_left(client, experiment_id)


def close_left(client: MlflowClient, experiment_id: str) -> None:
    """Call `close_dead`; log a warning instead of raising."""
    try:
        close_dead(client, experiment_id)
    except Exception as error:
        log.warning("MLflow may still show runs as RUNNING whose processes are gone: %s", redact(str(error)))


def last_word(folder: Path) -> tuple[Status, str | None]:
    """Return the status and reason of a run whose process is gone: those in its folder, else KILLED."""
    status, reason = read_status(folder)
    return (status, reason) if status is not None else ("KILLED", WORDLESS)
