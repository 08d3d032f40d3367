"""A classifier that judges must be better than chance, and seen to be."""

import logging
import math

import numpy as np
import pytest
from metrics_helpers import image_set, random_images

from gantry.evaluation.extractors import classifier as module
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.extractors.judgement import at_least, beside_chance, caveats, enough, interval


def test_the_probabilities_are_binomial() -> None:
    by_hand = sum(math.comb(12, k) for k in range(8, 13)) / 2**12
    assert at_least(8, 12, 0.5) == pytest.approx(by_hand, rel=1e-12)
    assert at_least(0, 12, 0.5) == 1
    assert at_least(20, 20, 0.9) == pytest.approx(0.9**20, rel=1e-12)


@pytest.mark.parametrize(("correct", "count", "low", "high"), [(8, 12, 0.3489, 0.9008), (0, 10, 0, 0.3085)])
def test_the_interval_is_clopper_and_pearsons(correct: int, count: int, low: float, high: float) -> None:
    assert interval(correct, count) == pytest.approx((low, high), abs=1e-4)
    assert interval(count - correct, count) == pytest.approx((1 - high, 1 - low), abs=1e-4)


def test_few_images_cannot_tell_and_many_can() -> None:
    assert "too few to tell it from chance" in str(beside_chance(8, 12, 0.5))
    assert "8 of 12 held-out images (66.67%" in str(beside_chance(8, 12, 0.5))
    assert "at chance level" in str(beside_chance(660, 1200, 0.55))
    assert beside_chance(720, 1200, 0.55) is None
    assert beside_chance(12, 12, 0.5) is None
    assert [enough(count, 0.5) for count in (12, 45, 60)] == [False, False, True]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_always_naming_the_commonest_class_is_chance(share: float) -> None:
    """An unbalanced set is recognised to `share` by a judge that looks at nothing."""
    labels = np.zeros(2000, np.int64)
    labels[: round(2000 * (1 - share))] = 1
    (said,) = caveats("it", labels, labels, share, ("a", "b"))
    assert ("chance level" in said) == (share < 0.98)  # where 2 % are left to find, 2000 images are few
    assert "chance" in said


def test_a_class_that_it_never_saw_is_named() -> None:
    known = np.array([0, 1] * 200)
    assert caveats("it", known, known, 0.99, ("a", "b", "c")) == []
    (said,) = caveats("it", known, np.append(known, 2), 0.98, ("a", "b", "c"))
    assert said == "it has seen no image of c to learn from, and never finds one"


def test_a_class_of_which_it_saw_few_images_is_named() -> None:
    known = np.array([0, 1] * 200 + [2] * 9 + [4] * 10)
    (said,) = caveats("it", known, np.array([0, 1] * 200), 0.99, ("a", "b", "c"))
    assert said == "it has seen fewer than 10 images of c: it may not know them"


def test_one_at_chance_says_so_whenever_it_judges(tmp_path, caplog) -> None:
    noise = image_set(random_images(400, size=8), np.arange(400) % 2)
    for _ in range(2):  # the second is from the cache
        caplog.clear()
        found = classifier(data=noise, cache=tmp_path)
        assert len(found.caveats) == 1
        assert "always naming the commonest class gives" in found.caveats[0]
        assert (caplog.records[-1].levelno, caplog.records[-1].message) == (logging.WARNING, found.caveats[0])


def test_one_of_earlier_versions_is_judged_by_what_its_file_tells(tmp_path, monkeypatch) -> None:
    images = random_images(400, size=8)
    labels = np.arange(400) % 2
    images[labels == 1] //= 4
    assert classifier(data=image_set(images, labels), cache=tmp_path).caveats == ()
    monkeypatch.setattr(module, "_load", lambda network, path: {"accuracy": "0.5250", "sha256": "0" * 64})
    assert len(classifier(data=image_set(images, labels), cache=tmp_path).caveats) == 1
