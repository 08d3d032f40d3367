"""Determines where a run begins: at step 0, or at the last checkpoint of an earlier attempt in its folder."""

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
from gantry.core.config.signatures import signature
from gantry.core.errors import JobFailed, UserError, reason
from gantry.core.files import read_json
from gantry.core.processes import parent_watch
from gantry.core.processes.signals import stopped_by
from gantry.core.text import typed_command
from gantry.runs import checkpoint_files
from gantry.runs.find_checkpoint import Origin, refuse_taken
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
from gantry.runs.run_config import home_of
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.params import flatten

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The state in which a run begins.

    Attributes:
        checkpoint: the checkpoint to resume from; None: begin at step 0.
        step: generator steps done at the checkpoint.
        goes_on: True if the run continues the record of an earlier attempt in the same folder.
        run_id: the earlier attempt's run in MLflow; None where there is none.
        changes: the config's changes since then, such as "steps 1000 -> 2000", without those of `PLACES`.
        origin: the other run's checkpoint at which this new run begins; None: it begins at step 0, or continues.
    """

    checkpoint: Path | None = None
    step: int = 0
    goes_on: bool = False
    run_id: str | None = None
    changes: tuple[str, ...] = ()
    origin: Origin | None = None


def begin_from(folder: Path, cfg: DictConfig, origin: Origin) -> Start:
    """Begin a new run in `folder` at the checkpoint of another run, which is only read.

    The checkpoint is copied, so that the new run goes on by itself however early it is stopped.

    Raises:
        UserError: `folder` holds a run, the config is not that of the other run, the checkpoint is of the last step or
            a later one, or it has been removed meanwhile.
    """
    checkpoint = origin.checkpoint
    refuse_taken(folder)
    check_origin(cfg, origin)
    try:
        content = checkpoint.path.read_bytes()
    except OSError as error:
        raise UserError(f"resume={checkpoint.path}: {error.strerror}") from error
    FolderTracker(folder).set_tags(origin.tags)
    copied = checkpoint_files.write(folder, checkpoint.step, content)
    return Start(copied, checkpoint.step, changes=check_unchanged(origin.run, cfg), origin=origin)


def check_origin(cfg: DictConfig, origin: Origin) -> None:
    """Check that a run of `cfg` can begin at the checkpoint of another run.

    Raises:
        UserError: see `begin_from`.
    """
    check_unchanged(origin.run, cfg)
    if origin.checkpoint.step >= cfg.steps:
        raise UserError(f"steps={cfg.steps}: the checkpoint is of step {origin.checkpoint.step}; give more steps")


def take_up(folder: Path, cfg: DictConfig) -> Start:
    """Prepare a run's folder for another attempt, which continues where the run was stopped or begins again.

    A sweep's failed job begins again; a single run continues from its checkpoint, since `resume=` asks for it.

    Raises:
        UserError: the config is not the one the run was stopped with, the run has passed its budget, or it has trained
            and no checkpoint is intact.
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
                f"resume={folder}: {which}, and its record goes to step {trained}; {typed_command('train')} without "
                "resume= begins the run anew in another folder"
            )
        set_aside(folder)
    elif state_of(folder) == "again":
        set_aside(folder)
    return Start()


def continues(folder: Path, cfg: DictConfig) -> bool:
    """Return True if the run in `folder` continues an earlier attempt."""
    return state_of(folder) == "continues" or (cfg.resume is not None and bool(checkpoint_files.found(folder)))


def is_done(folder: Path, cfg: DictConfig) -> bool:
    """Return True if the run in `folder` has finished with at least `cfg.steps` steps."""
    steps: int = (read_json(folder / SUMMARY_FILE) or {}).get("steps", 0)
    return state_of(folder) == "finished" and cfg.steps <= steps


