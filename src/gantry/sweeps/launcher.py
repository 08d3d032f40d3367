"""Hydra launcher that runs every job of a sweep as its own process tree, `sweep.jobs` at a time.

Separate processes isolate the jobs: the failure, the memory and the settings of one do not affect the others.
"""

from __future__ import annotations

import copy
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from gantry.core.config.overrides import identity, labels
from gantry.core.errors import JobFailed, UserError
from gantry.core.processes.devices import GPUS, Shares, cores, visible_gpus
from gantry.core.processes.locks import is_held
from gantry.core.processes.signals import stopped_by, undisturbed
from gantry.runs.folder import best_value, read_kind, set_aside, state_of
from gantry.runs.sweep_record import JobRecord, SweepRecord
from gantry.sweeps import sweep as leader
from gantry.sweeps.job import GRACE_OF_HUNG, Job
from gantry.sweeps.progress import View, view
from gantry.sweeps.summary_table import beginning
from gantry.training.resume import check_unchanged
from gantry.training.rules import check_run

TICK = 0.1  # seconds between two polls of the jobs
HOW = ("sweep.", "tracking=", "tracking.")  # overrides that apply to every job


class ProcessLauncher(Launcher):
    """Checks all configs, then runs each job as a child process; a failed job does not stop the others."""

    config: DictConfig
    hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what `launch` needs (a hook of Hydra); the task runs in children, started by the command line."""
        self.hydra_context, self.config = hydra_context, config
        loader: Any = hydra_context.config_loader
        loader.load_sweep_config = composed_once(loader.load_sweep_config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job for each list of overrides.

        Returns:
            For each job its best value of the first metric; that of a failed job raises `JobFailed` when it is read.

        Raises:
            UserError: a job's config is invalid, or the resumed sweep is another one; no job has been started.
            SystemExit, KeyboardInterrupt: the sweep was stopped; its jobs are stopped already.
        """
        setup_globals()
        resumed = leader.resumed_sweep(self.config)
        jobs = self._jobs(job_overrides, initial_job_idx, resumed)
        refuse(jobs)
        options = jobs[0].config.sweep
        at_once = None if options.jobs == "auto" else min(options.jobs, len(jobs))
        shares = Shares(visible_gpus(), at_once, cores(), options.jobs_per_device)
        shares.check([job.config.trainer for job in jobs])
        if self.config.hydra.sweeper.get("max_batch_size") is not None:
            raise UserError("hydra.sweeper.max_batch_size: sweep.jobs says how many jobs run at a time")
        sweep = leader.lead(self.config, jobs[0].config, resumed)
        sweep.add(jobs)
        if resumed is not None:
            print(resumed_states(jobs), flush=True)
        limit = at_once if at_once is not None or shares.total else 1
        print(beginning(jobs, limit, sweep.record.folder), flush=True)
        with view(jobs) as shown:
            Running(
                deque(job for job in jobs if job.state != "finished"),
                shares,
                timeout=options.timeout,
                may_fail=None if options.max_failures is None else options.max_failures - sweep.failures,
                environment=sweep.environment,
                placed=sweep.record_places,
                ended=sweep.record_ending,
                shown=shown,
            ).run()
        return [_returned(job) for job in jobs]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int, resumed: SweepRecord | None) -> list[Job]:
        known = resumed.by_identity() if resumed else {}
        number = max([first, *(job.number + 1 for job in known.values())])
        jobs = []
        for overrides in [*job_overrides, *self._others(job_overrides, known)]:
            before = known.get(identity(overrides))
            job = self._job(before.number if before else number, list(overrides), before)
            if before is None:
                number += 1
            jobs.append(job)
        _refuse_repeats(jobs)
        for job, label in zip(jobs, labels([job.record.overrides for job in jobs]), strict=True):
            job.label = label
        return jobs

    def _others(
        self, job_overrides: Sequence[Sequence[str]], known: dict[tuple[str, ...], JobRecord]
    ) -> list[list[str]]:
        """Return the recorded jobs that the command line does not name, since resuming a sweep resumes all its jobs.

        A sweeper that proposes its jobs resumes its own.
        """
        if self.config.hydra.runtime.choices["hydra/sweeper"] != "basic":
            return []
        named = {identity(overrides) for overrides in job_overrides}
        how = [text for text in job_overrides[0] if text.startswith(HOW)]
        return [
            [*(text for text in job.overrides if not text.startswith(HOW)), *how]
            for of, job in known.items()
            if of not in named
        ]

    def _job(self, number: int, overrides: list[str], before: JobRecord | None) -> Job:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = number
            config.hydra.job.id = str(number)
        HydraConfig.instance().set_config(config)
        sweep = Path(config.hydra.sweep.dir).absolute()
        record = before or JobRecord(number, overrides, str(config.hydra.sweep.subdir))
        with open_dict(config):
            del config["hydra"]
        OmegaConf.resolve(config)
        folder = sweep / record.folder
        return Job(record, overrides, config, folder, state_of(folder) if before else "new")


