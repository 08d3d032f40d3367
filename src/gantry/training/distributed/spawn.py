"""Starts a run's ranks on this machine, one process each, watches them and ends them together.

The process that starts them does not train, so that it survives a crash of any rank and can report it. torchrun does
the same across machines; here the user needs no port, no restart and no second command.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gantry.core.config.overrides import command, quoted
from gantry.core.errors import REFUSED, PeerFailed, reason
from gantry.core.files import read_json, write_json
from gantry.core.processes.devices import THREADS, cores
from gantry.core.processes.locks import is_held
from gantry.core.processes.parent_watch import HOLDER, LEASH
from gantry.core.processes.ranks import RANKS
from gantry.core.processes.signals import handled
from gantry.core.redaction import redact
from gantry.runs.folder import RANK_PIDS, best_value, note_kind, rank_ending, rank_log, read_status, write_status
from gantry.runs.tracking.status import close_runs_left

TICK = 0.1  # seconds between checks of the ranks
GRACE = 20.0  # seconds that the others have to end after a rank's failure: to notice it and to close the run in MLflow
GRACE_OF_REFUSED = 5.0  # seconds that they have if it has refused the command
GRACE_OF_STOPPED = 60.0  # seconds that all have to write a checkpoint and close the run
AGAIN = (
    "hydra.mode=",
    "hydra.run.dir=",
    "hydra.output_subdir=",
    "hydra.sweep",
    "hydra/launcher",
    "hydra/sweeper",
)  # overrides of Hydra's that are not passed on to a rank


def run(cfg: DictConfig, folder: Path, count: int, in_sweep: bool) -> float:
    """Run `count` ranks of the current job and return its best value, or nan.

    Rank 0 prints to this terminal; the output of the others goes to `rank_<n>.txt` in `folder`.

    Raises:
        SystemExit: a rank has failed; the code is rank 0's, or that of the first rank to fail if rank 0's is 0.
    """
    leash, ours = os.pipe()
    tie = {LEASH: str(leash), HOLDER: "sweep" if in_sweep else "run"}
    told: list[int] = []
    try:
        with _reserved_port() as port:
            processes = [_start(rank, count, port, folder, tie) for rank in range(count)]
            pids = folder / RANK_PIDS  # a sweep ends these processes if this one was killed
            pids.write_text("\n".join(str(process.pid) for process in processes))

            def forward(number: int, _: Any) -> None:
                told.append(number)
                for process in processes:
                    _signal(process, number)

            with handled(forward):
                failed = _wait(processes, told)
            pids.unlink(missing_ok=True)
    finally:
        os.close(leash)
        os.close(ours)
    codes = [process.returncode for process in processes]
    if failed is not None and not told:
        _report(failed, codes, folder, cfg)
    code = codes[0] or (codes[failed] if failed is not None else 0)
    if code:
        sys.exit(code if code > 0 else 128 - code)
    best = best_value(folder)
    return math.nan if best is None else best


@contextmanager
def ending_left(folder: Path, rank: int) -> Iterator[None]:
    """Write why this rank, above 0, has failed to the run's folder; its parent reads it where rank 0 is gone."""
    with suppress(OSError):
        rank_ending(folder, rank).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        said = reason(error) if isinstance(error, PeerFailed) else f"rank {rank}: {reason(error)}"
        with suppress(OSError):
            write_json({"reason": redact(said), "kind": getattr(error, "kind", None)}, rank_ending(folder, rank))
        raise


def _start(rank: int, count: int, port: int, folder: Path, tie: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a rank in its own session, so that it gets each signal once, from this process."""
    overrides = HydraConfig.get().overrides
    words = [*overrides.task, *(text for text in overrides.hydra if not text.startswith(AGAIN))]
    program = [sys.executable, *command(), *words, f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    place = {RANKS: str(count), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = {} if THREADS in os.environ else {THREADS: str(max(1, cores() // count))}
    output = None if rank == 0 else rank_log(folder, rank).open("wb")
    try:
        return subprocess.Popen(
            program,
            env=os.environ | place | threads | tie,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(int(tie[LEASH]),),
        )
    finally:
        if output is not None:
            output.close()


def _wait(processes: list[subprocess.Popen[bytes]], told: list[int]) -> int | None:
    """Wait until all ranks have ended; return the rank that failed first, or None."""
    failed: int | None = None
    deadline = math.inf
    while True:
        codes = [process.poll() for process in processes]
        if failed is None and (failures := [rank for rank, code in enumerate(codes) if code]):
            failed = failures[0]
            deadline = time.monotonic() + (GRACE_OF_REFUSED if codes[failed] == REFUSED else GRACE)
        if None not in codes:
            return failed
        if told or codes[0] == 0:
            deadline = min(deadline, time.monotonic() + GRACE_OF_STOPPED)
        if time.monotonic() > deadline:
            for process in processes:
                _signal(process, signal.SIGKILL)
        time.sleep(TICK)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number) if number != signal.SIGKILL else os.killpg(process.pid, number)


def _report(failed: int, codes: list[int], folder: Path, cfg: DictConfig) -> None:
    """Print which rank failed first, and write its failure to the run's record where the run could not.

    Where rank 0 has refused the command it has said why on this terminal, and nothing is added.
    """
    code = codes[failed]
    if codes[0] == REFUSED:
        return
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    print(f"rank {failed} failed first: {how}", file=sys.stderr, flush=True)
    tail = "" if failed == 0 else rank_log(folder, failed).read_text(errors="replace")[-4000:].strip()
    if code == REFUSED and codes[0] < 0:  # rank 0 was ended before it could say what the other has refused
        print(tail, file=sys.stderr, flush=True)
    if code != REFUSED and read_status(folder)[0] is None and not is_held(folder):
        print(tail, file=sys.stderr, flush=True)
        ending = read_json(rank_ending(folder, failed)) or {}
        write_status(folder, "FAILED", ending.get("reason") or f"rank {failed}: {(tail.splitlines() or [how])[-1]}")
        if ending.get("kind"):
            note_kind(folder, ending["kind"])
        if cfg.tracking:
            close_runs_left(cfg.tracking.uri, cfg.tracking.experiment)


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserve a free port: a bound socket that does not listen keeps it from others and lets rank 0 share it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
