"""Memory: what a long run holds of it, and what is said where there is too little."""

import json
import time

import numpy as np
import psutil
import pytest
from fault_runs import progress

pytestmark = pytest.mark.slow
STEPS, WARM = 100_000, 20_000
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
TINY = ["experiment=smoke", "model=dcgan", *NARROW, "max_images=64", "batch_size=4"]
GROWTH = 8.0  # MiB over 100,000 steps


def test_a_hundred_thousand_steps_leave_memory_flat(runs, record_property):
    folder = runs.folder / "run"
    often = ["metrics.every=20000", "checkpoint.every=2000", "log_every=20", f"steps={STEPS}"]
    process = runs.start(*TINY, *often, f"hydra.run.dir={folder}")
    watched = psutil.Process(process.pid)
    seen = []
    while process.poll() is None:
        step = progress(folder)[0]
        if step > WARM:
            try:
                seen.append((step, watched.memory_info().rss / 2**20))
            except psutil.NoSuchProcess:
                break
        time.sleep(1)
    text = process.communicate()[0]
    assert process.returncode == 0, text
    steps, mib = np.array(seen).T
    slope = np.polyfit(steps, mib, 1)[0] * 100_000
    assert len(seen) > 20
    assert slope < GROWTH
    ends = f"{mib[0]:.0f} MiB at step {steps[0]:.0f}, {mib[-1]:.0f} at {steps[-1]:.0f}"
    happened = f"resident memory {ends}; slope {slope:+.1f} MiB per 100,000 steps"
    record_property("fault", {"fault": f"{STEPS} steps", "injected": 1, "happened": happened, "lost": "nothing"})


def test_too_little_memory_ends_with_advice(runs, record_property):
    """Activations of gigabytes, and less than that allowed: the allocator says no, as a GPU does."""
    folder = runs.folder / "run"
    large = ["data.image_size=128", "max_images=null", "batch_size=1024", "model.discriminator.width=128"]
    limit = ["prlimit", f"--as={8 * 10**9}"]  # most of it are the libraries
    process = runs.start("experiment=smoke", "model=dcgan", *large, f"hydra.run.dir={folder}", before=limit)
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 1, text
    assert "batch_size=512 accumulate=2" in text
    assert "Traceback" not in text
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "FAILED"
    assert "out of memory" in status["reason"]
    record_property(
        "fault", {"fault": "out of memory", "injected": 1, "happened": "exit 1, FAILED, with advice", "lost": "nothing"}
    )
