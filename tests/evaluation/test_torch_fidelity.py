"""The same images and the same weights give torch-fidelity's own numbers, on the plain path and the fast one."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import random_images, random_state
from threadpoolctl import threadpool_limits

from gantry.data.sources import cifar10
from gantry.evaluation.extractors.networks import NetworkExtractor, inception
from gantry.evaluation.extractors.tf1_resize import resize_like_tensorflow1
from gantry.evaluation.metrics.fid import fid
from gantry.evaluation.metrics.inception_score import inception_score
from gantry.evaluation.metrics.kid import kid, subset_size
from gantry.evaluation.metrics.precision_recall import manifold
from gantry.evaluation.moments import moments

DATA = Path(os.environ.get("GANTRY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
PLAIN, FAST = 1e-6, 1e-5  # relative
KEYS = {
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "inception_score": "inception_score_mean",
    "precision": "precision",
    "recall": "recall",
}


class AsDataset(torch.utils.data.Dataset):
    """uint8 images (n, C, H, W) as torch-fidelity wants them, in three channels."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def theirs(generated: np.ndarray, real: np.ndarray, weights: Path, layer: int = 2048) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    with threadpool_limits(1):  # more threads gain nothing here, and crawl where tests run side by side
        values = calculate_metrics(
            input1=AsDataset(generated),
            input2=AsDataset(real),
            fid=True,
            kid=True,
            isc=layer == 2048,
            prc=True,
            feature_extractor="inception-v3-compat",
            feature_layer_prc=str(layer),
            feature_layer_fid=str(layer),
            feature_layer_kid=str(layer),
            kid_subset_size=subset_size(len(real), len(generated)),
            feature_extractor_weights_path=str(weights),
            cuda=False,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        )
    return {name: values[key] for name, key in KEYS.items() if key in values}


def ours(generated: np.ndarray, real: np.ndarray, extractor: NetworkExtractor) -> dict[str, float]:
    with threadpool_limits(1):
        features, logits = extractor(torch.from_numpy(generated))
        known = extractor(torch.from_numpy(real)).features
        values = {
            "fid": fid(moments(known), features),
            "kid": kid(known, features)[0],
        }
        values |= {name: getattr(manifold(known, features)[0], name) for name in ("precision", "recall")}
        return values | ({"inception_score": inception_score(logits)[0]} if extractor.has_logits else {})


def assert_same(ours: Mapping[str, float], theirs: Mapping[str, float], within: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=within), name


def pictures(count: int, channels: int, size: int, seed: int = 0, height: int | None = None) -> np.ndarray:
    """`random_images` of any size, by cropping; `height` where they are not square, at most the width."""
    images = random_images(count, channels, -(-size // 4) * 4, seed)
    return np.ascontiguousarray(images[:, :, : height or size, :size])


def coarse(images: np.ndarray) -> np.ndarray:
    """Images unlike the given ones.

    Where images are fewer than features the covariances are singular, and the rounding noise in the square roots of
    their zero eigenvalues, about 1e-6 in all, would show in a small distance.
    """
    height, width = images.shape[2:]
    return images[:, :, ::4, ::4].repeat(4, 2).repeat(4, 3)[:, :, :height, :width] // 2


@pytest.mark.parametrize(
    ("channels", "size", "n_real"), [(1, 28, 12), (3, 150, 12), pytest.param(1, 28, 66, marks=pytest.mark.slow)]
)
def test_an_early_layer(channels: int, size: int, n_real: int, random_weights: Path) -> None:
    # The network's first layers see what became of the channels and of the size, and cost little; and there are sooner
    # more images than features.
    real, generated = pictures(n_real, channels, size), coarse(pictures(12, channels, size, seed=1))
    expected = theirs(generated, real, random_weights, 64)
    for fast in (False, True):
        extractor = inception(weights=str(random_weights), layer=64, fast=fast)
        assert_same(ours(generated, real, extractor), expected, within=FAST if fast else PLAIN)


@pytest.fixture(scope="module")
def few(random_weights: Path) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    real, generated = random_images(10), coarse(random_images(12, seed=1))
    generated[::2] = random_images(6, seed=2)  # unlike the others, for an Inception Score to speak of
    return generated, real, theirs(generated, real, random_weights)


@pytest.mark.parametrize("fast", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_last_layer(fast: bool, few: tuple[np.ndarray, np.ndarray, dict[str, float]], random_weights: Path) -> None:
    generated, real, expected = few
    extractor = replace(inception(weights=str(random_weights), fast=fast), batch_size=2)
    assert_same(ours(generated, real, extractor), expected, within=FAST if fast else PLAIN)
    assert expected["inception_score"] > 1.001


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 150)])
def test_the_last_layer_of_every_kind_of_image(fast: bool, channels: int, size: int, random_weights: Path) -> None:
    real, generated = pictures(60, channels, size), coarse(pictures(50, channels, size, seed=1))
    extractor = inception(weights=str(random_weights), fast=fast)
    assert_same(
        ours(generated, real, extractor), theirs(generated, real, random_weights), within=FAST if fast else PLAIN
    )


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 32, 32), (3, 150, 150), (3, 299, 299), (1, 400, 300)])
def test_resizing_is_theirs_bit_by_bit(shape: tuple[int, int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8))
    for side in (224, 299):
        expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (side, side), align_corners=False)
        assert torch.equal(resize_like_tensorflow1(images, side), expected)


