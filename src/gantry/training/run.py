"""Carries out one run: checks its folders and data, builds its parts, trains, measures, tracks and summarises.

Torch and Lightning, slow to import, are imported only after the config and the data have been checked.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gantry.core.config.instantiate import maker
from gantry.core.errors import RunFailed, UserError
from gantry.core.fast_imports import lean_imports
from gantry.core.processes.ranks import Place, ranks
from gantry.core.text import show
from gantry.data.describe import data_record, data_tags, describe, warnings_of
from gantry.runs.directions import DIRECTIONS, PRIMARY
from gantry.runs.folder import CAVEATS, METRICS_FILE, SAMPLES, SUMMARY_FILE
from gantry.runs.summary import Summary
from gantry.runs.tracking.store import check_store, where_tracked
from gantry.runs.tracking.tracker import Tracker, Trackers
from gantry.training.hardware.out_of_memory import advised
from gantry.training.held_out import held_out
from gantry.training.init_from.origin import ALL, Origin, origin_of
from gantry.training.label_use import check_labels, one_sided
from gantry.training.resume import Start, parameters, take_up_record
from gantry.training.run_record import open_tracker, recorded

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from gantry.data.images import ImageSet
    from gantry.evaluation.evaluator import Evaluator
    from gantry.models.module import GAN
    from gantry.training.build import Callbacks
    from gantry.training.distributed.peers import Peers
    from gantry.training.init_from.weights import Initial


log = logging.getLogger(__name__)
MOST_CLASSES = 64  # up to which the summary holds how often each class is drawn


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
        cfg: the composed config of conf/train.yaml, which `gantry.training.rules.check_run` has passed.
        folder: where samples, checkpoints, the exported generator, metrics.jsonl and summary.json go.
        tags: `variant` and `dataset`, which identify the run in comparisons, and further tags.
        start: where the run begins; None: at step 0. All ranks use rank 0's.
        place: this process's place among the run's ranks, of which only rank 0 writes a record; None: alone.
        watching: callbacks that come before the run's own at every hook.

    Raises:
        UserError: the config or the data cannot work; it is raised before tracking begins.
        PeerFailed: another rank has failed.
    """
    start, place = start or Start(), place or Place()
    cache = _check_folders(cfg, folder, start, place)
    origin = origin_of(cfg, folder, start) if place.rank == 0 else None
    data, unseen = build_data(cfg, cache, ranks(cfg.trainer, place), held_out_too=place.rank == 0)
    tags = _announce(cfg, folder, tags, data) if place.rank == 0 else tags
    with lean_imports():
        from gantry.data.batches import Batches
        from gantry.training.build import build_callbacks, build_evaluator, build_trainer
        from gantry.training.callbacks.checkpointing import DurableIO
        from gantry.training.distributed.meeting import joined
        from gantry.training.extensions import build_extensions
        from gantry.training.fit import fit
        from gantry.training.hardware.allocator import keep_freed_memory
        from gantry.training.hardware.cuda_graph import check_cuda_graph, fixed_step
        from gantry.training.hardware.memory_share import keep_to_share
        from gantry.training.hardware.precision import settled
        from gantry.training.memory import say_need
        from gantry.training.model import build_model
        from gantry.training.rollback import Rollback
    _quiet()
    keep_freed_memory()
    cfg = settled(cfg, quiet=place.rank > 0)
    trainer = build_trainer(cfg, folder, place, io := DurableIO(folder))
    keep_to_share(trainer.strategy.root_device)
    own = build_extensions(cfg.trainer, folder, first=place.rank == 0)
    check_cuda_graph(cfg, trainer, own.callbacks)
    say_need(cfg, data, trainer.strategy.root_device, place, ranks(cfg.trainer, place))
    gan, network = build_model(cfg, data)
    if place.rank == 0 and (unfinished := gan.grown.unfinished(cfg.steps * gan.batch_size)):
        log.warning("%s", unfinished)
    initial = _initial(cfg, folder, start, origin, gan)
    with joined(trainer.strategy) as peers:
        params = parameters(cfg)
        peers.check_same(params | {"data": data.digest})
        start = peers.tell(start)
        _load(cfg, gan, peers, initial)
        evaluator = build_evaluator(cfg, data, cache, trainer.strategy.root_device, peers, gan)
        record = _begin_record(cfg, folder, tags, data, evaluator, start, initial) if peers.first else Trackers()
        tracker = own.connect(trainer, record, params)
        with recorded(tracker, folder, peers), advised(cfg, peers.world_size):
            parts = (network, io, evaluator, data, tracker, peers)
            callbacks = build_callbacks(cfg, folder, tags["variant"], *parts, watching, own.callbacks, unseen)
            trainer.callbacks += callbacks.ordered  # type: ignore[attr-defined]
            gan.fixed = fixed_step(cfg, trainer, data, own.callbacks)
            batches = partial(Batches, data, gan.batch_size, gan.real_batches, cfg.seed, peers.rank, peers.world_size)
            if gan.fixed is not None:
                batches = partial(batches, indices=gan.fixed.images is not None)
            fit(trainer, gan, batches, start, Rollback(cfg.guard, gan, folder, tracker, peers), callbacks)
            return _saved(summarise(cfg, folder, tags, data, trainer, gan, callbacks), tracker, peers)


