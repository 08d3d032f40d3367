"""Whether generated images help a classifier: known answers on images of two kinds that are hard to tell apart."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from metrics_helpers import image_set

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.images import ImageSet
from gantry.evaluation.asked import labels_among
from gantry.evaluation.metrics.classification_accuracy import augmentation, default_sizes, held_out
from gantry.evaluation.metrics.classification_results import Gain, gain_of

QUICK = dict(budget=30 * 128)


def made(count: int, seed: int, split: str = "train") -> ImageSet:
    """Stripes across or upright under noise: 8x8, so that a few images do not show which it is."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    across = np.where(np.arange(8) % 4 < 2, 30, -30)[:, None] * np.ones(8)
    stripes = np.where(labels[:, None, None], across, across.T)
    images = (128 + stripes + random.normal(0, 60, (count, 8, 8))).round().clip(0, 255).astype(np.uint8)
    return replace(image_set(images[:, None], labels), split=split)


TRAIN, TEST = made(1000, 1), made(400, 2, "test")


def accuracy(found, diet: str, size: int | None) -> float:
    (row,) = [row for row in found.trained if (row.diet, row.size) == (diet, size)]
    return row.mean


@pytest.fixture(scope="module")
def perfect():
    """Generated images as good as more real ones, with labels."""
    return augmentation(made(1000, 3), TRAIN, TEST, [10, 1000], seeds=3, **QUICK)


def test_perfect_images_teach_as_much_as_real_ones_and_help_where_those_are_few(perfect):
    assert accuracy(perfect, "real", 1000) > 0.95
    assert accuracy(perfect, "generated", None) == pytest.approx(accuracy(perfect, "real", 1000), abs=0.03)
    assert accuracy(perfect, "real", 10) < 0.9
    few, many = perfect.gains
    assert (few.size, many.size) == (10, 1000)
    assert few.mean == pytest.approx(accuracy(perfect, "real + generated", 10) - accuracy(perfect, "real", 10))
    assert few.mean > 0.05
    assert abs(many.mean) < 0.03


def test_noise_teaches_nothing():
    noise = np.random.default_rng(0).integers(0, 256, TRAIN.images.shape, dtype=np.uint8)
    found = augmentation(replace(TRAIN, images=noise), TRAIN, TEST, [1000], seeds=2, **QUICK)
    assert accuracy(found, "generated", None) == pytest.approx(0.5, abs=0.12)


def test_unlabelled_images_get_the_verdicts_of_the_classifier_of_the_same_real_images():
    """With all labels of the m real images swapped, so are the verdicts: no other knowledge gets in."""
    unlabelled = replace(made(1000, 3), labels=None, classes=None)
    found = augmentation(unlabelled, replace(TRAIN, labels=1 - TRAIN.labels), TEST, [1000], seeds=2, **QUICK)
    assert found.labels == "classifier of the m real images"
    assert [(row.diet, row.size) for row in found.trained] == [
        ("real", 1000),
        ("generated", 1000),
        ("real + generated", 1000),
    ]
    assert all(row.mean < 0.1 for row in found.trained)


def test_nothing_beyond_the_real_images_of_the_seed_is_used():
    unlabelled = replace(made(100, 3), labels=None, classes=None)
    order = draws(5, 0, "augmentation real").permutation(len(TRAIN))
    spoilt = replace(TRAIN, images=TRAIN.images.copy(), labels=TRAIN.labels.copy())
    spoilt.images[order[20:]] = 0
    spoilt.labels[order[20:]] = 1
    found = [augmentation(unlabelled, data, TEST, [20], seed=5, seeds=1, budget=5 * 128) for data in (TRAIN, spoilt)]
    assert found[0].trained == found[1].trained


def test_the_record_holds_every_number_and_what_one_must_know(perfect):
    record = json.loads(json.dumps(perfect.record(), allow_nan=False))
    assert record["labels"] == "given"
    assert (record["steps"], record["batch_size"], record["seeds"]) == (30, 128, 3)
    assert (record["n_test"], record["test_split"]) == (400, "test")
    assert "The generator learned from all" in record["caveats"][0]
    assert len(record["caveats"]) == 1
    rows = {(row["diet"], row["size"]): row for row in record["trained"]}
    assert list(rows) == [
        ("generated", None),
        ("real", 10),
        ("real + generated", 10),
        ("real", 1000),
        ("real + generated", 1000),
    ]
    row = rows["real + generated", 10]
    assert (row["real"], row["generated"], len(row["accuracies"])) == (10, 1000, 3)
    assert row["mean"] == pytest.approx(sum(row["accuracies"]) / 3)
    assert row["std"] == pytest.approx(statistics.stdev(row["accuracies"]))
    assert [gain["clear"] for gain in record["gains"]] == [gain.clear for gain in perfect.gains]


