"""Whether a run's networks can learn from the labels of its data, seen before torch is imported."""

from collections.abc import Iterator

from omegaconf import DictConfig

from gantry.core.config.signatures import signature
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.models.labels import without_classes

PLAYERS = ("generator", "discriminator")


def check_labels(cfg: DictConfig, data: ImageSet) -> None:
    """Refuse data with fewer than two classes where a network takes labels.

    Raises:
        UserError: names the network and the choices.
    """
    origin = "" if data.reading is None else data.reading.labels
    names = None if data.labels is None else data.classes or ()
    for player in takers(cfg)[:1]:
        if said := without_classes(f"model.{player}", names, origin):
            raise UserError(said)


def takers(cfg: DictConfig) -> list[str]:
    """Return the players whose network takes labels, by its constructor's `n_classes`."""
    read = {player: signature(str(cfg.model[player]._target_)) for player in PLAYERS}
    return [player for player, found in read.items() if found is not None and found.get("n_classes") is not None]


def one_sided(cfg: DictConfig) -> Iterator[str]:
    """Yield a warning where one network takes labels and the other none, so that nothing ties images to classes."""
    found = takers(cfg)
    if len(found) != 1:
        return
    (taker,) = found
    other = next(player for player in PLAYERS if player != taker)
    what = (
        "its images are of no class that was asked for, and are judged with classes drawn for them"
        if taker == "discriminator"
        else "nothing judges whether an image is of the class that was asked for"
    )
    yield (
        f"model.{taker} takes labels, and model.{other} ({cfg.model[other]._target_}) none: {what}; "
        "model/network=conditional_dcgan, conditional_resnet and others are pairs that both take them"
    )
