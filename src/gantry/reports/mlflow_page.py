"""Shows a comparison in MLflow: the page with its charts, and its values with the sweep's own run."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gantry.reports.config_differences import labels, typed
from gantry.reports.run import direction
from gantry.runs.tracking import ui
from gantry.runs.tracking.query import NOTE

if TYPE_CHECKING:
    from gantry.reports.comparison import Comparison
    from gantry.reports.run import Run
    from gantry.runs.tracking.query import Store

CURVES = 3  # metrics drawn over steps
AXES = 6  # params of the parallel coordinates
JOBS = 50  # jobs whose values stand with the sweep's run
NOTE_LIMIT = 5000  # characters that MLflow accepts in an experiment's description


def prepare(store: Store, comparison: Comparison, parent: str | None) -> ui.Page | None:
    """Store the view of a comparison with the experiment; None where no run of it is in the store.

    Args:
        parent: the sweep's run, whose jobs the page shows, later ones too; None: exactly the comparison's runs.
    """
    ids = [run.run_id for run in comparison.runs if run.run_id is not None]
    if parent is None and not ids:
        return None
    runs = f"attributes.run_id IN ({', '.join(map(repr, ids))})"
    if parent is None and not store.search(runs):
        return None  # they are in another store
    view = view_of(comparison, runs if parent is None else f"tags.`mlflow.parentRunId` = '{parent}'")
    key = f"gantry-{parent or hashlib.sha256(runs.encode()).hexdigest()[:32]}"
    stored = ui.store_view(store.client, store.experiment_id, key, view)
    return ui.Page(store.uri, store.experiment_id, view, key if stored else None)


def view_of(comparison: Comparison, runs: str) -> ui.View:
    """Return what MLflow's page shows of a comparison: of its largest set the metrics, and all of its runs.

    Args:
        runs: MLflow's filter of the runs.
    """
    if not comparison.sets:
        return ui.View(runs, (), (), True, (), 0, len(comparison.runs))
    one = comparison.sets[0]
    metrics = list(dict.fromkeys([one.metric, *one.quality]))[:CURVES]
    steps = [step for run in one.runs for step in run.samples]
    lower = not direction(one.metric, one.runs)
    return ui.View(
        runs, metrics, (f"best/{one.metric}",), lower, swept(one.runs), max(steps, default=0), len(comparison.runs)
    )


def swept(runs: Sequence[Run]) -> list[str]:
    """Return the params that were typed and differ between runs, at most `AXES`."""
    given = [{"variant": run.variant, "dataset": run.tags.get("dataset", ""), **typed(run)} for run in runs]
    given = [options | {"seed": run.seed} for options, run in zip(given, runs, strict=True)]
    keys = dict.fromkeys(key for options in given for key in options)
    known = {key for run in runs for key in run.params} | {"variant", "dataset"}
    return [key for key in keys if key in known and len({options.get(key) for options in given}) > 1][:AXES]


def values(comparison: Comparison) -> dict[str, float]:
    """Return the metrics of a sweep's own run.

    These are `best/<metric>` and `final/<metric>` of the best job, and `best/<metric>/<job>`, `final/<metric>/<job>` of
    each, at most `JOBS`.
    """
    found: dict[str, float] = {}
    for one in comparison.sets[:1]:
        finished = [run for group in one.groups for run in group.finished][:JOBS]
        better = max if direction(one.metric, finished) else min
        for when in ("best", "final"):
            name = f"{when}/{one.metric}"
            reached = {label: run.last(name) for label, run in _named(finished)}
            of_job = {label: value for label, value in reached.items() if value is not None and math.isfinite(value)}
            found |= {name: better(of_job.values())} if of_job else {}
            found |= {f"{name}/{label}": value for label, value in of_job.items()}
    return found


def _named(runs: Sequence[Run]) -> Iterator[tuple[str, Run]]:
    """Yield each run with a name that MLflow takes in that of a metric."""
    several = len({run.seed for run in runs}) > 1
    for label, run in zip(labels(runs), runs, strict=True):
        text = re.sub(r" \(\d+\)$", "", label) + f" seed {run.seed}" if several else label
        yield re.sub(r"[^\w\-.: ]", " ", text).strip(), run


def log_values(store: Store, parent: str, comparison: Comparison) -> None:
    """Log a comparison's values to the sweep's run, so that its row in MLflow compares the jobs."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [Metric(name, value, now, 0) for name, value in values(comparison).items()]
    store.client.log_batch(parent, metrics=points, synchronous=True)


def picture(parent: str, name: str) -> str:
    """Return the Markdown of a picture among the artifacts of a sweep's run, as MLflow's own pages address it."""
    return f"![{name}](get-artifact?path=comparison%2F{name}.png&run_uuid={parent})"


def describe_experiment(store: Store, mark: str, text: str) -> None:
    """Put `text`, which begins with `mark`, at the end of the experiment's description, below the user's own."""
    written = store.client.get_experiment(store.experiment_id).tags.get(NOTE, "").partition(mark)[0].rstrip()
    note = f"{written}\n\n{text}" if written else text
    if len(note) <= NOTE_LIMIT:
        store.client.set_experiment_tag(store.experiment_id, NOTE, note)
