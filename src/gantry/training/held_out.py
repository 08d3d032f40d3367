"""Real images of a run's data set that the run is not trained on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from gantry.core.config.instantiate import maker
from gantry.core.errors import UserError
from gantry.data.images import ImageSet

logger = logging.getLogger(__name__)

MOST = 512  # images


def held_out(cfg: DictConfig, whole: ImageSet, cache: Path) -> ImageSet | None:
    """Return at most `MOST` images that `max_images` leaves out, or else of the test split of data trained on `train`.

    Args:
        cfg: the run's config.
        whole: the images of `cfg.data`.
        cache: folder of everything that can be computed again.

    Returns:
        None where there are none, or the test split cannot be read or is of images of another kind.
    """
    if cfg.max_images is not None and (rest := whole.left_out(cfg.max_images, MOST)) is not None:
        return rest
    if cfg.data.get("split") != "train":
        return None
    node: dict[str, Any] = OmegaConf.to_container(cfg.data, resolve=True)  # type: ignore[assignment]
    try:
        test: ImageSet = maker(node | {"split": "test"})(cache=cache)
    except (UserError, InstantiationException) as error:
        logger.info("D is judged on no held-out images, since the test split cannot be read: %s", error)
        return None
    return test.part(MOST) if (test.shape, test.classes) == (whole.shape, whole.classes) else None
