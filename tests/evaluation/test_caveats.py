"""What speaks against an evaluation stands in its record, its text and at MLflow."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import image_set, random_images
from PIL import Image
from torch import nn

from gantry.evaluation.evaluate import measure
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.metrics.classification_accuracy import augmentation
from gantry.evaluation.request import Plan, SampleFiles


class Blind(nn.Module):
    """The same features and logits for every image."""

    def forward(self, images):
        return torch.ones(len(images), 5), torch.zeros(len(images), 3)


class Means(nn.Module):
    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def extractor(network: nn.Module) -> NetworkExtractor:
    return NetworkExtractor(network, "mine", "0" * 64, resize="none", device=torch.device("cpu"))


def pictures(folder: Path, alpha: bool = False) -> Path:
    folder.mkdir()
    for place, pixels in enumerate(random_images(40, channels=3, size=8).transpose(0, 2, 3, 1)):
        image = Image.fromarray(pixels)
        if alpha:
            image.putalpha(100 + place)
        image.save(folder / f"{place}.png")
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        protocol="custom",
        official=False,
        data={
            "_target_": "gantry.data.image_folder.image_folder",
            "folder": str(pictures(tmp_path / "real")),
            "image_size": 8,
        },
        max_images=None,
        split="train",
        max_real=None,
        extractor={
            "_target_": "gantry.evaluation.extractors.networks.own",
            "network": {"_target_": "test_caveats.Means"},
            "name": "means",
        },
        n=40,
        repeats=1,
        seed=0,
        measures=("fid",),
        subject=SampleFiles(str(pictures(tmp_path / "alpha", alpha=True)), tmp_path / "cache"),
        cache=tmp_path / "cache",
        accelerator="cpu",
        devices=1,
    )


def test_samples_that_were_altered_are_in_the_record_and_the_text(plan: Plan, tmp_path: Path) -> None:
    result = measure(plan)
    record = json.loads(result.save(tmp_path)[0].read_text())
    (said,) = record["caveats"]
    assert said.startswith(f"40 of 40 images in {tmp_path}/alpha are altered before they are measured (40 transparent")
    assert said in result.text()
    assert record["subject"]["reading"]["altered"]["composited_on_ground"] == 40
    assert record["reference"]["source"] == str(tmp_path / "real")
    assert record["reference"]["reading"]["files"] == 40
    plain = measure(replace(plan, subject=SampleFiles(str(tmp_path / "real"), plan.cache)))
    assert list(plain.caveats) == []
    assert plain.key == result.key


def test_samples_that_are_not_square_are_told_from_what_the_reference_was_cut(plan: Plan, tmp_path: Path) -> None:
    for place in range(40):
        Image.new("RGB", (24, 8)).save(tmp_path / f"real/{place}.png")
        Image.new("RGB", (24, 8)).save(tmp_path / f"alpha/{place}.png")
    with pytest.raises(
        Exception, match=r"24x8 \(40\)[\s\S]*own files, in .*real, are 24x8 \(40\), of which the central"
    ):
        measure(plan)


def test_a_second_evaluation_of_the_same_images_keeps_what_the_first_found(plan: Plan, tmp_path: Path) -> None:
    result = measure(plan)
    replace(result, caveats=("the first",)).save(tmp_path)
    (path,) = replace(result, caveats=("the second", "the first")).save(tmp_path)
    assert json.loads(path.read_text())["caveats"] == ["the first", "the second"]


def test_an_extractor_that_sees_nothing_is_said_to(tmp_path: Path, caplog) -> None:
    data = image_set(random_images(40, channels=3, size=8), None)
    found = Evaluator(extractor(Blind()), data, 40, tmp_path).caveats
    assert len(found) == 2
    assert "the same features" in found[0]
    assert "for one class" in found[1]
    assert found[0] in caplog.text
    assert Evaluator(replace(extractor(Means()), has_logits=False), data, 40, tmp_path / "o").caveats == ()


def test_gains_of_classifiers_at_chance_are_called_so() -> None:
    images = random_images(300, channels=1, size=8)
    noise = image_set(images, np.arange(300) % 2)
    test = replace(image_set(random_images(200, channels=1, size=8)[::-1].copy(), np.arange(200) % 2), digest="t")
    found = augmentation(image_set(images[:50], None), noise, test, sizes=[40], seeds=2, budget=256)
    assert any("The best classifier of 40 real images recognises" in caveat for caveat in found.caveats)
