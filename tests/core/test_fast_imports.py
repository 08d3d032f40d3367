"""Imports are lean, and what they leave out is there when asked for."""

import subprocess
import sys
import textwrap

import pytest

LEAN = """
    import gc, sys
    from pathlib import Path
    from gantry.core.fast_imports import lean_imports
    with lean_imports():
        import gantry.evaluation.evaluator
        from gantry.training.callbacks import checkpointing, diagnostics, film, logging
"""


def run(script):
    script = "".join(map(textwrap.dedent, (LEAN, script)))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_a_run_imports_nothing_that_it_does_not_use():
    loaded = run("""
        from gantry.data.sources import digits
        assert len(digits(cache=Path("unused"))) == 1797
        assert gc.isenabled()
        slow = {"mlflow", "sklearn", "pandas", "matplotlib", "scipy.spatial", "scipy.signal", "torchmetrics.functional"}
        print(sorted(slow & set(sys.modules)))
    """)
    assert loaded == "[]\n"


@pytest.mark.slow
def test_torchmetrics_is_all_there():
    run("""
        import torchmetrics
        mean = torchmetrics.MeanMetric()
        mean.update(3.0)
        assert isinstance(mean, torchmetrics.Metric)
        mean.plot()
        for name in torchmetrics.__all__:
            getattr(torchmetrics, name)
        from torchmetrics.utilities import plot
        assert plot.plot_confusion_matrix
    """)