def check_unchanged(folder: Path, cfg: DictConfig) -> tuple[str, ...]:
    """Check that `cfg` differs from the config of the run in `folder` only where it may, and return the differences.

    Raises:
        UserError: keys differ that may not; the message names them.
    """
    before, now = read_params(folder), parameters(as_begun(folder, cfg))
    if home := home_of(folder):
        before = home.params(before)
    if not before:
        return ()
    now = _as_older(before, now, cfg.data)
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if refused := [key for key in keys if not within(key, FREE)]:
        replaced = [key.removesuffix("._target_") for key in refused if key.endswith("._target_")]
        lines = [
            f"{key}: was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
            for key in refused
            if key.endswith("._target_") or not within(key, replaced)  # of another part its options are others
        ]
        head = f"{folder} holds a run of another config, which cannot go on (what may change: {', '.join(FREE)}):"
        advice = (
            f"leave out what changes it to go on with the run, or begin a new one with its weights: init_from={folder}"
        )
        raise UserError("\n".join([head, *lines, advice]))
    mine = [key for key in keys if not within(key, PLACES)]
    return tuple(f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in mine)


def _as_older(before: dict[str, str], now: dict[str, str], data: DictConfig) -> dict[str, str]:
    """Return `now` without options of the data set that an older run lacks and that have their defaults."""
    read = signature(data["_target_"]) if "_target_" in data else None
    own = {one.name: one.default for one in read.parameters if not one.required} if read else {}
    defaults = flatten({"data": own})
    return {key: value for key, value in now.items() if key in before or defaults.get(key) != value}


def check_same_data(folder: Path, digest: str) -> None:
    """Check that the images are those with which the run in `folder` began, which the config cannot tell.

    Raises:
        UserError: the images have changed, such as those of an image folder.
    """
    before = read_values(folder / TAGS_FILE).get("metrics.data_digest", digest)
    if before != digest:
        raise UserError(
            f"{folder} holds a run that began with other images, which have changed since (their digest was "
            f"{before}, is {digest}): it cannot go on with these"
        )


def take_up_record(folder: Path, start: Start, digest: str) -> None:
    """Cut the record in `folder` back to the step at which the run continues, and print that step.

    Args:
        digest: the digest of the images with which it continues.

    Raises:
        UserError: see `check_same_data`.
    """
    if start.checkpoint:
        check_same_data(start.origin.run if start.origin else folder, digest)
    if start.origin:
        where = f"{start.origin.run}, {start.origin.checkpoint.path.name}"
        print(f"begins at step {start.step} of {where}", *start.changes, sep=", ", flush=True)
    if start.goes_on:
        print(f"continues at step {start.step}", *start.changes, sep=", ", flush=True)
        rewind(folder, start.step if start.checkpoint else -1)


def as_begun(folder: Path, cfg: DictConfig) -> DictConfig:
    """Return `cfg` with the precision to which `auto` resolved when the run in `folder` began, on any machine."""
    began = read_params(folder).get("trainer.precision")
    if cfg.trainer.precision != "auto" or began is None:
        return cfg
    return cast(DictConfig, OmegaConf.merge(cfg, {"trainer": {"precision": began}}))


def parameters(cfg: DictConfig) -> dict[str, str]:
    """Return the resolved config as params.json and MLflow hold it: flat, as text, without `sweep` and `resume`.

    `metrics.measures`, `init_from`, `model.terms` and `model.ema.standing` are left out at their defaults, since older
    runs lack them.
    """
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    for part, name, default in ((tree["model"], "terms", []), (tree["model"].get("ema") or {}, "standing", 0)):
        if part.get(name) == default:
            del part[name]
    if tuple(tree["metrics"].get("measures") or ()) == WHILE_TRAINING:
        del tree["metrics"]["measures"]
    left_out = ("sweep", "resume", *(("init_from", "init_networks") if tree.get("init_from") is None else ()))
    return flatten({key: value for key, value in tree.items() if key not in left_out})


@contextmanager
def ending_on_record(folder: Path, before: tuple[Status | None, str | None] | None = None) -> Iterator[None]:
    """Write how the run ended to status.json, also where it ended before tracking began.

    Args:
        before: status and reason of the attempt that is continued; they are restored where continuing is refused.
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
            except OSError as full:  # must not replace the error that has ended the run, nor its exit code
                log.warning("%s cannot be written: %s", folder / STATUS_FILE, full)
        if isinstance(error, JobFailed) and error.kind is not None:
            with suppress(OSError):  # a full disk has been reported already
                note_kind(folder, error.kind)
        raise
