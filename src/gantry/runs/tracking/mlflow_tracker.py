"""Tracks a run in MLflow without ever blocking training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.redaction import redact
from gantry.runs.folder import Status
from gantry.runs.tracking.delivery_thread import DeliveryThread
from gantry.runs.tracking.environment import origin
from gantry.runs.tracking.events import Artifact, Dataset, Ended, Image, Metrics, Params, Resumed, Tags
from gantry.runs.tracking.identity import RunPlan, new_plan, resumed_plan, write_plan
from gantry.runs.tracking.journal import Journal
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.store import check_store
from gantry.runs.tracking.tracker import DatasetInfo, never_raises

if TYPE_CHECKING:
    import numpy as np


class MLflowTracker:
    """Writes events to a journal on disk; one daemon thread creates the run and delivers them in order.

    Values are written in the call, images and files copied to `<run folder>/undelivered/` and removed once
    delivered (see `gantry.runs.tracking.journal`), so that whatever ends the process,
    `python -m gantry.runs.tracking.deliver` or the next attempt at the run delivers the rest. Metrics keep the time of
    the call. An infinite metric becomes NaN, a gap in the chart (it would stretch the axis to 1e308), and the tag
    `gantry.infinite` names the step at which it first was infinite. Where MLflow fails, one warning is logged and the
    delivery is retried with growing pauses.

    `<run folder>/mlflow_run.json` identifies the run, by its id once it exists (see `gantry.runs.tracking.identity`).

    Args:
        uri: the store, see `gantry.runs.tracking.store.locate`.
        experiment: the MLflow experiment, created where missing.
        folder: the run's own folder.
        run_name: shown in the run table; MLflow chooses one where None.
        tags, params: those at the start; params as `gantry.runs.tracking.flatten` returns them.
        dataset: shown as the run's input.
        parent_run_id: the sweep's parent run.
        close_timeout: seconds `close` waits for the remaining events.
        continues: the id of the run to continue, which keeps its tags, params and data set; values it has
            already at a step are not sent again.
        adopts: the id of a run that was created for this one, such as by `mlflow run`; it keeps its name and source.
            Where it is already another run's, or is not in the store, this one gets a run of its own.
        goes_on: whether the events that an earlier attempt left in the folder belong to the same run, which MLflow may
            never have created.

    Raises:
        UserError: see `check_store`.
    """

    def __init__(
        self,
        uri: str | Path,
        experiment: str,
        folder: Path,
        *,
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        dataset: DatasetInfo | None = None,
        parent_run_id: str | None = None,
        close_timeout: float = 30.0,
        continues: str | None = None,
        goes_on: bool = False,
        adopts: str | None = None,
    ) -> None:
        check_store(uri)
        all_tags = origin() | {key: redact(str(value)) for key, value in (tags or {}).items()}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        again = continues is not None or goes_on
        plan = new_plan(uri, experiment, run_name, all_tags)
        if again:
            plan = resumed_plan(folder, plan, continues)
        elif adopts is not None:
            plan = replace(plan, run_id=adopts, adopted=True)
        session = RunSession(plan, folder)
        self._journal = Journal(folder, fresh=not again)
        self._thread = DeliveryThread(session, self._journal)
        self._close_timeout = close_timeout
        self._infinite: dict[str, str] = {}
        self._begin(plan, folder, again, params, dataset)
        self._thread.start()

    @never_raises
    def _begin(
        self, plan: RunPlan, folder: Path, again: bool, params: Mapping[str, Any] | None, dataset: DatasetInfo | None
    ) -> None:
        first = plan.adopted and not again
        if first:
            mine = {name: value for name, value in plan.tags.items() if not name.startswith("mlflow.")}
            self._thread.put(Tags(mine | {"gantry.id": plan.key}))
        if first or (plan.run_id is None and not plan.uncertain):
            if params:
                self.log_params(params)
            if dataset is not None:
                self._thread.put(Dataset(dataset))
        if again:
            self._thread.put(Resumed(_now()))
        write_plan(plan, folder)  # last: a recorded run has its params and data set in the journal

    @property
    def run_id(self) -> str | None:
        """Return the run's id; None until the store has created it."""
        return self._thread.run_id

    def wait_for_run(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for the run's id and return it; None where it is still unknown."""
        return self._thread.wait_for_run(timeout)

    @never_raises
    def log_params(self, params: Mapping[str, Any]) -> None:
        self._thread.put(Params({key: redact(str(value)) for key, value in params.items()}))

    @never_raises
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._thread.put(Tags({key: redact(str(value)) for key, value in tags.items()}))

    @never_raises
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        values = {key: float(value) for key, value in metrics.items()}
        infinite = [key for key, value in values.items() if math.isinf(value)]
        new = {key: f"{key} {values[key]} at step {step}" for key in infinite if key not in self._infinite}
        self._thread.put(Metrics(_now(), step, values | dict.fromkeys(infinite, math.nan)))
        if new:
            self._infinite |= new
            self._thread.put(Tags({"gantry.infinite": "; ".join(self._infinite.values())}))

    @never_raises
    def log_image(self, image: np.ndarray, key: str, step: int, text: Mapping[str, int] | None = None) -> None:
        try:
            held: np.ndarray | Path = self._journal.hold_image(image, key, step, text)
        except OSError:
            held = image.copy()
        self._thread.put(Image(_now(), step, key, held))

    @never_raises
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._thread.put(Artifact(self._journal.hold(path), folder))

    @never_raises
    def close(self, status: Status, reason: str | None = None) -> None:
        if not self._thread.closed:
            self._thread.close(Ended(_now(), status, None if reason is None else redact(reason)), self._close_timeout)


def _now() -> int:
    return int(time.time() * 1000)
