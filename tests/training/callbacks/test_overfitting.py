"""The discriminator's overfitting: by hand, on networks whose scores are known, and without touching training."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small import bare_trainer, vector
from torch import nn

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.models.labels import Classes
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import conditional_dcgan, dcgan
from gantry.models.schedules import Linear
from gantry.training import run as training
from gantry.training.callbacks.overfitting import Overfitting, measures
from gantry.training.held_out import held_out
from gantry.training.stopwatch import Clock

PIXELS = draws(0, 0, "test images").integers(0, 256, (60, 1, 8, 8), dtype="uint8")
LABELS = np.arange(60) % 3
WHOLE = ImageSet("noise", PIXELS, LABELS, ("a", "b", "c"), "all", "drawn", "0" * 64, flip=False)
DATA, UNSEEN = WHOLE.part(40), WHOLE.left_out(40, 100)


def test_the_heuristics_are_those_of_the_paper():
    training, held, fake = torch.tensor([3.0, 1.0, -1.0]), torch.tensor([0.0, 0.5, -2.0]), torch.tensor([-4.0, -1.0])
    found = measures(training, held, fake)
    assert found["r_v"] == pytest.approx((1 - -0.5) / (1 - -2.5))
    assert found["r_t"] == pytest.approx(1 / 3)
    assert found["auc"] == pytest.approx((3 + 3 + 1) / 9)  # 3 and 1 are above all, -1 above -2 alone
    assert measures(training, training, fake) == pytest.approx({"r_v": 0, "r_t": 1 / 3, "auc": 0.5})
    assert measures(training, fake, fake)["r_v"] == 1
    assert math.isnan(measures(training, held, training)["r_v"])


def test_images_left_out_are_those_not_taken():
    taken = {image.tobytes() for image in DATA.images}
    left = {image.tobytes() for image in UNSEEN.images}
    assert len(taken) == 40
    assert taken | left == {image.tobytes() for image in PIXELS}
    assert not taken & left
    assert all(
        LABELS[(image == PIXELS).all((1, 2, 3))] == label
        for image, label in zip(UNSEEN.images, UNSEEN.labels, strict=True)
    )
    assert len(WHOLE.left_out(40, 7)) == 7
    assert WHOLE.left_out(60, 7) is None
    assert WHOLE.part(60) is WHOLE


class Log(dict):
    """A tracker that keeps metrics by step."""

    def log_metrics(self, values, step):
        self[step] = values


class Brightness(nn.Module):
    """Scores an image by its mean, and by its label."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images, labels):
        return self.one * images.mean((1, 2, 3)) + 10 * labels


class Black(nn.Module):
    """Black images."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, z):
        return -self.one * torch.ones(len(z), 1, 8, 8)


class Brighter:
    """A view that adds each image's number, times a scheduled strength."""

    width, differentiate = 1, "before"

    def __init__(self, strength):
        self.strength = strength

    def __call__(self, images, uniform):
        return images + self.strength * uniform[:, :, None, None]


def gan_of(*networks, **options):
    torch.manual_seed(0)
    networks = networks or (
        conditional_dcgan.ConditionalGenerator(6, (1, 8, 8), 3, 4),
        conditional_dcgan.ConditionalDiscriminator((1, 8, 8), 3, 4),
    )
    classes = Classes.of(LABELS, WHOLE.classes)
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return GAN(*networks, non_saturating, optimizer, z_dim=6, seed=0, batch_size=6, classes=classes, **options)


def watcher(log=None):
    return Overfitting(Log() if log is None else log, Clock(), 4, DATA, UNSEEN)


def scores(data):
    return data.images.mean((1, 2, 3)) / 127.5 - 1 + 10 * data.labels


