"""Benchmarks at their smallest: that CI calls, and of jobs on one device; how fast anything is, a test does not say."""

import io
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

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


@pytest.fixture
def gpu_jobs(monkeypatch):
    """The module benchmarks/gpu_jobs.py."""
    spec = spec_from_file_location("gpu_jobs", ROOT / "benchmarks" / "gpu_jobs.py")
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "gpu_jobs", module)
    spec.loader.exec_module(module)
    return module


def test_a_job_of_the_benchmark_trains_when_all_are_ready(gpu_jobs, monkeypatch):
    monkeypatch.setattr(gpu_jobs, "WARM_UP", 2)
    work = gpu_jobs.Work(steps=3, size=8, batch=4, width=4, device="cpu")
    told, says = io.StringIO("go\n"), io.StringIO()
    gpu_jobs.job(work, told, says)
    assert says.getvalue().split() == ["ready", "done"]
    with pytest.raises(RuntimeError, match="a job has ended before it was go"):
        gpu_jobs.job(work, told, says)


def test_the_rates_of_the_benchmark_are_medians_over_its_rounds(gpu_jobs, monkeypatch):
    asked, rates = [], iter([10.0, 30.0, 20.0, 50.0, 30.0, 60.0])
    monkeypatch.setattr(gpu_jobs, "rate", lambda jobs, work: (asked.append(jobs), next(rates))[1])
    assert gpu_jobs.measure(4, 3) == (20.0, 50.0, 2.5)
    assert asked == [1, 4] * 3
    assert gpu_jobs.table(4, gpu_jobs.Rates(20.0, 50.0, 2.5), gpu_jobs.Work()).endswith("| 4 | 20.0 | 50.0 | 2.50 |")


@pytest.mark.slow
def test_the_benchmark_of_jobs_runs_with_torch_and_lightning_alone(tmp_path):
    hidden = 'import sys\nsys.modules.update(dict.fromkeys(("hydra", "omegaconf", "mlflow")))\n'
    (tmp_path / "sitecustomize.py").write_text(hidden)
    tiny = ["jobs=2", "rounds=1", "steps=3", "size=8", "batch=4", "width=4"]
    ended = {
        device: subprocess.run(
            [sys.executable, ROOT / "benchmarks" / "gpu_jobs.py", *tiny, f"device={device}"],
            env=os.environ | {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        for device in ("cpu", "cuda")
    }
    assert ended["cpu"].returncode == 0, ended["cpu"].stderr
    assert ended["cpu"].stdout.splitlines()[-1].startswith("| dcgan, 8 px, width 4, batch 4 | 2 | ")
    assert ended["cuda"].returncode == 1  # where there is none
    assert "a job has ended before it was ready" in ended["cuda"].stderr
