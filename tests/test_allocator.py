import resource
import subprocess
import sys

import pytest

from gantry.allocator import keep_freed_memory

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from gantry.allocator import keep_freed_memory
    keep_freed_memory()
blocks = [torch.ones(16 * 2**20) for _ in range(2)]  # 64 MiB each
del blocks
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not keep_freed_memory(), reason="another C library than glibc")
def test_memory_that_was_freed_is_used_again_without_asking_the_kernel():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    pages = 64 * 2**20 // resource.getpagesize()
    assert faults["leave"] > pages  # else there is nothing to keep
    assert faults["keep"] < pages / 10
