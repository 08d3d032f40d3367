import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from gantry.core.config.options import WHILE_TRAINING
from gantry.evaluation.evaluator import UNLOGGED
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.metrics.class_shares import classes_covered
from gantry.evaluation.metrics.fid import fid, frechet
from gantry.evaluation.metrics.inception_score import inception_score
from gantry.evaluation.metrics.kid import kid
from gantry.evaluation.metrics.metric import ASKED, CODES, ENCODER, built
from gantry.evaluation.moments import moments, reference
from gantry.evaluation.protocol import suffix
from gantry.evaluation.score import lacking


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
    assert fid(moments(real), generated) == pytest.approx((1 + 4) + (1 + 0 + 4), rel=1e-9)


def test_fid_sees_correlation() -> None:
    real = with_moments(np.zeros(2), np.eye(2))
    generated = with_moments(np.zeros(2), np.array([[1.0, 0.6], [0.6, 1.0]]), seed=1)
    # trace(I + S - 2 S^(1/2)) with the eigenvalues 1.6 and 0.4 of S
    expected = 4 - 2 * (1.6**0.5 + 0.4**0.5)
    assert fid(moments(real), generated) == pytest.approx(expected, rel=1e-9)


def decaying(count: int, dimensions: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """float32 features, 0 or above, with variances that fall as those of Inception's do."""
    random = torch.Generator().manual_seed(seed)
    deviations = scale * torch.arange(1, dimensions + 1) ** -0.7
    features = torch.randn(count, dimensions, generator=random) * deviations + 0.4
    return (features + 0.5 * features.roll(1, 1)).clamp(min=0)


def library_fid(generated: torch.Tensor, real: torch.Tensor) -> float:
    sides = (fid_features_to_statistics(side) for side in (generated, real))
    return fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize(("n_real", "n_generated"), [(300, 40), (40, 300), (65, 66), (1500, 2000)])
def test_fid_is_torch_fidelitys(n_real: int, n_generated: int) -> None:
    real, generated = decaying(n_real, 64, 0), decaying(n_generated, 64, 1, scale=1.1)
    expected = library_fid(generated, real)
    assert fid(moments(real), generated) == pytest.approx(expected, rel=1e-6)
    kept = reference(moments(real))
    assert fid(kept, moments(generated)) == pytest.approx(expected, rel=1e-6)


def test_fid_is_torchmetrics_too() -> None:
    """An implementation of its own, from sums of features and of their products."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    random = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, 12, generator=random, dtype=torch.float64) for n in (300, 200))
    generated = 1.5 * generated + 0.2
    identity = torch.nn.Identity()
    identity.num_features = 12
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    ours = fid(moments(real.float()), generated.float())
    assert ours == pytest.approx(metric.compute().item(), rel=1e-5)


def test_fid_of_fewer_features_than_dimensions_is_torch_fidelitys() -> None:
    # With one direction far above the others, rounding noise in the null space shows in the fifth digit.
    random = torch.Generator().manual_seed(5)
    real, generated = (
        decaying(count, 512, seed, scale=0.1) + 0.5 * torch.randn(count, 1, generator=random)
        for seed, count in enumerate((600, 60))
    )
    expected = library_fid(generated, real)
    known = moments(real)
    assert fid(known, generated) == pytest.approx(expected, rel=1e-6)
    accurate = frechet(reference(known), moments(generated))
    assert accurate != pytest.approx(expected, rel=1e-5)  # else this test could not fail


def test_fid_of_a_dead_feature_is_torch_fidelitys() -> None:
    real, generated = decaying(300, 32, 0), decaying(300, 32, 1)
    real[:, 3] = generated[:, 3:9] = 0.0
    assert fid(moments(real), generated) == pytest.approx(library_fid(generated, real), rel=1e-6)


@pytest.mark.parametrize("count", [20, 5000])
def test_fid_of_a_set_with_itself_is_zero(count: int) -> None:
    features = decaying(count, 32, 0)
    known = moments(features)
    assert fid(known, features) == pytest.approx(0, abs=1e-6)
    assert frechet(reference(known), known) == pytest.approx(0, abs=1e-9)


def test_the_distance_of_singular_covariances_is_accurate() -> None:
    # Three images in 50 dimensions, the second set the first one doubled: the sum of (1 - 2)^2 variance.
    features = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features -= features.mean(0)
    real, generated = moments(features), moments(2 * features)
    expected = real.covariance.trace().item()
    assert frechet(reference(real), generated) == pytest.approx(expected, rel=1e-12)


def test_moments_are_numpys_and_those_of_some_rows_too() -> None:
    features = decaying(3000, 8, 0) + 100  # three chunks, the last one in part
    found = moments(features)
    assert found.n == 3000
    assert np.array_equal(found.mean.numpy(), features.numpy().mean(0).astype(np.float64))
    assert np.allclose(found.covariance.numpy(), np.cov(features.numpy(), rowvar=False), rtol=1e-11, atol=1e-13)
    rows = torch.arange(2999, 0, -2)
    some, expected = moments(features, rows), moments(features[rows])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(some, expected, strict=True))


def test_kid_and_inception_score_are_torch_fidelitys_to_the_last_digit() -> None:
    real, generated = decaying(300, 16, 0), decaying(250, 16, 1)
    expected = kid_features_to_metric(generated, real, kid_subsets=7, kid_subset_size=250, verbose=False)
    assert kid(real, generated, subsets=7) == (expected[KEY_METRIC_KID_MEAN], expected[KEY_METRIC_KID_STD])
    logits = 5 * decaying(1013, 1008, 2)  # splits of 101 and of 102
    whole = isc_features_to_metric(logits)
    assert inception_score(logits) == (whole[KEY_METRIC_ISC_MEAN], whole[KEY_METRIC_ISC_STD])


def test_a_memory_map_is_never_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "features"
    rows = 20_000
    np.memmap(path, np.float32, "w+", shape=(rows, 64))[:] = decaying(rows, 64, 0).numpy()
    features = torch.from_numpy(np.memmap(path, np.float32, "c", shape=(rows, 64)))
    tracemalloc.start()  # sees numpy's copies, the profiler PyTorch's
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            found = moments(features)
            inception_score(features)
        numpys = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert max(numpys, largest) < rows * 64 * 4 / 4  # a split of a tenth in float64 is a fifth of the whole
    assert found.n == rows


def test_kid_of_shifted_features_is_positive_and_of_equal_ones_about_zero() -> None:
    random = torch.Generator().manual_seed(0)
    real, same = torch.randn(2, 400, 8, generator=random)
    assert abs(kid(real, same)[0]) < 0.02
    assert kid(real, same + 1)[0] > 0.5


def test_kid_of_the_whole_of_both_sides_is_the_unbiased_estimate() -> None:
    random = torch.Generator().manual_seed(0)
    real, generated = torch.randn(2, 30, 4, generator=random, dtype=torch.float64)
    kernel = lambda x, y: (x @ y.T / 4 + 1) ** 3  # noqa: E731
    within = sum((kernel(x, x).sum() - kernel(x, x).trace()) / (30 * 29) for x in (real, generated))
    expected = (within - 2 * kernel(real, generated).mean()).item()
    assert kid(real, generated, subsets=3)[0] == pytest.approx(expected, rel=1e-9)


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    mean, std = inception_score(torch.zeros(1000, 7))
    assert (mean, std) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    sure = 100.0 * torch.eye(7).repeat(2000, 1)
    mean, std = inception_score(sure)
    assert mean == pytest.approx(7, rel=0.01)  # splits are drawn, so hardly any is perfectly balanced
    one_class = 100.0 * torch.eye(7)[:1].repeat(1000, 1)
    assert inception_score(one_class)[0] == pytest.approx(1)


def test_classes_covered_asks_for_a_tenth_of_the_real_share() -> None:
    real = torch.arange(4).repeat(25)  # a quarter each; class 4 does not occur
    generated = torch.tensor([0] * 900 + [1] * 25 + [2] * 24 + [4] * 51)
    assert classes_covered(real, generated) == 2  # 0, and 1 just; 2 is below 2.5 %; 4 is no real class
    assert classes_covered(real, real) == 4


def names(extractor: NetworkExtractor, count: int, split: str) -> dict[str, str]:
    """What the values measured while training are called."""
    measured = [
        metric
        for metric in built(WHILE_TRAINING)
        if lacking(metric, extractor, {ASKED: False, CODES: False, ENCODER: False}) is None
    ]
    after = suffix(extractor, count, split)
    return {name: name + after for metric in measured for name in metric.names if name not in UNLOGGED}


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
    after = fid.removeprefix("fid")
    assert names(extractor, count, "train") == {
        "fid": fid,
        "kid": "kid" + after,
        "inception_score": "inception_score" + after,
        "inception_score_std": "inception_score_std" + after,
    }


def test_scores_on_labels_are_named_after_the_classifier(tiny: NetworkExtractor) -> None:
    assert list(names(tiny, 50_000, "all").values()) == [
        "fid_tiny",
        "kid_tiny",
        "inception_score_tiny",
        "inception_score_std_tiny",
        "modes_tiny",
    ]


def test_further_statistics_are_named_alike(tiny):
    official = replace(tiny, name="inception", official=True, labelled=False)
    assert "precision" + suffix(official, 50_000, "train") == "precision"
    assert "fid_infinity" + suffix(official, 5000, "train") == "fid_infinity_5k"
    assert "recall" + suffix(tiny, 5000, "train") == "recall_tiny"


def test_a_part_of_the_data_or_another_split_is_named(tiny):
    official = replace(tiny, name="inception", official=True, labelled=False)
    assert "fid" + suffix(official, 50_000, "test") == "fid_test"
    assert "fid" + suffix(official, 5000, "train-1000") == "fid_5k_train-1000"
