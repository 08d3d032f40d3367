"""Runs side by side: `python compare.py`, and what a sweep calls at its end."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from gantry import cli
from gantry.errors import UserError
from gantry.launch.record import SweepRecord, load_sweep
from gantry.report.comparison import MARK, Comparison, compare
from gantry.report.page import write
from gantry.report.runs import NOT_STARTED, Run, from_folder, split_overrides
from gantry.report.store import read_runs
from gantry.report.sweeps import find_runs, find_sweep
from gantry.tracking.base import log
from gantry.tracking.params import HIDDEN, redact

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun

    from gantry.tracking.query import Store

ROOT = Path(__file__).parents[2]
FOLDER = "comparison"  # of a sweep, and of its run's artifacts
REPORT = "report.html"
LITTLE_TO_COLLECT = 100_000  # objects between two searches for cycles: a comparison makes millions, few in cycles
AS_TYPED = ("sweep", "filter", "metric", "out")  # plain text, where Hydra would see a grammar of its own


def main() -> None:
    """The command line of compare.py."""
    if get_args_parser().parse_known_args()[0].multirun:
        print("compare.py writes one report: leave out -m; runs=[...] compares several runs", file=sys.stderr)
        sys.exit(cli.REFUSED)
    sys.argv[1:] = [cli.as_typed(argument, AS_TYPED) for argument in sys.argv[1:]]
    gc.set_threshold(LITTLE_TO_COLLECT)
    cli.run(job, ROOT / "conf", "compare")


def job(cfg: DictConfig) -> None:
    """Compare what `cfg` names and print the table."""
    given = [name for name in ("sweep", "runs", "filter") if cfg[name] is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude one another: give one of them")
    metric, steps = cfg.metric, _steps(cfg.steps)
    out = None if cfg.out is None else Path(str(cfg.out)).expanduser().absolute()
    if cfg.filter is not None:
        comparison = _compare_runs(_filtered(cfg), f"Runs with {cfg.filter}", metric, steps, out)
    elif cfg.runs is not None:
        names = cfg.runs if OmegaConf.is_list(cfg.runs) else [cfg.runs]
        runs = find_runs([str(name) for name in names], lambda: _open(cfg))
        comparison = _compare_runs(runs, "Chosen runs", metric, steps, out)
    else:
        found = find_sweep(cfg.sweep, lambda: _open(cfg, needed=cfg.sweep is not None))
        if isinstance(found, Path):
            comparison = compare_sweep(
                found, metric, steps, out, track=bool(cfg.tracking), store=cfg.tracking.get("uri")
            )
        else:
            comparison = _compare_parent(found, cfg, metric, steps, out)
    print(comparison.text(), flush=True)


def compare_sweep(
    folder: Path,
    metric: str | None = None,
    steps: Sequence[int] | None = None,
    out: Path | None = None,
    track: bool = True,
    store: str | None = None,
) -> Comparison:
    """Compare the jobs of a sweep; write the report and show it in the sweep's MLflow run.

    A job is read from its folder, which holds all it logged whatever the store took; where that is on another
    machine, from MLflow. Where the store fails, a warning says so.

    Args:
        folder: the sweep's, with its `sweep.json`.
        metric: what to rank by; None for the metric that picked the best steps.
        steps: where to look besides the end; None for at most four, evenly spread.
        out: where the report goes; `comparison` in the sweep's folder where None.
        track: use MLflow where the sweep did.
        store: its address, where the sweep's record hides a password in it.

    Raises:
        UserError: `folder` holds no sweep, or no run has such a metric or was measured at such a step.
    """
    sweep = load_sweep(folder)
    if sweep.tracking_uri is not None and HIDDEN in sweep.tracking_uri:
        sweep.tracking_uri = store
    opened = _store_of(sweep) if track else None
    report = (out or sweep.folder / FOLDER) / REPORT
    address = redact(sweep.tracking_uri) if sweep.tracking_uri and sweep.parent_run else None
    comparison = compare(
        _jobs(sweep, opened), sweep.name, report, metric=metric, steps=steps, store=address, typed=sweep.overrides
    )
    files = write(comparison)
    if opened is not None and sweep.parent_run is not None:
        _publish(opened, sweep.parent_run, comparison, files)
    return comparison


def _store_of(sweep: SweepRecord) -> Store | None:
    """The store that holds the sweep's run; None, with a warning, where it is away."""
    if sweep.parent_run is None or sweep.tracking_uri is None:
        return None
    from gantry.tracking.query import open_store

    try:
        store, reason = open_store(sweep.tracking_uri, sweep.experiment or ""), "it is not there"
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        store, reason = None, redact(str(error))
    if store is None:
        log.warning("The comparison is not shown in MLflow at %s: %s", redact(sweep.tracking_uri), reason)
    return store