def test_images_are_judged_with_their_own_labels():
    logged = watcher().measure(gan_of(Black(), Brightness()), 4)
    known = DATA.part(len(UNSEEN))
    assert len(known) == len(UNSEEN) == 20
    assert logged["score/training"] == pytest.approx(scores(known).mean(), rel=1e-5)
    assert logged["score/held_out"] == pytest.approx(scores(UNSEEN).mean(), rel=1e-5)
    assert logged["score/generated"] == pytest.approx(-1 + 10 * known.labels.mean(), rel=1e-5)
    gap = logged["score/training"] - logged["score/generated"]
    assert logged["overfitting/r_v"] == pytest.approx((scores(known).mean() - scores(UNSEEN).mean()) / gap, rel=1e-3)


def test_images_are_judged_as_the_discriminator_is_shown_them_at_that_step():
    view = Brighter(Linear(0.0, 2.0, over=8))
    gan = gan_of(Black(), Brightness(), augment=view)
    logged = watcher().measure(gan, 4)
    drawn = draws(0, 4, "overfitting view").random((20, 1), dtype=np.float32).mean()
    assert logged["score/held_out"] == pytest.approx(scores(UNSEEN).mean() + 1.0 * drawn, rel=1e-5)


def fit(*callbacks):
    gan = gan_of()
    bare_trainer(6, callbacks=list(callbacks)).fit(gan, Batches(DATA, gan.batch_size, gan.n_critic, gan.seed))
    return gan


def test_training_is_the_same_with_it_and_without():
    log = Log()
    watched, alone = fit(watcher(log)), fit()
    for player in ("generator", "discriminator"):
        assert torch.equal(vector(getattr(watched, player)), vector(getattr(alone, player)))
    assert list(log) == [4, 6]  # when due, and at the end
    names = {"score/training", "score/held_out", "score/generated"} | {
        f"overfitting/{n}" for n in ("r_v", "r_t", "auc")
    }
    assert log[6].keys() == names
    assert log[4] != log[6]


def test_networks_without_labels_are_judged_without():
    networks = dcgan.Generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4)
    optimizer = partial(torch.optim.SGD, lr=0.05)
    gan = GAN(*networks, non_saturating, optimizer, z_dim=6, seed=0, batch_size=6)
    assert all(map(math.isfinite, watcher().measure(gan, 4).values()))


def split_of(shape, classes, cache, split="train", missing=False):
    """A data set of two splits."""
    if missing and split == "test":
        raise UserError("no test split here")
    count = 30 if split == "train" else 900
    return ImageSet(split, np.zeros((count, *shape), np.uint8), None, classes, split, "", "0", flip=False)


def test_a_test_split_is_taken_where_no_training_image_is_left_out(config, tmp_path):
    node = {"_target_": "test_overfitting.split_of", "shape": [1, 2, 2], "classes": None, "split": "train"}
    whole = split_of((1, 2, 2), None, 0)

    def found(max_images=None, **changes):
        return held_out(OmegaConf.create({"max_images": max_images, "data": node | changes}), whole, tmp_path)

    assert (len(found()), found().split) == (512, "test-512")
    assert found(max_images=20).split == "train without 20"
    assert found(max_images=30).split == "test-512"
    assert found(missing=True) is None
    assert found(shape=[1, 3, 3]) is None
    assert found(split="test") is None
    assert held_out(config("experiment=smoke"), whole, tmp_path) is None  # digits have no splits


def test_a_run_logs_what_was_asked_and_how_its_discriminator_overfits(config, tmp_path):
    small = ["experiment=smoke", "model=cgan", "steps=4", "metrics.every=2", "max_images=1500"]
    training.train(config(*small), tmp_path, {"variant": "cgan", "dataset": "digits"})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "overfitting/r_v" in row] == [2, 4]
    measured = [row for row in rows if "asked_class_accuracy_classifier" in row]
    assert [row["step"] for row in measured] == [0, 2, 4]
    assert all(0 <= row["asked_class_accuracy_classifier"] <= 1 for row in measured)
    assert measured[-1]["final/intra_fid_classifier"] == measured[-1]["intra_fid_classifier"] > 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["higher_is_better"]["asked_class_accuracy_classifier"] is True
    assert any(said.startswith("intra_fid: classes have") for said in summary["caveats"])
    assert "intra_fid is without the classes of fewer than 2 generated images: 5" in summary["caveats"]
