"""How a run ends in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.tracking.base import Status
from gantry.tracking.params import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

REASON_LIMIT = 5000  # characters, the least of the lengths MLflow's stores take


def end_run(
    client: MlflowClient, run_id: str, status: Status, reason: str | None = None, end_time: int | None = None
) -> None:
    """Set a run's status and, where there is one, the tag `gantry.reason`; `end_time` in ms since 1970."""
    if reason is not None:
        client.set_tag(run_id, "gantry.reason", redact(reason)[:REASON_LIMIT], synchronous=True)
    client.set_terminated(run_id, status=status, end_time=end_time)
