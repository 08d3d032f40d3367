"""Refuses parts of a GAN that do not go together."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantry.core.errors import UserError
from gantry.models.inference import Inference
from gantry.models.labels import Classes, LabelDraw, taken_by, without_classes
from gantry.models.local_gradient import LocalGradientPenalty
from gantry.models.losses import Loss, seen_by_generator
from gantry.models.penalties import INPUT_GRADIENT, Penalty
from gantry.models.play import View
from gantry.models.schedules import settled
from gantry.models.step_inputs import Order


def check_discriminator(discriminator: nn.Module, parts: Sequence[object]) -> None:
    """Refuse a discriminator that ends in a sigmoid, or one with BatchNorm under per-image gradients of parts.

    Raises:
        UserError: names the part and the alternatives.
    """
    modules = list(discriminator.modules())
    if isinstance(modules[-1], nn.Sigmoid):
        raise UserError(
            "model.discriminator ends in a sigmoid, but the losses work on its raw output "
            "(a Wasserstein critic is unbounded; the others apply their own log-sigmoid): remove it"
        )
    names = at_images(parts)
    if names and any(isinstance(module, _BatchNorm) for module in modules):
        raise UserError(
            f"model.discriminator uses BatchNorm, under which an image has no gradient of its own for {names}: "
            "choose model.discriminator.norm=none (or layer, instance, spectral)"
        )


def check_labels(
    networks: Mapping[str, nn.Module], labels: Mapping[str, LabelDraw | None], classes: Classes | None
) -> None:
    """Refuse networks that take labels where the data has fewer than two classes, and draws of labels without use.

    Args:
        networks: by player.
        labels: by player, how the labels of its generated images are drawn; None: not given.
        classes: of the data; None where it has no labels.

    Raises:
        UserError: names the part and the alternatives.
    """
    takers = [player for player, network in networks.items() if "labels" in taken_by(network)]
    if takers and (said := without_classes(f"model.{takers[0]}", None if classes is None else classes.names)):
        raise UserError(said)
    given = [player for player, draw in labels.items() if draw is not None]
    if given and not takers:
        raise UserError(
            "model.labels: neither network takes labels: leave it out, or choose networks that do, such as "
            "model/network=conditional_dcgan"
        )


def check_view(view: View | None, image_shape: Sequence[int], values: Mapping[str, float]) -> None:
    """Refuse an augmentation that cannot take the data's images, by one image of zeros.

    Args:
        view: None: there is none.
        image_shape: (C, H, W) of the data's images; empty: not known.
        values: scheduled numbers at the first step, by their place in the config.

    Raises:
        UserError: in the augmentation's words.
    """
    if view is None or not image_shape:
        return
    now = settled(view, "augment", {place: torch.tensor(value) for place, value in values.items()})
    try:
        with torch.no_grad():
            now(torch.zeros(1, *image_shape), torch.full((1, view.width), 0.5))
    except ValueError as error:
        raise UserError(f"model.augment: {error}") from error


def at_images(parts: Sequence[object]) -> str:
    """Return the names of those parts that take the discriminator's gradient at images."""
    return ", ".join(type(part).__name__ for part in parts if isinstance(part, (*INPUT_GRADIENT, LocalGradientPenalty)))


def check_codes(generator: nn.Module, discriminator: nn.Module, loss: Loss, parts: Sequence[object]) -> None:
    """Refuse a discriminator of codes without an encoder, an encoder that learns nothing, and gradients of half a pair.

    Raises:
        UserError: names the part and the alternatives.
    """
    judged, encodes = "codes" in taken_by(discriminator), isinstance(generator, Inference)
    if judged and not encodes:
        raise UserError(
            "model.discriminator judges images with their codes, and model.generator has no encoder: choose "
            "model/network=bigan, which has both"
        )
    if encodes and not judged:
        raise UserError(
            "model.generator has an encoder, which model.discriminator, that takes no codes, does not train: choose "
            "model/network=bigan, which has both"
        )
    if judged and "real" not in seen_by_generator(loss):
        raise UserError(
            "model.loss: the encoder learns from the logits of real images, which the generator's part of this loss "
            "does not see: choose model.loss._target_=gantry.models.losses.bidirectional"
        )
    names = at_images(parts)
    if judged and names:
        raise UserError(
            f"{names} takes the gradient of the discriminator at an image, and this one judges pairs of an image and a "
            "code: leave it out (model.penalties=[], model.terms=[])"
        )


def check_order(order: Order, loss: Loss, labels: Mapping[str, LabelDraw], penalties: Sequence[Penalty] = ()) -> None:
    """Refuse a generator's batch that cannot be paired with real images, and turns that cannot be taken at once.

    Raises:
        UserError: names the options that exclude each other.
    """
    if order.first == "together":
        others = [
            f"model.{name}={value}"
            for name, value, only in (
                ("n_critic", order.n_critic, 1),
                ("generator_batches", order.generator_batches, 1),
                ("generator_reals", order.generator_reals, "last"),
                ("discriminator_labels", labels.get("discriminator"), labels.get("generator")),
            )
            if value != only
        ]
        others += [f"own_step of {type(one).__name__}" for one in penalties if getattr(one, "own_step", False)]
        if others:
            raise UserError(
                f"model.first=together: both players move at once, on one batch, which leaves no room for "
                f"{' and '.join(others)}: leave that out, or choose model.first=discriminator or generator"
            )
    if order.generator_batches == 1:
        return
    if "real" in seen_by_generator(loss):
        raise UserError(
            f"model.generator_batches={order.generator_batches}: the loss compares each generated image with a real "
            "one in the generator's turn too, which has as many only with model.generator_batches=1"
        )
    if labels.get("generator") == "paired":
        raise UserError(
            f"model.generator_batches={order.generator_batches}: model.labels=paired gives each generated image the "
            "label of a real one, which takes model.generator_batches=1; or choose model.labels=uniform or data"
        )
