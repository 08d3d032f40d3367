"""Sweeps of jobs that take no time to start."""

import json
import os
import subprocess
import sys
from pathlib import Path

from processes import alive, at_work_in

TINY = Path(__file__).with_name("tiny_train.py")


class Tiny:
    """Runs sweeps of tiny_train.py in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, *overrides, **environment):
        command = [sys.executable, str(TINY), *overrides]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *overrides, **environment):
        started = self.start("-m", "tracking=none", *overrides, **environment)
        text = started.communicate(timeout=120)[0]
        return started.returncode, text

    @property
    def sweep(self):
        (found,) = self.folder.glob("outputs/*/*_sweep")
        return found

    def jobs(self):
        return json.loads((self.sweep / "sweep.json").read_text())["jobs"]

    def statuses(self):
        """(status, reason) of each job by its seed."""
        found = {}
        for job in self.jobs():
            (seed,) = [int(text.split("=")[1]) for text in job["overrides"] if text.startswith("seed=")]
            status = self.sweep / job["folder"] / "status.json"
            record = json.loads(status.read_text()) if status.exists() else {"status": None, "reason": None}
            found[seed] = (record["status"], record["reason"])
        return found

    def ran_on(self):
        """For each job by its seed: when it began and ended, and its GPU on record."""
        found = {}
        for job, seed in zip(self.jobs(), self.statuses(), strict=True):
            times = [(self.sweep / job["folder"] / name).stat().st_mtime for name in ("pids", "status.json")]
            found[seed] = (*times, job["device"])
        return found

    def environment(self, number):
        """What a job that has finished was given: threads, GPUs, how many jobs share them."""
        (file,) = self.sweep.glob(f"{number}_*/summary.json")
        return json.loads(file.read_text())["environment"]

    def steps(self, number):
        (file,) = self.sweep.glob(f"{number}_*/metrics.jsonl")
        return [json.loads(line)["step"] for line in file.read_text().splitlines()]

    def under_way(self, least, most):
        """The jobs that have done so many steps and not ended."""
        open_ = [
            file
            for file in self.folder.glob("outputs/*/*/*/progress.json")
            if not file.with_name("status.json").exists()
        ]
        return [file for file in open_ if least <= json.loads(file.read_text())["step"] <= most]

    def pids(self):
        return [int(pid) for file in self.folder.rglob("pids") for pid in file.read_text().split()]

    def left(self):
        """The processes of the sweep that still run: those at work in its folder, a job that has just begun too."""
        return [pid for pid in at_work_in(self.folder) if alive(pid)]
