import platform
import resource
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from gantry.training.hardware.allocator import keep_freed_memory
    keep_freed_memory()
network = torch.nn.Sequential(*[torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)])
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(torch.ones(8, 16, 128, 128)).sum().backward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-5:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_that_a_step_frees_is_used_by_the_next_and_no_more_is_held():
    found = {}
    for how in ("keep", "leave"):
        ended = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True, text=True)
        found[how] = [int(number) for number in ended.stdout.split()]
    (kept_faults, kept_memory), (faults, memory) = found["keep"], found["leave"]
    assert faults * resource.getpagesize() > 20 * 2**20  # else there is nothing to keep
    assert kept_faults < faults / 10
    assert kept_memory < 1.2 * memory
