import math

import numpy as np
import pytest
import torch

from gantry.core.errors import UserError
from gantry.evaluation.metrics import memorization, precision_recall
from gantry.evaluation.metrics.memorization import closest_pairs, memorisation, nearest

DIMENSIONS = 16


def features(count: int, seed: int) -> torch.Tensor:
    """Far from the origin, where matrix products know distances worst."""
    return torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed)) + 30


@pytest.mark.parametrize("size", [(1000, 4096), (64, 33)])
def test_the_nearest_is_found_exactly(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "ROWS", size[0])
    monkeypatch.setattr(precision_recall, "COLUMNS", size[1])
    queries, base = features(150, 0), features(200, 1)
    queries[7], queries[8] = base[123], base[124] + 1e-4
    exact = (queries[:, None].double() - base.double()).norm(dim=2).min(1)
    distances, indices = nearest(queries, base)
    assert torch.equal(indices, exact.indices)
    assert torch.allclose(distances.double(), exact.values, rtol=1e-6)
    assert distances[7] == 0
    own = torch.arange(199, -1, -1)
    distances, indices = nearest(base[own], base, exclude=own)
    apart = (base[:, None].double() - base.double()).norm(dim=2).fill_diagonal_(torch.inf).min(1)
    assert torch.equal(indices, apart.indices[own])
    assert torch.allclose(distances.double(), apart.values[own], rtol=1e-6)


def test_of_two_the_other_one_is_nearest() -> None:
    pair = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    distances, indices = nearest(pair, pair, exclude=torch.arange(2))
    assert distances.tolist() == [5, 5]
    assert indices.tolist() == [1, 0]


def test_a_generator_that_copies_is_found_out() -> None:
    train, held_out = features(400, 0), features(300, 1)
    chosen = torch.arange(0, 400, 4)
    copies = memorisation(train[chosen], train, held_out)
    assert copies.copy_rate == 1
    assert copies.distance_ratio == 0
    assert torch.equal(copies.indices, chosen)
    noisy = memorisation(train[chosen] + 0.05 * features(100, 2).sub(30), train, held_out)
    assert noisy.copy_rate == 1
    assert 0 < noisy.distance_ratio < 0.2
    half = memorisation(torch.cat((train[:50], features(50, 3))), train, held_out)
    assert half.copy_rate == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("left_out", [False, True])
def test_a_generator_of_new_images_copies_one_in_a_hundred(left_out: bool) -> None:
    rates, stds, ratios = [], [], []
    for seed in range(0, 60, 3):
        train, new, held_out = (features(300, seed + part) for part in range(3))
        found = memorisation(new, train, None if left_out else held_out)
        assert found.reference == ("training, left out" if left_out else "held out")
        assert found.copy_rate_expected == pytest.approx(3 / 301)
        rates.append(found.copy_rate)
        stds.append(found.copy_rate_std)
        ratios.append(found.distance_ratio)
    assert abs(np.mean(rates) - 3 / 301) < 3 * stds[0] / 20**0.5
    assert 0.5 < np.std(rates) / stds[0] < 1.6
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)


def test_a_generator_of_noise_copies_nothing() -> None:
    found = memorisation(features(100, 0) + 5, features(300, 1), features(200, 2))
    assert found.copy_rate == 0
    assert found.distance_ratio > 2


def test_copies_are_seen_beside_duplicates_among_the_real_images() -> None:
    train, held_out = features(300, 0), features(300, 1)
    held_out[:200] = train[:200]  # the threshold is 0, and so is the real median
    assert memorisation(train[:100], train, held_out).copy_rate == 1
    new = memorisation(features(100, 2), train, held_out)
    assert new.copy_rate == 0
    assert math.isnan(new.distance_ratio)


def test_without_images_nothing_is_said() -> None:
    some = features(3, 0)
    for sides in ((some[:0], some, some), (some, some[:1], some), (some, some, some[:0])):
        with pytest.raises(UserError, match="memorisation needs"):
            memorisation(*sides)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_the_closest_pairs_first(channels: int) -> None:
    train = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(channels, 1).repeat(8, 2).repeat(8, 3) * 10
    generated = torch.arange(5).to(torch.uint8)[:, None, None, None].expand(5, channels, 8, 8) + 200
    base = torch.arange(6.0)[:, None] * 10
    found = memorisation(torch.tensor([[3.0], [10.5], [52.0], [29.0], [90.0]]), base)
    picture = closest_pairs(lambda chosen: generated[torch.from_numpy(chosen)], train, found, count=3)
    assert picture.dtype == np.uint8
    assert picture.shape == (12 * (3 * 9 + 1), 12 * (2 * 9 + 1), 3)
    middles = picture[12 * 5 :: 12 * 9, 12 * 5 :: 12 * 9]
    assert middles[..., 0].tolist() == [[201, 10], [203, 30], [202, 50]]
    assert (middles[..., 0] == middles[..., 2]).all()
