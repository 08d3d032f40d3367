"""The stream of latents: each a function of its number, truncated without losing its place."""

import numpy as np
import pytest
from scipy.stats import kstest, truncnorm

from gantry.models.latents import BLOCK, stream


@pytest.mark.parametrize(("first", "count"), [(0, 1), (BLOCK - 1, 2), (3, 2 * BLOCK), (7, 0)])
def test_a_vector_follows_from_its_number_alone(first, count):
    whole = stream(5, 0, 4 * BLOCK, 3)
    assert np.array_equal(stream(5, first, count, 3), whole[first : first + count])


def test_seeds_differ():
    assert not np.array_equal(stream(0, 0, 4, 3), stream(1, 0, 4, 3))


@pytest.mark.parametrize("limit", [0.3, 0.7, 2.0])
def test_truncated_values_are_of_the_truncated_normal_distribution(limit):
    values = stream(0, 0, 4000, 5, truncation=limit).ravel()
    assert np.abs(values).max() <= limit
    assert kstest(values, truncnorm(-limit, limit).cdf).pvalue > 0.01


def test_truncation_moves_a_seeds_latents_without_shuffling_them():
    plain, cut = stream(0, 0, 50, 8), stream(0, 0, 50, 8, truncation=0.7)
    assert np.array_equal(np.argsort(plain.ravel()), np.argsort(cut.ravel()))
    assert np.allclose(stream(0, 0, 50, 8, truncation=9.0), plain, atol=1e-5)
