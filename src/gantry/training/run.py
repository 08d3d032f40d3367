"""One run: a config is checked, its parts are built, trained, measured, tracked and summed up.

What is slow to import (torch, Lightning) is imported only once the config and the data have been found good.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gantry.core.config.instantiate import called_often, maker
from gantry.core.config.options import WHILE_TRAINING
from gantry.core.errors import PeerFailed, RunFailed, UserError
from gantry.core.fast_imports import lean_imports
from gantry.core.processes.ranks import Place, ranks
from gantry.core.processes.signals import deferred
from gantry.runs.directions import DIRECTIONS, PRIMARY
from gantry.runs.folder import METRICS_FILE, SUMMARY_FILE, rewind
from gantry.runs.summary import Summary
from gantry.runs.tracking.store import check_store
from gantry.runs.tracking.tracker import Tracker, Trackers
from gantry.training.hardware.out_of_memory import advised
from gantry.training.resume import Start, check_same_data, parameters
from gantry.training.rules import check_run
from gantry.training.run_record import closed_truthfully, generators_logged, open_tracker

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from gantry.data.images import ImageSet
    from gantry.models.module import GAN
    from gantry.training.callbacks.checkpointing import DurableIO


HEALTH_CHECKS = 5  # looks of the guard between two of the health's, which take five times as long
MOST_CLASSES = 64  # of which the summary says how often each is drawn


def train(
    cfg: DictConfig,
    folder: Path,
    tags: dict[str, str],
    start: Start | None = None,
    place: Place | None = None,
    watching: Sequence[Callback] = (),
) -> Summary:
    """Train one GAN and leave its record in `folder` and, unless `tracking=none`, in MLflow.

    Args:
        cfg: the composed config of conf/train.yaml.
        folder: where samples, checkpoints, the exported generator, metrics.jsonl and summary.json go.
        tags: `variant` and `dataset`, by which runs are told apart, and whatever else is worth a tag.
        start: where it begins; None: from nothing. Rank 0's counts.
        place: this process among the run's ranks, of which only rank 0 leaves a record; None: alone.
        watching: callbacks that come before the run's own at every hook.

    Raises:
        UserError: the config or the data cannot work; nothing has been tracked yet.
        PeerFailed: another rank has failed.
    """
    check_run(cfg)
    start, place = start or Start(), place or Place()
    from gantry.data.batches import Batches

    if place.rank == 0:
        if cfg.tracking:
            check_store(cfg.tracking.uri)
        _check_new(folder, start)
    _check_cache(cache := Path(cfg.paths.cache).expanduser())
    data: ImageSet = maker(cfg.data)(cache=cache)
    if cfg.max_images is not None:
        data = data.part(cfg.max_images)
    batch_size = whole_batch(cfg, len(data), ranks(cfg.trainer, place))
    if place.rank == 0:
        if data.skipped:
            tags = tags | {"data.skipped": str(data.skipped)}
            print(f"{data.skipped} unreadable images of {data.name} are left out", flush=True)
        print(f"{tags['variant']} on {tags['dataset']}: {cfg.steps} generator steps, output in {folder}", flush=True)

    with lean_imports():
        import torch

        from gantry.data.grid import GRID
        from gantry.evaluation.evaluator import Evaluator
        from gantry.evaluation.metrics.metric import built
        from gantry.models.compilation import check_compiler
        from gantry.training.callbacks.checkpointing import Checkpointing, DurableIO
        from gantry.training.callbacks.diagnostics import Health
        from gantry.training.callbacks.divergence import Guard
        from gantry.training.callbacks.evaluation import Evaluation, peak_memory
        from gantry.training.callbacks.film import Film, film_logged
        from gantry.training.callbacks.logging import TrainingLog
        from gantry.training.callbacks.progress import Progress
        from gantry.training.distributed.peers import AgreedStop, joined
        from gantry.training.fit import fit
        from gantry.training.hardware.allocator import keep_freed_memory
        from gantry.training.hardware.precision import settled
        from gantry.training.lightning_overrides import gpus_not_looked_for, leave_out_empty_hooks
        from gantry.training.rollback import Rollback
        from gantry.training.stopwatch import Clock

    _quiet()
    keep_freed_memory()
    cfg = settled(cfg, quiet=place.rank > 0)
    io = DurableIO(folder)
    trainer = _trainer(cfg, folder, place, io)
    if cfg.compile:
        check_compiler(trainer.strategy.root_device)
    gan, network = build(cfg, data)
    with joined(trainer.strategy) as peers:
        peers.check_same(parameters(cfg) | {"data": data.digest})
        start = peers.tell(start)
        extractor = maker(cfg.metrics.extractor)(data=data, cache=cache, device=trainer.strategy.root_device)
        peers.check_same({"metrics.extractor's sha256": extractor.digest})  # each machine may have trained its own
        metrics: Any = OmegaConf.to_container(cfg.metrics, resolve=True)
        measured = built(metrics.get("measures", WHILE_TRAINING))
        evaluator = Evaluator(extractor, data, cfg.metrics.n_generated, cache, peers, measured)
        if not peers.first:
            tracker: Tracker = Trackers()
        else:
            if start.checkpoint:
                check_same_data(folder, data.digest)
            if start.goes_on:
                print(f"continues at step {start.step}", *start.changes, sep=", ", flush=True)
                rewind(folder, start.step if start.checkpoint else -1)
            tags |= {PRIMARY: evaluator.primary, DIRECTIONS: json.dumps(evaluator.higher_is_better)}
            tracker = open_tracker(cfg, folder, tags, data, evaluator.protocol, start)

        def give_up(failure: PeerFailed) -> None:
            print(failure, file=sys.stderr, flush=True)
            tracker.close("FAILED", failure.reason)

        with (
            closed_truthfully(tracker),
            generators_logged(tracker, folder),
            film_logged(tracker, folder) if peers.first else nullcontext(),
            peers.blame(give_up),
            advised(cfg, peers.world_size),
        ):
            stop = AgreedStop(peers)
            clock = Clock()
            log = TrainingLog(tracker, clock, cfg.log_every, peers)
            real = torch.from_numpy(data.images[: GRID**2].copy())
            guard = Guard(cfg.guard.every, peers)
            evaluation = Evaluation(evaluator, tracker, clock, cfg.metrics.every, real, guard, cfg.metrics.raw, stop)
            keeping = Checkpointing(io, cfg.checkpoint, evaluation, network, guard, clock, stop)
            health = [Health(tracker, HEALTH_CHECKS * cfg.guard.every, real)] if peers.first else []
            film = [Film(folder, evaluation, clock)] if peers.first else []
            bar = [Progress(evaluation, tags["variant"], folder)] if peers.first else []
            trainer.callbacks += [*watching, guard, log, *health, evaluation, *film, keeping, *bar]  # type: ignore[attr-defined]
            leave_out_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
            rollback = Rollback(cfg.guard, gan, folder, tracker, peers)
            batches = partial(Batches, data, batch_size, gan.n_critic, cfg.seed, peers.rank, peers.world_size)
            with deferred(stop), gpus_not_looked_for():
                fit(trainer, gan, batches, start, rollback)
                if evaluation.last != trainer.global_step:  # stopped while it measured for the last time
                    evaluation.evaluate(trainer, gan.to(trainer.strategy.root_device))
                    for taken in film:
                        taken.take(trainer, gan)
                keeping.finish(trainer, gan)
            images = trainer.global_step * batch_size * gan.n_critic
            summary = Summary(
                variant=tags["variant"],
                dataset=tags["dataset"],
                steps=trainer.global_step,
                images=images,
                seconds=clock.read(),
                evaluation_seconds=evaluation.seconds,
                primary=evaluator.primary,
                higher_is_better=evaluator.higher_is_better,
                first=evaluation.first,
                best=evaluation.best,
                best_step=evaluation.best_step,
                final=evaluation.final,
                classes=_few(evaluation.classes),
                **peak_memory(),
                protocol=dict(evaluator.protocol),
                folder=folder,
                tracking_uri=cfg.tracking.get("uri"),
            )
            if peers.first:
                try:
                    summary.save()
                except OSError as error:
                    raise RunFailed(
                        f"trained, and kept in its last checkpoint, but its summary cannot be written: {error}; "
                        f"resume={folder} does it"
                    ) from error
                tracker.log_artifact(folder / SUMMARY_FILE)
    return summary


def whole_batch(cfg: DictConfig, n_images: int, world_size: int) -> int:
    """The images of one discriminator step, in all its parts.

    Raises:
        UserError: the data set has fewer.
    """
    from gantry.data.batches import check_batch_size

    check_batch_size(n_images, cfg.batch_size, world_size)
    whole: int = cfg.batch_size * cfg.accumulate
    if whole > n_images:
        raise UserError(
            f"batch_size={cfg.batch_size} times accumulate={cfg.accumulate} is larger than the data set, which has "
            f"{n_images} images; the largest valid value of accumulate is {n_images // cfg.batch_size}"
        )
    return whole


def _few(classes: dict[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]] | None:
    return classes if classes is not None and len(classes) <= MOST_CLASSES else None


def _check_new(folder: Path, start: Start) -> None:
    """Refuse a run folder that holds a run not to be gone on with."""
    if (folder / METRICS_FILE).exists() and not start.goes_on:
        raise UserError(
            f"{folder} already holds a run; go on with it by resume={folder}, "
            "or choose another with hydra.run.dir=/path"
        )


def _check_cache(cache: Path) -> None:
    """Refuse a cache that cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise UserError(
            f"cannot write the cache {cache} ({error.strerror}); choose another with paths.cache=/path"
        ) from error


