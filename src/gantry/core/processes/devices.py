"""Assigns devices to jobs: each GPU serves one job or several at a time, the CPU cores are divided among them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gantry.core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"
JOBS = "GANTRY_JOBS_PER_DEVICE"  # environment variable of a job: the jobs that share its GPU, where it is not alone
SHOWN = 12  # characters of a GPU's name: NVIDIA's identifiers are "GPU-" or "MIG-" and 36 more


def cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs this process may use, named as in CUDA_VISIBLE_DEVICES, without importing torch."""
    if GPUS in environment:
        names = (name.strip() for name in environment[GPUS].split(","))
        return [name for name in names if name not in ("", "-1", "NoDevFiles")]
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


def jobs_sharing(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many jobs of a sweep share this process's GPU, itself included; 1 where it is alone."""
    return int(environment.get(JOBS, "1"))


def jobs_at_once(trainer: Mapping[str, Any], there_are: int, per_device: int) -> int:
    """Return how many jobs with this `trainer` config the `there_are` GPUs hold at a time; 1 on the CPU.

    A job of one GPU shares it with up to `per_device` - 1 others; a job of several has them for itself.
    """
    wanted = gpus_wanted(trainer, there_are)
    if wanted == 1:
        return there_are * per_device
    return there_are // wanted if wanted else 1


def short_name(device: str) -> str:
    """Return GPUs as in CUDA_VISIBLE_DEVICES with their identifiers cut to what people tell them apart by."""
    return ",".join(name[:SHOWN] for name in device.split(","))


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

    A job of several GPUs has them for itself, a job of one GPU shares it with up to `per_device` - 1 others, and any
    other job gets its share of the cores. Of the GPUs with room a job gets those with the fewest jobs.

    Args:
        gpus: their names for CUDA_VISIBLE_DEVICES.
        at_once: the most jobs at a time; None: one on the CPU, as many as there is room for on the GPUs.
        n_cores: the cores to divide.
        per_device: the most jobs on a GPU.
    """

    def __init__(self, gpus: Sequence[str], at_once: int | None, n_cores: int, per_device: int = 1) -> None:
        self.used = dict.fromkeys(gpus, 0)  # parts of each GPU, of `per_device`
        self.total = len(self.used)
        self.at_once = at_once
        self.n_cores = n_cores
        self.per_device = per_device
        self.taken: dict[int, dict[str, int]] = {}  # by job: the parts of each GPU that it has

    def check(self, trainers: Sequence[DictConfig]) -> None:
        """Refuse jobs that need more GPUs than the machine has, and shared GPUs where no job could use one.

        Raises:
            UserError: the message names the number of GPUs.
        """
        for trainer in trainers:
            if (wanted := gpus_wanted(trainer, self.total)) > self.total:
                raise UserError(f"trainer.devices={trainer.devices} takes {wanted} GPUs; there are {self.total}")
        if self.per_device == 1 or any(gpus_wanted(trainer, self.total) == 1 for trainer in trainers):
            return
        asked = f"sweep.jobs_per_device={self.per_device}"
        if self.total == 0:
            raise UserError(f"{asked}: there is no GPU to share; on a CPU sweep.jobs says how many jobs run at a time")
        raise UserError(f"{asked}: no job runs on one GPU (trainer.accelerator=gpu trainer.devices=1)")

    def take(self, job: int, trainer: DictConfig) -> dict[str, str] | None:
        """Reserve devices for job number `job` and return its environment variables; None where it must wait."""
        wanted = gpus_wanted(trainer, self.total)
        limit = self.at_once if self.at_once is not None else (self.total * self.per_device if wanted else 1)
        parts = 1 if wanted == 1 else self.per_device
        room = [gpu for gpu, used in self.used.items() if used + parts <= self.per_device]
        if len(self.taken) >= limit or wanted > len(room):
            return None
        chosen = sorted(room, key=self.used.__getitem__)[:wanted]
        self.taken[job] = dict.fromkeys(chosen, parts)
        for gpu in chosen:
            self.used[gpu] += parts
        environment = {GPUS: ",".join(chosen)} if wanted else {}
        if parts < self.per_device and wanted:
            environment[JOBS] = str(self.per_device)
        beside = max(1, min(limit, jobs_at_once(trainer, self.total, self.per_device))) if wanted else limit
        processes = beside * processes_wanted(trainer, self.total)
        if processes > 1 and THREADS not in os.environ:
            environment[THREADS] = str(max(1, self.n_cores // processes))
        return environment

    def give_back(self, job: int) -> None:
        """Free the devices of a job that has ended."""
        for gpu, parts in self.taken.pop(job).items():
            self.used[gpu] -= parts
