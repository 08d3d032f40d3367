"""Delivers a run's events to MLflow from a thread of its own, and retries with growing pauses while MLflow is away."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gantry.core.errors import UserError
from gantry.core.redaction import redact
from gantry.runs.tracking.delivery import Delivery
from gantry.runs.tracking.events import Ended, Event, Metrics
from gantry.runs.tracking.journal import Journal
from gantry.runs.tracking.reachable import FilesAway
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.status import BEAT, delivering
from gantry.runs.tracking.tracker import log

GATHER = 1.0  # seconds metrics wait to share a request, each of which costs training some 5 to 10 ms of Python
FIRST_PAUSE, LONGEST_PAUSE, CLOSING_PAUSE = 1.0, 60.0, 1.0  # seconds between attempts
QUIET = 2.0  # seconds `close` waits before it logs that it waits


class DeliveryThread:
    """Creates a run and delivers a journal's events to it, in order, in a daemon thread.

    Where MLflow fails, one warning is logged and the attempt is retried, after a pause that doubles each time.

    Args:
        session: the run.
        journal: its events; the caller adds to it by `put`.
    """

    def __init__(self, session: RunSession, journal: Journal) -> None:
        self._session, self._journal = session, journal
        self._delivery = Delivery(session, journal)
        self._uri = redact(session.plan.uri)
        self._changed = threading.Condition()  # guards all fields below
        self.closed = False  # no further events are accepted
        self._delivered = False  # the last event has arrived
        self._abandoned = False  # the thread must stop, whatever is left
        self._failing = False
        self._refused: str | None = None  # why nothing arrives until the user mends it, such as a deleted run

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._work, name="mlflow-delivery", daemon=True).start()

    @property
    def run_id(self) -> str | None:
        """Return the run's id; None until the store has created it."""
        return self._session.run_id

    def wait_for_run(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for the run's id and return it; None where it is still unknown."""
        with self._changed:
            self._changed.wait_for(lambda: self.run_id is not None or self._abandoned, timeout)
        return self.run_id

    def put(self, event: Event) -> None:
        """Add an event to the journal.

        Raises:
            OSError: neither the disk nor memory takes it.
            RuntimeError: the run has been closed.
        """
        with self._changed:
            if self.closed:
                raise RuntimeError(f"{type(event).__name__.lower()} logged after close")
            self._journal.put(event)
            self._changed.notify_all()

    def close(self, ended: Ended, timeout: float) -> None:
        """Add the last event, wait up to `timeout` seconds until all have arrived, and stop the thread."""
        try:
            self.put(ended)
            with self._changed:
                self.closed, self._refused = True, None  # one more attempt, as the run may have been restored
                self._changed.notify_all()
                patience = min(QUIET, timeout)
                if not self._changed.wait_for(self._is_settled, patience):
                    log.info("Waiting up to %.0f s for MLflow to take the rest.", timeout)
                    self._changed.wait_for(self._is_settled, timeout - patience)
        finally:  # an interrupt ends the wait; the events stay on disk
            self._abandon()

    def _is_settled(self) -> bool:
        return self._delivered or self._refused is not None

    def _abandon(self) -> None:
        with self._changed:
            self.closed = self._abandoned = True
            self._changed.notify_all()
        if self._delivered:
            return
        self._journal.save()
        log.warning(
            "MLflow at %s did not take %d events%s; they are kept in %s. %s: %s",
            self._uri,
            self._journal.waiting,
            " in time" if self._refused is None else f": {self._refused}",
            self._journal.path,
            "When it is back" if self._refused is None else "Afterwards",
            delivering(self._journal.path.parent),
        )

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
                    self._delivery.send(batch, last=self._journal.waiting == self._journal.aside)
                elif self._journal.clear() and self.closed:
                    with self._changed:
                        self._delivered = True
                        self._changed.notify_all()
                    return
                if self.run_id is not None and not self.closed and time.monotonic() >= beat:
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
        journal = self._journal
        batch = journal.take(aside=self.closed)
        if not batch and (journal.clear() or journal.aside):
            with self._changed:
                wanted = max(0, until - time.monotonic())
                self._changed.wait_for(lambda: journal.waiting > journal.aside or self.closed, wanted)
            batch = journal.take(aside=self.closed)
        if batch and isinstance(batch[0], Metrics) and journal.waiting == len(batch) + journal.aside:
            with self._changed:
                self._changed.wait_for(lambda: self.closed, GATHER)
            batch = journal.take()
        return batch

    def _report(self, error: Exception | None) -> None:
        """Log once that deliveries fail, and once that they work again."""
        with self._changed:
            self._refused = redact(str(error)) if isinstance(error, UserError) else None
            self._changed.notify_all()
        if isinstance(error, FilesAway):
            pass  # the session has said so
        elif self._refused is not None and not self._failing:
            log.warning("Training goes on, and what it logs is kept in its folder: %s", self._refused)
        elif error is not None and not self._failing:
            log.warning(
                "MLflow at %s fails, training goes on and deliveries are retried: %s", self._uri, redact(str(error))
            )
        elif error is None and self._failing:
            log.info("MLflow at %s works again.", self._uri)
        self._failing = error is not None

    def _pause(self, seconds: float) -> None:
        with self._changed:
            closing = self.closed
            longest = min(seconds, CLOSING_PAUSE) if closing else seconds
            self._changed.wait_for(lambda: self._abandoned or self.closed != closing, longest)


@contextmanager
def _making_way() -> Iterator[None]:
    """Give the training thread the GIL ten times as often, since importing MLflow holds it for seconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
