"""Reconstruction errors and one-nearest-neighbour accuracies of a generator's encoder."""

import numpy as np
import pytest
import torch
from torch import nn

from gantry.data.images import ImageSet
from gantry.evaluation.encoder import Encoder
from gantry.evaluation.metrics import MEASURES
from gantry.evaluation.metrics.code_neighbours import metric as codes_metric
from gantry.evaluation.metrics.code_neighbours import nearest
from gantry.evaluation.metrics.metric import CLASSED, ENCODER, Inputs
from gantry.evaluation.metrics.reconstruction import metric as reconstruction_metric
from gantry.evaluation.metrics.reconstruction import reconstruction
from gantry.evaluation.score import lacking


class Exact(nn.Module):
    """Its code is the image; the layer before it is the mean alone. With `shift`, its images are brighter by that."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, z):
        return self.decode(z)

    def code(self, z):
        return z

    def decode(self, codes):
        return codes.view(-1, 1, 2, 2) + self.shift

    def encode(self, images):
        return images.flatten(1)

    def hidden(self, images):
        return images.flatten(1).mean(1, keepdim=True)

    def latent(self, codes):
        return codes


def image_set(images, labels):
    return ImageSet("made", images, labels, ("a", "b"), "all", "here", "0" * 64, False)


def inputs(encoder, data):
    return Inputs(None, data, None, torch.zeros(10, 1), torch.zeros(10, 0), None, 1, encoder=encoder)


def two_classes(count=60):
    """Both with any mean brightness: the first has equal columns, the second equal rows."""
    numbers = np.arange(count)
    first, second = (numbers * 4 % 240).astype(np.uint8), (numbers * 4 % 240 + 15).astype(np.uint8)
    columns = np.stack([first, second, first, second], 1)
    rows = np.stack([first, first, second, second], 1)
    images = np.concatenate([columns, rows]).reshape(-1, 1, 2, 2)
    return image_set(images, np.repeat([0, 1], count).astype(np.int64))


def test_the_error_is_the_length_of_the_difference_in_units_of_the_whole_range():
    images = np.zeros((2, 1, 2, 2), np.uint8)
    images[1] = 255
    error, shuffled = reconstruction(Encoder(Exact()), images)
    assert error == pytest.approx(0, abs=1e-6)
    assert shuffled == pytest.approx(2.0)  # four values that differ by 1
    assert reconstruction(Encoder(Exact(0.5)), images)[0] == pytest.approx(2 * 0.25)


def test_its_values_do_not_depend_on_the_order_of_the_classes():
    data = two_classes()
    values = reconstruction_metric().found(inputs(Encoder(Exact()), data)).values
    assert values["reconstruction_error"] < 1e-5
    assert values["shuffled_error"] > 0.1  # in the given order the next image differs by 8 / 255


def test_the_neighbours_of_codes_tell_classes_that_those_of_the_layer_before_do_not():
    values = codes_metric().found(inputs(Encoder(Exact()), two_classes())).values
    assert values["code_1nn_accuracy"] == 1.0
    assert values["features_1nn_accuracy"] < 1.0


def test_the_nearest_is_that_of_euclidean_distances():
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(700, 3, generator=draw), torch.randn(50, 3, generator=draw)
    assert torch.equal(nearest(queries, keys), torch.cdist(queries, keys).argmin(1))


@pytest.mark.parametrize("made", [reconstruction_metric(), codes_metric()])
def test_they_are_left_out_without_an_encoder_and_codes_without_classes(made):
    assert made.name in MEASURES
    extractor = type("Any", (), {"has_logits": True, "labelled": True})
    assert lacking(made, extractor, {ENCODER: False, CLASSED: True}) == ENCODER
    wanted = CLASSED if made.name == "code_neighbours" else None
    assert lacking(made, extractor, {ENCODER: True, CLASSED: False}) == wanted


def test_an_encoder_leaves_the_modes_of_its_network_alone():
    network = Exact()
    network.train()
    Encoder(network).codes(np.zeros((3, 1, 2, 2), np.uint8))
    assert network.training
    assert Encoder.of(nn.Linear(1, 1)) is None
