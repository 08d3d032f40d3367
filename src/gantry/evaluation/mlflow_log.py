"""Logs the results of an evaluation to the MLflow run that was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from gantry.evaluation.result import Result


def log_result(client: MlflowClient, run_id: str, result: Result, files: Sequence[Path]) -> None:
    """Add a result to a run, which may have ended: metrics `eval/<key>/<name>`, the tags `eval.<key>`,
    `eval.<key>.higher_is_better` and, where there are, `eval.<key>.caveats`, the files: the record first.

    Errors of MLflow are raised unchanged.
    """
    from mlflow.entities import Metric, RunTag

    from gantry.core.files import read_json
    from gantry.evaluation.result import CAVEATS, DESCRIPTION
    from gantry.runs.directions import HIGHER
    from gantry.runs.folder import EVALUATIONS

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, result.step) for name, value in result.logged.items()]
    record = read_json(files[0]) or {}  # includes results of an earlier evaluation
    tag = f"{DESCRIPTION}{result.key}"
    tags = [RunTag(tag, result.description), RunTag(f"{tag}.{HIGHER}", json.dumps(record.get(HIGHER, {})))]
    if caveats := record.get(CAVEATS):
        tags.append(RunTag(f"{tag}.{CAVEATS}", "\n".join(caveats)))
    client.log_batch(run_id, metrics, tags=tags)
    for file in files:
        client.log_artifact(run_id, str(file), f"{EVALUATIONS}/{result.key}")
