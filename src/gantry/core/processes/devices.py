"""Assigns devices to jobs: each GPU serves one job at a time, the CPU cores are divided among simultaneous jobs."""

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
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs this process may use, named as in CUDA_VISIBLE_DEVICES, without importing torch."""
    if GPUS in environment:
        return [name for name in environment[GPUS].split(",") if name not in ("", "-1", "NoDevFiles")]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return result.stdout.split()


def gpus_wanted(trainer: Mapping[str, Any], there_are: int) -> int:
    """Return how many of the `there_are` GPUs a job with this `trainer` config uses; 0 on the CPU."""
    if there_are == 0 or trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 0
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        return there_are
    return devices if isinstance(devices, int) else len(devices)


def processes_wanted(trainer: Mapping[str, Any], there_are: int) -> int:
    """Return how many ranks a job with this `trainer` config has on this machine, with `there_are` GPUs."""
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        return max(1, gpus_wanted(trainer, there_are))
    return devices if isinstance(devices, int) else len(devices)


def chosen(accelerator: str, devices: int | str) -> tuple[str, int]:
    """Return the device type in torch's terms ("cpu", "cuda" or "mps") and the number of processes, one per device.

    Args:
        accelerator: auto, cpu, gpu or mps.
        devices: a number, or auto: all GPUs, or one process on the CPU.

    Raises:
        UserError: there is no GPU, or there are fewer than requested.
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
    """Divides the machine among jobs that run at the same time.

    A job that uses GPUs gets its own group of GPUs; any other job gets its share of the cores.

    Args:
        gpus: their names for CUDA_VISIBLE_DEVICES.
        at_once: the most jobs at a time; None: one on the CPU, one per free group of GPUs.
        n_cores: the cores to divide.
    """

    def __init__(self, gpus: Sequence[str], at_once: int | None, n_cores: int) -> None:
        self.free = list(gpus)
        self.total = len(gpus)
        self.at_once = at_once
        self.n_cores = n_cores
        self.taken: dict[int, list[str]] = {}

    def check(self, trainers: Sequence[DictConfig]) -> None:
        """Refuse jobs that need more GPUs than the machine has.

        Raises:
            UserError: the message names the number of GPUs.
        """
        for trainer in trainers:
            if (wanted := gpus_wanted(trainer, self.total)) > self.total:
                raise UserError(f"trainer.devices={trainer.devices} takes {wanted} GPUs; there are {self.total}")

    def take(self, job: int, trainer: DictConfig) -> dict[str, str] | None:
        """Reserve devices for job number `job` and return its environment variables; None where it must wait."""
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
        """Free the devices of a job that has ended."""
        self.free = sorted([*self.free, *self.taken.pop(job)])
