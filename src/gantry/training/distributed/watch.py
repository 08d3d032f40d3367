"""Watches a run's ranks by heartbeats; the first failure of any rank becomes the reason why all of them end."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist

from gantry.core.errors import PeerFailed, RunFailed, UserError
from gantry.core.processes.signals import stopped_by

BEAT = 0.5  # seconds between heartbeats
SILENCE = 10.0  # seconds without a heartbeat after which a rank counts as dead
LEAVING = 5.0  # seconds that the main thread has to end after a rank's failure, before the process is ended
CAUSE = "cause"  # key in the store
COMMUNICATION = ("gloo", "nccl", "connection", "socket", "timed out")  # in errors of ranks that have lost another

log = logging.getLogger("gantry.training.distributed")


@dataclass(frozen=True)
class Cause:
    """The first failure of any rank, for which the run ends."""

    rank: int
    host: str
    reason: str  # one line, or the message of a `RunFailed`
    details: str = ""  # the traceback, where `reason` does not suffice
    signal: int = 0  # that stopped the rank at once; 0: none

    def failure(self) -> PeerFailed:
        """Return the exception to raise on the other ranks."""
        where = f"rank {self.rank} on {self.host}"
        return PeerFailed(f"{where}: {self.reason}", f"{where} failed:\n{self.details or self.reason}".rstrip())


class Watch:
    """Sends this rank's heartbeats, and checks those of the other ranks and the first failure that a rank has reported.

    One thread talks to rank 0's store, where it may hang if that machine is cut off; another decides who has failed.
    """

    def __init__(self, store: dist.TCPStore, rank: int, world_size: int) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.hosts = [store.get(f"host/{rank}").decode() for rank in range(world_size)]
        self.give_up: Callable[[PeerFailed], None] | None = None
        self.cause: Cause | None = None
        self._beats = [b""] * world_size
        self._heard = [time.monotonic()] * world_size
        self._answered = time.monotonic()  # the last time that rank 0's store answered
        self._leaving, self._ended = threading.Event(), threading.Event()
        self._claim = threading.Lock()  # acquired once, by the thread that ends the process
        self._lock = threading.Lock()  # guards the store's connection

    def start(self) -> None:
        for work in (self._talk, self._judge):
            threading.Thread(target=work, name=f"peers-{work.__name__}", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def cause_of(self, error: BaseException) -> Cause:
        """Return the failure behind `error` in the main thread; report it to the others if it is this rank's own."""
        if not self._leaving.is_set():
            self._claim.acquire()  # blocks until the end if the other thread holds it
            self._leaving.set()
        if is_communication(error):
            deadline = time.monotonic() + SILENCE + 2 * BEAT
            while self.cause is None and time.monotonic() < deadline:
                time.sleep(BEAT / 5)
            if self.cause is not None:
                return self.cause
        explained = isinstance(error, UserError | RunFailed)
        mine = Cause(
            self.rank,
            self.hosts[self.rank],
            str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}".splitlines()[0],
            str(error) if explained else "".join(traceback.format_exception(error)),
            stopped_by(error) or 0,
        )
        return self._post(mine)

    def _post(self, cause: Cause) -> Cause:
        """Report a failure to the other ranks; return the first that any rank has reported."""
        if self._lock.acquire(timeout=LEAVING):
            try:
                cause = Cause(**json.loads(self.store.compare_set(CAUSE, "", json.dumps(asdict(cause)))))
            except Exception as error:  # rank 0, which holds the store, is gone
                log.debug("%s", error)
            finally:
                self._lock.release()
        return cause

    def _talk(self) -> None:
        number = 0
        while not self._ended.wait(BEAT):
            number += 1
            try:
                with self._lock:
                    self.store.set(f"beat/{self.rank}", str(number))
                    beats = self.store.multi_get([f"beat/{rank}" for rank in range(self.world_size)])
                    found = self.store.get(CAUSE) if self.store.check([CAUSE]) else None
            except dist.DistNetworkError:  # rank 0's machine closed the connection, since the process has died
                self.cause = self.cause or Cause(0, self.hosts[0], "gone without a word: killed, or out of memory")
                return
            except Exception as error:
                log.debug("%s", error)
                continue
            now = self._answered = time.monotonic()
            for rank, beat in enumerate(beats):
                if beat != self._beats[rank]:
                    self._beats[rank], self._heard[rank] = beat, now
            if found is not None and self.cause is None:
                self.cause = Cause(**json.loads(found))

    def _judge(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(BEAT):
            now = time.monotonic()
            if now - looked > SILENCE / 2:  # this process or its machine was suspended
                self._answered, self._heard = now, [now] * self.world_size
            looked = now
            if self.cause is None and (lost := self._lost(now)) is not None:
                reason = f"gone without a word for {SILENCE:g} s: killed, out of memory, or its machine is cut off"
                cause = Cause(lost, self.hosts[lost], reason)
                self.cause = self._post(cause) if now - self._answered < SILENCE else cause
            if self.cause is not None:
                self._leave(self.cause)
                return

    def _lost(self, now: float) -> int | None:
        if now - self._answered >= SILENCE:
            return 0
        return next((rank for rank, heard in enumerate(self._heard) if now - heard >= SILENCE), None)

    def _leave(self, cause: Cause) -> None:
        """End the process if its main thread does not, which may hang in a collective with a dead rank."""
        if self._leaving.wait(LEAVING) or self._ended.is_set() or cause.rank == self.rank:
            return
        if not self._claim.acquire(blocking=False):
            return
        if self.give_up is not None:
            self.give_up(cause.failure())
        os._exit(1)


def is_communication(error: BaseException) -> bool:
    """Return True if another rank's failure may have caused the error."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in COMMUNICATION)
