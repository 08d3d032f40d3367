"""Builds and connects the user's callbacks and loggers, named by `trainer.callbacks` and `trainer.logger`."""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

from gantry.core.config.instantiate import maker
from gantry.core.errors import RunFailed, UserError, reason
from gantry.runs.folder import Status
from gantry.runs.tracking.tracker import Tracker, Trackers, never_raises
from gantry.training.extension_rules import LIGHTNING, REFUSED


@dataclass(frozen=True)
class Extensions:
    """The user's callbacks and loggers on one rank, one for each node; on ranks above 0 the loggers do nothing."""

    callbacks: list[Callback]
    loggers: list[Logger]

    def connect(self, trainer: Trainer, record: Tracker, params: Mapping[str, Any]) -> Tracker:
        """Send Gantry's params and metrics to the loggers, and metrics that callbacks log by Lightning to `record`.

        Returns:
            The tracker of the run, which passes calls on to `record` and to the loggers.
        """
        if not self.callbacks and not self.loggers:
            return record
        trainer.loggers = [*self.loggers, RecordLogger(record, trainer)]
        loggers = [LoggerTracker(logger) for logger in self.loggers]
        for logger in loggers:
            logger.log_params(params)
        return Trackers(record, *loggers)


def build_extensions(trainer: DictConfig, folder: Path, first: bool) -> Extensions:
    """Build the callbacks and, on rank 0, the loggers that the config's `trainer` names.

    Args:
        trainer: the config's `trainer`.
        folder: the run's folder; a logger's relative `save_dir` is relative to it.
        first: True on rank 0.

    Raises:
        UserError: an object cannot be built, has the wrong class, or has a class of `REFUSED` or a subclass of one.
    """
    settings: Any = OmegaConf.to_container(trainer, resolve=True)
    callbacks = [
        _made(f"trainer.callbacks.{n}", node, Callback) for n, node in enumerate(settings.get("callbacks", ()))
    ]
    loggers = []
    for number, node in enumerate(settings.get("logger", ())):
        if "save_dir" in node:
            node["save_dir"] = str(folder / node["save_dir"])
        loggers.append(_guarded(_made(f"trainer.logger.{number}", node, Logger)) if first else DummyLogger())
    return Extensions([_with_plain_state(callback) for callback in callbacks], loggers)


def _made(key: str, node: dict[str, Any], kind: type) -> Any:
    """Build the object of a node and check that it is a `kind`."""
    try:
        made = maker(node)()
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    except (ImportError, InstantiationException, MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"{key}: {node['_target_']} cannot be made: {reason(error)}") from error
    if not isinstance(made, kind):
        raise UserError(f"{key}: {node['_target_']} is no {kind.__module__.partition('.')[0]} {kind.__name__}")
    for base in type(made).__mro__:
        if base.__module__.partition(".")[0] in LIGHTNING and base.__name__ in REFUSED:
            raise UserError(f"{key}: {base.__name__}, which {node['_target_']} is, {REFUSED[base.__name__]}")
    return made


def _with_plain_state(callback: Callback) -> Callback:
    """Let `state_dict` raise for a state that resuming could not load: checkpoints are read with weights_only=True."""
    if type(callback).state_dict is Callback.state_dict:
        return callback
    state_dict = callback.state_dict

    @functools.wraps(state_dict)
    def checked() -> dict[str, Any]:
        state = state_dict()
        try:
            torch.save(state, content := io.BytesIO())
            content.seek(0)
            torch.load(content, weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            name = type(callback).__name__
            raise RunFailed(f"{name}.state_dict() must hold tensors and plain values only: {reason(error)}") from error
        return state

    callback.state_dict = checked  # type: ignore[method-assign]
    return callback


def _guarded(logger: Logger) -> Logger:
    """Keep the logger's exceptions from ending the training, also where Lightning calls it."""
    for name in ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize"):
        setattr(logger, name, MethodType(never_raises(getattr(type(logger), name)), logger))
    return logger


class LoggerTracker:
    """Passes a run's params and metrics on to a Lightning logger; the steps are generator steps.

    It leaves out tags, images and files, since Lightning's loggers have no common method for them.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(params))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(metrics), step)
        self.logger.save()

    def log_image(self, image: np.ndarray, key: str, step: int, text: Mapping[str, int] | None = None) -> None:
        pass

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        pass

    def close(self, status: Status, reason: str | None = None) -> None:
        self.logger.finalize("success" if status == "FINISHED" else "failed")


class RecordLogger(DummyLogger):
    """Adds the metrics that callbacks log through Lightning, such as learning rates, to a run's record.

    Their step is the number of generator steps done; the step that Lightning passes for `self.log` is one less.
    """

    def __init__(self, record: Tracker, trainer: Trainer) -> None:
        super().__init__()
        self.record, self.trainer = record, trainer

    @never_raises
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log all metrics but Lightning's epoch, since a run has only one."""
        if values := {name: float(value) for name, value in metrics.items() if name != "epoch"}:
            self.record.log_metrics(values, self.trainer.global_step)
