"""Where a run begins: from nothing, or where an earlier attempt in its folder was stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gantry.core.config.declaration import within
from gantry.core.config.options import FREE, PLACES, WHILE_TRAINING
from gantry.core.errors import JobFailed, UserError, reason
from gantry.core.files import read_json
from gantry.core.processes import parent_watch
from gantry.core.processes.signals import stopped_by
from gantry.runs import checkpoint_files
from gantry.runs.folder import (
    RUN_FILE,
    STATUS_FILE,
    SUMMARY_FILE,
    TAGS_FILE,
    Status,
    note_kind,
    read_metrics,
    read_params,
    read_values,
    rewind,
    set_aside,
    state_of,
    write_status,
)
from gantry.runs.tracking.params import flatten

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        checkpoint: to go on from; None: from nothing.
        step: generator steps done by then.
        goes_on: whether an earlier attempt in the same folder had begun; its record is gone on with.
        run_id: that one's run in MLflow, where there is one.
        changes: what has changed since in the config, such as "steps 1000 -> 2000"; places are left out.
    """

    checkpoint: Path | None = None
    step: int = 0
    goes_on: bool = False
    run_id: str | None = None
    changes: tuple[str, ...] = ()


def take_up(folder: Path, cfg: DictConfig) -> Start:
    """Prepare a run's folder for what comes next: to go on where it was stopped, or to begin again.

    A job of a sweep that has failed begins again; a single run goes on from its checkpoint, since the user says so.

    Raises:
        UserError: the config is not the one the run was stopped with, its budget is already passed, or it has trained
            and no checkpoint is whole.
    """
    if continues(folder, cfg):
        changes = check_unchanged(folder, cfg)
        known = checkpoint_files.found(folder)
        chosen = checkpoint_files.newest(folder, aside=True)
        trained = max((line["step"] for line in read_metrics(folder)), default=0)
        if chosen is not None and chosen.step > cfg.steps:
            raise UserError(f"steps={cfg.steps}: the run in {folder} has done {chosen.step} already; give no fewer")
        if chosen is not None or not (known or trained):
            (folder / STATUS_FILE).unlink(missing_ok=True)
            run_id = (read_json(folder / RUN_FILE) or {}).get("run_id")
            if chosen is None:
                return Start(goes_on=True, run_id=run_id, changes=changes)
            return Start(chosen.path, chosen.step, True, run_id, changes)
        if cfg.resume is not None:
            which = f"none of its {len(known)} checkpoints is whole" if known else "it has no checkpoint to go on from"
            raise UserError(
                f"resume={folder}: {which}, and its record goes to step {trained}; python train.py without resume= "
                "begins the run anew in another folder"
            )
        set_aside(folder)
    elif state_of(folder) == "again":
        set_aside(folder)
    return Start()


def continues(folder: Path, cfg: DictConfig) -> bool:
    """Return True if the run in `folder` continues what an earlier attempt has left."""
    return state_of(folder) == "continues" or (cfg.resume is not None and bool(checkpoint_files.found(folder)))


def is_done(folder: Path, cfg: DictConfig) -> bool:
    """Return True if the run in `folder` has finished, with at least the steps asked for now."""
    steps: int = (read_json(folder / SUMMARY_FILE) or {}).get("steps", 0)
    return state_of(folder) == "finished" and cfg.steps <= steps


def check_unchanged(folder: Path, cfg: DictConfig) -> tuple[str, ...]:
    """Refuse to go on with another config than the run in `folder` had; returns what may differ and does.

    Raises:
        UserError: naming the keys that differ and may not.
    """
    before, now = read_params(folder), parameters(as_begun(folder, cfg))
    if not before:
        return ()
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if refused := [key for key in keys if not within(key, FREE)]:
        lines = [f"{key}: was {before.get(key, 'absent')}, is {now.get(key, 'absent')}" for key in refused]
        head = f"{folder} holds a run of another config, which cannot go on (what may change: {', '.join(FREE)}):"
        raise UserError("\n".join([head, *lines]))
    mine = [key for key in keys if not within(key, PLACES)]
    return tuple(f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in mine)


def check_same_data(folder: Path, digest: str) -> None:
    """Refuse to go on with other images than the run in `folder` began with, under the same config.

    Raises:
        UserError: those of an image folder, say, are not what they were.
    """
    before = read_values(folder / TAGS_FILE).get("metrics.data_digest", digest)
    if before != digest:
        raise UserError(
            f"{folder} holds a run that began with other images, which have changed since (their digest was "
            f"{before}, is {digest}): it cannot go on with these"
        )


def take_up_record(folder: Path, start: Start, digest: str) -> None:
    """Cut the record in `folder` back to the step at which the run goes on, and say so.

    Args:
        digest: of the images it goes on with.

    Raises:
        UserError: see `check_same_data`.
    """
    if start.checkpoint:
        check_same_data(folder, digest)
    if start.goes_on:
        print(f"continues at step {start.step}", *start.changes, sep=", ", flush=True)
        rewind(folder, start.step if start.checkpoint else -1)


def as_begun(folder: Path, cfg: DictConfig) -> DictConfig:
    """The config with the precision that `auto` stood for when the run in `folder` began, on whatever machine."""
    began = read_params(folder).get("trainer.precision")
    if cfg.trainer.precision != "auto" or began is None:
        return cfg
    return cast(DictConfig, OmegaConf.merge(cfg, {"trainer": {"precision": began}}))


def parameters(cfg: DictConfig) -> dict[str, str]:
    """The resolved config as flat text, as it stands in params.json and in MLflow, without how it was started."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    if tuple(tree["metrics"].get("measures") or ()) == WHILE_TRAINING:  # which runs begun before it could be said had
        del tree["metrics"]["measures"]
    return flatten({key: value for key, value in tree.items() if key not in ("sweep", "resume")})


@contextmanager
def ending_on_record(folder: Path, before: tuple[Status | None, str | None] | None = None) -> Iterator[None]:
    """See that status.json says how the run ended, also where it ended before it could track anything.

    Args:
        before: how the attempt that is gone on with ended; that is still so where going on is refused.
    """
    try:
        yield
    except BaseException as error:
        if not (folder / STATUS_FILE).exists():
            try:
                if isinstance(error, UserError) and before is not None:
                    status, why = before
                    if status is not None:
                        write_status(folder, status, why)
                elif (number := stopped_by(error)) is not None:
                    write_status(folder, "KILLED", parent_watch.reason() or f"stopped by {number.name}")
                else:
                    write_status(folder, "FAILED", reason(error))
            except OSError as full:  # must not take the place of what has ended the run, nor of its exit code
                log.warning("%s cannot be written: %s", folder / STATUS_FILE, full)
        if isinstance(error, JobFailed) and error.kind is not None:
            with suppress(OSError):  # of a full disk the run has spoken
                note_kind(folder, error.kind)
        raise
