"""Keeps a job to its part of the memory of a GPU that several jobs of a sweep share."""

import torch

from gantry.core.errors import UserError
from gantry.core.processes.devices import jobs_sharing
from gantry.core.processes.host_memory import gib

CONTEXT = 2**29  # bytes left in each part for what CUDA itself holds in a process, which torch does not count
LEAST = 2**30  # bytes of a part


def memory_share(total: int, jobs: int) -> int:
    """Return the bytes that torch may allocate in each of `jobs` processes on a GPU with `total` bytes.

    Raises:
        UserError: the parts are too small; the message says how many jobs the GPU holds.
    """
    if (part := total // jobs) < LEAST:
        raise UserError(
            f"sweep.jobs_per_device={jobs}: the GPU has {gib(total)}, and a job takes {gib(LEAST)} or more; "
            f"choose at most {max(1, total // LEAST)}"
        )
    return part - CONTEXT


def keep_to_share(device: torch.device) -> None:
    """Have torch refuse this process more than its part of a GPU, so that it cannot take the other jobs' memory.

    Raises:
        UserError: see `memory_share`.
    """
    if device.type == "cuda" and (jobs := jobs_sharing()) > 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(total, jobs) / total, device)
