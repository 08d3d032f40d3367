"""How often images with near codes are of one class: one-nearest-neighbour accuracy on an encoder's code."""

import torch
from torch import Tensor

from gantry.data.images import ImageSet
from gantry.evaluation.metrics.classification_accuracy import held_out
from gantry.evaluation.metrics.metric import CLASSED, ENCODER, Found, Inputs, Metric

FIT, ASKED_OF = 10_000, 2_000  # images while training, at most
CODE, FEATURES = "code_1nn_accuracy", "features_1nn_accuracy"
ROWS = 512  # images at a time


def metric() -> Metric:
    """Return the metric of `code_1nn_accuracy` and `features_1nn_accuracy`, 0 to 1, higher is better.

    The features are the encoder's layer before the code: that, and not the code, is what BiGAN's 97.4 % on MNIST are
    of (Donahue et al. 2017, table 1), by its official code. Names say neither extractor nor number of generated images.
    """
    return Metric("code_neighbours", True, _compute, (ENCODER, CLASSED), values=(CODE, FEATURES), suffixed=False)


def _compute(inputs: Inputs) -> Found:
    encoder, sets = inputs.encoder, inputs.sets
    assert encoder is not None
    known, asked = (None, None) if sets is None else (sets.trained_on, sets.held_out)
    if known is None or asked is None or known.labels is None or asked.labels is None:
        known, asked = held_out(inputs.data)
    if sets is None:
        known, asked = known.part(FIT), asked.part(ASKED_OF)
    layers = {CODE: encoder.codes, FEATURES: encoder.hidden}
    values = {name: _accuracy(known, asked, layer(known.images), layer(asked.images)) for name, layer in layers.items()}
    return Found(values, {"known": len(known), "asked": len(asked), "known_split": known.split, "split": asked.split})


def _accuracy(known: ImageSet, asked: ImageSet, keys: Tensor, queries: Tensor) -> float:
    assert known.labels is not None
    assert asked.labels is not None
    found = torch.from_numpy(known.labels)[nearest(queries, keys)]
    return float((found == torch.from_numpy(asked.labels)).double().mean())


def nearest(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the number of the nearest key by Euclidean distance, int64 (n,), of queries (n, d) among keys (m, d)."""
    squares = keys.square().sum(1)
    return torch.cat([(squares - 2 * part @ keys.T).argmin(1) for part in queries.split(ROWS)])