def build_data(cfg: DictConfig, cache: Path, world_size: int, held_out_too: bool) -> tuple[ImageSet, ImageSet | None]:
    """Load the images of `cfg.data`, at most `cfg.max_images`, and some that the run is not trained on.

    Returns:
        The images, and held-out ones where they are asked for and there are some.

    Raises:
        UserError: the images cannot be read or are fewer than a batch, or the ranks cannot share a batch.
    """
    from gantry.data.batches import check_batch_size

    whole: ImageSet = maker(cfg.data)(cache=cache)
    data = whole if cfg.max_images is None else whole.part(cfg.max_images)
    check_batch_size(len(data), cfg.batch_size, world_size, cfg.accumulate)
    check_labels(cfg, data)
    return data, held_out(cfg, whole, cache) if held_out_too else None


def _load(cfg: DictConfig, gan: GAN, peers: Peers, initial: Initial | None) -> None:
    """Give the networks of every rank the trained weights that rank 0 has read."""
    from gantry.training.init_from.weights import load_initial

    if cfg.get("init_from") is not None and (told := peers.tell(initial)) is not None:
        load_initial(gan, told)


def _initial(cfg: DictConfig, folder: Path, start: Start, origin: Origin | None, gan: GAN) -> Initial | None:
    """Read the trained weights of `init_from`, and print what of them the networks take; None without any.

    Raises:
        UserError: they cannot be read, do not fit, or are not those that a stopped run had begun with.
    """
    if origin is None:
        return None
    from gantry.training.init_from.weights import check_same_weights, lines, read_initial

    initial = read_initial(origin, cfg.get("init_networks", ALL), gan)
    check_same_weights(folder, start, initial)
    print(*lines(initial.record), sep="\n", flush=True)
    return initial


def _begin_record(
    cfg: DictConfig,
    folder: Path,
    tags: dict[str, str],
    data: ImageSet,
    evaluator: Evaluator,
    start: Start,
    initial: Initial | None,
) -> Tracker:
    """Begin the record of a run, or continue that of an earlier attempt.

    Raises:
        UserError: the earlier attempt had other images.
    """
    take_up_record(folder, start, data.digest)
    tags = tags | {PRIMARY: evaluator.primary, DIRECTIONS: json.dumps(evaluator.higher_is_better)}
    if evaluator.caveats:
        tags = tags | {CAVEATS: "\n".join(evaluator.caveats)}
    if initial is None:
        return open_tracker(cfg, folder, tags, data, evaluator.protocol, start)
    from gantry.training.init_from.weights import tags_of, write_record

    path = write_record(folder, initial)
    tracker = open_tracker(cfg, folder, tags | tags_of(initial.record), data, evaluator.protocol, start)
    tracker.log_artifact(path)
    return tracker


