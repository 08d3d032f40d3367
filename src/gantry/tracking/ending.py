"""How a run ends in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gantry.lock import is_dead
from gantry.tracking.base import Status, log
from gantry.tracking.params import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

WORDLESS = "its process ended without a word: killed, or out of memory"
FOLDER = "gantry.folder"  # tag: the run's folder
REASON_LIMIT = 5000  # characters, the least of the lengths MLflow's stores take


def end_run(
    client: MlflowClient, run_id: str, status: Status, reason: str | None = None, end_time: int | None = None
) -> None:
    """Set a run's status and, where there is one, the tag `gantry.reason`; `end_time` in ms since 1970."""
    if reason is not None:
        client.set_tag(run_id, "gantry.reason", redact(reason)[:REASON_LIMIT], synchronous=True)
    client.set_terminated(run_id, status=status, end_time=end_time)


def close_dead(client: MlflowClient, experiment_id: str) -> None:
    """End, as KILLED, the runs shown as RUNNING whose processes, of this machine, are gone."""
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
        folder = run.data.tags.get(FOLDER)
        if folder is not None and is_dead(Path(folder)):
            end_run(client, run.info.run_id, "KILLED", WORDLESS)
            log.warning("%s in %s had been left RUNNING by a process that is gone: KILLED", run.info.run_name, folder)