def _jobs(sweep: SweepRecord, store: Store | None) -> list[Run]:
    """The sweep's runs: from the jobs' folders, else from MLflow, else as never started."""
    runs = [from_folder(sweep.folder / job.folder, job.overrides) for job in sweep.jobs]
    if store is None or sweep.parent_run is None or all(run.status != NOT_STARTED for run in runs):
        return runs
    absent = {run.name for run in runs if run.status == NOT_STARTED}
    try:
        children = {Path(run.data.tags.get("gantry.folder", "")).name: run for run in store.children(sweep.parent_run)}
        found = [name for name in children if name in absent]
        elsewhere = dict(zip(found, read_runs(store, [children[name] for name in found]), strict=True))
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        log.warning("Jobs without a folder here were not read from MLflow: %s", redact(str(error)))
        return runs
    return [elsewhere.get(run.name, run) for run in runs]


def _publish(store: Store, parent: str, comparison: Comparison, files: Sequence[Path]) -> None:
    """Log the report to the sweep's run and put the table into its description."""
    try:
        store.publish(parent, MARK, comparison.markdown(), files, FOLDER)
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        log.warning("The comparison is not shown in MLflow: %s", redact(str(error)))


def _compare_parent(
    parent: MLflowRun, cfg: DictConfig, metric: str | None, steps: Sequence[int] | None, out: Path | None
) -> Comparison:
    """Compare the jobs of a sweep whose folder is on another machine, as MLflow has them."""
    store = _open(cfg)
    assert store is not None  # the parent was found in it
    runs = read_runs(store, store.children(parent.info.run_id))
    typed = split_overrides(parent.data.tags.get("overrides", ""))
    comparison = compare(
        runs,
        str(parent.info.run_name),
        (out or _new_folder()) / REPORT,
        metric=metric,
        steps=steps,
        store=store.uri,
        typed=typed,
    )
    _publish(store, parent.info.run_id, comparison, write(comparison))
    return comparison


def _compare_runs(
    runs: Sequence[Run], title: str, metric: str | None, steps: Sequence[int] | None, out: Path | None
) -> Comparison:
    comparison = compare(runs, title, (out or _new_folder()) / REPORT, metric=metric, steps=steps)
    write(comparison)
    return comparison


def _filtered(cfg: DictConfig) -> list[Run]:
    store = _open(cfg)
    if store is None:
        raise UserError("filter: there is no MLflow store here; tracking.uri=... names one, runs=[...] takes folders")
    found = store.search(str(cfg.filter))
    if not found:
        raise UserError(f"filter: no run of the experiment {cfg.tracking.experiment} matches {cfg.filter}")
    return read_runs(store, found)


def _open(cfg: DictConfig, needed: bool = True) -> Store | None:
    """The store of the config; None where there is none, or where it is not needed and does not answer."""
    if not cfg.tracking:
        return None
    from gantry.tracking.query import Unanswered, open_store

    try:
        return open_store(str(cfg.tracking.uri), str(cfg.tracking.experiment))
    except Unanswered as error:
        if needed:
            raise
        log.warning("%s; looking in outputs instead", error)
        return None


def _steps(given: Any) -> list[int] | None:
    if given is None:
        return None
    steps = OmegaConf.to_container(given) if OmegaConf.is_list(given) else [given]
    if not isinstance(steps, list) or not steps or not all(type(step) is int and step >= 0 for step in steps):
        raise UserError(f"steps: must be a list of generator steps, such as [1000,3000], not {steps}")
    return sorted(set(steps))


def _new_folder() -> Path:
    now = datetime.now()
    return Path.cwd() / "outputs" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}_comparison"
