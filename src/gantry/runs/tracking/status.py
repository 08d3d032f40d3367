"""How a run ends in MLflow."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.processes.locks import is_dead, is_held
from gantry.core.text import redact
from gantry.runs.folder import Status, read_status
from gantry.runs.tracking.store import each_run, prepare_store, tagged
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


WORDLESS = "its process ended without a word: killed, or out of memory"
PARENT = "mlflow.parentRunId"
SUPERSEDED = "gantry.superseded"  # tag of an attempt that a later one replaced
FOLDER = "gantry.folder"  # tag: the run's folder
HEARTBEAT = "gantry.heartbeat"  # tag: when the run's process last showed that it lives, in seconds since 1970
HOST = "gantry.host"  # tag: the machine it runs on
BEAT = 60.0  # seconds between heartbeats
SILENCE = 15 * 60.0  # seconds without one after which a process of another machine is taken for dead
REASON_LIMIT = 5000  # characters, the least of the lengths MLflow's stores take


def end_run(
    client: MlflowClient, run_id: str, status: Status, reason: str | None = None, end_time: int | None = None
) -> None:
    """Set a run's status and, where there is one, the tag `gantry.reason`; `end_time` in ms since 1970."""
    if reason is not None:
        client.set_tag(run_id, "gantry.reason", redact(reason)[:REASON_LIMIT], synchronous=True)
    client.set_terminated(run_id, status=status, end_time=end_time)


def reopen(client: MlflowClient, run_id: str) -> None:
    """Set a run RUNNING again, and take back why it had ended."""
    client.update_run(run_id, status="RUNNING")
    for tag in client.get_run(run_id).data.tags.keys() & {"gantry.reason", "gantry.log_tail"}:
        client.delete_tag(run_id, tag)


def supersede(client: MlflowClient, experiment_id: str, run: Run) -> None:
    """Mark, of the attempts at the same job, in the same folder of the same sweep, those before the latest.

    Args:
        run: just created; a store that was away may hear of the latest attempt first.
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
    """End the runs shown as RUNNING whose processes are gone: as they said, else as KILLED.

    A process of this machine holds its run's folder, one of another machine says every minute that it lives. One
    that lives after all sets its run RUNNING again.
    """
    for run in list(each_run(client, experiment_id, "attributes.status = 'RUNNING'")):  # which ending them changes
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
    """Whether a run's process is known to live: it holds its folder here, or has spoken lately elsewhere."""
    return _is_held(run) or lives_elsewhere(run)


def lives_elsewhere(run: Run) -> bool:
    """Whether a run's process has lately said on another machine that it lives."""
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
    """`close_dead`, where the store may be away; never raises."""
    try:
        client, experiment_id = prepare_store(uri, experiment)
    except Exception as error:
        log.warning("MLflow may still show the run as RUNNING: %s", redact(str(error)))
    else:
        close_left(client, experiment_id)


def close_left(client: MlflowClient, experiment_id: str) -> None:
    """`close_dead`, of a store that may go away; never raises."""
    try:
        close_dead(client, experiment_id)
    except Exception as error:
        log.warning("MLflow may still show runs as RUNNING whose processes are gone: %s", redact(str(error)))


def last_word(folder: Path) -> tuple[Status, str | None]:
    """How a run whose process is gone ended: what it said in its folder, else killed without a word."""
    status, reason = read_status(folder)
    return (status, reason) if status is not None else ("KILLED", WORDLESS)
