#!/usr/bin/env bash
# MLflow: restoring a deleted experiment also brings back the runs that had been deleted one by one before.
#
# Expected: delete_experiment hides an experiment with its runs, and restore_experiment undoes exactly that. A run that
#   was deleted by itself beforehand stays deleted, since MLflow stores the time at which each run was deleted.
# What happens: restore_experiment makes every run of the experiment active. While the experiment is deleted, the stored
#   times still tell the runs that went with it from those that had been thrown away earlier, but they are not read, and
#   restoring clears them: afterwards nothing says which runs those were.
# Versions: mlflow 3.17.2, SQLite store, Python 3.11.
# Output seen:
#   mlflow 3.17.2
#   before                 kept active, thrown away deleted
#   experiment deleted     kept deleted, thrown away deleted
#   times of deletion      differ: yes
#   experiment restored    kept active, thrown away active
# Why it matters: sweeps of GANs leave many diverged runs, which people delete in the UI so that charts and "the best
#   run" leave them out. An experiment that is deleted by accident and restored has all of them again, and a search for
#   the best value finds them. Before an experiment is restored, the times in the
#   column deleted_time of the table runs say what to delete again.
# Not a matter of this finding: `mlflow gc`, which removes for good what is marked as deleted.
#
# Usage: [PYTHON=an interpreter that has mlflow 3.17.2] ./mlflow_restored_experiment.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version as v
raise SystemExit(v("mlflow") != "3.17.2")' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir mlflow==3.17.2
fi

cat >"$work/finding.py" <<'PYTHON'
import logging
import sqlite3
import sys
import time

logging.disable(logging.WARNING)
import mlflow
from mlflow import MlflowClient

database = f"{sys.argv[1]}/mlflow.db"
client = MlflowClient(f"sqlite:///{database}")
experiment = client.create_experiment("sweeps", artifact_location=f"file://{sys.argv[1]}/artifacts")
kept, thrown = (client.create_run(experiment).info.run_id for _ in range(2))


def stages():
    return [client.get_run(run).info.lifecycle_stage for run in (kept, thrown)]


def times():
    with sqlite3.connect(database) as connection:
        return {row[0] for row in connection.execute("select deleted_time from runs")}


client.delete_run(thrown)
before = stages()
time.sleep(0.1)
client.delete_experiment(experiment)
during, apart = stages(), len(times()) == 2
client.restore_experiment(experiment)
after, cleared = stages(), times() == {None}
print("mlflow", mlflow.__version__)
for name, (one, other) in {"before": before, "experiment deleted": during, "experiment restored": after}.items():
    if name == "experiment restored":
        print(f"{'times of deletion':23}differ: {'yes' if apart else 'no'}")
    print(f"{name:23}kept {one}, thrown away {other}")
same = apart and cleared and (before, during, after) == (["active", "deleted"], ["deleted"] * 2, ["active"] * 2)
if not same:
    print("CHANGED: a run that was deleted by itself is no longer restored with its experiment")
raise SystemExit(not same)
PYTHON
MLFLOW_DISABLE_TELEMETRY=true nice "$python" -W ignore "$work/finding.py" "$work"