def composed_once(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Wrap `compose` so that the second call for the same overrides returns a copy of the first result.

    Hydra's sweepers compose each job's config to validate it and discard the result before the launcher needs it. A
    sweeper may change what it was given, as the search does. Later calls compose anew.
    """
    kept: dict[tuple[int, tuple[str, ...]], DictConfig | None] = {}  # None: handed out

    def composed(master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        key = id(master_config), tuple(sweep_overrides)
        if (before := kept.get(key)) is not None:
            kept[key] = None
            return before
        config = compose(master_config, list(sweep_overrides))
        kept.setdefault(key, copy.deepcopy(config))
        return config

    return composed


def resumed_states(jobs: Sequence[Job]) -> str:
    """Return the number of jobs of a resumed sweep by state, as text."""
    words = {"finished": "finished and kept", "continues": "to go on", "again": "to begin again", "new": "not begun"}
    states = [job.state for job in jobs]
    return ", ".join(f"{states.count(state)} {text}" for state, text in words.items() if state in states)


def refuse(jobs: Sequence[Job]) -> None:
    """Check all configs before any job starts.

    Raises:
        UserError: names each invalid job and the reason.
    """
    problems: dict[str, list[str]] = {}
    for job in jobs:
        try:
            check_run(job.config)
            if job.state in ("finished", "continues"):
                check_unchanged(job.folder, job.config)
        except UserError as error:
            problems.setdefault(str(error), []).append(job.name)
    if problems:
        raise UserError(
            "\n".join(
                text if len(names) == len(jobs) else f"job {', '.join(names)}:\n{text}"
                for text, names in problems.items()
            )
        )


def _refuse_repeats(jobs: Sequence[Job]) -> None:
    seen: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        if other := seen.get(identity(job.record.overrides)):
            raise UserError(
                f"jobs {other.record.number} and {job.record.number} are the same: {' '.join(job.record.overrides)}"
            )
        seen[identity(job.record.overrides)] = job


@dataclass
class Running:
    """Runs the jobs of a sweep.

    Attributes:
        waiting, running: jobs to be started, and jobs that have been.
        shares: assigns GPUs and cores, and limits the number of concurrent jobs.
        timeout: seconds without progress after which a job is stopped; None: never.
        may_fail: number of failed jobs after which no further job is started; None: no limit.
        environment: variables added to each job's environment.
        placed: called once a job has started on other GPUs than its record has named so far.
        ended: called with each job once it has ended.
        shown: the display of the jobs' progress.
    """

    waiting: deque[Job]
    shares: Shares
    timeout: float | None
    may_fail: int | None
    environment: dict[str, str]
    placed: Callable[[], None]
    ended: Callable[[Job], None]
    shown: View
    running: list[Job] = field(default_factory=list)
    failures: int = 0

    def run(self) -> None:
        """Run all jobs until they end; when the sweep is stopped, stop them first."""
        leash, ours = os.pipe()
        try:
            while self.waiting or self.running:
                self._collect()
                if self.may_fail is not None and self.failures >= self.may_fail and self.waiting:
                    self.shown.given_up(self.failures, len(self.waiting))
                    self.waiting.clear()
                self._start(leash)
                for job in self.running:
                    if self.timeout is not None and job.quiet_for() > self.timeout:
                        job.stop(f"no progress for {self.timeout:g} s (sweep.timeout)", GRACE_OF_HUNG)
                self.shown.tick()
                time.sleep(TICK)
        except BaseException as error:
            with undisturbed():
                number = stopped_by(error)
                for job in self.running:
                    job.stop(f"the sweep was stopped by {number.name}" if number else f"the sweep failed: {error}")
                while self.running:
                    self._collect()
                    time.sleep(TICK)
            raise
        finally:
            os.close(leash)
            os.close(ours)

    def _collect(self) -> None:
        """Remove ended jobs from the running ones."""
        for job in [job for job in self.running if job.poll()]:
            self.running.remove(job)
            self.shares.give_back(job.record.number)
            self.failures += job.status != "FINISHED"
            self.shown.ended(job)
            self.ended(job)

    def _start(self, leash: int) -> None:
        """Start waiting jobs while GPUs and cores are available."""
        # A job of a killed sweep may still be writing its checkpoint.
        while (
            self.waiting
            and not is_held(self.waiting[0].folder)
            and (share := self.shares.take(self.waiting[0].record.number, self.waiting[0].config.trainer)) is not None
        ):
            job = self.waiting.popleft()
            if job.state in ("continues", "again"):
                job.state = state_of(job.folder)  # it may have changed until then
            if job.state == "finished":
                self.shares.give_back(job.record.number)
                continue
            if job.state == "again":
                set_aside(job.folder)
            before, job.record.device = job.record.device, share.get(GPUS)
            job.start(self.environment | share, leash)
            self.running.append(job)
            if job.record.device != before:
                self.placed()
            self.shown.started(job)


class Returned(JobReturn):
    """The result of a job. Unlike Hydra's, it prints nothing when the value of a failed job is read."""

    @property  # type: ignore[misc]
    def return_value(self) -> Any:
        """The best value of the first metric.

        Raises:
            JobFailed: the job did not finish.
        """
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value


def _returned(job: Job) -> JobReturn:
    finished = job.status == "FINISHED" or job.state == "finished"
    return Returned(
        overrides=job.record.overrides,
        cfg=job.config,
        working_dir=str(job.folder),
        status=JobStatus.COMPLETED if finished else JobStatus.FAILED,
        _return_value=best_value(job.folder)
        if finished
        else JobFailed(f"job {job.name}: {job.reason or 'not started'}", kind=read_kind(job.folder)),
    )
