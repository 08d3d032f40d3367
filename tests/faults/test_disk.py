"""A disk that is full or read-only, for real: a small file system of its own, mounted where nobody else sees it."""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_runs import assert_same_weights, progress, wait_until
from project import ROOT

from gantry.runs import checkpoint_files
from gantry.runs.folder import read_metrics, read_status

SLOW = Path(__file__).with_name("slow_train.py")
SIZE = "32m"
SMALL = ["experiment=smoke", "model=dcgan", "model.generator.width=4", "model.discriminator.width=4"]
RUN = [*SMALL, "metrics.every=2000", "log_every=10", "checkpoint.every=20", "steps=1500"]


def can_mount():
    trial = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(trial, capture_output=True).returncode == 0


pytestmark = pytest.mark.slow
own_disk = pytest.mark.skipif(not can_mount(), reason="cannot mount a file system of its own")


class SmallDisk:
    """A run whose folder is on a small file system, and copied to `kept` when it has ended."""

    def __init__(self, runs, *overrides):
        self.disk, self.kept, self.said = runs.folder / "disk", runs.folder / "kept", runs.folder / "said.txt"
        self.disk.mkdir()
        words = [*overrides, f"hydra.run.dir={self.disk}/run", f"paths.root={runs.folder}", f"paths.cache={runs.cache}"]
        mount = f'mount -t tmpfs -o size={SIZE} tmpfs "{self.disk}"'
        script = f'{mount} && "$@"; code=$?; cp -r "{self.disk}/run" "{self.kept}"; exit $code'
        command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, str(ROOT / "train.py"), *words]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(command, cwd=runs.folder, stdout=said, stderr=subprocess.STDOUT)
        wait_until(lambda: progress(self.run)[0] > 50, self.process)

    @property
    def run(self):
        """The run's folder, as seen from within."""
        return Path(f"/proc/{self.process.pid}/root{self.disk}/run")

    def fill(self):
        with (self.run.parent / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)

    def empty(self):
        (self.run.parent / "ballast").unlink()

    def within(self, script):
        """Run a shell script where the small disk is seen, in the run's folder."""
        enter = ["nsenter", f"--target={self.process.pid}", "--user", "--mount", "--preserve-credentials"]
        subprocess.run([*enter, "sh", "-ec", f"cd '{self.disk}/run'; {script}"], check=True)

    def read_only(self):
        self.within("mount --bind checkpoints checkpoints; mount -o remount,bind,ro checkpoints")

    def writable(self):
        self.within("umount checkpoints")

    def until_said(self, words):
        wait_until(lambda: words in self.said.read_text(), self.process)

    def ended(self):
        code = self.process.wait(300)
        return code, self.said.read_text()


FAULTS = {
    "disk full": (SmallDisk.fill, SmallDisk.empty),
    "checkpoints read-only": (SmallDisk.read_only, SmallDisk.writable),
}


@own_disk
@pytest.mark.parametrize("fault", FAULTS)
def test_while_nothing_can_be_written_training_goes_on_and_nothing_is_lost(fault, runs, record_property):
    disk = SmallDisk(runs, *RUN, "checkpoint.max_failures=1000")
    begin, end = FAULTS[fault]
    begin(disk)
    disk.until_said("(1 of checkpoint.max_failures=1000 in a row)")
    before = checkpoint_files.newest(disk.run)
    assert before is not None
    disk.until_said("(3 of checkpoint.max_failures=1000 in a row)")
    assert checkpoint_files.newest(disk.run) == before
    end(disk)
    code, text = disk.ended()
    assert code == 0, text
    assert "Traceback" not in text
    assert checkpoint_files.newest(disk.kept).step == 1500
    lines = [line["step"] for line in read_metrics(disk.kept) if "loss/generator" in line]
    assert lines == list(range(10, 1501, 10))
    run = runs.in_mlflow(disk.disk / "run")
    assert run.info.status == "FINISHED"
    points = runs.client().get_metric_history(run.info.run_id, "loss/generator")
    assert [point.step for point in points] == lines
    failed = text.count("could not be written")
    happened = f"{failed} checkpoints reported, the one before stayed whole, training went on to its end"
    record_property("fault", {"fault": fault, "injected": 1, "happened": happened, "lost": "nothing"})


@own_disk
def test_after_so_many_failures_the_run_ends_and_can_be_taken_up(runs, record_property):
    disk = SmallDisk(runs, *RUN, "checkpoint.max_failures=2")
    disk.fill()
    code, text = disk.ended()
    assert code == 1, text
    assert "2 checkpoints in a row could not be written (checkpoint.max_failures): [Errno 28]" in text
    assert "Traceback" not in text
    run = runs.in_mlflow(disk.disk / "run")
    assert run.info.status == "FAILED"
    assert "No space left" in run.data.tags["gantry.reason"]
    assert read_status(disk.kept)[0] in (None, "FAILED")  # there may have been no space to say so
    left = checkpoint_files.newest(disk.kept)
    assert left.step >= 20
    assert f"continues at step {left.step}" in runs.finish(f"resume={disk.kept}")
    whole = runs.folder / "whole"
    runs.finish(*RUN, f"hydra.run.dir={whole}")
    assert_same_weights(disk.kept, whole)
    happened = f"exit 1, FAILED with the reason; resumed from step {left.step}, weights bit-identical"
    record_property("fault", {"fault": "disk full for good", "injected": 1, "happened": happened, "lost": "nothing"})


def test_a_slow_disk_costs_time_and_nothing_else(runs, record_property):
    folder, whole = runs.folder / "slow", runs.folder / "whole"
    few = [*SMALL, "steps=60", "metrics.every=30", "log_every=10", "checkpoint.every=20"]
    process = runs.start(*few, f"hydra.run.dir={folder}", program=SLOW)
    wait_until(lambda: progress(folder)[0] >= 20, process)
    asked = time.monotonic()
    process.terminate()
    text = process.communicate(timeout=120)[0]
    took = time.monotonic() - asked
    assert process.returncode == 143, text
    runs.finish(f"resume={folder}")
    runs.finish(*few, f"hydra.run.dir={whole}")
    assert_same_weights(folder, whole)
    happened = f"training waits for it; stopped by SIGTERM within {took:.0f} s, resumed, weights bit-identical"
    record_property("fault", {"fault": "a disk of 2 s a write", "injected": 1, "happened": happened, "lost": "nothing"})
