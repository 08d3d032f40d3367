"""Delivers a journal's events to MLflow in order, and sets aside those that MLflow refuses for good."""

from __future__ import annotations

import json

from gantry.core.redaction import redact
from gantry.runs.tracking.events import Artifact, Event, Image
from gantry.runs.tracking.journal import Journal
from gantry.runs.tracking.reachable import FilesAway
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.tracker import log, never_raises

REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"}
PERHAPS = "BAD_REQUEST"  # a database's error for an invalid value and for a lost connection
TRIES = 3  # such errors in a row, after which the value is taken to be the cause
REFUSED_FILES = (400, 411, 413, 414, 415, 422)  # HTTP statuses of an upload that retrying would not change


class Delivery:
    """Delivers a journal's events to a run in order, and sets aside those that MLflow refuses."""

    def __init__(self, session: RunSession, journal: Journal) -> None:
        self._session, self._journal = session, journal
        self._again = 0  # answers in a row that may be about the value or about the connection
        self._warned: set[str] = set()  # kinds of refused events
        self.refused = 0

    def send(self, batch: list[Event], last: bool = False) -> None:
        """Deliver a batch of the journal; the batch stays in the journal where this raises.

        A file that cannot be kept where the store wants it lets the events behind it pass.

        Args:
            last: whether only such files are left.

        Raises:
            FilesAway: `last`, and they still cannot be kept.
        """
        if isinstance(batch[0], Image | Artifact) and not self._journal.is_gone(batch[0]):
            if last:
                self._session.check_files()
            elif self._session.files_away is not None:
                self._journal.set_aside(batch)
                return
        try:
            self._send(batch)
        except FilesAway:
            if last:
                raise
            self._journal.set_aside(batch)
            return
        self._again = 0
        self._journal.done(batch)

    def _send(self, batch: list[Event]) -> None:
        try:
            if len(batch) > 1 or not self._journal.is_gone(batch[0]):
                self._session.send(batch)
        except Exception as error:
            if not self._is_refusal(error):
                if isinstance(batch[0], Image | Artifact):
                    self._session.check_files()
                raise
            self._session.look()  # raises where the run was deleted, so that its events are kept until it is restored
            if len(batch) > 1:  # find the refused event
                for event in batch:
                    self._send([event])
                return
            self._keep(batch[0], error)
        else:
            for event in batch:
                self._release(event)

    def _is_refusal(self, error: Exception) -> bool:
        if getattr(error, "error_code", None) == PERHAPS:
            self._again += 1
            return self._again >= TRIES
        return is_refusal(error)

    @never_raises
    def _keep(self, event: Event, error: Exception) -> None:
        self.refused += 1
        text = redact(str(error))
        self._journal.refuse(event, text)
        kind = type(event).__name__.lower()
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("MLflow refused %s (kept in %s; said once): %s", kind, self._journal.refused, text)

    @never_raises
    def _release(self, event: Event) -> None:
        self._journal.release(event)


def is_refusal(error: Exception) -> bool:
    """Return True where MLflow has refused the event for good, so that retrying is useless."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    if isinstance(error, OSError):  # also the base class of the errors of `requests`
        answer = getattr(getattr(error, "response", None), "status_code", None)
        return isinstance(error, FileNotFoundError) or answer in REFUSED_FILES
    # An answer that is not JSON comes from something else, such as a proxy.
    return isinstance(error, TypeError | ValueError) and not isinstance(error, json.JSONDecodeError)
