"""Compares the jobs of a sweep and publishes the report in its MLflow run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.files import check_writable
from gantry.core.redaction import HIDDEN, redact
from gantry.reports import mlflow_page
from gantry.reports.comparison import MARK, Comparison, compare
from gantry.reports.config_differences import summary
from gantry.reports.html import write
from gantry.reports.links import page
from gantry.reports.mlflow_store import read_runs
from gantry.reports.run import NOT_STARTED, Run, from_folder
from gantry.runs.sweep_record import SweepRecord, load_sweep
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from gantry.runs.tracking.query import Store


FOLDER = "comparison"  # in a sweep's folder, and in its run's artifacts
REPORT = "report.html"


def compare_sweep(
    folder: Path,
    metric: str | None = None,
    steps: Sequence[int] | None = None,
    out: Path | None = None,
    track: bool = True,
    store: str | None = None,
) -> Comparison:
    """Compare the jobs of a sweep; write the report and publish it in the sweep's MLflow run.

    A job is read from its folder, which records all it logged even where the store was away; where the folder is on
    another machine, from MLflow. A warning is logged where the store fails.

    Args:
        folder: the sweep's folder, with its `sweep.json`.
        metric: the metric to rank by; None for the metric that picked the best steps.
        steps: steps to show besides the last; None for at most four, evenly spread.
        out: the report's folder; `comparison` in the sweep's folder where None.
        track: whether to use MLflow where the sweep did.
        store: the store's address, where the sweep's record hides a password in it.

    Raises:
        UserError: `folder` holds no sweep, the report cannot be written, or no run has such a metric or was measured at
            such a step.
    """
    sweep = load_sweep(folder)
    report = (out or sweep.folder / FOLDER) / REPORT
    check_writable(report.parent)
    if sweep.tracking_uri is not None and HIDDEN in sweep.tracking_uri:
        sweep.tracking_uri = store
    opened = _store_of(sweep) if track else None
    address = redact(sweep.tracking_uri) if sweep.tracking_uri and sweep.parent_run else None
    experiment = None if opened is None else opened.experiment_id
    comparison = compare(
        [replace(run, experiment_id=run.experiment_id or experiment) for run in _jobs(sweep, opened)],
        sweep.name,
        report,
        metric=metric,
        steps=steps,
        store=address,
        typed=sweep.overrides,
        sweep_page=page(sweep.tracking_uri, experiment, sweep.parent_run),
    )
    if opened is None or sweep.parent_run is None:
        write(comparison)
        return comparison
    comparison = with_page(comparison, opened, sweep.parent_run)
    publish(opened, sweep.parent_run, comparison, write(comparison))
    return comparison


def _store_of(sweep: SweepRecord) -> Store | None:
    """Open the store that holds the sweep's run; None, with a warning, where it is away."""
    if sweep.parent_run is None or sweep.tracking_uri is None:
        return None
    from gantry.runs.tracking.query import open_store

    try:
        store, reason = open_store(sweep.tracking_uri, sweep.experiment or ""), "it is not there"
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        store, reason = None, redact(str(error))
    if store is None:
        log.warning("The comparison is not shown in MLflow at %s: %s", redact(sweep.tracking_uri), reason)
    return store


def _jobs(sweep: SweepRecord, store: Store | None) -> list[Run]:
    """Read the sweep's runs: from the jobs' folders, else from MLflow, else as never started."""
    runs = [from_folder(sweep.folder / job.folder, job.overrides) for job in sweep.jobs]
    if store is None or sweep.parent_run is None or all(run.status != NOT_STARTED for run in runs):
        return runs
    absent = {run.name for run in runs if run.status == NOT_STARTED}
    try:
        children = {Path(run.data.tags.get("gantry.folder", "")).name: run for run in store.children(sweep.parent_run)}
        names = [name for name in children if name in absent]
        elsewhere = dict(zip(names, read_runs(store, [children[name] for name in names]), strict=True))
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        log.warning("Jobs without a folder here were not read from MLflow: %s", redact(str(error)))
        return runs
    return [elsewhere.get(run.name, run) for run in runs]


def with_page(comparison: Comparison, store: Store, parent: str | None = None) -> Comparison:
    """Return the comparison with MLflow's page of it, or with the reason why there is none.

    A warning is logged where the store fails; where its experiment was deleted, the store has been opened with one.

    Args:
        parent: the sweep's run; None for runs of any origin.
    """
    try:
        page = mlflow_page.prepare(store, comparison, parent)
    except UserError as error:
        return replace(comparison, no_page=str(error))
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        reason = f"MLflow has no page of the comparison: {redact(str(error))}"
        log.warning("%s", reason)
        return replace(comparison, no_page=reason)
    shown = comparison.sweep_page if page is None or parent is None else page.address()
    return replace(comparison, page=page, sweep_page=shown)


def publish(store: Store, parent: str, comparison: Comparison, files: Sequence[Path]) -> None:
    """Log the report and the values to the sweep's run, and put the table and the samples into the descriptions.

    The experiment's description holds the latest comparison that ranks runs.
    """
    names = [file.stem for file in files if file.stem.startswith("samples")][:1]
    pictures = "\n\n".join(mlflow_page.picture(parent, name) for name in names)
    compared = summary(comparison.runs) or comparison.title
    try:
        store.publish(parent, MARK, comparison.markdown(pictures, heading=compared), files, FOLDER)
        mlflow_page.log_values(store, parent, comparison)
        mlflow_page.name_runs(store, parent, comparison)
        if any(one.standings for one in comparison.sets):
            limit, heading = mlflow_page.NOTE_LIMIT, f"Latest comparison: {compared}"
            store.describe(MARK, comparison.markdown(pictures, limit, heading), limit)
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        log.warning("The comparison is not shown in MLflow: %s", redact(str(error)))
