"""One job as a process tree of its own: started, watched, stopped, and judged by how it ended."""

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

GRACE = 60.0  # seconds a job that is told to stop has to write its checkpoint and close its run
GRACE_OF_HUNG = 10.0  # where it shows no sign of life anyway


@dataclass
class Job:
    """One job of a sweep and what is known of it.

    Attributes:
        record: its place in `sweep.json`.
        overrides: those of this command line, which may say that the sweep is taken up.
        config: resolved, without Hydra's own node.
        folder: absolute.
        state: what taking up the sweep means for it; "new" in a new sweep.
        status, reason: how it ended; None while it has not.
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
    started: float = 0.0  # by time.time, as files are dated
    ended: float = 0.0
    stopped_for: str | None = None  # why it was told to stop
    deadline: float = 0.0  # by which it must have stopped
    label: str = ""
    program: list[str] | None = None  # what runs it, without overrides; None: what runs us

    @property
    def name(self) -> str:
        """What the user calls it: its number and what sets it apart from the others."""
        return f"[{self.record.number}] {self.label}".rstrip()

    @property
    def command(self) -> list[str]:
        """What runs it: the sweep's own command line with this job's overrides."""
        program = self.program or [sys.executable, *command()]
        return [*program, *self.overrides, f"hydra.run.dir={quoted(self.folder)}"]

    def start(self, environment: dict[str, str], leash: int, without: Sequence[str] = ()) -> None:
        """Start it as the leader of a process group of its own, its output in `log.txt`.

        Args:
            environment: what it gets beside ours.
            leash: a file descriptor whose other end is ours alone: when we are gone, it reads as ended.
            without: what of ours it does not get.
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
        """Whether it has ended; then its status and reason are known, and nothing of its tree is left."""
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
            except OSError as error:  # the sweep goes on, on a full disk too
                log.warning("%s: cannot write how it ended: %s", self.name, error)
        return True

    def stop(self, why: str, grace: float = GRACE) -> None:
        """Tell it to stop: it writes a checkpoint and closes its run, or is killed after `grace` seconds."""
        if self.stopped_for is None:
            self.stopped_for, self.deadline = why, time.time() + grace
            self._signal(signal.SIGTERM)

    def quiet_for(self) -> float:
        """Seconds since it last showed a sign of progress: a step, a measurement."""
        dates = [self.started]
        for name in (PROGRESS_FILE, METRICS_FILE):
            try:
                dates.append((self.folder / name).stat().st_mtime)
            except OSError:
                continue
        return time.time() - max(dates)

    def _end_ranks(self) -> None:
        """End the ranks, each in a session of its own, that its first process has left behind."""
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
    """How a job ended, from its exit code and from what it left.

    Args:
        code: negative where a signal ended it.
        folder: the job's.
        stopped_for: why we told it to stop; None where we did not.

    Returns:
        The status, and the reason where that is not FINISHED.
    """
    said, reason = read_status(folder)
    if said == "FINISHED" and (folder / SUMMARY_FILE).exists() and (code == 0 or stopped_for is not None):
        return "FINISHED", None  # told to stop while it closed its run, it had done its work
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
