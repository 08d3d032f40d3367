import math

import pytest
import torch

from gantry.core.errors import UserError
from gantry.evaluation.metrics.fid import fid_spread, frechet
from gantry.evaluation.metrics.fid_infinity import fid_infinity, fid_infinity_spread
from gantry.evaluation.metrics.inception_score import inception_score, inception_score_spread
from gantry.evaluation.metrics.kid import kid, kid_spread
from gantry.evaluation.moments import Moments, Reference, moments, reference

DIMENSIONS = 12
DEVIATIONS = torch.arange(1, DIMENSIONS + 1) ** -0.7
SCALE, SHIFT = 0.8, 0.2  # of the generated features against the real ones


@pytest.fixture(scope="module")
def real() -> Reference:
    """The real side's true moments, so that all error is the generated side's."""
    mean = torch.zeros(DIMENSIONS, dtype=torch.float64)
    return reference(Moments(mean, DEVIATIONS.double().square().diag(), 1_000_000))


def generated(count: int, seed: int, scale: float = SCALE, shift: float = SHIFT) -> torch.Tensor:
    white = torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    return (scale * white + shift) * DEVIATIONS


def test_fid_infinity_does_not_depend_on_the_number_of_images(real: Reference) -> None:
    scale, shift = 0.9, 0.05
    true = (shift**2 + (1 - scale) ** 2) * DEVIATIONS.square().sum().item()  # the covariances commute
    plain, infinite = {}, {}
    for count in (100, 400):
        samples = [generated(count, seed, scale, shift) for seed in range(40)]
        plain[count] = sum(frechet(real, moments(x)) for x in samples) / 40
        infinite[count] = sum(fid_infinity(real, x, seed) for seed, x in enumerate(samples)) / 40
    for count in (100, 400):
        assert abs(infinite[count] - true) < abs(plain[count] - true) / 3
    assert plain[100] - plain[400] > 0.5 * true
    assert abs(infinite[100] - infinite[400]) < (plain[100] - plain[400]) / 3


def test_fid_infinity_is_a_function_of_its_seed(real: Reference) -> None:
    images = generated(60, 0)
    state = torch.get_rng_state()
    assert fid_infinity(real, images, 1) == fid_infinity(real, images, 1) != fid_infinity(real, images, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_fid_infinity_asks_for_thirty_images(real: Reference) -> None:
    assert math.isfinite(fid_infinity(real, generated(30, 0), 0))
    with pytest.raises(UserError, match="needs 30 generated images or more, not 29"):
        fid_infinity(real, generated(29, 0), 0)


def rms(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).square().mean().sqrt().item()


@pytest.mark.parametrize(("count", "scale", "shift"), [(300, SCALE, SHIFT), (300, 1.0, 0.0), (20, SCALE, SHIFT)])
def test_the_spread_of_fid_is_that_of_repeated_draws(real: Reference, count: int, scale: float, shift: float) -> None:
    samples = [generated(count, seed, scale, shift) for seed in range(40)]
    true = torch.tensor([frechet(real, moments(x)) for x in samples]).std().item()
    assert 1 / 1.6 < rms([fid_spread(real, x) for x in samples]) / true < 1.6


def test_the_spread_of_fid_infinity_is_that_of_repeated_draws(real: Reference) -> None:
    samples = [generated(300, seed) for seed in range(40)]
    true = torch.tensor([fid_infinity(real, x, seed) for seed, x in enumerate(samples)]).std().item()
    assert 1 / 1.6 < fid_infinity_spread(rms([fid_spread(real, x) for x in samples]), 300) / true < 1.6


def test_the_spread_of_fid_shrinks_with_the_root_of_the_count_also_in_many_dimensions() -> None:
    deviations = torch.arange(1, 513) ** -0.7
    white = torch.randn(1200, 512, generator=torch.Generator().manual_seed(0))
    real = reference(moments(white[:400] * deviations))
    few, many = (fid_spread(real, white[400 : 400 + count] * deviations + 0.2) for count in (100, 400))
    assert few / many == pytest.approx(2, rel=0.2)
    known = white[400:500] * deviations + 0.2
    assert fid_spread(real, known, moments(known)) == few


@pytest.mark.parametrize(("count", "scale", "shift"), [(200, SCALE, SHIFT), (800, SCALE, SHIFT), (200, 1.0, 0.0)])
def test_the_spread_of_kid_is_that_of_repeated_draws(count: int, scale: float, shift: float) -> None:
    images = generated(500, 1000, 1.0, 0.0)
    found, spreads = [], []
    for seed in range(40):
        sample = generated(count, seed, scale, shift)
        value, std = kid(images, sample, subsets=4)
        found.append(value)
        spreads.append(kid_spread(images, sample, std, subsets=4))
    assert 1 / 1.6 < rms(spreads) / torch.tensor(found, dtype=torch.float64).std().item() < 1.8


def test_the_spread_of_the_inception_score_is_that_of_repeated_draws() -> None:
    draws = [inception_score(3 * generated(500, seed)) for seed in range(40)]
    true = torch.tensor([mean for mean, _ in draws], dtype=torch.float64).std().item()
    assert 1 / 1.6 < rms([inception_score_spread(std) for _, std in draws]) / true < 1.6
