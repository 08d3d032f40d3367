"""A sweep: every job a process of its own under one parent run, one after the other.

A process of its own keeps a job's failure, memory and settings from the others, whatever kills it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from gantry.config import check
from gantry.errors import UserError
from gantry.signals import STOPS, stoppable, stopped_by, undisturbed
from gantry.summary import FILE, show
from gantry.tracking.base import RUN_FILE, Status
from gantry.tracking.parent import close_if_running, close_parent, open_parent
from gantry.tracking.store import check_store

ASKED = 10.0  # seconds a job that got Ctrl-C too has before it is told again
STOPPED = 60.0  # seconds a stopped job has to close its run before it is killed
PARENT_RUN = "GANTRY_PARENT_RUN"  # environment variable that tells the jobs of the sweep's own run


@dataclass
class Job:
    """One job of a sweep and what became of it."""

    number: int
    overrides: list[str]
    config: DictConfig
    folder: Path
    status: Status | None = None
    summary: dict[str, Any] | None = None

    @property
    def command(self) -> list[str]:
        """What runs it: the sweep's own command line with this job's overrides."""
        arguments = get_args_parser().parse_args()
        options = [
            text
            for name in ("config_path", "config_name", "config_dir")
            if (value := getattr(arguments, name)) is not None
            for text in (f"--{name.replace('_', '-')}", value)
        ]
        return [sys.executable, sys.argv[0], *options, *self.overrides, f"hydra.run.dir={quoted(self.folder)}"]


class ProcessLauncher(Launcher):
    """Checks every job's config, then runs each as a child process; a job that fails does not stop the others."""

    config: DictConfig
    hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: keep what `launch` needs; the task runs in the children, found by the command line."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job for each list of overrides.

        Raises:
            UserError: a job's config cannot work; none has been started.
            SystemExit: with code 1 after all have run and some have failed; 143 on SIGTERM.
        """
        setup_globals()
        jobs = [self._job(initial_job_idx + i, list(overrides)) for i, overrides in enumerate(job_overrides)]
        refuse(jobs)
        folder = Path(self.config.hydra.sweep.dir)
        with _parent_run(jobs, folder) as environment:
            for job in jobs:
                words = " ".join(job.overrides)
                print(f"\n[{job.number - initial_job_idx + 1}/{len(jobs)}] {words}", flush=True)
                _run(job, environment)
            print(table(jobs), flush=True)
            if any(job.status != "FINISHED" for job in jobs):
                sys.exit(1)
        return [_returned(job) for job in jobs]

    def _job(self, number: int, overrides: list[str]) -> Job:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = number
            config.hydra.job.id = str(number)
        HydraConfig.instance().set_config(config)
        folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
        with open_dict(config):
            del config["hydra"]
        OmegaConf.resolve(config)
        return Job(number, overrides, config, folder.absolute())


def quoted(path: Path) -> str:
    """A path as a value in Hydra's override grammar, in which most punctuation has a meaning."""
    return "'" + str(path).replace("'", "\\'") + "'"


def refuse(jobs: Sequence[Job]) -> None:
    """Check all configs before any job starts.

    Raises:
        UserError: naming each job that cannot work and why.
    """
    problems = []
    for job in jobs:
        try:
            check(job.config)
        except UserError as error:
            problems.append(f"job {job.number} ({' '.join(job.overrides)}):\n{error}")
    if problems:
        raise UserError("\n".join(problems))


def _run(job: Job, environment: dict[str, str]) -> None:
    """Run a job to its end and see that its run is closed; a stopped sweep stops the job first."""
    process = subprocess.Popen(job.command, env=os.environ | environment)
    try:
        code = process.wait()
    except BaseException as error:
        with undisturbed():
            number = stopped_by(error)
            _stop(process, already_asked=number == signal.SIGINT)
            job.status = "KILLED"
            _close_abandoned(job, f"the sweep was stopped by {number.name}" if number else str(error))
        raise
    reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    record = job.folder / FILE
    if code == 0 and record.exists():
        job.status = "FINISHED"
        job.summary = json.loads(record.read_text())
    elif code < 0 or code - 128 in (signal.SIGINT, *STOPS):
        job.status = "KILLED"
    else:
        job.status = "FAILED"
    if job.status != "FINISHED":
        print(f"job {job.number}: {job.status}, {reason}", file=sys.stderr, flush=True)
    _close_abandoned(job, reason)


def _stop(process: subprocess.Popen[bytes], already_asked: bool) -> None:
    """End a job: Ctrl-C has reached it by itself, since it is in the terminal's process group."""
    try:
        if already_asked:
            process.wait(ASKED)
    except subprocess.TimeoutExpired:
        pass
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOPPED)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close_abandoned(job: Job, reason: str) -> None:
    """End the MLflow run of a job that could not do so itself."""
    record = job.folder / RUN_FILE
    if job.config.tracking and record.exists():
        run = json.loads(record.read_text())["run_id"]
        tracking = job.config.tracking
        close_if_running(tracking.uri, tracking.experiment, run, job.status or "FAILED", reason)


@contextmanager
def _parent_run(jobs: Sequence[Job], folder: Path) -> Iterator[dict[str, str]]:
    """Open the sweep's run, hand its id to the jobs by the environment, and close it as what it was."""
    tracking = jobs[0].config.tracking
    if not tracking:
        with stoppable():
            yield {}
        return
    check_store(tracking.uri)
    overrides = list(HydraConfig.get().overrides.task)
    run = open_parent(tracking.uri, tracking.experiment, f"sweep {show(folder)}", overrides)
    status: Status = "FAILED"
    try:
        with stoppable():
            yield {} if run is None else {PARENT_RUN: run}
        status = "FINISHED"
    except BaseException as error:
        status = "KILLED" if stopped_by(error) else "FAILED"
        raise
    finally:
        if run is not None:
            with undisturbed():
                close_parent(tracking.uri, tracking.experiment, run, status)


def table(jobs: Sequence[Job]) -> str:
    """The jobs with their status and what they reached, as text."""
    head = ("job", "overrides", "status", "steps", "metric", "start", "best", "final", "images/s")
    rows: list[tuple[str, ...]] = [head]
    for job in jobs:
        row = (str(job.number), " ".join(job.overrides), job.status or "")
        if job.summary is None:
            rows.append((*row, *[""] * (len(head) - len(row))))
            continue
        name = job.summary["primary"]
        found = [job.summary[when].get(name) for when in ("first", "best", "final")]
        values = ["nan" if value is None else f"{value:.2f}" for value in found]
        steps, speed = str(job.summary["steps"]), f"{job.summary['images_per_second']:,.0f}"
        rows.append((*row, steps, name, *values, speed))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n" + "\n".join(line.rstrip() for line in lines)


def _returned(job: Job) -> JobReturn:
    summary = job.summary or {}
    value = summary["best"].get(summary["primary"]) if summary else None
    return JobReturn(
        overrides=job.overrides,
        cfg=job.config,
        working_dir=str(job.folder),
        status=JobStatus.COMPLETED,
        _return_value=value,
    )
