"""Starts one job as its own process tree, watches it, stops it and determines its status at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from gantry.core.config.overrides import command, quoted
from gantry.core.processes.parent_watch import LEASH
from gantry.core.processes.signals import STOPS
from gantry.runs.folder import (
    LOG_FILE,
    METRICS_FILE,
    PROGRESS_FILE,
    RANK_PIDS,
    SUMMARY_FILE,
    State,
    Status,
    log_tail,
    read_status,
    write_status,
)
from gantry.runs.sweep_record import JobRecord

log = logging.getLogger("gantry.sweeps")

GRACE = 60.0  # seconds that a stopped job has to write its checkpoint and close its run
GRACE_OF_HUNG = 10.0  # the same for a job that was stopped because it made no progress


@dataclass
class Job:
    """One job of a sweep and its state.

    Attributes:
        record: its entry in `sweep.json`.
        overrides: those of this command line, which may resume the sweep.
        config: resolved, without Hydra's own node.
        folder: absolute.
        state: what resuming the sweep does with it; "new" in a new sweep.
        status, reason: its final status and the reason; None until it has ended.
        label: the overrides in which it differs from the other jobs.
    """

    record: JobRecord
    overrides: list[str]
    config: DictConfig
    folder: Path
    state: State = "new"
    status: Status | None = None
    reason: str | None = None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0  # by time.time, as modification times of files are
    ended: float = 0.0
    stopped_for: str | None = None  # why it was stopped
    deadline: float = 0.0  # by which it must have stopped
    label: str = ""
    program: list[str] | None = None  # its command without overrides; None: this process's own

    @property
    def name(self) -> str:
        """Its name for the user: its number and the overrides in which it differs from the other jobs."""
        return f"[{self.record.number}] {self.label}".rstrip()

    @property
    def command(self) -> list[str]:
        """Return its command: the sweep's own command line with this job's overrides."""
        program = self.program or [sys.executable, *command()]
        return [*program, *self.overrides, f"hydra.run.dir={quoted(self.folder)}"]

    def start(self, environment: dict[str, str], leash: int, without: Sequence[str] = ()) -> None:
        """Start it as the leader of a new process group, with its output in `log.txt`.

        Args:
            environment: variables added to this process's environment.
            leash: read end of a pipe whose write end only this process holds: it reads end of file when this
                process has ended.
            without: variables of this process's environment that the job does not get.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RANK_PIDS).unlink(missing_ok=True)
        self.started = time.time()
        with (self.folder / LOG_FILE).open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={k: v for k, v in os.environ.items() if k not in without} | environment | {LEASH: str(leash)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(leash,),
            )

    def poll(self) -> bool:
        """Return True if it has ended; its status and reason are then set, and its process tree is gone."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            if self.stopped_for is not None and time.time() > self.deadline:
                self._signal(signal.SIGKILL)
            return False
        self._signal(signal.SIGKILL)
        self._end_ranks()
        self.ended = time.time()
        self.status, self.reason = verdict(code, self.folder, self.stopped_for)
        if read_status(self.folder) != (self.status, self.reason):
            try:
                write_status(self.folder, self.status, self.reason)
            except OSError as error:  # the sweep continues even on a full disk
                log.warning("%s: cannot write how it ended: %s", self.name, error)
        return True

    def stop(self, why: str, grace: float = GRACE) -> None:
        """Ask it to stop: it writes a checkpoint and closes its run, or is killed after `grace` seconds."""
        if self.stopped_for is None:
            self.stopped_for, self.deadline = why, time.time() + grace
            self._signal(signal.SIGTERM)

    def quiet_for(self) -> float:
        """Return the seconds since its last progress (a step or a measurement)."""
        dates = [self.started]
        for name in (PROGRESS_FILE, METRICS_FILE):
            try:
                dates.append((self.folder / name).stat().st_mtime)
            except OSError:
                continue
        return time.time() - max(dates)

    def _end_ranks(self) -> None:
        """Kill the ranks, each in its own session, that its first process has left running."""
        pids = self.folder / RANK_PIDS
        for pid in pids.read_text().split() if pids.exists() else []:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(pid), signal.SIGKILL)
        pids.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def verdict(code: int, folder: Path, stopped_for: str | None) -> tuple[Status, str | None]:
    """Determine the status of an ended job from its exit code and its folder.

    Args:
        code: its exit code; negative where a signal ended it.
        folder: the job's.
        stopped_for: why the sweep stopped it; None where it did not.

    Returns:
        The status, and the reason if the status is not FINISHED.
    """
    said, reason = read_status(folder)
    if said == "FINISHED" and (folder / SUMMARY_FILE).exists() and (code == 0 or stopped_for is not None):
        return "FINISHED", None  # it was stopped while it closed its run, so its training is complete
    if stopped_for is not None:
        return "KILLED", stopped_for
    number = -code if code < 0 else code - 128
    if code < 0 or number in (signal.SIGINT, *STOPS):
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        hint = " (by hand, or for lack of memory)" if number == signal.SIGKILL else ""
        return "KILLED", reason if said == "KILLED" else f"killed by {name}{hint}"
    if said == "FAILED" and reason:
        return "FAILED", reason
    last = log_tail(folder, lines=1)
    what = f"exit code {code}" if code else "ended without a result"
    return "FAILED", f"{what}: {last}" if last else what
