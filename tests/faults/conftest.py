"""The table of faults: `python -m pytest tests/faults -m "slow or not slow"` prints it at its end.

A test adds its row by `record_property("fault", {"fault", "injected", "happened", "lost"})`, of what it has counted.
"""

import pytest
from fault_runs import Runs
from hostile_files import DCGAN

from gantry.models.networks.dcgan import Generator
from gantry.runs.generator_files import save_generator

HEAD = ("fault", "injected", "happened", "lost")


@pytest.fixture
def runs(tmp_path, cache):
    return Runs(tmp_path, cache)


def pytest_terminal_summary(terminalreporter):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    rows = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "fault"]
    if not rows:
        return
    terminalreporter.write_sep("-", "faults")
    lines = [HEAD, ("---",) * len(HEAD), *(tuple(str(row[name]) for name in HEAD) for row in rows)]
    for line in lines:
        terminalreporter.write_line(f"| {' | '.join(line)} |")


@pytest.fixture
def exported(tmp_path):
    """An exported generator's folder."""
    arguments = {key: value for key, value in DCGAN.items() if key != "_target_"}
    save_generator(tmp_path / "run/generator/best", Generator(**arguments), DCGAN, 3)
    return tmp_path / "run/generator/best"
