"""`python compare.py`: compares runs in a table and an HTML report."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from gantry.commands import cli
from gantry.core import errors
from gantry.core.config.check import check, refuse_absent
from gantry.core.config.options import Compare
from gantry.core.config.overrides import split_overrides
from gantry.core.errors import UserError
from gantry.core.files import check_writable, config_dir, new_output_folder
from gantry.reports.build import REPORT, compare_sweep, publish, with_page
from gantry.reports.comparison import Comparison, compare
from gantry.reports.find import find_compared_runs, find_compared_sweep
from gantry.reports.html import write
from gantry.reports.links import page
from gantry.reports.mlflow_store import read_runs
from gantry.reports.run import Run
from gantry.runs.tracking.query import Store, configured_store
from gantry.runs.tracking.rules import wrong_store
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun


LITTLE_TO_COLLECT = 100_000  # objects between garbage collections: a comparison makes millions, few in cycles


def main() -> None:
    """Run the command line of compare.py."""
    if get_args_parser().parse_known_args()[0].multirun:
        print("compare.py writes one report: leave out -m; runs=[...] compares several runs", file=sys.stderr)
        sys.exit(errors.REFUSED)
    gc.set_threshold(LITTLE_TO_COLLECT)
    cli.run(job, config_dir(), "compare")


def job(cfg: DictConfig) -> None:
    """Compare the runs that `cfg` names and print the table.

    Raises:
        UserError: an option has no valid value, or something that `cfg` names is not available.
    """
    refuse_absent(cfg, Compare)
    check(cfg, Compare, (wrong_store,))
    given = [name for name in ("sweep", "runs", "filter") if cfg[name] is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude one another: give one of them")
    if cfg.ui and not cfg.tracking:
        raise UserError("ui=true shows a comparison in MLflow, which tracking=none leaves out")
    metric, steps = cfg.metric, _steps(cfg.steps)
    out = None if cfg.out is None else Path(str(cfg.out)).expanduser().absolute()
    if out is not None:
        check_writable(out)  # before runs are looked for
    if cfg.filter is not None:
        comparison = _compare_runs(cfg, _filtered(cfg), f"Runs with {cfg.filter}", metric, steps, out)
    elif cfg.runs is not None:
        names = cfg.runs if OmegaConf.is_list(cfg.runs) else [cfg.runs]
        runs = find_compared_runs([str(name) for name in names], lambda: configured_store(cfg.tracking))
        comparison = _compare_runs(cfg, runs, "Chosen runs", metric, steps, out)
    else:
        found = find_compared_sweep(cfg.sweep, lambda: configured_store(cfg.tracking, needed=cfg.sweep is not None))
        if found.folder is not None:
            comparison = compare_sweep(
                found.folder, metric, steps, out, track=bool(cfg.tracking), store=cfg.tracking.get("uri")
            )
        else:
            assert found.tracked is not None  # a sweep without a folder here was found in MLflow
            comparison = _compare_parent(found.tracked, cfg, metric, steps, out)
    print((replace(comparison, page=None) if cfg.ui else comparison).text(), flush=True)
    if cfg.ui:
        if comparison.page is None:
            raise UserError(f"ui=true: {comparison.no_page}")
        from gantry.runs.tracking.ui_server import serve

        serve(comparison.page.store, comparison.page.address)


def _compare_parent(
    parent: MLflowRun, cfg: DictConfig, metric: str | None, steps: Sequence[int] | None, out: Path | None
) -> Comparison:
    """Compare the jobs of a sweep whose folder is on another machine, from their runs in MLflow."""
    store = configured_store(cfg.tracking)
    assert store is not None  # the parent was found in it
    runs = read_runs(store, store.children(parent.info.run_id))
    typed = split_overrides(parent.data.tags.get("overrides", ""))
    comparison = compare(
        runs,
        str(parent.info.run_name),
        _report(out),
        metric=metric,
        steps=steps,
        store=store.uri,
        typed=typed,
        sweep_page=page(store.uri, parent.info.experiment_id, parent.info.run_id),
    )
    comparison = with_page(comparison, store, parent.info.run_id)
    publish(store, parent.info.run_id, comparison, write(comparison))
    return comparison


def _compare_runs(
    cfg: DictConfig, runs: Sequence[Run], title: str, metric: str | None, steps: Sequence[int] | None, out: Path | None
) -> Comparison:
    comparison = compare(runs, title, _report(out), metric=metric, steps=steps)
    if any(run.run_id is not None for run in runs) and (store := _opened(cfg)) is not None:
        comparison = with_page(comparison, store)
    write(comparison)
    return comparison


def _report(out: Path | None) -> Path:
    """Return the report's path, whose folder can be written."""
    folder = out or new_output_folder("comparison")
    check_writable(folder)
    return folder / REPORT


def _opened(cfg: DictConfig) -> Store | None:
    """Open the store for the page of a comparison; None where there is none, or, with a warning, where it is away."""
    try:
        return configured_store(cfg.tracking, needed=False)
    except UserError as error:
        log.warning("MLflow has no page of the comparison: %s", error)
        return None


def _filtered(cfg: DictConfig) -> list[Run]:
    store = configured_store(cfg.tracking)
    if store is None:
        raise UserError("filter: there is no MLflow store here; tracking.uri=... names one, runs=[...] takes folders")
    found = store.search(str(cfg.filter))
    if not found:
        raise UserError(f"filter: no run of the experiment {cfg.tracking.experiment} matches {cfg.filter}")
    return read_runs(store, found)


def _steps(given: Any) -> list[int] | None:
    if given is None:
        return None
    steps = OmegaConf.to_container(given) if OmegaConf.is_list(given) else [given]
    if not isinstance(steps, list) or not steps or not all(type(step) is int and step >= 0 for step in steps):
        raise UserError(f"steps: must be a list of generator steps, such as [1000,3000], not {steps}")
    return sorted(set(steps))
