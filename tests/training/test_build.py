"""The GAN that a config asks for."""

from dataclasses import replace

import numpy as np
import pytest
from small import NOISE

from gantry.core.errors import UserError
from gantry.training.model import build_model


def test_a_misspelt_name_in_a_module_of_ones_own_is_the_users_to_change(config):
    misspelt = "model.loss._target_=gantry_test_losses.squard_hinge"
    images = replace(NOISE, images=np.zeros((50, 1, 8, 8), np.uint8))
    with pytest.raises(UserError, match="gantry_test_losses"):
        build_model(config("model=dcgan", misspelt), images)


@pytest.mark.parametrize(
    ("size", "overrides", "message"),
    [
        (
            30,
            [],
            "data.image_size: networks make images of 8 to 128 pixels a side, a multiple of 4, or .*512.* not 30",
        ),
        (8, ["model.generator.norm=spektral"], "norm: 'spektral' is not one of batch, layer, instance, spectral, none"),
    ],
)
def test_what_the_networks_do_not_support_is_the_users_to_change(config, size, overrides, message):
    images = replace(NOISE, images=np.zeros((50, 1, size, size), np.uint8))
    with pytest.raises(UserError, match=message):
        build_model(config("model=dcgan", *overrides), images)
