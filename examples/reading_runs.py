"""Finished runs, read and compared from Python.

python examples/reading_runs.py
"""

import sys
from pathlib import Path

from gantry.reports.run import from_folder

folders = map(Path, sys.argv[1:] or sorted(str(file.parent) for file in Path("outputs").glob("*/*/summary.json")))
runs = [run for run in map(from_folder, folders) if run.status == "FINISHED"]

for run in runs:
    curve = run.curves[run.primary]  # value by generator step
    best = min(curve, key=curve.get)
    print(f"{run.variant:15} {run.tags['dataset']:13} {run.primary} {curve[best]:.4g} at step {best} of {max(curve)}")
