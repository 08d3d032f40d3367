"""Jobs that share a GPU have equal parts of its memory, and none gets more than its own."""

import os
import subprocess
import sys

import pytest
import torch

from gantry.core.errors import UserError
from gantry.core.processes.devices import JOBS
from gantry.training import memory
from gantry.training.hardware.memory_share import CONTEXT, LEAST, keep_to_share, memory_share
from gantry.training.memory import Need, There, report, there

GIB = 2**30
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(("total", "jobs"), [(80 * GIB, 2), (80 * GIB, 7), (24 * GIB, 4), (8 * GIB, 8)])
def test_the_parts_of_all_jobs_and_their_contexts_fill_the_gpu(total, jobs):
    part = memory_share(total, jobs)
    assert part > 0
    assert total - jobs < jobs * (part + CONTEXT) <= total


@pytest.mark.parametrize(("total", "jobs", "most"), [(8 * GIB, 9, 8), (80 * GIB, 64, None), (GIB // 2, 2, 1)])
def test_parts_too_small_for_a_process_are_refused(total, jobs, most):
    if most is None:
        assert memory_share(total, jobs) >= LEAST - CONTEXT
        return
    with pytest.raises(UserError, match=rf"sweep\.jobs_per_device={jobs}: the GPU has .*; choose at most {most}$"):
        memory_share(total, jobs)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 80 GiB of which 60 are free, by what torch says of it; the limits that it was given."""
    given = []
    device = type("Device", (), {"total_memory": 80 * GIB})()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda of: device)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *call: given.append(call))
    return given


def test_a_job_alone_on_its_gpu_is_given_no_limit(gpu, monkeypatch):
    monkeypatch.delenv(JOBS, raising=False)
    keep_to_share(GPU)
    assert gpu == []
    assert there(GPU) == There("H100", 80 * GIB, 60 * GIB)


@pytest.mark.parametrize(("jobs", "part", "free"), [("4", 19.5, 19.5), ("2", 39.5, 39.5)])
def test_a_job_that_shares_it_keeps_to_its_part_and_reckons_with_it(gpu, monkeypatch, jobs, part, free):
    monkeypatch.setenv(JOBS, jobs)
    keep_to_share(torch.device("cpu"))  # where nothing is shared out
    assert gpu == []
    keep_to_share(GPU)
    assert gpu == [(part / 80, GPU)]
    mine = There(f"this job's part of H100 (sweep.jobs_per_device={jobs})", int(part * GIB), int(free * GIB), int(jobs))
    assert there(GPU) == mine
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 80 * GIB))  # others have taken the rest
    assert there(GPU).free == 2 * GIB


def test_the_line_of_a_step_too_large_for_its_part_names_the_option(config):
    cfg = config("model=dcgan", "batch_size=8")
    whole, part = There("H100", 80 * GIB, 80 * GIB), There("its part", 20 * GIB, 20 * GIB, jobs=4)
    need = Need(GIB, 30 * GIB)
    assert "sweep" not in report(need, whole, cfg, 1)
    with pytest.raises(memory.RunFailed, match=r"cannot fit\. What lowers it: .*; sweep\.jobs_per_device=2 gives each"):
        report(need, part, cfg, 1)


TAKES = """
import sys
import torch
from gantry.training.hardware.memory_share import keep_to_share
device = torch.device("cuda", 0)
keep_to_share(device)
total = torch.cuda.get_device_properties(device).total_memory
held = [torch.empty(int(float(sys.argv[1]) * total), dtype=torch.uint8, device=device)]
print(held[0].numel())
"""


@pytest.mark.gpu
@pytest.mark.parametrize(("jobs", "takes", "fits"), [("4", 0.2, True), ("4", 0.3, False), ("1", 0.3, True)])
def test_torch_refuses_a_job_more_than_its_part(jobs, takes, fits):
    command = [sys.executable, "-c", TAKES, str(takes)]
    done = subprocess.run(command, env=os.environ | {JOBS: jobs}, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == fits, done.stderr
    assert ("OutOfMemoryError" in done.stderr) != fits
