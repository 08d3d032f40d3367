"""The benchmark of an evaluation on a GPU runs on a CPU too, and without the packages that a bare machine lacks."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from project import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = ROOT / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("gpu_evaluation", folder / "gpu_evaluation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_evaluation", module)
    spec.loader.exec_module(module)
    return module


def cells(lines: list[str]) -> dict[str, list[str]]:
    """The rows of the table of parts, by the part."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows if len(row) == 3}


def test_what_is_missing_is_left_out_by_name(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    lines = list(benchmark.table(CPU, 2, [2], 1, 60, 8))
    assert "(Inception: left out, since torch_fidelity is not installed)" in lines
    parts = cells(lines)
    assert "torch_fidelity is not installed" in parts["kid"][1]
    for part in ("drawing", "drawing, graph", "moments", "distance, on cpu", "spread", "fid_infinity", "neighbours"):
        assert float(parts[part][0]) >= 0


@pytest.mark.slow
def test_every_form_of_inception_has_a_row(benchmark: ModuleType) -> None:
    lines = list(benchmark.table(CPU, 4, [2], 1, 60, 8))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ieee")]
    assert len(rows) == len({row[2] for row in rows}) == 6
    for row in rows:
        assert float(row[3]) > 0
        assert float(row[5]) < 2e-6
        assert float(row[6]) < 1e-5
    assert float(cells(lines)["inception_score"][0]) >= 0


@pytest.mark.gpu
def test_it_runs_on_a_gpu(benchmark: ModuleType) -> None:
    lines = list(benchmark.table(torch.device("cuda"), 8, [4], 1, 3000, 64))
    assert float(cells(lines)["distance, on cuda"][0]) >= 0
