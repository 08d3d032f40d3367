"""Runs a job of another launcher (joblib, submitit, Ray) as its own process tree.

If the job is killed, the launcher's worker survives and reports it. Without this a job killed for lack of memory ends
the other jobs too: joblib ends all its workers, and Ray's and submitit's launchers stop waiting for the rest.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gantry.core.errors import JobFailed
from gantry.core.processes.signals import stopped_by, undisturbed
from gantry.runs.folder import best_value, read_kind
from gantry.runs.sweep_record import JobRecord
from gantry.sweeps.job import Job

COMMAND = "GANTRY_COMMAND"  # environment variable: the command that runs a job, as JSON, without its overrides
TICK = 0.2  # seconds between two polls of the job


def asked() -> bool:
    """Return True in a worker of another launcher whose sweep asked for jobs in processes of their own."""
    return COMMAND in os.environ


def run(cfg: DictConfig) -> float:
    """Run the current job as a child process; returns its best value, NaN where it has none.

    Raises:
        JobFailed: it did not finish; the reason is in its folder.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = [*hydra.overrides.task, "hydra.output_subdir=null"]
    program = [sys.executable, *json.loads(os.environ[COMMAND])]
    record = JobRecord(hydra.job.num, list(hydra.overrides.task), folder.name)
    job = Job(record, overrides, cfg, folder, program=program)
    leash, ours = os.pipe()
    try:
        job.start({}, leash, without=(COMMAND,))
        try:
            while not job.poll():
                time.sleep(TICK)
        except BaseException as error:
            with undisturbed():
                number = stopped_by(error)
                job.stop(f"its launcher was stopped by {number.name}" if number else f"its launcher failed: {error}")
                while not job.poll():
                    time.sleep(TICK)
            raise
    finally:
        os.close(leash)
        os.close(ours)
    if job.status != "FINISHED":
        raise JobFailed(f"job {job.record.number}: {job.status}, {job.reason}", kind=read_kind(folder))
    best = best_value(folder)
    return math.nan if best is None else best
