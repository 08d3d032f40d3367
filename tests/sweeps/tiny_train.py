"""train.py without torch: the same command line, launcher and records around a loop that only counts.

`seed` says what a job does: SABOTAGE below, else it counts to `steps`.
"""

import os
import signal
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from gantry.commands import cli
from gantry.commands.arguments import arguments
from gantry.core.files import ROOT, write_json
from gantry.core.processes import parent_watch
from gantry.core.processes.devices import GPUS, JOBS, THREADS
from gantry.core.processes.locks import held
from gantry.core.processes.signals import Stop, deferred
from gantry.runs import checkpoint_files
from gantry.runs.folder import PROGRESS_FILE, rewind
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.sweeps.sweep import leading
from gantry.training.hardware.out_of_memory import advised
from gantry.training.resume import Start, ending_on_record, parameters, take_up
from gantry.training.run_record import closed_truthfully

RAISE, KILL, EXIT, HANG, FILL, FULL = 90, 91, 92, 93, 94, 95
AT = 3  # the step at which it happens
PAUSE = float(os.environ.get("TINY_PAUSE", "0.01"))


class OutOfMemoryError(RuntimeError):
    """Torch's, by its name and its words."""


def sabotage(seed):
    if seed == RAISE and not os.environ.get("TINY_MENDED"):
        raise ValueError("on purpose")
    if seed == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == EXIT:
        os._exit(3)
    if seed == HANG:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(1000)
    if seed == FILL:
        raise MemoryError
    if seed == FULL:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def job(cfg):
    parent_watch.follow()
    folder = Path(HydraConfig.get().runtime.output_dir)
    with held(folder, "the run in"):
        start = take_up(folder, cfg) if cfg.sweep.resume is not None else Start()
        with (folder / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        with ending_on_record(folder):
            train(cfg, folder, start)


def save(folder, step):
    checkpoint_files.write(folder, step, str(step).encode())
    checkpoint_files.keep(folder, 2)


def train(cfg, folder, start):
    done = int(start.checkpoint.read_text()) if start.checkpoint else 0
    if start.goes_on:
        rewind(folder, done if start.checkpoint else -1)
    tracker, stop = FolderTracker(folder), Stop()
    tracker.log_params(parameters(cfg))
    with closed_truthfully(tracker), advised(cfg, 1):
        with deferred(stop):
            for step in range(done + 1, cfg.steps + 1):
                time.sleep(PAUSE)
                tracker.log_metrics({"fid": 1 / step}, step)
                write_json(
                    {
                        "step": step,
                        "steps": cfg.steps,
                        "metric": "fid",
                        "value": 1 / step,
                        "seconds_left": (cfg.steps - step) * PAUSE,
                    },
                    folder / PROGRESS_FILE,
                )
                save(folder, step)
                if step == AT:
                    sabotage(cfg.seed)
                if stop.number is not None:
                    save(folder, step)  # as a real run does, whenever the step's own was written
                stop.check()
        values = {"fid": 1 / cfg.steps}
        summary = {"primary": "fid", "first": {"fid": 1.0}, "best": values, "final": values, "steps": cfg.steps}
        given = [os.environ.get(name) for name in (THREADS, GPUS, JOBS)]
        write_json(summary | {"images_per_second": 1.0, "environment": given}, folder / "summary.json")


if __name__ == "__main__":
    cli.run(job, ROOT / "conf", "train", leading(arguments))
