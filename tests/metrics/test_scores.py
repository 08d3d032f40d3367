from dataclasses import replace

import numpy as np
import pytest
import torch

from gantry.metrics import scores
from gantry.metrics.extractors import NetworkExtractor


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int = 500, seed: int = 0) -> torch.Tensor:
    """float64 features whose sample mean and covariance are exactly the given ones."""
    white = np.random.default_rng(seed).normal(size=(count, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


def test_fid_of_two_gaussians_is_the_frechet_distance() -> None:
    real = with_moments(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]))
    generated = with_moments(np.array([1.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0]), seed=1)
    # |mean difference|^2 + sum of (standard deviation difference)^2 for diagonal covariances
    assert scores.fid(scores.moments(real), generated) == pytest.approx((1 + 4) + (1 + 0 + 4), rel=1e-9)


def test_fid_sees_correlation() -> None:
    real = with_moments(np.zeros(2), np.eye(2))
    generated = with_moments(np.zeros(2), np.array([[1.0, 0.6], [0.6, 1.0]]), seed=1)
    # trace(I + S - 2 S^(1/2)) with the eigenvalues 1.6 and 0.4 of S
    expected = 4 - 2 * (1.6**0.5 + 0.4**0.5)
    assert scores.fid(scores.moments(real), generated) == pytest.approx(expected, rel=1e-9)


def test_fid_of_float32_features_is_float64() -> None:
    features = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)) + 100  # spans two chunks
    expected = np.cov(features.double().numpy(), rowvar=False)
    moments = scores.moments(features)
    mean = moments.total / moments.n
    covariance = (moments.outer - moments.n * mean.outer(mean)) / (moments.n - 1)
    assert np.allclose(covariance, expected, rtol=1e-8, atol=1e-8)
    assert scores.fid(moments, features + 1) == pytest.approx(4, rel=1e-5)


def test_kid_of_shifted_features_is_positive_and_of_equal_ones_about_zero() -> None:
    random = torch.Generator().manual_seed(0)
    real, same = torch.randn(2, 400, 8, generator=random)
    assert abs(scores.kid(real, same)) < 0.02
    assert scores.kid(real, same + 1) > 0.5


def test_kid_of_the_whole_of_both_sides_is_the_unbiased_estimate() -> None:
    random = torch.Generator().manual_seed(0)
    real, generated = torch.randn(2, 30, 4, generator=random, dtype=torch.float64)
    kernel = lambda x, y: (x @ y.T / 4 + 1) ** 3  # noqa: E731
    within = sum((kernel(x, x).sum() - kernel(x, x).trace()) / (30 * 29) for x in (real, generated))
    expected = (within - 2 * kernel(real, generated).mean()).item()
    assert scores.kid(real, generated, subsets=3) == pytest.approx(expected, rel=1e-9)


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    mean, std = scores.inception_score(torch.zeros(1000, 7))
    assert (mean, std) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    sure = 100.0 * torch.eye(7).repeat(2000, 1)
    mean, std = scores.inception_score(sure)
    assert mean == pytest.approx(7, rel=0.01)  # splits are drawn, so hardly any is perfectly balanced
    one_class = 100.0 * torch.eye(7)[:1].repeat(1000, 1)
    assert scores.inception_score(one_class)[0] == pytest.approx(1)


def test_classes_covered_asks_for_a_tenth_of_the_real_share() -> None:
    real = torch.arange(4).repeat(25)  # a quarter each; class 4 does not occur
    generated = torch.tensor([0] * 900 + [1] * 25 + [2] * 24 + [4] * 51)
    assert scores.classes_covered(real, generated) == 2  # 0, and 1 just; 2 is below 2.5 %; 4 is no real class
    assert scores.classes_covered(real, real) == 4


@pytest.mark.parametrize(
    ("official", "count", "fid"),
    [
        (True, 50_000, "fid"),
        (True, 5000, "fid_5k"),
        (True, 2048, "fid_2048"),
        (False, 50_000, "fid_inception-0a1b2c3d"),
        (False, 10_000, "fid_inception-0a1b2c3d_10k"),
    ],
)
def test_only_the_standard_protocol_is_called_fid(official: bool, count: int, fid: str) -> None:
    extractor = NetworkExtractor(
        torch.nn.Identity(), "inception", "0a1b2c3d" * 8, "none", torch.device("cpu"), official=official
    )
    suffix = fid.removeprefix("fid")
    assert scores.names(extractor, count, "train") == {
        "fid": fid,
        "kid": "kid" + suffix,
        "inception_score": "inception_score" + suffix,
        "inception_score_std": "inception_score_std" + suffix,
    }


def test_scores_on_labels_are_named_after_the_classifier(tiny: NetworkExtractor) -> None:
    assert list(scores.names(tiny, 50_000, "all").values()) == [
        "fid_tiny",
        "kid_tiny",
        "inception_score_tiny",
        "inception_score_std_tiny",
        "modes_tiny",
    ]


def test_a_part_of_the_data_or_another_split_is_named(tiny):
    official = replace(tiny, name="inception", official=True, labelled=False)
    assert scores.names(official, 50_000, "test")["fid"] == "fid_test"
    assert scores.names(official, 5000, "train-1000")["fid"] == "fid_5k_train-1000"
