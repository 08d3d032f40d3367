"""A run in MLflow that training never waits for."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.tracking.base import RUN_FILE, DatasetInfo, Status, log, never_raises
from gantry.tracking.delivery import METRICS_PER_REQUEST, RunPlan, RunSession, is_refusal
from gantry.tracking.environment import origin
from gantry.tracking.events import Artifact, Dataset, Ended, Event, Image, Metrics, Params, Spool, Tags
from gantry.tracking.folder import write_json
from gantry.tracking.params import redact
from gantry.tracking.store import check_store

if TYPE_CHECKING:
    import numpy as np

GATHER = 1.0  # seconds metrics wait for company: a request costs the training process some 5 to 10 ms of Python
FIRST_PAUSE, LONGEST_PAUSE, CLOSING_PAUSE = 1.0, 60.0, 1.0  # seconds between attempts
QUIET = 2.0  # seconds `close` waits before it says so
IMAGES_IN_MEMORY = 256 * 2**20  # bytes; beyond, waiting images go to disk


class MLflowTracker:
    """Puts events on a queue in memory; one daemon thread creates the run and delivers them in order.

    Values and arrays are copied in the call; a file is copied to `<run folder>/undelivered/` in the call and
    removed once delivered. Metrics keep the time of the call. An infinite metric becomes NaN, a gap in the
    chart (it would stretch the axis to 1e308), and the tag `gantry.infinite` says where it first was. Where
    MLflow fails, one warning is logged and the delivery retried with growing pauses; what `close` cannot
    deliver in its time stands in `<run folder>/undelivered.jsonl`, see `gantry.tracking.events`.

    `<run folder>/mlflow_run.json` names the run once it exists, for whoever must end a killed one.

    Args:
        uri: the store, see `gantry.tracking.store.locate`.
        experiment: the MLflow experiment, created where missing.
        folder: the run's own folder.
        run_name: shown in the run table; MLflow makes one up where None.
        tags, params: known at the start; params as `gantry.tracking.flatten` makes them.
        dataset: shown as the run's input.
        parent_run_id: the sweep's parent run.
        close_timeout: seconds `close` waits for what is left.
        continues: the id of the run to go on with, which keeps its tags, params and data set; what it holds
            already at a step is not sent again.
        goes_on: from a checkpoint; what the folder's record holds already is sent too.

    Raises:
        UserError: as `check_store`.
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
    ) -> None:
        check_store(uri)
        all_tags = origin() | {key: redact(str(value)) for key, value in (tags or {}).items()}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        key = uuid.uuid4().hex
        self._plan = RunPlan(str(uri), experiment, run_name, all_tags, _now(), key, folder, continues, goes_on)
        self._session = RunSession(self._plan)
        self._folder = folder
        self._spool = Spool(folder)
        self._close_timeout = close_timeout
        self._changed = threading.Condition()  # guards all below
        self._events: deque[Event] = deque()
        self._infinite: dict[str, str] = {}
        self._closed = False  # no further events
        self._abandoned = False  # the thread is to stop where it is
        self._failing = False
        self._refused: set[str] = set()  # kinds of events
        if continues is None:
            if params:
                self.log_params(params)
            if dataset is not None:
                self._put(Dataset(dataset))
        threading.Thread(target=self._work, name="mlflow-delivery", daemon=True).start()

    @property
    def run_id(self) -> str | None:
        """The run's id; None until the store has created it."""
        return self._session.run_id

    def wait_for_run(self, timeout: float) -> str | None:
        """The run's id, after waiting up to `timeout` seconds for it."""
        with self._changed:
            self._changed.wait_for(lambda: self.run_id is not None or self._abandoned, timeout)
        return self.run_id

    @never_raises
    def log_params(self, params: Mapping[str, Any]) -> None:
        self._put(Params({key: redact(str(value)) for key, value in params.items()}))

    @never_raises
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._put(Tags({key: redact(str(value)) for key, value in tags.items()}))

    @never_raises
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        values = {key: float(value) for key, value in metrics.items()}
        infinite = [key for key, value in values.items() if math.isinf(value)]
        new = {key: f"{key} {values[key]} at step {step}" for key in infinite if key not in self._infinite}
        self._put(Metrics(_now(), step, values | dict.fromkeys(infinite, math.nan)))
        if new:
            self._infinite |= new
            self._put(Tags({"gantry.infinite": "; ".join(self._infinite.values())}))

    @never_raises
    def log_image(self, image: np.ndarray, key: str, step: int) -> None:
        with self._changed:
            held = [event.image for event in self._events if isinstance(event, Image)]
        waiting = sum(pixels.nbytes for pixels in held if not isinstance(pixels, Path))
        full = waiting + image.nbytes > IMAGES_IN_MEMORY
        self._put(Image(_now(), step, key, self._spool.hold_image(image, key, step) if full else image.copy()))

    @never_raises
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._put(Artifact(self._spool.hold(path), folder))

    @never_raises
    def close(self, status: Status, reason: str | None = None) -> None:
        if self._closed:
            return
        self._put(Ended(_now(), status, None if reason is None else redact(reason)))
        try:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
                patience = min(QUIET, self._close_timeout)
                if not self._changed.wait_for(self._delivered, patience):
                    log.info("Waiting up to %.0f s for MLflow to take the rest.", self._close_timeout)
                    self._changed.wait_for(self._delivered, self._close_timeout - patience)
        finally:  # an interrupt ends the waiting, not the record
            self._abandon()

    def _put(self, event: Event) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{type(event).__name__.lower()} logged after close")
            self._events.append(event)
            self._changed.notify_all()

    def _delivered(self) -> bool:
        return not self._events

    def _abandon(self) -> None:
        with self._changed:
            self._abandoned = True
            left = list(self._events)
            self._events.clear()
            self._changed.notify_all()
        if left:
            self._spool.write(self._run_line(), left)
            log.warning(
                "MLflow at %s did not take %d events in time; they are kept in %s.",
                redact(self._plan.uri),
                len(left),
                self._spool.record,
            )

    def _run_line(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "gantry.id": plan.key,
            "run_id": self.run_id,
            "uri": redact(plan.uri),
            "experiment": plan.experiment,
            "run_name": plan.run_name,
            "tags": plan.tags,
            "start_time": plan.start_time,
        }

    # The delivery thread.

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while not self._abandoned:
            try:
                if self.run_id is None:
                    self._session.connect()
                    self._note_run()
                    with self._changed:
                        self._changed.notify_all()
                elif batch := self._next_batch():
                    self._deliver(batch)
                if self._closed and not self._events:
                    return
            except Exception as error:
                self._report(error)
                self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE
                self._report(None)

    @never_raises
    def _note_run(self) -> None:
        run = {"run_id": self.run_id, "experiment": self._plan.experiment}
        write_json(run, self._folder / RUN_FILE)

    def _next_batch(self) -> list[Event]:
        """The oldest event, or the metrics at the head of the queue; it stays queued until delivered."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed)
            if self._events and isinstance(self._events[0], Metrics):
                self._changed.wait_for(lambda: self._closed, GATHER)
            batch: list[Event] = []
            values = 0
            for event in self._events:
                values += len(event.values) if isinstance(event, Metrics) else METRICS_PER_REQUEST
                if batch and (values > METRICS_PER_REQUEST or not isinstance(batch[0], Metrics)):
                    break
                batch.append(event)
            return batch

    def _deliver(self, batch: list[Event]) -> None:
        try:
            self._session.send(batch)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(batch) > 1:  # find the one at fault
                for event in batch:
                    self._deliver([event])
                return
            self._keep_refused(batch[0], error)
        else:
            for event in batch:
                self._release(event)
        with self._changed:
            if not self._abandoned:
                for _ in batch:
                    self._events.popleft()
                self._changed.notify_all()

    @never_raises
    def _keep_refused(self, event: Event, error: Exception) -> None:
        text = redact(str(error))
        self._spool.write(self._run_line(), [event], error=text)
        kind = type(event).__name__.lower()
        if kind not in self._refused:  # a run deleted while it trains refuses everything
            self._refused.add(kind)
            log.warning("MLflow refused %s (kept in %s; said once): %s", kind, self._spool.record, text)

    @never_raises
    def _release(self, event: Event) -> None:
        if isinstance(event, Artifact):
            self._spool.release(event.file)
        elif isinstance(event, Image) and isinstance(event.image, Path):
            self._spool.release(event.image)

    def _report(self, error: Exception | None) -> None:
        """Say once that deliveries fail, and once that they work again."""
        if error is not None and not self._failing:
            log.warning(
                "MLflow at %s fails, training goes on and deliveries are retried: %s",
                redact(self._plan.uri),
                redact(str(error)),
            )
        elif error is None and self._failing:
            log.info("MLflow at %s works again.", redact(self._plan.uri))
        self._failing = error is not None

    def _pause(self, seconds: float) -> None:
        with self._changed:
            closing = self._closed
            longest = min(seconds, CLOSING_PAUSE) if closing else seconds
            self._changed.wait_for(lambda: self._abandoned or self._closed != closing, longest)


def _now() -> int:
    return int(time.time() * 1000)
