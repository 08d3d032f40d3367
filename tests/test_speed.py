"""The benchmark that CI calls, at its smallest; how fast anything is, a test does not say."""

import os
import subprocess
import sys

import pytest
from project import ROOT

TINY = ["dcgan", "8", "1", "batch_size=4", "model.generator.width=4", "model.discriminator.width=4"]


@pytest.mark.slow
def test_the_benchmark_of_a_step_fails_above_its_bound_and_passes_below(cache):
    ended = {
        bound: subprocess.run(
            [sys.executable, ROOT / "benchmarks" / "step.py", *TINY, f"bound={bound}"],
            env=os.environ | {"GANTRY_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        for bound in ("0.01", "1000")
    }
    assert ended["1000"].returncode == 0, ended["1000"].stderr
    assert ended["1000"].stdout.splitlines()[-1].startswith("| dcgan | 8 | ")
    assert ended["0.01"].returncode == 1
    assert "more than 0.01" in ended["0.01"].stderr