def summarise(
    cfg: DictConfig,
    folder: Path,
    tags: dict[str, str],
    data: ImageSet,
    trainer: Trainer,
    gan: GAN,
    callbacks: Callbacks,
) -> Summary:
    """Return the summary of a run that has trained to its end."""
    from gantry.training.callbacks.evaluation import peak_memory

    evaluation = callbacks.evaluation
    classes = evaluation.classes
    return Summary(
        variant=tags["variant"],
        dataset=tags["dataset"],
        steps=trainer.global_step,
        images=trainer.global_step * gan.batch_size * gan.real_batches,
        seconds=callbacks.clock.read(),
        evaluation_seconds=evaluation.seconds,
        primary=evaluation.evaluator.primary,
        higher_is_better=evaluation.evaluator.higher_is_better,
        first=evaluation.first,
        best=evaluation.best,
        best_step=evaluation.best_step,
        final=evaluation.final,
        classes=classes if classes is not None and len(classes) <= MOST_CLASSES else None,
        **peak_memory(),
        protocol=dict(evaluation.evaluator.protocol),
        caveats=evaluation.evaluator.caveats,
        folder=folder,
        tracking_uri=cfg.tracking.get("uri"),
        data=data_record(data),
    )


def _saved(summary: Summary, tracker: Tracker, peers: Peers) -> Summary:
    """Write and log the summary on rank 0, and return it.

    Raises:
        RunFailed: the summary cannot be written.
    """
    if not peers.first:
        return summary
    try:
        summary.save()
    except OSError as error:
        raise RunFailed(
            f"trained, and kept in its last checkpoint, but its summary cannot be written: {error}; "
            f"resume={summary.folder} does it"
        ) from error
    tracker.log_artifact(summary.folder / SUMMARY_FILE)
    return summary


def _check_folders(cfg: DictConfig, folder: Path, start: Start, place: Place) -> Path:
    """Check that store and cache can be written and that `folder` holds no other run; return the cache's folder."""
    if place.rank == 0:
        if cfg.tracking:
            check_store(cfg.tracking.uri)
        if (folder / METRICS_FILE).exists() and not start.goes_on:
            raise UserError(
                f"{folder} already holds a run; go on with it by resume={folder}, "
                "or choose another with hydra.run.dir=/path"
            )
    cache = Path(cfg.paths.cache).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise UserError(
            f"cannot write the cache {cache} ({error.strerror}); choose another with paths.cache=/path, or "
            "the environment variable GANTRY_CACHE"
        ) from error
    return cache


def _announce(cfg: DictConfig, folder: Path, tags: dict[str, str], data: ImageSet) -> dict[str, str]:
    """Print the data, what the run does, for how long, and where its output and its record go.

    Returns:
        The tags with those of the data.
    """
    print(describe(data), flush=True)
    for warning in (*warnings_of(data), *one_sided(cfg)):
        log.warning("%s", warning)
    batches = cfg.model.get("n_critic", 1) + (cfg.model.get("generator_reals") == "next")
    images = cfg.steps * cfg.batch_size * cfg.accumulate * batches
    print(
        f"{tags['variant']} on {tags['dataset']}: {cfg.steps} generator steps, {images:,} real images, "
        f"measured every {cfg.metrics.every}",
        "time left: said once the first steps are done",
        f"output in {show(folder)}, its pictures in {SAMPLES}",
        sep="\n",
        flush=True,
    )
    if cfg.tracking:
        print(where_tracked(cfg.tracking.uri, cfg.tracking.experiment), flush=True)
    return tags | data_tags(data)


def _quiet() -> None:
    """Keep warnings and remarks of Lightning about deliberate settings out of the terminal."""
    logging.raiseExceptions = False  # a full disk fails the log file too; the terminal shows everything
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
