"""Shows a comparison in MLflow: the page with its charts, and its values with the sweep's own run."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.reports.config_differences import labels, summary, typed
from gantry.reports.curves import COLOURS
from gantry.reports.ranking import apart
from gantry.reports.run import direction
from gantry.runs.tracking import ui
from gantry.runs.tracking.status import ORIGINAL, restoring

if TYPE_CHECKING:
    from gantry.reports.comparison import Comparison
    from gantry.reports.run import Run
    from gantry.runs.tracking.query import Store

CURVES = 3  # metrics drawn over steps
AXES = 6  # params of the parallel coordinates
SECTIONS = 20  # of MLflow's own charts, that are closed at first
JOBS = 50  # jobs whose values stand with the sweep's run
NOTE_LIMIT = 5000  # characters that MLflow accepts in an experiment's description
TITLE = "gantry.title"  # tag of a sweep's run: the name it was given here


def prepare(store: Store, comparison: Comparison, parent: str | None) -> ui.Page | None:
    """Store the view of a comparison with the experiment; None where no run of it is in the store.

    Args:
        parent: the sweep's run, whose jobs the page shows, later ones too; None: exactly the comparison's runs.

    Raises:
        UserError: the experiment was deleted.
    """
    experiment = store.client.get_experiment(store.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        command = restoring(store.uri, f"experiments restore --experiment-id {store.experiment_id}")
        raise UserError(f"the MLflow experiment {experiment.name!r} was deleted; to restore it: {command}")
    ids = [run.run_id for run in comparison.runs if run.run_id is not None]
    if parent is None and not ids:
        return None
    runs = f"attributes.run_id IN ({', '.join(map(repr, ids))})"
    if parent is None and not store.search(runs):
        return None  # they are in another store
    key = f"gantry-{parent or hashlib.sha256(runs.encode()).hexdigest()[:32]}"
    runs = runs if parent is None else f"tags.`mlflow.parentRunId` = '{parent}'"
    if {"FAILED", "FINISHED"} <= {run.status for run in comparison.runs}:
        runs += " and attributes.status != 'FAILED'"  # the samples of a failed run would be grey, and come first
    view = view_of(comparison, runs)
    stored = ui.store_view(store.client, store.experiment_id, key, view)
    return ui.Page(store.uri, store.experiment_id, view, key if stored else None)


def view_of(comparison: Comparison, runs: str) -> ui.View:
    """Return what MLflow's page shows of a comparison.

    Runs that are not ranked together get no bars and no order by a metric, and the title of their curves says why.

    Args:
        runs: MLflow's filter of the runs.
    """
    sets = comparison.sets
    if not sets:
        return ui.View(runs, {}, count=len(comparison.runs))
    one, shown = sets[0], [run for one in sets for run in one.runs]
    metrics = list(dict.fromkeys([one.metric, *one.quality]))[:CURVES]
    axes = swept(shown)
    params = [f"params.{name}" for name in dict.fromkeys(["variant", *axes])]
    return ui.View(
        runs,
        {name: [name] for name in metrics},
        bars=f"best/{one.metric}" if len(sets) == 1 else None,
        ascending=not direction(one.metric, one.runs),
        swept=axes,
        step=_pictured(shown),
        count=len(comparison.runs),
        title=ui.FIRST if len(sets) == 1 else f"Not ranked together: {'; '.join(apart(sets))}",
        columns=[*params, f"metrics.best/{one.metric}", f"metrics.final/{one.metric}"],
        folded=ui.sections_of(name for run in comparison.runs for name in run.curves)[:SECTIONS],
    )


def _pictured(runs: Sequence[Run]) -> int:
    """Return the step at which most of the finished runs have samples, the last of several; 0 where there are none."""
    finished = [run for run in runs if run.status == "FINISHED"]
    counts = Counter(step for run in finished or runs for step in run.samples)
    return max(counts, key=lambda step: (counts[step], step), default=0)


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


def name_runs(store: Store, parent: str, comparison: Comparison) -> None:
    """Give the runs of a sweep the report's colours, and the sweep's own run a name that says what it compares.

    A name and a colour that the user chose are kept.
    """
    run = store.client.get_run(parent)
    title, tags = summary(comparison.runs), run.data.tags
    if title and run.info.run_name in (tags.get(ORIGINAL), tags.get(TITLE)):
        for tag in (TITLE, "mlflow.runName"):
            store.client.set_tag(parent, tag, title, synchronous=True)
    before = {child.info.run_id: child.data.tags.get(ui.COLOUR) for child in store.children(parent)}
    ours = {colour for group in SHADES for colour in group}
    for run_id, colour in colours(comparison).items():
        if run_id in before and before[run_id] != colour and before[run_id] in (None, *ours):
            store.client.set_tag(run_id, ui.COLOUR, colour, synchronous=True)


def colours(comparison: Comparison) -> dict[str, str]:
    """Return a colour for each run of a comparison: the report's for its group, lighter with each further seed."""
    groups = [group for one in comparison.sets for group in one.groups]
    places = {label: place for place, label in enumerate(dict.fromkeys(group.label for group in groups))}
    return {
        run.run_id: SHADES[places[group.label] % len(SHADES)][seed % len(LIGHTER)]
        for group in groups
        for seed, run in enumerate((*group.finished, *group.others))
        if run.run_id is not None
    }


def _mixed(colour: str, share: float, other: int) -> str:
    """Return `#rrggbb` mixed with a share of grey of the level `other`, 0 to 255."""
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(part + share * (other - part)):02X}" for part in parts)


LIGHTER = (0.0, 0.3, 0.5, 0.65)  # share of white for the seeds of a group
# By group and seed: the report's colours, then the same ones darker, where the report's lines are dashed, and grey.
SHADES = [
    [_mixed(colour, white, 255) for white in LIGHTER]
    for colour in (*COLOURS, *(_mixed(colour, 0.4, 0) for colour in COLOURS[:-1]), "#7F7F7F")
]
