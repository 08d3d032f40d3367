"""One run: a config is checked, its parts are built, trained, measured, tracked and summed up.

What is slow to import (torch, Lightning) is imported only once the config and the data have been found good.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gantry import cli
from gantry.config import check_run
from gantry.distributed import processes
from gantry.distributed.place import Place, find_place, fixed_devices, rank_of_another_launcher, ranks
from gantry.errors import PeerFailed, RunFailed, UserError
from gantry.launch import apart, leash
from gantry.launch.leader import leading
from gantry.launch.process import result
from gantry.launch.record import of_the_run
from gantry.lean import lean_imports
from gantry.lock import held, is_held
from gantry.making import called_often, maker
from gantry.memory import advised
from gantry.recording import ROOT, closed_truthfully, deliver_rest, generators_logged, open_tracker
from gantry.resume import (
    Start,
    arguments,
    as_begun,
    check_same_data,
    check_unchanged,
    continues,
    ending_on_record,
    is_done,
    parameters,
    take_up,
)
from gantry.signals import deferred
from gantry.summary import Summary
from gantry.tracking import Tracker, Trackers, check_store
from gantry.tracking.folder import METRICS_FILE, read_status, rewind

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from gantry.checkpointing import DurableIO
    from gantry.data.images import ImageSet
    from gantry.gan import GAN

HEALTH_CHECKS = 5  # looks of the guard between two of the health's, which take five times as long
MOST_CLASSES = 64  # of which the summary says how often each is drawn


def main() -> None:
    """The command line of train.py."""
    with rank_of_another_launcher(find_place()):
        cli.run(job, ROOT / "conf", "train", leading(arguments))


def job(cfg: DictConfig) -> float:
    """Train as `cfg` says in Hydra's output folder; returns the best value of the first metric.

    With several devices this process only starts the ranks and watches them. What an earlier attempt left in the
    folder is kept, gone on with or set aside where the command line takes it up.
    """
    if apart.asked():
        return apart.run(cfg)
    in_sweep = leash.follow()
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    place = find_place()
    check_run(cfg)
    cfg.trainer.devices = fixed_devices(cfg.trainer, place)
    resumed = cfg.sweep.resume is not None or cfg.resume is not None
    if resumed:
        cfg = as_begun(folder, cfg)
        if place.rank == 0 and is_done(folder, cfg):
            check_unchanged(folder, cfg)
            print(f"{folder} is finished and kept", flush=True)
            deliver_rest(cfg, folder)
            return math.nan if (best := result(folder)) is None else best
    if place.by == "nobody" and (count := ranks(cfg.trainer, place)) > 1:
        if is_held(folder):
            raise UserError(f"the run in {folder} is still running; stop it first, or wait for it")
        if resumed and continues(folder, cfg):
            check_unchanged(folder, cfg)
        return processes.run(cfg, folder, count, in_sweep)
    choices = hydra.runtime.choices
    tags = {
        "variant": choices["model"],
        "dataset": choices["data"],
        "overrides": " ".join(of_the_run(hydra.overrides.task)),
    }
    if place.rank > 0:
        train(cfg, folder, tags, place=place)
        return math.nan
    with held(folder, "the run in"):
        before = read_status(folder)
        start = take_up(folder, cfg) if resumed else Start()
        recorded = ending_on_record(folder, before if start.goes_on else None)
        with recorded, advised(cfg, ranks(cfg.trainer, place)):
            summary = train(cfg, folder, tags, start, place)
    print(summary.text(in_sweep), flush=True)
    return summary.best.get(summary.primary, math.nan)


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

        from gantry.allocator import keep_freed_memory
        from gantry.callbacks import Progress, TrainingLog
        from gantry.checkpointing import Checkpointing, DurableIO
        from gantry.clock import Clock
        from gantry.compiler import check_compiler
        from gantry.distributed.peers import AgreedStop, joined
        from gantry.evaluation import Evaluation, peak_memory
        from gantry.film import Film, film_logged
        from gantry.guard import Guard
        from gantry.health import Health
        from gantry.loop import gpus_not_looked_for, leave_out_empty_hooks
        from gantry.metrics.evaluator import Evaluator
        from gantry.precision import settled
        from gantry.rollback import Rollback, fit
        from gantry.sampling import GRID

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
        evaluator = Evaluator(extractor, data, cfg.metrics.n_generated, cache, peers)
        if not peers.first:
            tracker: Tracker = Trackers()
        else:
            if start.checkpoint:
                check_same_data(folder, data.digest)
            if start.goes_on:
                print(f"continues at step {start.step}", *start.changes, sep=", ", flush=True)
                rewind(folder, start.step if start.checkpoint else -1)
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
                tracker.log_artifact(folder / "summary.json")
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

    from gantry.loop import NoProfiler
    from gantry.precision import count_skipped_steps

    options: dict[str, Any] = {"plugins": [io]}
    if "strategy" in cfg.trainer:
        from gantry.distributed.strategy import plugins

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
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # see `deferred`
    return trainer


def build(cfg: DictConfig, data: ImageSet) -> tuple[GAN, dict[str, Any]]:
    """The GAN of `cfg.model` for the images of `data`, its weights drawn from the seed.

    Returns:
        The GAN, and what rebuilds its generator (`gantry.export`).
    """
    import torch

    torch.manual_seed(cfg.seed)
    model: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    for name in ("optimizer", "discriminator_optimizer"):
        if "betas" in model.get(name, {}):
            model[name]["betas"] = [float(beta) for beta in model[name]["betas"]]  # torch refuses 0 for 0.0
    network = model.pop("generator") | {"z_dim": cfg.model.z_dim, "image_shape": list(data.shape)}
    generator = maker(network)()
    discriminator = maker(model.pop("discriminator"))(image_shape=data.shape)
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
