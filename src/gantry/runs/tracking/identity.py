"""Records which MLflow run belongs to a folder: `mlflow_run.json`, written before the store is contacted."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gantry.core.files import write_json
from gantry.core.redaction import HIDDEN, redact
from gantry.runs.folder import RUN_FILE
from gantry.runs.tracking import variables
from gantry.runs.tracking.carried import carried
from gantry.runs.tracking.status import FOLDER
from gantry.runs.tracking.store import locate


@dataclass(frozen=True)
class RunPlan:
    """The run to create or to continue.

    Attributes:
        uri: the store's address; without its password where read from a folder.
        experiment, run_name, tags: of the run; MLflow chooses a name where `run_name` is None.
        start_time: in ms since 1970.
        key: its tag `gantry.id`, which identifies it in the store even where the answer to its creation was lost.
        run_id: None until the store has created it.
        uncertain: whether the store may have created it although there is no run id.
        experiment_id: of the experiment; None until the store is known to have it.
        by_id: whether `experiment` is an id, as one of MLflow's variables gives it, and its name is not known yet.
        view: the key of the stored view of its curves; None where none is stored.
        adopted: whether something else, such as `mlflow run`, has created the run of this id for this process.
    """

    uri: str
    experiment: str
    run_name: str | None
    tags: dict[str, str]
    start_time: int
    key: str
    run_id: str | None = None
    uncertain: bool = False
    adopted: bool = False
    experiment_id: str | None = None
    by_id: bool = False
    view: str | None = None

    @property
    def password_hidden(self) -> bool:
        """Return True where the password is missing from the address, since passwords are not stored."""
        return HIDDEN in self.uri


def new_plan(uri: str | Path, experiment: str, run_name: str | None, tags: Mapping[str, str]) -> RunPlan:
    """Return the plan of a run that begins now."""
    name = None if run_name is None else redact(run_name)
    start, by_id = int(time.time() * 1000), variables.is_id(experiment)
    return RunPlan(str(uri), experiment, name, dict(tags), start, uuid.uuid4().hex, by_id=by_id)


def write_plan(plan: RunPlan, folder: Path) -> None:
    """Write a plan to the run's folder, with an absolute address and no password."""
    record: dict[str, Any] = {
        "run_id": plan.run_id,
        "experiment": plan.experiment,
        "uri": redact(locate(plan.uri).tracking_uri),
        "gantry.id": plan.key,
        "run_name": plan.run_name,
        "tags": plan.tags,
        "start_time": plan.start_time,
    }
    record |= {name: value for name in ("experiment_id", "view") if (value := getattr(plan, name)) is not None}
    record |= {name: True for name in ("adopted", "by_id") if getattr(plan, name)}
    write_json(record, folder / RUN_FILE)


def read_plan(folder: Path) -> RunPlan | None:
    """Read the plan in a run's folder; None where it is missing or incomplete.

    In a copied or moved project the store is the one that came along.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
        return RunPlan(
            carried(record["uri"], record["tags"].get(FOLDER), folder),
            record["experiment"],
            record["run_name"],
            record["tags"],
            record["start_time"],
            record["gantry.id"],
            record["run_id"],
            uncertain=record["run_id"] is None,
            adopted=record.get("adopted", False),
            experiment_id=record.get("experiment_id"),
            by_id=record.get("by_id", False),
            view=record.get("view"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def resumed_plan(folder: Path, fresh: RunPlan, run_id: str | None) -> RunPlan:
    """Return the plan to continue with: the one in `folder` where it is of the same run, at the address of `fresh`.

    Args:
        fresh: the plan of a run that would begin now.
        run_id: of the run, where the caller knows it.
    """
    before = read_plan(folder)
    if before is None or (run_id is not None and before.run_id not in (None, run_id)):
        return replace(fresh, run_id=run_id)
    asked = replace(before, uri=fresh.uri, experiment=fresh.experiment, by_id=fresh.by_id)
    return replace(asked, run_id=run_id or before.run_id)
