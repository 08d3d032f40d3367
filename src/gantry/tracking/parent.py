"""The run above a sweep's jobs, and the true ending of a job that could not write its own.

Called by the launcher between jobs, so these wait for the store (seconds, where a server is away), but like
all of tracking they do not raise: a sweep without its parent run is better than no sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.tracking.base import Status, log
from gantry.tracking.environment import origin
from gantry.tracking.params import redact
from gantry.tracking.store import prepare_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

REASON_LIMIT = 5000  # characters, the least of the lengths MLflow's stores take


def open_parent(uri: str | Path, experiment: str, name: str, overrides: Sequence[str]) -> str | None:
    """Create a sweep's parent run.

    Args:
        name: the sweep's name in the run table.
        overrides: the sweep's command line, kept in the tag `overrides`.

    Returns:
        Its id, to be given to the jobs as `parent_run_id`; None where the store cannot be reached.
    """
    with _warns("The sweep has no parent run in MLflow, its jobs stand alone"):
        client, experiment_id = prepare_store(uri, experiment)
        tags = origin() | {"overrides": redact(" ".join(overrides))}
        return client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    return None


def close_parent(uri: str | Path, experiment: str, run_id: str, status: Status) -> None:
    """Set the parent run's final status."""
    with _warns(f"MLflow still shows the sweep's parent run {run_id} as RUNNING"):
        client, _ = prepare_store(uri, experiment)
        end_run(client, run_id, status)


def close_if_running(uri: str | Path, experiment: str, run_id: str, status: Status, reason: str) -> None:
    """End a job's run whose process is gone, unless it had ended it itself."""
    with _warns(f"MLflow may still show the run {run_id} as RUNNING"):
        client, _ = prepare_store(uri, experiment)
        if client.get_run(run_id).info.status not in ("FINISHED", "FAILED", "KILLED"):
            end_run(client, run_id, status, reason)


def end_run(
    client: MlflowClient, run_id: str, status: Status, reason: str | None = None, end_time: int | None = None
) -> None:
    """Set a run's status and, where there is one, the tag `gantry.reason`; `end_time` in ms since 1970."""
    if reason is not None:
        client.set_tag(run_id, "gantry.reason", redact(reason)[:REASON_LIMIT], synchronous=True)
    client.set_terminated(run_id, status=status, end_time=end_time)


@contextmanager
def _warns(consequence: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", consequence, redact(str(error)))
