"""Builds the parts of a run from its config: trainer, evaluator, callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer

from gantry.core.config.instantiate import maker
from gantry.core.config.options import WHILE_TRAINING
from gantry.core.errors import UserError
from gantry.core.processes.ranks import Place
from gantry.data.grid import GRID
from gantry.data.images import ImageSet
from gantry.evaluation.encoder import Encoder
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.ground import measured
from gantry.evaluation.metrics.metric import built
from gantry.models.compilation import check_compiler
from gantry.models.module import GAN
from gantry.runs.tracking.tracker import Tracker
from gantry.training.callbacks.checkpointing import Checkpointing, DurableIO
from gantry.training.callbacks.diagnostics import Health
from gantry.training.callbacks.divergence import Guard
from gantry.training.callbacks.early_grids import EarlyGrids
from gantry.training.callbacks.evaluation import Evaluation, asked_labels, measured_codes
from gantry.training.callbacks.film import Film
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.callbacks.overfitting import Overfitting
from gantry.training.callbacks.progress import Progress
from gantry.training.distributed.peers import AgreedStop, Peers
from gantry.training.distributed.strategy import plugins
from gantry.training.extension_rules import OPTIONS
from gantry.training.hardware.precision import count_skipped_steps
from gantry.training.lightning_overrides import (
    NoProfiler,
    know_the_arguments_of_a_step,
    leave_out_empty_hooks,
    leave_signals,
    note_hooks_quickly,
    write_profile,
)
from gantry.training.stopwatch import Clock

HEALTH_CHECKS = 5  # checks of the guard for each of the health's, which takes five times as long


def build_trainer(cfg: DictConfig, folder: Path, place: Place, io: DurableIO) -> Trainer:
    """Build Lightning's trainer, without callbacks and loggers.

    Args:
        cfg: the run's config with its precision resolved.
        folder: the run's folder.
        place: this process's place among the run's ranks.
        io: reads and writes the run's checkpoints.

    Raises:
        UserError: the device, the precision or the compiler that the config names is not available.
    """
    settings = OmegaConf.masked_copy(cfg.trainer, [str(key) for key in cfg.trainer if key not in OPTIONS])
    options: dict[str, Any] = {"plugins": [io]}
    if "strategy" in settings:
        mine = [io, *plugins(place, settings.get("sync_batchnorm", False))]
        options = {"plugins": mine, "sync_batchnorm": False}
    if settings.get("profiler") is None:
        options["profiler"] = NoProfiler()
    if any(key in cfg.trainer for key in OPTIONS):
        options["log_every_n_steps"] = cfg.log_every
    try:
        trainer: Trainer = maker(settings)(
            max_steps=cfg.steps,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}\ntrainer.accelerator=auto takes what there is") from error
    if trainer.precision != cfg.trainer.precision:  # Lightning falls back with a warning
        raise UserError(f"trainer.precision={cfg.trainer.precision} needs a GPU; here: 32-true or bf16-mixed")
    write_profile(trainer, folder)
    count_skipped_steps(trainer)
    leave_signals(trainer)
    know_the_arguments_of_a_step(trainer)
    note_hooks_quickly()
    if cfg.compile:
        check_compiler(trainer.strategy.root_device)
    return trainer


def build_evaluator(
    cfg: DictConfig, data: ImageSet, cache: Path, device: torch.device, peers: Peers, gan: GAN
) -> Evaluator:
    """Build the generator's evaluator; without a filled cache it takes longer to build than all other parts.

    Transparent images are laid on a ground for it. An extractor that is a classifier is first trained on them; then the
    features of the real images are computed.

    Raises:
        UserError: the ranks' extractors differ, since each machine may have trained its own.
    """
    data = measured(data, cache)
    extractor = maker(cfg.metrics.extractor)(data=data, cache=cache, device=device)
    peers.check_same({"metrics.extractor's sha256": extractor.digest})
    metrics: Any = OmegaConf.to_container(cfg.metrics, resolve=True)
    measures = built(metrics.get("measures", WHILE_TRAINING))
    count = cfg.metrics.n_generated
    asked, codes = asked_labels(gan, count), measured_codes(gan, count)
    encodes = Encoder.of(gan.generator) is not None
    return Evaluator(extractor, data, count, cache, peers, measures, asked=asked, codes=codes, encodes=encodes)


@dataclass(frozen=True)
class Callbacks:
    """A run's callbacks and the objects that they share.

    Attributes:
        ordered: all callbacks, in the order in which Lightning calls them.
        stop: the request to stop that the ranks agree on.
        clock: measures the time spent training.
        film: the film on rank 0; None on other ranks.
    """

    ordered: list[Callback]
    stop: AgreedStop
    clock: Clock
    evaluation: Evaluation
    checkpointing: Checkpointing
    film: Film | None


def build_callbacks(
    cfg: DictConfig,
    folder: Path,
    label: str,
    network: dict[str, Any],
    io: DurableIO,
    evaluator: Evaluator,
    data: ImageSet,
    tracker: Tracker,
    peers: Peers,
    watching: Sequence[Callback] = (),
    users: Sequence[Callback] = (),
    held_out: ImageSet | None = None,
) -> Callbacks:
    """Build the callbacks of a run.

    Their order matters. `Guard` comes first, to find non-finite values before they are logged, measured or saved. The
    user's callbacks come before `Evaluation`, which a signal may stop while it measures, so that the checkpoint of a
    step always holds their state after that step. `EarlyGrids` and `Film` use what `Evaluation` has drawn.
    `Checkpointing` comes after every callback with a state, and stops the run on request; the progress bar then shows
    a finished step.

    Args:
        cfg: the run's config.
        folder: the run's folder.
        label: the text beside the progress bar.
        network: the generator's config, from which its export is rebuilt.
        io: writes checkpoints.
        evaluator: measures the generator.
        data: the real images; the first are shown beside the samples.
        tracker: receives metrics and images.
        peers: the run's ranks; only rank 0 has logs, health checks, film and progress bar.
        watching: callbacks that come before all others.
        users: the callbacks of `trainer.callbacks`.
        held_out: real images that the run is not trained on; None: there are none.

    Raises:
        UserError: two callbacks have the same key, so that one would overwrite the other's state in a checkpoint.
    """
    stop, clock = AgreedStop(peers), Clock()
    real = torch.from_numpy(data.images[: GRID**2].copy())
    labels = None if data.labels is None else torch.from_numpy(data.labels[: GRID**2])
    guard = Guard(cfg.guard.every, peers)
    log = TrainingLog(tracker, clock, cfg.log_every, peers)
    evaluation = Evaluation(evaluator, tracker, clock, cfg.metrics.every, real, guard, cfg.metrics.raw, stop)
    checkpointing = Checkpointing(io, cfg.checkpoint, evaluation, network, guard, clock, stop)
    health = [Health(tracker, HEALTH_CHECKS * cfg.guard.every, real, labels)] if peers.first else []
    overfitting = []
    if peers.first and held_out is not None:
        overfitting = [Overfitting(tracker, clock, cfg.metrics.every, data, held_out)]
    film = Film(folder, evaluation, clock) if peers.first else None
    early = [EarlyGrids(folder, evaluation)] if peers.first else []
    bar = [Progress(evaluation, log, label, folder)] if peers.first else []
    observing = [*watching, guard, log, *health, *overfitting]
    keeping = [evaluation, *early, *([film] if film else []), checkpointing, *bar]
    leave_out_empty_hooks([*observing, *keeping])
    ordered = [*observing, *users, *keeping]
    keys = [callback.state_key for callback in ordered if type(callback).state_dict is not Callback.state_dict]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise UserError(
            f"trainer.callbacks: more than one has the state_key {', '.join(sorted(twice))}; rename a class"
        )
    return Callbacks(ordered, stop, clock, evaluation, checkpointing, film)
