"""Who computes where: GPUs for one job at a time, and the processor's cores shared out among the jobs beside it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from gantry.core.errors import UserError

THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs this process may use, by the names CUDA_VISIBLE_DEVICES takes; found without importing torch."""
    if GPUS in environment:
        return [name for name in environment[GPUS].split(",") if name not in ("", "-1", "NoDevFiles")]
    try:
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()


def gpus_wanted(trainer: Mapping[str, Any], there_are: int) -> int:
    """How many GPUs a job with this `trainer` config takes of those there are; 0 on the processor."""
    if there_are == 0 or trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 0
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        return there_are
    return devices if isinstance(devices, int) else len(devices)


def processes_wanted(trainer: Mapping[str, Any], there_are: int) -> int:
    """How many ranks a job with this `trainer` config has on this machine, which has so many GPUs."""
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        return max(1, gpus_wanted(trainer, there_are))
    return devices if isinstance(devices, int) else len(devices)


def chosen(accelerator: str, devices: int | str) -> tuple[str, int]:
    """The kind of device, as torch calls it ("cpu", "cuda" or "mps"), and how many processes use one each.

    Args:
        accelerator: auto, cpu, gpu or mps.
        devices: a number, or auto: all GPUs, one process on the processor.

    Raises:
        UserError: there are none, or fewer.
    """
    import torch

    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator=gpu: no GPU that torch can use; accelerator=cpu, or auto")
    gpus = torch.cuda.device_count() if accelerator == "gpu" else 0
    count = processes_wanted({"accelerator": accelerator, "devices": devices}, gpus)
    if accelerator == "gpu" and count > gpus:
        raise UserError(f"devices={devices}: there are {gpus} GPUs")
    return {"gpu": "cuda"}.get(accelerator, accelerator), count


class Shares:
    """Hands out the machine to jobs that run at the same time.

    A job that uses GPUs gets a group of its own; one that does not, its share of the cores.

    Args:
        gpus: their names for CUDA_VISIBLE_DEVICES.
        at_once: the most jobs at a time; None: one on the processor, as many as there are free groups on GPUs.
        n_cores: to be shared out.
    """

    def __init__(self, gpus: Sequence[str], at_once: int | None, n_cores: int) -> None:
        self.free = list(gpus)
        self.total = len(gpus)
        self.at_once = at_once
        self.n_cores = n_cores
        self.taken: dict[int, list[str]] = {}

    def check(self, trainers: Sequence[DictConfig]) -> None:
        """Refuse jobs that no share can ever serve.

        Raises:
            UserError: naming how many GPUs there are.
        """
        for trainer in trainers:
            if (wanted := gpus_wanted(trainer, self.total)) > self.total:
                raise UserError(f"trainer.devices={trainer.devices} takes {wanted} GPUs; there are {self.total}")

    def take(self, job: int, trainer: DictConfig) -> dict[str, str] | None:
        """The environment in which job number `job` is to run, or None where it must wait."""
        wanted = gpus_wanted(trainer, self.total)
        limit = self.at_once if self.at_once is not None else (self.total if wanted else 1)
        if len(self.taken) >= limit or wanted > len(self.free):
            return None
        self.taken[job], self.free = self.free[:wanted], self.free[wanted:]
        environment = {GPUS: ",".join(self.taken[job])} if wanted else {}
        beside = limit if not wanted else max(1, min(limit, self.total // wanted))
        processes = beside * processes_wanted(trainer, self.total)
        if processes > 1 and THREADS not in os.environ:
            environment[THREADS] = str(max(1, self.n_cores // processes))
        return environment

    def give_back(self, job: int) -> None:
        """The job has ended."""
        self.free = sorted([*self.free, *self.taken.pop(job)])
