"""Draws are those of Philox with the key and the counter that are documented, and of nothing else."""

import zlib

import numpy as np
import pytest

from gantry.core.randomness import draws


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize("step", [0, 3, 2**40])
def test_key_and_counter_say_which_numbers_are_drawn(seed, step):
    key = np.array([seed, zlib.crc32(b"order")], dtype=np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
    drawn = draws(seed, step, "order")
    assert np.array_equal(drawn.permutation(50), expected.permutation(50))
    assert np.array_equal(drawn.standard_normal(7, dtype="float32"), expected.standard_normal(7, dtype="float32"))


def test_seeds_steps_and_purposes_draw_apart():
    first = {(seed, step, of): draws(seed, step, of).random() for seed in (0, 1) for step in (0, 1) for of in "ab"}
    assert len(set(first.values())) == len(first)
