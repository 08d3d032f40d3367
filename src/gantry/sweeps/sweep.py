"""Leads a sweep, whichever launcher runs its jobs: starts, records, resumes and ends it.

The process that the user started leads the sweep. It locks the sweep's folder, its run in MLflow is the parent of the
jobs' runs, and however it ends, the jobs' runs and the parent are closed with their true status.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from gantry.core.config.overrides import command, identity, of_the_run, quoted
from gantry.core.errors import REFUSED, JobFailed, UserError
from gantry.core.processes.devices import JOBS
from gantry.core.processes.locks import held, is_held
from gantry.core.processes.signals import stoppable, stopped_by, undisturbed
from gantry.core.text import show, typed_command
from gantry.runs.folder import HYDRA_CONFIG, LOG_FILE, OVERRIDES, Status, log_tail, read_status, write_status
from gantry.runs.sweep_record import PARENT_RUN, SWEEP_FILE, JobRecord, SweepRecord, load_sweep
from gantry.runs.tracking import variables
from gantry.runs.tracking.status import last_word
from gantry.runs.tracking.store import check_store, where_tracked
from gantry.runs.tracking.sweep_run import Child, close_children, close_parent, experiment_name, open_parent, settle
from gantry.sweeps import worker
from gantry.sweeps.job import Job
from gantry.sweeps.summary_table import table

LEAVING = 30.0  # seconds that the jobs of another launcher have to unlock their folders after it has returned
TELLING = 60.0  # seconds that an ended sweep waits until MLflow has recorded its status
OWN = "gantry"  # Gantry's launcher in hydra/launcher
SHARING = (OWN, "ray")  # launchers that know of several jobs on a GPU

log = logging.getLogger("gantry.sweeps")

_led: Sweep | None = None


class Sweep:
    """The sweep this process leads.

    Args:
        record: new, or that of the resumed sweep.
        reopened: the sweep is resumed.
        own: Gantry's launcher runs it and reports each job's end.
    """

    def __init__(self, record: SweepRecord, reopened: bool, own: bool) -> None:
        self.record, self.own = record, own
        self._open = ExitStack()
        self._open.enter_context(held(record.folder, "the sweep in"))
        if record.tracking_uri is not None and record.experiment is not None:
            record.experiment = experiment_name(record.tracking_uri, record.experiment)
            before = record.parent_run if reopened else None
            opened = open_parent(
                record.tracking_uri, record.experiment, record.name, record.overrides, record.folder, before
            )
            record.parent_run = opened or before  # the store may be unreachable for a while only
        record.save()
        # Calls to MLflow may block; the next job should not wait for them.
        self._clerk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sweep-clerk")
        self._sent: list[Future[None]] = []
        self.failures = 0

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables that the jobs need."""
        # The run that `mlflow run` has begun is the sweep's; for a job it is as if there were none.
        none = {variables.RUN: ""} if variables.assigned_run() is not None else {}
        return none if self.record.parent_run is None else none | {PARENT_RUN: self.record.parent_run}

    def add(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the record before any of them starts."""
        known = {job.number for job in self.record.jobs}
        self.record.jobs += [job.record for job in jobs if job.record.number not in known]
        self.record.save()

    def record_places(self) -> None:
        """Write the record, whose jobs name their GPUs; a disk that is full ends no sweep."""
        try:
            self.record.save()
        except OSError as error:
            log.warning("%s cannot be written: %s", self.record.folder / SWEEP_FILE, error)

    def record_ending(self, job: Job) -> None:
        """Set, in the background, the final status of a job's run in MLflow."""
        assert job.status is not None
        self.failures += job.status != "FINISHED"
        self._record_ending(job.record, job.status, job.reason, job.config)

    def _record_ending(
        self, job: JobRecord, status: Status, reason: str | None, config: DictConfig | None = None
    ) -> None:
        record = self.record
        if record.tracking_uri is None or record.experiment is None or record.parent_run is None:
            return
        folder = record.folder / job.folder
        tags = {"overrides": " ".join(of_the_run(job.overrides)), "gantry.folder": str(folder)}
        if config is not None:
            tags["seed"] = str(config.seed)
        child = Child(folder, status, reason, job.folder, tags, folder / LOG_FILE, log_tail(folder))
        where = record.tracking_uri, record.experiment, record.parent_run
        self._sent.append(self._clerk.submit(settle, *where, child))

    def end(self, error: BaseException | None) -> bool:
        """Close the sweep, show the jobs' status, and compare them unless a signal has stopped the sweep.

        Returns:
            True if all jobs have finished.
        """
        record = self.record
        number = stopped_by(error) if error is not None else None
        with undisturbed():
            if not self.own:
                self._find_jobs()
            states = [read_status(record.folder / job.folder)[0] for job in record.jobs]
            finished = all(state == "FINISHED" for state in states)
            status: Status = "KILLED" if number else ("FINISHED" if finished and error is None else "FAILED")
            if record.tracking_uri is not None and record.experiment is not None and record.parent_run is not None:
                where = record.tracking_uri, record.experiment, record.parent_run
                self._sent += [
                    self._clerk.submit(close_children, *where),
                    self._clerk.submit(close_parent, *where, status),
                ]
            if wait(self._sent, TELLING).not_done:
                log.warning("MLflow does not answer: it may show runs of this sweep as RUNNING")
            self._clerk.shutdown(wait=False, cancel_futures=True)
        with suppress(OSError):  # the terminal may be closed
            print(table(record), flush=True)
            if number is None:
                self._compare()
            elif any(state == "FINISHED" for state in states):
                print(f"compare what has finished: {typed_command('compare')} sweep={shlex.quote(show(record.folder))}")
            if not finished:
                again = shlex.quote(f"sweep.resume={show(record.folder)}")
                print(f"take it up again: {typed_command()} -m {again}", flush=True)
        self._open.close()
        return finished

    def _find_jobs(self) -> None:
        """Add the jobs that another launcher has run, from the files that Hydra left in their folders."""
        deadline, known = time.monotonic() + LEAVING, self.record.by_identity()
        for file in sorted(self.record.folder.glob(f"*/{OVERRIDES}")):
            folder = file.parent.parent
            overrides = [str(text) for text in OmegaConf.load(file)]
            hydra = OmegaConf.load(folder / HYDRA_CONFIG)
            number = OmegaConf.select(hydra, "hydra.job.num", default=len(self.record.jobs))
            job = JobRecord(int(number), overrides, folder.name)
            if known.setdefault(identity(overrides), job) is job:
                self.record.jobs.append(job)
            while is_held(folder) and time.monotonic() < deadline:
                time.sleep(0.2)
            if is_held(folder):
                continue  # it is still running, perhaps on a cluster
            status, reason = last_word(folder)
            if read_status(folder)[0] is None:
                write_status(folder, status, reason)
            self._record_ending(job, status, reason)
        self.record.jobs.sort(key=lambda job: job.number)
        self.record.save()

    def _compare(self) -> None:
        try:
            from gantry.reports.build import compare_sweep

            print(compare_sweep(self.record.folder, store=self.record.tracking_uri).text(failures=False), flush=True)
        except UserError as error:  # the report cannot be written
            log.warning("no comparison: %s", error)
        except Exception:  # a failing report must not change the sweep's result
            log.warning("the comparison failed; %s tries again", typed_command("compare"), exc_info=True)


def lead(config: DictConfig, job: DictConfig, resumed: SweepRecord | None = None, own: bool = True) -> Sweep:
    """Lead a sweep; a second call, for a further batch of the same sweep, returns the same object.

    Args:
        config: Hydra's config of the multirun.
        job: one job's config, which names the store.
        resumed: the sweep to resume.
        own: Gantry's launcher runs the jobs.

    Raises:
        UserError: the store is unusable, or another process leads this sweep.
    """
    global _led
    if _led is None:
        tracking: DictConfig = job.tracking
        if tracking:
            check_store(tracking.uri)
            print(where_tracked(tracking.uri, tracking.experiment), flush=True)
        if resumed is not None:
            record = resumed
            record.overrides = typed(config)
        else:
            folder = Path(config.hydra.sweep.dir).absolute()
            if (folder / SWEEP_FILE).exists():
                raise UserError(f"{folder} holds a sweep; take it up with sweep.resume={show(folder)}")
            record = SweepRecord(folder, f"sweep {show(folder)}", typed(config))
        record.tracking_uri, record.experiment = tracking.get("uri"), tracking.get("experiment")
        _led = Sweep(record, resumed is not None, own)
    return _led


def resumed_sweep(config: DictConfig) -> SweepRecord | None:
    """Return the sweep that `sweep.resume` names, in whose folder `config` runs; None if it names none."""
    return load_sweep(Path(config.hydra.sweep.dir)) if config.sweep.resume is not None else None


def typed(config: DictConfig) -> list[str]:
    """Return the command line's overrides without those that resuming a sweep adds."""
    overrides = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
    ours = ("hydra.mode=", "hydra.sweep.dir=", "sweep.resume=", "+hydra.job.env_set")
    return [text for text in overrides if not text.startswith(ours)]


@contextmanager
def leading(arguments: Callable[[Sequence[str]], list[str]]) -> Iterator[None]:
    """Context around the whole command: resume the sweep or the run it names, and end the sweep it has led.

    Args:
        arguments: returns the command line with the overrides that `resume=` and `sweep.resume=` imply.

    Raises:
        UserError: there is no such sweep or run.
        JobFailed: some job has not finished; the user has seen which.
    """
    sys.argv[1:] = arguments(sys.argv[1:])
    with stoppable():
        try:
            yield
        except BaseException as error:
            if _led is not None:
                if isinstance(error, Exception) and not isinstance(error, UserError | JobFailed):
                    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                _led.end(error)
                if isinstance(error, Exception) and not isinstance(error, UserError):
                    raise JobFailed from error
            raise
        if _led is not None and not _led.end(None):
            raise JobFailed


class OtherLaunchers(Callback):
    """Hydra callback that leads sweeps run by other launchers (joblib, submitit, Ray, basic)."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Open the sweep's run, and pass it to every job through the job's environment."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        if launcher == OWN:
            return
        jobs = config.sweep.jobs_per_device
        if jobs != 1 and launcher not in SHARING:
            print(
                f"sweep.jobs_per_device={jobs}: hydra/launcher={launcher} does not share GPUs among jobs; "
                f"{' and '.join(SHARING)} do",
                file=sys.stderr,
            )
            sys.exit(REFUSED)
        setup_globals()
        HydraConfig.instance().set_config(config)
        folder = Path(config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            sweep = lead(config, config, resumed_sweep(config), own=False)
        except UserError as error:  # Hydra would turn it into a warning
            print(error, file=sys.stderr)
            sys.exit(REFUSED)
        environment = sweep.environment | {worker.COMMAND: json.dumps(command())}
        if jobs != 1:
            environment[JOBS] = str(jobs)
        with read_write(config.hydra), open_dict(config.hydra):
            # Every launcher composes its jobs from these overrides.
            config.hydra.overrides.hydra += [f"+hydra.job.env_set.{k}={quoted(v)}" for k, v in environment.items()]
