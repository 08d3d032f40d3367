"""benchmarks/gpu.py on the CPU, at its smallest, to see that it runs and that it says what it finds."""

import logging

import pytest
import torch
from project import ROOT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it takes minutes: run it itself")


@pytest.fixture
def gpu(monkeypatch):
    """The script, with a case or two for each part."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu
    import gpu_equality
    import gpu_timings

    cases = {case.name: case for case in gpu_equality.PLAIN + gpu_equality.OTHERS}
    monkeypatch.setattr(gpu_equality, "PLAIN", [cases["dcgan"]])
    monkeypatch.setattr(gpu_equality, "OTHERS", [cases["lazy penalties"]])
    monkeypatch.setattr(gpu_equality, "PRECISIONS", ["bf16-mixed"])
    monkeypatch.setattr(gpu_equality, "RESUMED", ("dcgan",))
    monkeypatch.setattr(gpu_timings, "ROWS", gpu_timings.ROWS[:1])
    monkeypatch.setattr(gpu_timings, "HOST", 1e9)
    monkeypatch.setattr(gpu, "GROWTH", 20)
    loggers = [logging.getLogger(name) for name in gpu.LOUD]
    levels = [logger.level for logger in loggers]
    yield gpu
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def rows(text):
    """The last table, by what each row is about."""
    lines = text.partition("## Verdicts")[2].strip().splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_its_parts_run_and_end_in_one_table_of_verdicts(gpu, capsys):
    assert gpu.main(["smoke,equality,resume,timings", "0.05"]) == 0
    said = capsys.readouterr().out
    assert "failed" not in said
    verdicts = rows(said)
    assert verdicts["smoke: dcgan"][-1] == "met"
    assert verdicts["graph = eager: dcgan, bf16-mixed"] == ["equal to the bit", "equal", "met"]
    assert verdicts["graph = eager: lazy penalties, bf16-mixed"][-1] == "met"
    assert verdicts["repeated: dcgan, bf16-mixed"][-1] == verdicts["resumed: dcgan, bf16-mixed"][-1] == "met"
    assert verdicts["the host's part of a replayed step without its noise"][-1] == "met"
    assert verdicts["dcgan, 32 px, batch 64: replayed / graph by hand"][-1] == "no verdict here"
    assert said.index("## smoke") < said.index("## equality") < said.index("## resume") < said.index("## timings")


def test_what_differs_is_said_and_missed(gpu, monkeypatch, capsys):
    import gpu_runs

    class Differs(gpu_runs.Looks):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            trainer.optimizers[0].param_groups[0]["lr"] = 2e-4 * (1 + self.called)

    monkeypatch.setattr(gpu_runs, "Looks", Differs)
    assert gpu.main(["equality"]) == 1
    wanted, found, verdict = rows(capsys.readouterr().out)["graph = eager: dcgan, bf16-mixed"]
    assert wanted == "equal to the bit"
    assert found.startswith("weights ")
    assert verdict == "missed"


def test_what_fails_is_said_and_the_other_parts_go_on(gpu, monkeypatch, capsys):
    import gpu_equality

    def breaks(case, *given):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_equality.Case, "run", breaks)
    assert gpu.main(["smoke,equality"]) == 1
    said = capsys.readouterr().out
    assert said.count("failed: RuntimeError: no such kernel") == 3
    assert rows(said)["smoke: dcgan"] == ["runs", "RuntimeError", "missed"]


def test_a_part_that_is_misspelt_is_refused(gpu):
    with pytest.raises(SystemExit, match="smok: not one of smoke, equality"):
        gpu.main(["smok"])


@pytest.mark.slow
def test_another_checkout_and_compiled_networks_are_timed(gpu, capsys):
    assert gpu.main(["timings,compiled", "0.05", f"before={ROOT}"]) == 0
    verdicts = rows(capsys.readouterr().out)
    assert float(verdicts["the first row against the build before"][1]) > 0
    assert float(verdicts["dcgan, 32 px, batch 64: compiled / as it is"][1]) > 0
