"""Results of an evaluation in the MLflow run of what was measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from gantry.evaluation.result import Result


def log_result(client: MlflowClient, run_id: str, result: Result, files: Sequence[Path]) -> None:
    """Add a result to a run, which may have ended: metrics `eval/<key>/<name>`, the tag `eval.<key>`, the files.

    Raises whatever MLflow raises.
    """
    from mlflow.entities import Metric, RunTag

    from gantry.evaluation.result import DESCRIPTION
    from gantry.runs.folder import EVALUATIONS

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, result.step) for name, value in result.logged.items()]
    client.log_batch(run_id, metrics, tags=[RunTag(f"{DESCRIPTION}{result.key}", result.description)])
    for file in files:
        client.log_artifact(run_id, str(file), f"{EVALUATIONS}/{result.key}")