def test_it_is_the_same_again_on_any_number_of_threads_and_leaves_the_random_state_alone():
    sizes, data = [10], made(50, 3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    records = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found = augmentation(data, TRAIN, TEST, sizes, seed=7, seeds=1, budget=5 * 128)
            records.append(found.record())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert records[0] == records[1]
    assert torch.equal(before, torch.get_rng_state())
    (gain,) = records[0]["gains"]
    assert gain["interval"] is None  # one seed cannot tell
    assert not gain["clear"]


def test_progress_counts_every_step_to_the_end():
    seen = []
    augmentation(made(50, 3), TRAIN, TEST, [10, 20], progress=lambda *at: seen.append(at), seeds=1, budget=3 * 128)
    assert seen == [(done, 15) for done in range(1, 16)]  # 3 steps of five classifiers


def test_a_budget_grows_to_one_look_at_every_real_image():
    assert augmentation(made(50, 3), TRAIN, TEST, [1000], seeds=1, budget=1).steps == math.ceil(1000 / 128)


def test_the_interval_counts_the_draw_of_seeds_and_of_test_images():
    """Two seeds gain 0.1 and 0.3 of 1000 images; t(0.975, 1) = 12.706, and each image's mean over seeds is known."""
    without = np.zeros((2, 1000), bool)
    with_them = without.copy()
    with_them[0, :100] = with_them[1, :300] = True
    gain = gain_of(10, without, with_them)
    of_images = np.repeat([1.0, 0.5, 0.0], [100, 200, 700]).std(ddof=1) / math.sqrt(1000)
    of_seeds = math.sqrt(2) * 0.1 / math.sqrt(2)
    assert gain.mean == pytest.approx(0.2)
    assert gain.interval == pytest.approx(math.hypot(12.7062 * of_seeds, 1.95996 * of_images), rel=1e-5)


def test_a_difference_is_clear_when_its_interval_leaves_out_zero():
    assert Gain(100, -0.02, 0.01).clear
    assert not Gain(100, 0.02, 0.03).clear
    assert not Gain(100, 0.5, math.nan).clear


def test_sizes_go_from_ten_a_class_to_all_or_the_budget():
    assert default_sizes(60_000, 10) == [100, 1000, 32_000]
    assert default_sizes(1437, 10) == [100, 1437]
    assert default_sizes(50, 10) == [50]


def test_a_held_out_part_is_a_fifth_that_nothing_else_holds_and_is_named_in_the_caveats():
    data = replace(TRAIN, images=np.arange(1000, dtype=np.uint16).view(np.uint8).reshape(1000, 1, 2, 1))
    train, test = held_out(data)
    numbers = [set(part.images.reshape(-1, 2).copy().view(np.uint16)[:, 0].tolist()) for part in (train, test)]
    assert (len(numbers[0]), len(numbers[1])) == (800, 200)
    assert not numbers[0] & numbers[1]
    assert np.array_equal(test.labels, TRAIN.labels[sorted(numbers[1])])
    assert held_out(data)[1].digest == test.digest != train.digest
    train, test = held_out(TRAIN, 0.3)
    found = augmentation(made(50, 3), train, test, [10], seeds=1, budget=128)
    assert (found.n_test, found.test_split) == (300, "held-out")
    assert "may have learned from the held-out" in found.caveats[1]
    with pytest.raises(UserError, match="2 images"):
        held_out(replace(TRAIN, images=TRAIN.images[:2]), 0.2)


def test_a_large_set_is_held_out_in_part(monkeypatch):
    from gantry.evaluation.metrics import classification_accuracy

    monkeypatch.setattr(classification_accuracy, "MOST_BYTES", 64 * 100)
    train, test = held_out(TRAIN)
    assert (len(train), len(test)) == (80, 20)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("ship", "cat"), [1, 0, 1]),  # by name: the order of sub-folders is not the data set's
        (("0", "2"), [0, 2, 0]),
        (("part-0", "part-1"), None),
        (("0", "3"), None),
        (("00", "01"), None),  # parts, not classes
    ],
)
def test_labels_are_matched_by_name_or_by_number(given, expected, caplog):
    data = replace(TRAIN, images=TRAIN.images[:3], labels=np.array([0, 1, 0]), classes=given)
    found = labels_among(data, ("cat", "ship", "tree"))
    assert (found if found is None else found.tolist()) == expected
    assert ("not used" in caplog.text) == (expected is None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(train=replace(TRAIN, labels=None)), "labels"),
        (dict(test=TRAIN), "not the training images"),
        (dict(generated=replace(TRAIN, images=TRAIN.images[..., :6])), "one shape"),
        (dict(sizes=[10, 1001]), "2 to 1000"),
        (dict(sizes=[]), "2 to 1000"),
        (dict(generated=replace(TRAIN, images=TRAIN.images[:0])), "one generated image"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        augmentation(**(dict(generated=made(50, 3), train=TRAIN, test=TEST) | change))
