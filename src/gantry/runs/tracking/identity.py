"""Which run in MLflow a folder's is: `mlflow_run.json`, written before anything asks the store."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gantry.core.files import write_json
from gantry.core.text import HIDDEN, redact
from gantry.runs.folder import RUN_FILE
from gantry.runs.tracking.store import locate


@dataclass(frozen=True)
class RunPlan:
    """The run to create, or to go on with.

    Attributes:
        uri: the store's address; read back from a folder, without its password.
        experiment, run_name, tags: of the run; it is named by MLflow where `run_name` is None.
        start_time: in ms since 1970.
        key: its tag `gantry.id`, by which the store knows it whether or not its answer ever arrived.
        run_id: None until the store has created it.
        uncertain: the store may know it although there is no run id.
    """

    uri: str
    experiment: str
    run_name: str | None
    tags: dict[str, str]
    start_time: int
    key: str
    run_id: str | None = None
    uncertain: bool = False

    @property
    def password_hidden(self) -> bool:
        """Whether the address is not whole, since passwords are not kept."""
        return HIDDEN in self.uri


def new_plan(uri: str | Path, experiment: str, run_name: str | None, tags: Mapping[str, str]) -> RunPlan:
    """The plan of a run that begins now."""
    name = None if run_name is None else redact(run_name)
    return RunPlan(str(uri), experiment, name, dict(tags), int(time.time() * 1000), uuid.uuid4().hex)


def write_plan(plan: RunPlan, folder: Path) -> None:
    """Keep a plan in the run's folder, its address absolute and without a password."""
    record = {
        "run_id": plan.run_id,
        "experiment": plan.experiment,
        "uri": redact(locate(plan.uri).tracking_uri),
        "gantry.id": plan.key,
        "run_name": plan.run_name,
        "tags": plan.tags,
        "start_time": plan.start_time,
    }
    write_json(record, folder / RUN_FILE)


def read_plan(folder: Path) -> RunPlan | None:
    """The plan in a run's folder; None where there is none that says how the run is to be made."""
    try:
        record: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
        return RunPlan(
            record["uri"],
            record["experiment"],
            record["run_name"],
            record["tags"],
            record["start_time"],
            record["gantry.id"],
            record["run_id"],
            uncertain=record["run_id"] is None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def taken_up(folder: Path, begun: RunPlan, run_id: str | None) -> RunPlan:
    """The plan to go on with: the one in `folder` as far as it is of the same run, at the address given now.

    Args:
        begun: what the run would be if it began now.
        run_id: of the run, where the caller knows it.
    """
    before = read_plan(folder)
    if before is None or (run_id is not None and before.run_id not in (None, run_id)):
        return replace(begun, run_id=run_id)
    return replace(before, uri=begun.uri, experiment=begun.experiment, run_id=run_id or before.run_id)
