"""`python train.py`: trains one run, or starts its ranks or its sweep."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gantry.commands import cli
from gantry.commands.arguments import arguments
from gantry.core.config.declaration import declared
from gantry.core.config.options import Train
from gantry.core.config.overrides import command, of_the_run
from gantry.core.config.places import make_absolute
from gantry.core.config.typed import plain
from gantry.core.errors import UserError
from gantry.core.files import config_dir
from gantry.core.processes import parent_watch
from gantry.core.processes.locks import held, is_held
from gantry.core.processes.ranks import find_place, fixed_devices, ranks
from gantry.core.processes.signals import stopped_by, undisturbed
from gantry.core.text import show, typed_command
from gantry.runs import checkpoint_files
from gantry.runs.find_checkpoint import Origin, find_checkpoint
from gantry.runs.folder import best_value, read_status
from gantry.sweeps import worker
from gantry.sweeps.sweep import leading
from gantry.training.distributed import spawn
from gantry.training.distributed.launchers import rank_of_another_launcher
from gantry.training.hardware.out_of_memory import advised
from gantry.training.resume import (
    Start,
    as_begun,
    begin_from,
    check_origin,
    check_unchanged,
    continues,
    ending_on_record,
    is_done,
    take_up,
)
from gantry.training.rules import check_run
from gantry.training.run import train
from gantry.training.run_record import deliver_rest


def main() -> None:
    """Run the command line of train.py."""
    with rank_of_another_launcher(find_place()):
        cli.run(job, config_dir(), "train", leading(arguments))


def job(cfg: DictConfig) -> float:
    """Train the run of `cfg` in Hydra's output folder; return the best value of the first metric, or nan.

    A worker of another launcher starts a process for the job. With several devices this process only starts the ranks
    and watches them. With `resume=` or `sweep.resume=` an earlier attempt in the folder is kept, continued or set
    aside; with a checkpoint's file the run begins there.
    """
    if worker.asked():
        return worker.run(cfg)
    in_sweep = parent_watch.follow()
    folder, place = Path(HydraConfig.get().runtime.output_dir), find_place()
    check_run(cfg)
    make_absolute(cfg)
    OmegaConf.update(cfg, "trainer.devices", fixed_devices(cfg.trainer, place), force_add=True)
    origin = None if cfg.resume is None else find_checkpoint(cfg.resume)
    taken_up = origin is None and (cfg.sweep.resume is not None or cfg.resume is not None)
    if origin is not None:
        cfg = as_begun(origin.run, cfg)
    elif taken_up:
        cfg = as_begun(folder, cfg)
        if place.rank == 0 and is_done(folder, cfg):
            return _keep(folder, cfg)
    if place.by == "nobody" and ranks(cfg.trainer, place) > 1:
        return _start_ranks(cfg, folder, taken_up, in_sweep, origin)
    if place.rank > 0:
        with spawn.ending_left(folder, place.rank):
            train(cfg, folder, _tags(), place=place)
        return math.nan
    return _train(cfg, folder, taken_up, in_sweep, origin)


def _keep(folder: Path, cfg: DictConfig) -> float:
    """Keep a finished run as it is, and deliver to MLflow what is missing there."""
    check_unchanged(folder, cfg)
    print(f"{folder} is finished and kept", flush=True)
    deliver_rest(cfg, folder)
    return math.nan if (best := best_value(folder)) is None else best


def _start_ranks(cfg: DictConfig, folder: Path, taken_up: bool, in_sweep: bool, origin: Origin | None) -> float:
    """Check what all ranks would refuse, then start the ranks and wait for them."""
    if is_held(folder):
        raise UserError(f"the run in {folder} is still running; stop it first, or wait for it")
    if taken_up and continues(folder, cfg):
        check_unchanged(folder, cfg)
    if origin is not None:
        check_origin(cfg, origin)
    return spawn.run(cfg, folder, ranks(cfg.trainer, find_place()), in_sweep)


def _train(cfg: DictConfig, folder: Path, taken_up: bool, in_sweep: bool, origin: Origin | None) -> float:
    """Train as the only rank or rank 0, which locks the folder, and print the summary."""
    place = find_place()
    with held(folder, "the run in"):
        before = read_status(folder)
        start = begin_from(folder, cfg, origin) if origin else take_up(folder, cfg) if taken_up else Start()
        recorded = ending_on_record(folder, before if start.goes_on else None)
        with recorded, advised(cfg, ranks(cfg.trainer, place)):
            try:
                summary = train(cfg, folder, _tags(), start, place)
            except BaseException as error:
                if stopped_by(error) is not None and not in_sweep:
                    with undisturbed():  # by a second Ctrl-C
                        print(_how_to_go_on(folder), flush=True)
                raise
    print(summary.text(in_sweep, _data_overrides()), flush=True)
    return summary.best.get(summary.primary, math.nan)


def _how_to_go_on(folder: Path) -> str:
    """Return the line that says how a stopped run goes on."""
    if checkpoint_files.newest(folder) is None:
        return "stopped before it had a checkpoint; the same command begins it anew"
    return f"stopped; to go on: {typed_command('train')} {shlex.quote(f'resume={show(folder)}')}"


def _data_overrides() -> list[str]:
    """Return the overrides that say what is trained on, with which a command trains on the same again."""
    mine = ("data=", "data.", "metrics=", "metrics.extractor.", "max_images=")
    options, folders = declared(Train), [text for text in command() if text.startswith("--config-dir")]
    words = []
    for text in HydraConfig.get().overrides.task:
        key, _, value = text.partition("=")
        is_path = key in options and options[key].typed
        if key.lstrip("+~").startswith(mine) or f"{key}=" in mine:
            words.append(f"{key}={plain(value)}" if is_path else text)
    given = command()
    return [*words, *(f"{flag}={given[given.index(flag) + 1]}" for flag in folders)]


def _tags() -> dict[str, str]:
    """Return the job's variant, data set and overrides, which identify runs in comparisons."""
    hydra = HydraConfig.get()
    choices = hydra.runtime.choices
    return {
        "variant": choices["model"],
        "dataset": choices["data"],
        "overrides": " ".join(of_the_run(hydra.overrides.task)),
    }
