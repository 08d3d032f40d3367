"""Tracks a run in MLflow without ever blocking training."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.text import redact
from gantry.runs.folder import Status
from gantry.runs.tracking.delivery import Delivery, RunSession
from gantry.runs.tracking.environment import origin
from gantry.runs.tracking.events import Artifact, Dataset, Ended, Event, Image, Metrics, Params, Resumed, Tags
from gantry.runs.tracking.identity import new_plan, resumed_plan, write_plan
from gantry.runs.tracking.journal import Journal
from gantry.runs.tracking.status import BEAT
from gantry.runs.tracking.store import check_store
from gantry.runs.tracking.tracker import DatasetInfo, log, never_raises

if TYPE_CHECKING:
    import numpy as np


GATHER = 1.0  # seconds metrics wait to share a request, each of which costs training some 5 to 10 ms of Python
FIRST_PAUSE, LONGEST_PAUSE, CLOSING_PAUSE = 1.0, 60.0, 1.0  # seconds between attempts
QUIET = 2.0  # seconds `close` waits before it logs that it waits


class MLflowTracker:
    """Writes events to a journal on disk; one daemon thread creates the run and delivers them in order.

    Values are written in the call, images and files copied to `<run folder>/undelivered/` and removed once
    delivered (see `gantry.runs.tracking.journal`), so that whatever ends the process,
    `python -m gantry.tracking.deliver` or the next attempt at the run delivers the rest. Metrics keep the time of
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
    ) -> None:
        check_store(uri)
        all_tags = origin() | {key: redact(str(value)) for key, value in (tags or {}).items()}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        again = continues is not None or goes_on
        plan = new_plan(uri, experiment, run_name, all_tags)
        if again:
            plan = resumed_plan(folder, plan, continues)
        self._uri = redact(plan.uri)
        self._session = RunSession(plan, folder)
        self._journal = Journal(folder, fresh=not again)
        self._delivery = Delivery(self._session, self._journal)
        self._close_timeout = close_timeout
        self._changed = threading.Condition()  # guards all fields below
        self._infinite: dict[str, str] = {}
        self._closed = False  # no further events are accepted
        self._delivered = False  # the last event has arrived
        self._abandoned = False  # the thread must stop, whatever is left
        self._failing = False
        self._begin(folder, again, params, dataset)
        threading.Thread(target=self._work, name="mlflow-delivery", daemon=True).start()

    @never_raises
    def _begin(self, folder: Path, again: bool, params: Mapping[str, Any] | None, dataset: DatasetInfo | None) -> None:
        plan = self._session.plan
        if plan.run_id is None and not plan.uncertain:
            if params:
                self.log_params(params)
            if dataset is not None:
                self._put(Dataset(dataset))
        if again:
            self._put(Resumed(_now()))
        write_plan(plan, folder)  # last: a recorded run has its params and data set in the journal

    @property
    def run_id(self) -> str | None:
        """Return the run's id; None until the store has created it."""
        return self._session.run_id

    def wait_for_run(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for the run's id and return it; None where it is still unknown."""
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
    def log_image(self, image: np.ndarray, key: str, step: int, zoom: int | None = None) -> None:
        try:
            held: np.ndarray | Path = self._journal.hold_image(image, key, step, zoom)
        except OSError:
            held = image.copy()
        self._put(Image(_now(), step, key, held))

    @never_raises
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._put(Artifact(self._journal.hold(path), folder))

    @never_raises
    def close(self, status: Status, reason: str | None = None) -> None:
        if self._closed:
            return
        try:
            self._put(Ended(_now(), status, None if reason is None else redact(reason)))
            with self._changed:
                self._closed = True
                self._changed.notify_all()
                patience = min(QUIET, self._close_timeout)
                if not self._changed.wait_for(lambda: self._delivered, patience):
                    log.info("Waiting up to %.0f s for MLflow to take the rest.", self._close_timeout)
                    self._changed.wait_for(lambda: self._delivered, self._close_timeout - patience)
        finally:  # an interrupt ends the wait; the events stay on disk
            self._abandon()

    def _put(self, event: Event) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{type(event).__name__.lower()} logged after close")
            self._journal.put(event)
            self._changed.notify_all()

    def _abandon(self) -> None:
        with self._changed:
            self._closed = self._abandoned = True
            self._changed.notify_all()
        if self._delivered:
            return
        self._journal.save()
        log.warning(
            "MLflow at %s did not take %d events in time; they are kept in %s. When it is back: "
            "python -m gantry.tracking.deliver %s",
            self._uri,
            self._journal.waiting,
            self._journal.path,
            self._journal.path.parent,
        )

    # The delivery thread.

    def _work(self) -> None:
        pause = FIRST_PAUSE
        beat = 0.0
        while not self._abandoned:
            try:
                if self.run_id is None:
                    with _making_way():
                        self._session.connect()
                    with self._changed:
                        self._changed.notify_all()
                    beat = time.monotonic() + BEAT
                elif batch := self._next_batch(beat):
                    self._delivery.send(batch)
                elif self._journal.clear() and self._closed:
                    with self._changed:
                        self._delivered = True
                        self._changed.notify_all()
                    return
                if self.run_id is not None and not self._closed and time.monotonic() >= beat:
                    self._session.beat()
                    beat = time.monotonic() + BEAT
            except Exception as error:
                self._report(error)
                self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE
                self._report(None)

    def _next_batch(self, until: float) -> list[Event]:
        """Return the oldest event, or the metrics at the head of the journal; empty where none came before `until`."""
        batch = self._journal.take()
        if not batch and self._journal.clear():
            with self._changed:
                self._changed.wait_for(lambda: self._journal.waiting or self._closed, max(0, until - time.monotonic()))
            batch = self._journal.take()
        if batch and isinstance(batch[0], Metrics) and self._journal.waiting == len(batch):
            with self._changed:
                self._changed.wait_for(lambda: self._closed, GATHER)
            batch = self._journal.take()
        return batch

    def _report(self, error: Exception | None) -> None:
        """Log once that deliveries fail, and once that they work again."""
        if error is not None and not self._failing:
            log.warning(
                "MLflow at %s fails, training goes on and deliveries are retried: %s", self._uri, redact(str(error))
            )
        elif error is None and self._failing:
            log.info("MLflow at %s works again.", self._uri)
        self._failing = error is not None

    def _pause(self, seconds: float) -> None:
        with self._changed:
            closing = self._closed
            longest = min(seconds, CLOSING_PAUSE) if closing else seconds
            self._changed.wait_for(lambda: self._abandoned or self._closed != closing, longest)


@contextmanager
def _making_way() -> Iterator[None]:
    """Give the training thread the GIL ten times as often, since importing MLflow holds it for seconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _now() -> int:
    return int(time.time() * 1000)