@pytest.mark.parametrize(("layer", "n"), [(64, 12), pytest.param(2048, 50, marks=pytest.mark.slow)])
def test_pictures_that_are_not_square_are_measured_as_they_do(layer: int, n: int, random_weights: Path) -> None:
    real, generated = pictures(n + 10, 3, 40, height=24), coarse(pictures(n, 3, 40, seed=1, height=24))
    assert generated.shape == (n, 3, 24, 40)
    extractor = inception(weights=str(random_weights), layer=layer)
    assert_same(ours(generated, real, extractor), theirs(generated, real, random_weights, layer), within=FAST)


@pytest.fixture(scope="module")
def trained_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The papers' weights up to the layer of 768, seeded noise above."""
    held = DATA / "inception-2015-12-05-to-mixed6e-fp16.pt"
    if not held.exists():
        pytest.skip(f"no {held.name} in {DATA}")
    state = random_state()
    for key, value in torch.load(held, weights_only=True).items():
        state[key] = value.to(state[key].dtype)
    path = tmp_path_factory.mktemp("weights") / "trained.pth"
    torch.save(state, path)
    return path


def cifar10_images(split: str, cache: Path) -> np.ndarray:
    if not (DATA / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no CIFAR-10 in {DATA}")
    return cifar10(root=DATA, cache=cache, split=split, download=False).images


@pytest.mark.data
def test_real_images_at_an_early_layer(trained_weights: Path, tmp_path: Path) -> None:
    images = cifar10_images("test", tmp_path)
    real, generated = images[:16], coarse(images[100:116])
    expected = theirs(generated, real, trained_weights, 64)
    for fast in (False, True):
        extractor = inception(weights=str(trained_weights), layer=64, fast=fast)
        assert_same(ours(generated, real, extractor), expected, within=FAST if fast else PLAIN)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("layer", "n_real", "n_generated"), [(768, 900, 800), (2048, 2100, 2060), (2048, 2100, 300)])
def test_real_images(layer: int, n_real: int, n_generated: int, trained_weights: Path, tmp_path: Path) -> None:
    images = cifar10_images("test", tmp_path)
    real, generated = images[:n_real], coarse(images[n_real : n_real + n_generated])
    expected = theirs(generated, real, trained_weights, layer)
    for fast in (False, True):
        extractor = inception(weights=str(trained_weights), layer=layer, fast=fast)
        assert_same(ours(generated, real, extractor), expected, within=FAST if fast else PLAIN)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fast"])
def official(request: pytest.FixtureRequest) -> NetworkExtractor:
    extractor = inception(fast=request.param, device="cuda" if torch.cuda.is_available() else "cpu")
    assert extractor.official
    return extractor


@pytest.mark.weights
@pytest.mark.data
def test_the_values_torch_fidelity_publishes_for_256_images(official: NetworkExtractor, tmp_path: Path) -> None:
    # Its own check (.circleci/smoke_tests.py, version 0.4): the first images of the training and the test set.
    train, test = (cifar10_images(split, tmp_path)[:256] for split in ("train", "test"))
    values = ours(train, test, official)
    assert values["fid"] == pytest.approx(110.28082617202443, abs=1e-2)
    assert values["inception_score"] == pytest.approx(6.675409920681458, abs=1e-3)


@pytest.mark.weights
@pytest.mark.data
@pytest.mark.slow
def test_the_values_known_for_all_of_cifar10(official: NetworkExtractor, tmp_path: Path) -> None:
    # The score by torch-fidelity's README; the distance by the port of TensorFlow's that w86763777 publishes.
    train, test = (torch.from_numpy(cifar10_images(split, tmp_path)) for split in ("train", "test"))
    features, logits = official(train)
    assert inception_score(logits)[0] == pytest.approx(11.23678, rel=1e-3)
    known = moments(official(test).features)
    assert fid(known, features) == pytest.approx(3.15, abs=0.02)
