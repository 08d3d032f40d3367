"""What metrics see of images with alpha: both sides on white, and the same bits as colour where all is opaque."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import image_set, random_images, served
from PIL import Image
from torch import nn

from gantry.data.alpha import Ground, on_ground, premultiply, straighten
from gantry.data.images import ImageSet
from gantry.evaluation.evaluate import measure
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.ground import measured
from gantry.evaluation.request import Plan, SampleFiles
from gantry.generation.write_images import Order, draw_archive, draw_folder
from gantry.models.networks.mlp import Generator
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import ExportedFiles, GeneratorFiles

OURS = ("gantry.models.networks.",)


def transparent(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Premultiplied images of every alpha."""
    return premultiply(random_images(count, channels=4, size=size, seed=seed))


def opaque(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images, np.full_like(images[:, :1], 255)], axis=1)


@pytest.mark.slow
def test_opaque_images_measure_the_same_bits_as_colour(random_inception: NetworkExtractor, tmp_path: Path) -> None:
    real, made = random_images(24), random_images(20, seed=1)
    colour = Evaluator(random_inception, image_set(real), 20, tmp_path / "a").evaluate(served(made))
    alpha = Evaluator(random_inception, image_set(opaque(real)), 20, tmp_path / "b").evaluate(served(opaque(made)))
    assert alpha.values == colour.values


def test_what_is_measured_lies_on_ground_and_the_protocol_says_so(tiny: NetworkExtractor, tmp_path: Path) -> None:
    real, made = transparent(60), transparent(50, seed=1)
    evaluator = Evaluator(tiny, image_set(real), 50, tmp_path / "a")
    alpha = evaluator.evaluate(served(made))
    colour = Evaluator(tiny, image_set(on_ground(real)), 50, tmp_path / "b").evaluate(served(on_ground(made)))
    assert alpha.values == colour.values
    assert alpha.protocol["ground"] == "white"
    assert "ground" not in colour.protocol
    assert alpha.protocol["data_digest"] == image_set(real).digest  # by which a resumed run knows its data
    assert evaluator.evaluate(served(np.resize(real, (50, *real.shape[1:])))).values["fid_tiny"] < 0.01
    with pytest.raises(ValueError, match="expected uint8 images"):
        evaluator.evaluate(served(on_ground(made)))


def test_features_on_a_ground_are_kept_apart_and_images_mapped_from_the_cache(tmp_path: Path) -> None:
    data = image_set(transparent(30))
    seen = measured(data, tmp_path)
    assert np.array_equal(seen.images, on_ground(data.images))
    assert isinstance(seen.images, np.memmap)
    assert (seen.ground, seen.shape, seen.drawn_shape) == ("white", (3, 32, 32), (4, 32, 32))
    assert measured(seen, tmp_path) is seen
    colour = image_set(on_ground(data.images))
    assert measured(colour, tmp_path) is colour


def test_another_ground_is_another_protocol(tiny: NetworkExtractor, tmp_path: Path) -> None:
    real, made = image_set(transparent(60)), transparent(50, seed=1)
    white, black = (
        Evaluator(tiny, replace(real, ground=ground), 50, tmp_path).evaluate(served(made))
        for ground in ("white", "black")
    )
    expected = Evaluator(tiny, image_set(on_ground(real.images, "black")), 50, tmp_path / "b").evaluate(
        served(on_ground(made, "black"))
    )
    assert black.values == expected.values != white.values
    assert (white.protocol["ground"], black.protocol["ground"]) == ("white", "black")


def test_the_classifier_sees_colours_on_ground(tmp_path: Path) -> None:
    data = replace(image_set(transparent(40, size=8)), labels=np.arange(40) % 2)
    extractor = classifier(data=measured(data, tmp_path), cache=tmp_path)
    assert extractor.network.trunk[0].in_channels == 3
    evaluation = Evaluator(extractor, data, 20, tmp_path).evaluate(served(data.images))
    assert evaluation.protocol["ground"] == "white"


class Looks(nn.Module):
    """Features: the mean of each 4x4 square of three channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3
        return nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1)


def drawn(*, cache: Path, channels: int = 4, ground: Ground | None = None) -> ImageSet:
    """Images with alpha, as a function of one's own gives them."""
    images = transparent(90, size=8)
    return replace(image_set(images if channels == 4 else on_ground(images)), ground=ground)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    torch.manual_seed(0)
    network = Generator(6, (4, 8, 8))
    for weight in network.parameters():
        weight.data *= 1.4
    config = {"_target_": "gantry.models.networks.mlp.Generator", "z_dim": 6, "image_shape": [4, 8, 8]}
    save_generator(tmp_path / "run/generator/best", network, config, 3)
    return Plan(
        protocol="quick",
        official=False,
        data={"_target_": "test_ground.drawn"},
        max_images=None,
        split="train",
        max_real=None,
        extractor={
            "_target_": "gantry.evaluation.extractors.networks.own",
            "network": {"_target_": "test_ground.Looks"},
            "name": "looks",
        },
        n=70,
        repeats=1,
        seed=0,
        measures=("fid", "kid", "memorisation"),
        subject=GeneratorFiles(tmp_path / "run", "best", False, OURS),
        cache=tmp_path / "cache",
        accelerator="cpu",
        devices=1,
    )


def test_a_generator_its_files_and_its_archive_measure_the_same_bits(plan: Plan, tmp_path: Path) -> None:
    order = Order(ExportedFiles(tmp_path / "run/generator/best", OURS), 70, 0, None, 512, "cpu", 1)
    draw_folder(order, tmp_path / "png")
    draw_archive(order, tmp_path / "made.npz")
    found = measure(plan)
    assert found.settings["ground"] == "white"
    assert "both on white" in found.description
    on_black = measure(replace(plan, data=plan.data | {"ground": "black"}))
    files = SampleFiles(str(tmp_path / "png"), tmp_path / "cache")
    assert on_black.values == measure(replace(plan, data=plan.data | {"ground": "black"}, subject=files)).values
    assert on_black.key != found.key
    assert on_black.values != found.values
    assert found.pairs is not None
    for path in (tmp_path / "png", tmp_path / "made.npz"):
        of_files = measure(replace(plan, subject=SampleFiles(str(path), tmp_path / "cache")))
        assert of_files.values == found.values
        assert of_files.key == found.key
    without = measure(
        replace(
            plan,
            data=plan.data | {"channels": 3},
            subject=SampleFiles(str(tmp_path / "png"), tmp_path / "cache"),
        )
    )
    assert without.values["fid_looks-" + next(iter(found.values)).partition("-")[2]] == next(
        iter(found.values.values())
    )
    assert "ground" not in without.settings
    assert without.key != found.key


def test_files_hold_straight_alpha(plan: Plan, tmp_path: Path) -> None:
    order = Order(ExportedFiles(tmp_path / "run/generator/best", OURS), 3, 0, None, 512, "cpu", 1)
    draw_folder(order, tmp_path / "png")
    draw_archive(order, tmp_path / "made.npz")
    expected = straighten(order.network(0).first(3).numpy()).transpose(0, 2, 3, 1)
    assert np.array_equal(np.load(tmp_path / "made.npz")["arr_0"], expected)
    for place, image in enumerate(expected):
        with Image.open(tmp_path / f"png/{place:06d}.png") as opened:
            assert opened.mode == "RGBA"
            assert np.array_equal(np.asarray(opened), image)
