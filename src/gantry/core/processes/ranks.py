"""Reads this process's rank in its run from the environment, without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gantry.core.processes.devices import processes_wanted, visible_gpus

RANKS = "GANTRY_RANKS"  # environment variable: the number of ranks `gantry.training.distributed.spawn` has started
AUTO = ("auto", -1, "-1")
INTERACTIVE = ("bash", "interactive")  # SLURM's job names under which a process is a single one, as in Lightning


@dataclass(frozen=True)
class Place:
    """The place of this process among the ranks of its run.

    Attributes:
        rank: 0 to world_size - 1; rank 0 tracks and writes.
        world_size: the number of ranks on all machines.
        local_world_size: the number of ranks on this machine.
        by: the launcher of the ranks; "nobody" where this process is the only one, or has yet to start the others.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    by: Literal["nobody", "gantry", "torchrun", "slurm"] = "nobody"


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process, from the variables of Gantry's own ranks, of torchrun or of SLURM's srun."""
    if RANKS in environment:
        count = int(environment[RANKS])
        return Place(int(environment["LOCAL_RANK"]), count, count, "gantry")
    if "TORCHELASTIC_RUN_ID" in environment:
        rank, world_size, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Place(rank, world_size, local, "torchrun")
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if tasks > 1 and "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in INTERACTIVE:
        machines = int(environment.get("SLURM_NNODES", "1"))
        return Place(int(environment["SLURM_PROCID"]), tasks, tasks // machines, "slurm")
    return Place()


def ranks_a_machine(trainer: Mapping[str, Any], place: Place) -> int:
    """Return how many ranks a run of this `trainer` config has on each machine.

    `devices: auto` is what the launcher has started, else all GPUs, else one on the CPU.
    """
    if trainer.get("devices", 1) not in AUTO:
        return processes_wanted(trainer, 0)  # avoids a subprocess that lists the GPUs
    return place.local_world_size if place.by != "nobody" else processes_wanted(trainer, len(visible_gpus()))


def ranks(trainer: Mapping[str, Any], place: Place) -> int:
    """Return how many ranks a run of this `trainer` config has on all machines."""
    return ranks_a_machine(trainer, place) * int(trainer.get("num_nodes", 1))


def fixed_devices(trainer: Mapping[str, Any], place: Place) -> Any:
    """Return `trainer.devices` for the record and for Lightning: with a strategy, a number instead of `auto`."""
    devices = trainer.get("devices", 1)
    return ranks_a_machine(trainer, place) if "strategy" in trainer and devices in AUTO else devices
