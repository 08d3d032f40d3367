"""`python sample.py`: draws images from a trained generator, exports, registers or serves it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gantry.commands import cli
from gantry.commands.sampled_classes import MOST_SHOWN, asked_labels, in_name
from gantry.core import errors
from gantry.core.config.check import check, refuse_absent
from gantry.core.config.declaration import declared
from gantry.core.config.sample_options import Sample
from gantry.core.errors import RunFailed, UserError
from gantry.core.files import check_writable, config_dir, new_output_folder
from gantry.core.processes.devices import chosen
from gantry.core.processes.signals import stoppable
from gantry.core.text import show
from gantry.generation.find import GENERATORS, FoundGenerator, find_generator
from gantry.generation.output_paths import LABELS, check_free, check_port
from gantry.generation.registry.names import check_name
from gantry.runs.folder import GENERATED
from gantry.runs.tracking.query import answering, configured_store
from gantry.runs.tracking.rules import wrong_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MLflowRun


MODES = ("interpolate", "latent_grid", "between", "codes", "project", "export", "register", "ui")


def main() -> None:
    """Run the command line of sample.py."""
    if get_args_parser().parse_known_args()[0].multirun:
        print("sample.py takes one generator at a time: leave out -m", file=sys.stderr)
        sys.exit(errors.REFUSED)
    cli.run(job, config_dir(), "sample", around=stoppable())


def job(cfg: DictConfig) -> None:
    """Draw from, export, register or serve the generator of `cfg`.

    Raises:
        UserError: something that `cfg` names is not available.
    """
    _check(cfg)
    mode = _mode(cfg)
    if mode == "ui":
        check_port(cfg.port)
    _check_places(cfg)
    trusted = ("gantry.models.networks.", *cfg.trusted)
    cache = Path(cfg.paths.cache).expanduser()
    found = find_generator(str(cfg.run), cfg.generator, cfg.raw, trusted, lambda: configured_store(cfg.tracking), cache)
    if mode == "export":
        _export(cfg, found, trusted)
    elif mode == "register":
        _register(cfg, found)
    elif mode == "ui":
        from gantry.generation.ui.server import serve

        serve(found.files.folder, trusted, cfg.port)
    else:
        _draw(cfg, found, mode)


def _check(cfg: DictConfig) -> None:
    """Check the config, and report every problem at once."""
    refuse_absent(cfg, Sample)
    problems = [] if cfg.run is not None else [f"run: say which generator: {GENERATORS}"]
    problems += _problems(cfg)
    try:
        check(cfg, Sample, (wrong_store,))
    except UserError as error:
        problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(problems))


def _problems(cfg: DictConfig) -> Iterator[str]:
    asked = [name for name in MODES if cfg[name] not in (None, False)]
    if len(asked) > 1:
        yield f"{', '.join(asked)}: one at a time"
        return
    mode = asked[0] if asked else ""
    typed = [text.lstrip("+~").partition("=")[0] for text in HydraConfig.get().overrides.task]
    for name, option in declared(Sample).items():
        if name in typed and option.modes and mode not in option.modes:
            belongs = " or ".join(one or "images" for one in option.modes)
            yield f"{name}: belongs to {belongs}" + (f", not to {mode}" if mode else "")
    if cfg.raw is True and mode in ("export", "register", "ui"):
        yield f"raw: what {mode} hands on is the averaged generator"
    numbers = list(cfg.directions) if OmegaConf.is_list(cfg.directions) else [0, 1]  # `check` refuses other types
    if len(set(numbers)) != 2 or len(numbers) != 2 or not all(type(one) is int and one >= 0 for one in numbers):
        yield f"directions: takes two different numbers from 0, such as [0,1], not {numbers}"
    if cfg["class"] is not None and cfg.classes:
        yield "class, classes: give one of them"
    if mode == "register":
        yield from _unregistrable(cfg)
    for key in ("project", "mask"):
        if cfg[key] is not None and not Path(str(cfg[key])).expanduser().exists():
            yield f"{key}: {cfg[key]} does not exist"
    if mode == "latent_grid" and isinstance(cfg.latent_grid, int) and cfg.latent_grid**2 > MOST_SHOWN:
        yield f"latent_grid: must be at most {math.isqrt(MOST_SHOWN)}: a grid shows {MOST_SHOWN} images at most"
    if mode == "interpolate" and isinstance(cfg.n, int) and cfg.n > MOST_SHOWN:
        yield f"n: a film shows {MOST_SHOWN} walks at most, not {cfg.n}"
    yield from _wrong_out(cfg, mode)


def _unregistrable(cfg: DictConfig) -> Iterator[str]:
    if not cfg.tracking:
        yield "register: the registry is MLflow's, which tracking=none leaves out; tracking=mlflow names it"
    try:
        check_name(str(cfg.register))
    except UserError as error:
        yield str(error)


def _wrong_out(cfg: DictConfig, mode: str) -> Iterator[str]:
    suffix = "" if cfg.out is None else Path(str(cfg.out)).suffix.lower()
    if mode == "interpolate" and cfg.out is not None:
        from gantry.generation.animation import check_suffix

        try:
            check_suffix(Path(str(cfg.out)))
        except UserError as error:
            yield f"out: {error}"
    elif mode in ("latent_grid", "between", "codes", "project") and cfg.out is not None and suffix != ".png":
        yield f"out: the picture is a .png, not {cfg.out}"
    elif mode == "" and suffix in (".jpg", ".jpeg", ".gif", ".webp", ".mp4", ".npy", ".zip"):
        yield f"out: samples are written as a .png, an .npz or a folder of PNG files, not as {suffix}"
    elif mode == "between" and isinstance(cfg.n, int) and cfg.n > MOST_SHOWN:
        yield f"n: a grid shows {MOST_SHOWN} images at most, not {cfg.n}"
    elif mode == "" and isinstance(cfg.n, int) and cfg.n > MOST_SHOWN and (cfg.out is None or suffix == ".png"):
        yield f"n: a grid shows {MOST_SHOWN} images at most, not {cfg.n}; out=<folder> or out=<file>.npz takes them"


def _mode(cfg: DictConfig) -> str:
    return next((name for name in MODES if cfg[name] not in (None, False)), "")


def _check_places(cfg: DictConfig) -> None:
    """Check that what the command writes can be written, before a generator is looked for."""
    if (out := _absolute(cfg.out)) is not None:
        check_writable(out if out.is_dir() else out.parent)
        if out.is_dir() and _mode(cfg) != "":
            raise UserError(f"out={out} is a folder; name a file")
    if (export := _absolute(cfg.export)) is not None:
        check_writable(export, "export")


def _absolute(path: str | None) -> Path | None:
    return None if path is None else Path(str(path)).expanduser().absolute()


def _draw(cfg: DictConfig, found: FoundGenerator, mode: str) -> None:
    """Write images and print their path."""
    out = _absolute(cfg.out)
    if out is not None and mode == "":
        check_free(out)
    classes = found.files.classes()
    labels = asked_labels(cfg, classes, found.title, mode)
    accelerator, devices = chosen(cfg.accelerator, cfg.devices)
    from gantry.generation.write_images import Order, draw_archive, draw_folder

    order = Order(found.files, cfg.n, cfg.seed, cfg.truncation, cfg.batch_size, accelerator, devices, labels)
    if mode == "" and out is not None and out.suffix.lower() != ".png":
        (draw_archive if out.suffix.lower() == ".npz" else draw_folder)(order, out)
        print(f"{cfg.n:,} images  {show(out)}", flush=True)
        return
    from gantry.generation import pictures

    if mode == "interpolate":
        path = out or _place(found, f"walk_seed{cfg.seed}_{cfg.interpolate}{in_name(cfg, labels)}.gif")
        pictures.walk(order, cfg.interpolate, cfg.frames, path)
    elif mode == "latent_grid":
        first, second = cfg.directions
        path = out or _place(found, f"plane_seed{cfg.seed}_{first}_{second}{in_name(cfg, labels)}.png")
        pictures.plane(order, cfg.latent_grid, (first, second), cfg.extent, path)
    elif mode == "between":
        assert classes is not None
        path = out or _place(found, f"between_seed{cfg.seed}_{cfg.between}{in_name(cfg, labels)}.png")
        pictures.between(order, cfg.between, len(classes), path)
    elif mode == "codes":
        path = out or _place(found, f"codes_seed{cfg.seed}_{cfg.codes}.png")
        print(pictures.codes(order, cfg.codes, path), flush=True)
    elif mode == "project":
        given = Path(str(cfg.project)).expanduser()
        mask = None if cfg.mask is None else Path(str(cfg.mask)).expanduser()
        path = out or _place(found, f"{'repaired' if mask else 'projected'}_{given.stem}_seed{cfg.seed}.png")
        _check_apart(path, given, mask)
        print(pictures.projected(order, given, mask, path, Path(cfg.paths.cache).expanduser(), classes), flush=True)
    else:
        path = out or _place(found, f"samples_seed{cfg.seed}_{cfg.n}{in_name(cfg, labels)}.png")
        pictures.grid(order, path)
    print(show(path), flush=True)


def _export(cfg: DictConfig, found: FoundGenerator, trusted: tuple[str, ...]) -> None:
    """Export the generator to files that load without Gantry."""
    from gantry.generation.export.export import export_generator

    run = None if found.run is None else found.run.folder
    made = export_generator(
        found.files.folder,
        Path(str(cfg.export)).expanduser().absolute(),
        run=run,
        formats=list(cfg.formats),
        licence=cfg.licence,
        trusted=trusted,
    )
    width = max(len(show(file.path)) for file in made.files)
    for file in made.files:
        checked = "" if file.difference is None else f"  its images differ by {file.difference:.1e} at most"
        print(f"{show(file.path):{width}}{checked}".rstrip(), flush=True)
    if made.needs:
        print(
            f"its network needs {', '.join(made.needs)} besides torch; trusted=[...] sends modules of your own along",
            flush=True,
        )
    if made.failed:
        raise RunFailed("\n".join(f"not written as {name}: {why}" for name, why in made.failed.items()))


def _register(cfg: DictConfig, found: FoundGenerator) -> None:
    """Register the generator as a new version of a registered model."""
    import tempfile

    from gantry.generation.export.model_card import FILE, model_card
    from gantry.generation.registry.champion import measured
    from gantry.generation.registry.registry import register

    files, run = found.files, found.run
    quality = None
    if run is not None:
        quality = measured(run.folder, files.step(), files.digest(), metric=cfg.metric)
    elif cfg.metric is not None:
        raise UserError("metric: an exported generator's folder tells of none; name its run")
    client, experiment = answering(str(cfg.tracking.uri), str(cfg.tracking.experiment))
    logged = None if run is None or run.run_id is None else _logged(client, run.run_id)
    tags = logged.data.tags if logged else {}
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder) / FILE
        parameters = sum(weight.numel() for weight in files.load().parameters())
        text = model_card(files.folder, run.folder if run else None, licence=cfg.licence, parameters=parameters)
        card.write_text(text, encoding="utf-8")
        done = register(
            client,
            cfg.register,
            files,
            logged.info.experiment_id if logged else experiment,
            logged.info.run_id if logged else None,
            quality,
            {name: tags[name] for name in ("variant", "dataset") if name in tags},
            card,
            renew=cfg.licence is not None,
        )
    print(done.text, flush=True)


def _logged(client: MlflowClient, run_id: str) -> MLflowRun | None:
    """Return the MLflow run; None where this store has none of that id."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _place(found: FoundGenerator, name: str) -> Path:
    """Return the default path of a picture: in its run's folder of pictures, else in a new folder."""
    if found.run is not None and not found.run.fetched:
        folder = found.run.folder / GENERATED
    else:
        folder = new_output_folder("samples")
    check_writable(folder)
    return folder / name


def _check_apart(path: Path, *read: Path | None) -> None:
    """Check that neither the picture at `path` nor the latents beside it would overwrite an input."""
    for written in (path, path.with_suffix(".npy"), path.with_suffix(LABELS)):
        for one in read:
            if one is not None and written.exists() and written.samefile(one):
                raise UserError(f"out={path} would write over {show(one)}; choose another out=...")
