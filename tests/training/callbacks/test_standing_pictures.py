"""The pictures of a generator with standing statistics are made with them, and training keeps its own."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small import NOISE

from gantry.core.randomness import draws
from gantry.models.labels import from_uniform
from gantry.models.sampling import normal
from gantry.models.standing import standing_statistics
from gantry.training.callbacks.early_grids import EarlyGrids
from gantry.training.callbacks.evaluation import drawn_grid, take_standing_statistics
from gantry.training.callbacks.film import Film, frame
from gantry.training.model import build_model
from gantry.training.stopwatch import Clock

SMALL = ["data.image_size=8", "batch_size=6", "model.generator.width=4", "model.discriminator.width=4"]


@pytest.fixture
def gan(config):
    def made(*overrides):
        return build_model(config("model=cgan", *SMALL, *overrides), NOISE)[0]

    return made


def buffers(gan):
    return [buffer.clone() for buffer in gan.averaged.module.buffers()]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_they_are_taken_over_batches_as_training_has_them(gan, accumulate):
    made = gan("model.ema.standing=4", f"accumulate={accumulate}", f"batch_size={6 // accumulate}")
    shares = made.classes.shares_of("uniform")
    z = torch.from_numpy(normal(made.seed, "standing noise", (24, made.z_dim)))
    labels = torch.from_numpy(from_uniform(draws(made.seed, 0, "standing labels").random(24), shares))
    expected = gan("model.ema.standing=4").averaged.module
    size = 6 // accumulate
    standing_statistics(expected, zip(z.split(size), labels.split(size), strict=True))
    take_standing_statistics(made)
    for found, buffer in zip(buffers(made), expected.buffers(), strict=True):
        assert torch.equal(found, buffer)


def test_the_film_and_early_grids_have_them(gan, tmp_path):
    made, untaken = gan("model.ema.standing=4"), gan()
    before = buffers(made)
    trainer = SimpleNamespace(
        global_step=10, max_steps=10, precision_plugin=SimpleNamespace(forward_context=nullcontext)
    )
    shown = []
    evaluation = SimpleNamespace(
        drawn=None,
        drawn_at=None,
        every=500,
        last=None,
        clock=Clock(),
        log_samples=lambda gan, step: shown.append(drawn_grid(gan)),
    )
    Film(tmp_path, evaluation, Clock()).take(trainer, made)
    EarlyGrids(tmp_path, evaluation).draw(trainer, made)
    for found, buffer in zip(buffers(made), before, strict=True):
        assert torch.equal(found, buffer)
    take_standing_statistics(made)
    expected = drawn_grid(made)
    assert torch.equal(shown[0], expected)
    film = np.asarray(Image.open(tmp_path / "film" / "0000010.png"))
    assert np.array_equal(film.reshape(frame(expected, True).shape[:2]), frame(expected, True)[..., 0])
    assert not torch.equal(expected, drawn_grid(untaken))
