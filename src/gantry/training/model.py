"""Builds the GAN of a run from its config; needs neither torchvision nor what else only measuring and saving need."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gantry.core.config.instantiate import called_often, maker
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.models.module import GAN
from gantry.models.networks.blocks import UnsupportedError


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
