"""Where a run begins: from nothing, or where an earlier attempt in its folder was stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gantry.distributed.place import find_place
from gantry.errors import PeerFailed, UserError
from gantry.launch import leash
from gantry.launch.process import quoted
from gantry.launch.record import read_json, set_aside, state_of
from gantry.signals import stopped_by
from gantry.tracking.base import RUN_FILE
from gantry.tracking.folder import CHECKPOINT, STATUS_FILE, write_status
from gantry.tracking.params import flatten

# What a run may go on with when it differs: where things are, how often they are logged, how the sweep is run.
DEVICES = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.sync_batchnorm")
FREE = ("paths.", "tracking.", "data.root", "log_every", *DEVICES)


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

    A job of a sweep that has failed begins again; a single run goes on from its checkpoint, since the user says so.

    Raises:
        UserError: the config is not the one the run was stopped with.
    """
    if continues(folder, cfg):
        check_unchanged(folder, cfg)
        (folder / STATUS_FILE).unlink(missing_ok=True)
        record = read_json(folder / RUN_FILE) or {}
        return Start(folder / CHECKPOINT, record.get("run_id"))
    if state_of(folder) == "again":
        set_aside(folder)
    return Start()


def continues(folder: Path, cfg: DictConfig) -> bool:
    """Whether the run in `folder` goes on from its checkpoint."""
    return state_of(folder) == "continues" or (cfg.resume is not None and (folder / CHECKPOINT).exists())


def arguments(given: Sequence[str]) -> list[str]:
    """The command line, with what `resume=...` implies: the run's folder and its own overrides.

    What is typed beside it wins over the run's own.

    Raises:
        UserError: there is no such run.
    """
    asked = [text.partition("=")[2].strip("'\"") for text in given if text.startswith("resume=")]
    if not asked or asked[-1] in ("", "null") or leash.LEASH in os.environ:  # a rank's is its run's
        return list(given)
    if {"-m", "--multirun"} & set(given):
        raise UserError("resume= goes on with one run; a sweep is taken up with sweep.resume=")
    folder = Path(asked[-1]).expanduser().absolute()
    file = folder / ".hydra" / "overrides.yaml"
    if not file.exists():
        if find_place().rank > 0:
            return list(given)  # on another machine; `Peers.check_same` sees to the rest
        raise UserError(f"resume={asked[-1]}: {folder} holds no run, which has a .hydra/overrides.yaml")
    keys = {text.partition("=")[0] for text in given} | {"resume"}
    own = [text for text in map(str, OmegaConf.load(file)) if text.partition("=")[0] not in keys]
    # What Hydra keeps there stays what the run began with, whatever becomes of this attempt.
    return [*own, *given, f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]


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
    """The resolved config as flat text, as it stands in params.json and in MLflow, without how it was started."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    return flatten({key: value for key, value in tree.items() if key not in ("sweep", "resume")})


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
                reason = error.reason if isinstance(error, PeerFailed) else f"{type(error).__name__}: {error}"
                write_status(folder, "FAILED", reason)
        raise
