"""Builds the GAN of a run from its config; needs neither torchvision nor what else only measuring and saving need."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from gantry.core.config.check import is_number
from gantry.core.config.instantiate import called_often, maker
from gantry.core.config.signatures import signature
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.models.labels import Classes, without_classes
from gantry.models.module import GAN
from gantry.models.networks.blocks import UnsupportedError


def _maker_of(model: dict[str, Any]) -> Callable[..., GAN]:
    """Return the maker of the GAN, whose parts but the networks it has made.

    Raises:
        UserError: the constructor of a part refuses its options.
    """
    try:
        return maker(model)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            named = re.search(r"full_key: (\S+)", str(error))
            key = re.sub(r"(?<=[a-z])(?=\d+$)", ".", named[1]) if named else ""  # Hydra leaves out a list's dot
            raise UserError(f"model{f'.{key}' if key else ''}: {error.__cause__}") from error
        raise


def class_count(key: str, network: Mapping[str, Any], classes: Classes | None) -> dict[str, int]:
    """Return `n_classes` for a network whose constructor takes it, which only networks that take labels do.

    Raises:
        UserError: it takes the number, and the data has fewer than two classes.
    """
    read = signature(network["_target_"])
    if read is None or read.get("n_classes") is None:
        return {}
    if said := without_classes(key, None if classes is None else classes.names):
        raise UserError(said)
    assert classes is not None
    return {"n_classes": len(classes)}


def code_length(discriminator: Mapping[str, Any], z_dim: int) -> dict[str, int]:
    """Return `z_dim` for a discriminator whose constructor takes it, which only those that judge codes do."""
    read = signature(discriminator["_target_"])
    return {} if read is None or read.get("z_dim") is None else {"z_dim": z_dim}


def build_model(cfg: DictConfig, data: ImageSet) -> tuple[GAN, dict[str, Any]]:
    """Build the GAN of `cfg.model` for the images of `data`; `cfg.seed` determines its initial weights.

    Returns:
        The GAN, and the config from which `gantry.runs.generator_files` rebuilds its generator.

    Raises:
        UserError: the networks do not support the size of the images, or a normalisation.
    """
    torch.manual_seed(cfg.seed)
    model: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    for name in ("optimizer", "discriminator_optimizer"):
        if "betas" in model.get(name, {}):
            betas = model[name]["betas"]  # torch refuses 0 for 0.0
            model[name]["betas"] = [float(beta) if is_number(beta) else beta for beta in betas]
    classes = None if data.labels is None else Classes.of(data.labels, data.classes or ())
    network = model.pop("generator") | {"z_dim": cfg.model.z_dim, "image_shape": list(data.shape)}
    network |= class_count("model.generator", network, classes)
    opponent = model.pop("discriminator") | {"image_shape": data.shape}
    opponent |= class_count("model.discriminator", opponent, classes)
    opponent |= code_length(opponent, cfg.model.z_dim)
    try:
        generator = maker(network)()
        discriminator = maker(opponent)()
    except UnsupportedError as error:
        raise UserError(str(error)) from error
    gan = _maker_of(model)(
        generator=generator,
        discriminator=discriminator,
        seed=cfg.seed,
        batch_size=cfg.batch_size * cfg.accumulate,
        accumulate=cfg.accumulate,
        compile=cfg.compile,
        classes=classes,
        image_shape=data.shape,
    )
    gan.loss = called_often(gan.loss)
    return gan, network
