"""Networks and labels that do not go together are named before torch is imported."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from gantry.core.errors import UserError
from gantry.training.run import _announce, build_data


@pytest.fixture
def folder(tmp_path):
    """Two images; returns what makes a run's data of them, with the labels of a dataset.json."""
    base = tmp_path / "pictures"
    (base / "cats").mkdir(parents=True)
    for name in "ab":
        Image.fromarray(np.full((8, 8, 3), ord(name), np.uint8)).save(base / f"cats/{name}.png")

    def chosen(*labels):
        if labels:
            rows = [[f"cats/{name}.png", label] for name, label in zip("ab", labels, strict=True)]
            (base / "dataset.json").write_text(json.dumps({"labels": rows}))
        return ["data=image_folder", f"data.folder={base}", "data.image_size=8", "batch_size=2"]

    return chosen


@pytest.mark.parametrize(
    ("labels", "has"),
    [
        ((), r"none \(no labels: all images lie in one folder\)"),
        ((0, 0), r"a single class, 0 \(by dataset.json\)"),
    ],
)
def test_a_conditional_variant_needs_two_classes(config, folder, tmp_path, labels, has):
    cfg = config("model=cgan", *folder(*labels))
    with pytest.raises(
        UserError, match=rf"^model\.generator: takes labels, and the data has {has}: choose data with two"
    ):
        build_data(cfg, tmp_path, 1, held_out_too=False)


def test_two_classes_are_enough_and_a_variant_without_labels_takes_one(config, folder, tmp_path):
    assert build_data(config("model=cgan", *folder(0, 1)), tmp_path, 1, held_out_too=False)[0].classes == ("0", "1")
    assert build_data(config("model=dcgan", *folder(0, 0)), tmp_path, 1, held_out_too=False)[0].classes == ("0",)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("discriminator", r"model\.discriminator takes labels, and model\.generator \(.*dcgan\.Generator\) none: its "),
        ("generator", r"model\.generator takes labels, and model\.discriminator \(.*dcgan\.Discriminator\) none: noth"),
    ],
)
def test_labels_that_one_network_alone_takes_are_warned_of_as_a_run_begins(network, said, config, tmp_path, caplog):
    kind = f"gantry.models.networks.conditional_dcgan.Conditional{network.title()}"
    cfg = config("model=dcgan", "data.image_size=8", f"model.{network}._target_={kind}")
    data, _ = build_data(cfg, tmp_path, 1, held_out_too=False)
    _announce(cfg, tmp_path, {"variant": "mine", "dataset": "digits"}, data)
    assert re.search(said, caplog.text)
    caplog.clear()
    for pair in ("dcgan", "cgan"):
        _announce(config(f"model={pair}"), tmp_path, {"variant": pair, "dataset": "digits"}, data)
    assert "takes labels" not in caplog.text
