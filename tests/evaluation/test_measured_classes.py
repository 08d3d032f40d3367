"""A generator that takes labels is measured with the shares of its training data, and its record says so."""

import dataclasses

import pytest
import torch
from measured_plans import Looks, N

from gantry.data.sources import digits
from gantry.evaluation.evaluate import measure
from gantry.evaluation.metrics.fid import fid
from gantry.evaluation.moments import moments
from gantry.models.labels import BY_SHARES, Classes, LabelSource
from gantry.models.networks.conditional_dcgan import ConditionalGenerator
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import GeneratorFiles, GeneratorSource

CLASSES = Classes(("a", "b"), (0.9, 0.1))


@pytest.fixture
def conditional(plan, tmp_path):
    """The plan of a generator whose two classes differ."""
    config = {"z_dim": 6, "image_shape": [1, 8, 8], "n_classes": 2, "width": 8}
    network = ConditionalGenerator(**config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10)
    target = "gantry.models.networks.conditional_dcgan.ConditionalGenerator"
    save_generator(tmp_path / "run" / "generator" / "best", network, {"_target_": target} | config, 20, CLASSES)
    subject = GeneratorFiles(tmp_path / "run", "best", False, ("gantry.models.networks.",))
    return dataclasses.replace(plan, subject=subject, measures=("fid",))


def test_its_images_have_the_shares_of_the_training_data(conditional):
    found = measure(conditional)
    real, _ = Looks()(torch.from_numpy(digits(cache=conditional.cache).images))
    values = []
    for shares in (CLASSES.shares, (0.5, 0.5)):
        source = GeneratorSource(conditional.subject.load(), 6, 0, 0, N, LabelSource(shares))
        values.append(fid(moments(real), Looks()(source(0, N))[0]))
    (value,) = (value for name, value in found.values.items() if name.startswith("fid_looks"))
    assert value == pytest.approx(values[0], rel=1e-6)
    assert value != pytest.approx(values[1], rel=1e-3)
    assert found.subject["labels"] == BY_SHARES
    assert f"seed 0, labels {BY_SHARES})" in found.description


def test_draws_share_one_stream_of_labels(conditional):
    second = conditional.source(1, 0).asked(0, 5)
    assert second.tolist() == LabelSource(CLASSES.shares)(0, N, 5).tolist()


@pytest.mark.slow  # that processes ask for the same labels, test_conditional_metrics sees in one draw
def test_draws_and_processes_share_one_stream_of_labels(conditional):
    one = measure(dataclasses.replace(conditional, repeats=2))  # it leaves the features of the real images
    assert measure(dataclasses.replace(conditional, repeats=2, devices=2)).values == one.values


def test_the_record_of_other_generators_does_not_speak_of_labels(plan):
    found = measure(dataclasses.replace(plan, measures=("fid",)))
    assert "labels" not in found.subject
    assert "labels" not in found.description