def _trainer(cfg: DictConfig, folder: Path, place: Place, io: DurableIO) -> Trainer:
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from gantry.training.hardware.precision import count_skipped_steps
    from gantry.training.lightning_overrides import NoProfiler, leave_signals, note_hooks_quickly

    options: dict[str, Any] = {"plugins": [io]}
    if "strategy" in cfg.trainer:
        from gantry.training.distributed.strategy import plugins

        mine = [io, *plugins(place, cfg.trainer.get("sync_batchnorm", False))]
        options = {"plugins": mine, "sync_batchnorm": False}
    if "profiler" not in cfg.trainer:
        options["profiler"] = NoProfiler()
    try:
        trainer: Trainer = maker(cfg.trainer)(
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
    count_skipped_steps(trainer)
    leave_signals(trainer)
    note_hooks_quickly()
    return trainer


def build(cfg: DictConfig, data: ImageSet) -> tuple[GAN, dict[str, Any]]:
    """The GAN of `cfg.model` for the images of `data`, its weights drawn from the seed.

    Returns:
        The GAN, and what rebuilds its generator (`gantry.runs.generator_files`).

    Raises:
        UserError: the networks do not support the size of the images, or a normalisation.
    """
    import torch

    from gantry.models.networks.blocks import UnsupportedError

    torch.manual_seed(cfg.seed)
    model: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    for name in ("optimizer", "discriminator_optimizer"):
        if "betas" in model.get(name, {}):
            model[name]["betas"] = [float(beta) for beta in model[name]["betas"]]  # torch refuses 0 for 0.0
    network = model.pop("generator") | {"z_dim": cfg.model.z_dim, "image_shape": list(data.shape)}
    try:
        generator = maker(network)()
        discriminator = maker(model.pop("discriminator"))(image_shape=data.shape)
    except UnsupportedError as error:
        raise UserError(str(error)) from error
    gan = maker(model)(
        generator=generator,
        discriminator=discriminator,
        seed=cfg.seed,
        batch_size=cfg.batch_size * cfg.accumulate,
        accumulate=cfg.accumulate,
        compile=cfg.compile,
    )
    gan.loss = called_often(gan.loss)
    return gan, network


def _quiet() -> None:
    """Keep out of the terminal what says nothing to the user, such as Lightning's remarks on what is deliberate."""
    logging.raiseExceptions = False  # a full disk takes no log file either; the terminal has it all
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
