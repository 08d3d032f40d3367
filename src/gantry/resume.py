"""Where a run begins: from nothing, or where an earlier attempt in its folder was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gantry.errors import UserError
from gantry.launch import leash
from gantry.launch.record import read_json, set_aside, state_of
from gantry.signals import stopped_by
from gantry.tracking.base import RUN_FILE
from gantry.tracking.folder import CHECKPOINT, STATUS_FILE, write_status
from gantry.tracking.params import flatten

# What a run may go on with when it differs: where things are, how often they are logged, how the sweep is run.
FREE = ("paths.", "tracking.", "sweep.", "data.root", "log_every")


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        checkpoint: to go on from; None: from nothing.
        run_id: its run in MLflow, with a checkpoint and where there is one.
    """

    checkpoint: Path | None = None
    run_id: str | None = None

    def step(self) -> int:
        """Generator steps done."""
        if self.checkpoint is None:
            return 0
        import torch

        try:
            return int(torch.load(self.checkpoint, map_location="cpu", weights_only=True)["global_step"])
        except Exception as error:
            raise UserError(f"the checkpoint {self.checkpoint} cannot be read: {error}") from error


def take_up(folder: Path, cfg: DictConfig) -> Start:
    """Prepare a run's folder for what comes next: to go on where it was stopped, or to begin again.

    Raises:
        UserError: the config is not the one the run was stopped with.
    """
    state = state_of(folder)
    if state == "continues":
        check_unchanged(folder, cfg)
        (folder / STATUS_FILE).unlink(missing_ok=True)
        record = read_json(folder / RUN_FILE) or {}
        return Start(folder / CHECKPOINT, record.get("run_id"))
    if state == "again":
        set_aside(folder)
    return Start()


def check_unchanged(folder: Path, cfg: DictConfig) -> None:
    """Refuse to go on with another config than the run in `folder` had.

    Raises:
        UserError: naming the keys that differ.
    """
    before, now = read_json(folder / "params.json"), parameters(as_begun(folder, cfg))
    if before is None:
        return
    differ = [
        f"{key}: was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    if differ:
        raise UserError("\n".join([f"{folder} holds a run of another config, which cannot go on:", *differ]))


def as_begun(folder: Path, cfg: DictConfig) -> DictConfig:
    """The config with the precision that `auto` stood for when the run in `folder` began, on whatever machine."""
    began = (read_json(folder / "params.json") or {}).get("trainer.precision")
    if cfg.trainer.precision != "auto" or began is None:
        return cfg
    return cast(DictConfig, OmegaConf.merge(cfg, {"trainer": {"precision": began}}))


def parameters(cfg: DictConfig) -> dict[str, str]:
    """The resolved config as flat text, as it stands in params.json and in MLflow, without how the sweep is run."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    return flatten({key: value for key, value in tree.items() if key != "sweep"})


@contextmanager
def ending_on_record(folder: Path) -> Iterator[None]:
    """See that status.json says how the run ended, also where it ended before it could track anything."""
    try:
        yield
    except BaseException as error:
        if not (folder / STATUS_FILE).exists():
            if (number := stopped_by(error)) is not None:
                write_status(folder, "KILLED", leash.reason() or f"stopped by {number.name}")
            else:
                write_status(folder, "FAILED", f"{type(error).__name__}: {error}")
        raise
