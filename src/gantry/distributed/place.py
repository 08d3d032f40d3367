"""Which of a run's processes (ranks) this one is; told from the environment, without importing torch."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from gantry.launch.devices import processes_wanted, visible_gpus

RANKS = "GANTRY_RANKS"  # environment variable: how many ranks `gantry.distributed.processes` has started
AUTO = ("auto", -1, "-1")
SIOCGIFADDR = 0x8915  # Linux's request for an interface's address
INTERACTIVE = ("bash", "interactive")  # SLURM's job names under which Lightning too takes a process for one alone


@dataclass(frozen=True)
class Place:
    """This process among those of its run.

    Attributes:
        rank: 0 to world_size - 1; rank 0 tracks and writes.
        world_size: how many there are, on all machines.
        local_world_size: how many of them on this machine.
        by: who started them; "nobody" where this process is alone, or has yet to start them.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    by: Literal["nobody", "gantry", "torchrun", "slurm"] = "nobody"


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where this process stands: as the sweep's job said, or torchrun, or SLURM's srun."""
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
    """How many ranks a run of this `trainer` config has on each machine.

    `devices: auto` takes what the launcher has started, else all GPUs; on the processor, one.
    """
    if trainer.get("devices", 1) not in AUTO:
        return processes_wanted(trainer, 0)  # looking for GPUs takes a process of its own
    return place.local_world_size if place.by != "nobody" else processes_wanted(trainer, len(visible_gpus()))


def ranks(trainer: Mapping[str, Any], place: Place) -> int:
    """How many ranks a run of this `trainer` config has, on all machines."""
    return ranks_a_machine(trainer, place) * int(trainer.get("num_nodes", 1))


def fixed_devices(trainer: Mapping[str, Any], place: Place) -> Any:
    """`trainer.devices` as it is recorded and given to Lightning: with a strategy, a number instead of `auto`."""
    devices = trainer.get("devices", 1)
    return ranks_a_machine(trainer, place) if "strategy" in trainer and devices in AUTO else devices


def interface_towards(address: str) -> str | None:
    """The network interface by which this machine reaches `address`, a machine's name or number.

    None where that cannot be told (IPv6 alone, another system than Linux), or is the loopback.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # one without an address
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own and not own.startswith("127."):
                    return name
    return None


@contextmanager
def rank_of_another_launcher(place: Place) -> Iterator[None]:
    """Keep what Hydra writes for a rank other than the first, which torchrun or SLURM has started, out of the way."""
    if place.by in ("torchrun", "slurm") and {"-m", "--multirun"} & set(sys.argv):
        if place.rank == 0:
            print(f"a sweep starts its jobs' ranks itself: run it without {place.by}", file=sys.stderr)
        sys.exit(2)
    try:
        with _aside(place):
            yield
    finally:
        if place.by == "torchrun":
            from gantry.distributed.peers import excuse

            with suppress(Exception):  # the first machine may be gone
                excuse(place)


@contextmanager
def _aside(place: Place) -> Iterator[None]:
    if place.by not in ("torchrun", "slurm") or place.rank == 0:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="gantry-rank-", ignore_cleanup_errors=True) as folder:
        sys.argv += [f"hydra.run.dir={folder}", "hydra.output_subdir=null"]
        yield
