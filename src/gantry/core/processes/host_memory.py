"""Reads how much memory this machine, or the container that the process runs in, has."""

from pathlib import Path

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def host_memory() -> tuple[int, int] | None:
    """Return the bytes of memory in all and those free, the file cache among them; None where that cannot be read.

    They are those of the process's control group if that allows less than the machine has.
    """
    try:
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        total, free = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    for most, used in GROUPS:
        try:
            limit, taken = (int((CGROUP / file).read_text()) for file in (most, used))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        if limit < total:
            total, free = limit, min(free, limit - taken)
    return total, max(free, 0)


def gib(size: float) -> str:
    """Return bytes as text in GiB, or in MiB below a tenth of one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"
