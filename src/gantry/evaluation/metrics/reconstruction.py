"""How near the images of a generator are to those that its encoder was given."""

import numpy as np
import torch
from torch import Tensor

from gantry.core.randomness import draws
from gantry.evaluation.encoder import Encoder
from gantry.evaluation.metrics.metric import ENCODER, Found, Inputs, Metric

MOST = 10_000  # real images, drawn at random where there are more
ERROR, SHUFFLED = "reconstruction_error", "shuffled_error"


def metric() -> Metric:
    """Return the metric `reconstruction_error`, lower is better, and what it is beside, `shuffled_error`, higher.

    Their names say neither extractor nor number of generated images, on which they do not depend.
    """
    directions = {ERROR: False, SHUFFLED: True}
    return Metric("reconstruction", directions, _compute, (ENCODER,), values=(ERROR, SHUFFLED), suffixed=False)


def _compute(inputs: Inputs) -> Found:
    assert inputs.encoder is not None
    images = inputs.data.part(MOST).images
    error, shuffled = reconstruction(inputs.encoder, images)
    return Found({ERROR: error, SHUFFLED: shuffled}, {"images": len(images), "split": inputs.data.split})


def reconstruction(encoder: Encoder, images: np.ndarray) -> tuple[float, float]:
    """Measure mean distances of images and reconstructions, uint8 (n, C, H, W), n at least 2.

    The distance is the length of the difference of all values in [0, 1], as in the official code of BiGAN (Donahue et
    al. 2017), there `EGr` and `EGr_b`.

    Returns:
        The mean of |x - G(E(x))|, and that of |x' - G(E(x))| where x' is another of the images: in a random order, the
        next one.
    """
    order = draws(0, 0, "reconstruction order").permutation(len(images))
    given = torch.from_numpy(np.array(images)[order]).flatten(1) / 255
    made = (encoder.reconstructed(np.array(images)[order]).flatten(1) + 1) / 2
    return _distance(given, made), _distance(given.roll(-1, 0), made)


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm(dim=1).double().mean())
