"""The faster forms of Inception are its own values up to rounding, and each device gets the one made for it."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import Means, random_images
from torch import nn

from gantry.core.errors import UserError
from gantry.data.sources import cifar10
from gantry.evaluation.extractors import inception as inception_module
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.extractors.folded_inception import Folded, Merged, biased_relu, folded
from gantry.evaluation.extractors.inception import inception, plain
from gantry.evaluation.extractors.tf1_resize import interpolate_like_tensorflow1, resize_like_tensorflow1
from gantry.evaluation.protocol import suffix

DATA = Path(os.environ.get("GANTRY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
ROUNDING = 1e-6  # of the largest feature


def away(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.cpu() - expected.cpu()).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def reference(random_weights: Path) -> Callable[[int], nn.Module]:
    content = random_weights.read_bytes()
    return lambda layer: plain(content, layer).eval()


@pytest.fixture(scope="module")
def real_images(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    if not (DATA / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no CIFAR-10 in {DATA}")
    return cifar10(root=DATA, cache=tmp_path_factory.mktemp("cifar"), split="test", download=False).images[:8]


SHAPES = [(3, 28, 28), (3, 32, 32), (3, 150, 150), (3, 299, 299), (1, 400, 300), (3, 24, 40)]


def assert_resizing_agrees(images: torch.Tensor) -> None:
    for side in (224, 299):
        exact = resize_like_tensorflow1(images.cpu(), side)
        found = interpolate_like_tensorflow1(images.float(), side)
        assert found.shape == exact.shape
        assert (found.cpu() - exact).abs().max() < 1e-4  # of 255; a step of float32 is 1.5e-5 there
        scaled = interpolate_like_tensorflow1((images.float() - 128) / 128, side)
        assert (scaled.cpu() - (exact - 128) / 128).abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_one_kernel_resizes_as_torch_fidelity(shape: tuple[int, int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8))
    assert_resizing_agrees(images)
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (299, 299), align_corners=False)
    assert (interpolate_like_tensorflow1(images.float(), 299) - theirs).abs().max() < 1e-4


@pytest.mark.data
def test_one_kernel_resizes_real_images_as_the_exact_one(real_images: np.ndarray) -> None:
    assert_resizing_agrees(torch.from_numpy(real_images))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_resizes_as_the_exact_one(shape: tuple[int, int, int]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8))
    assert_resizing_agrees(images.cuda())


@pytest.mark.parametrize("layer", [64, 192, 768, pytest.param(2048, marks=pytest.mark.slow)])
def test_the_form_for_gpus_is_the_reference_up_to_rounding(layer: int, reference: Callable[[int], nn.Module]) -> None:
    network = reference(layer)
    images = torch.from_numpy(random_images(2))
    with torch.no_grad():
        expected, found = network(images), Merged(copy.deepcopy(network), layer).eval()(images)
    assert len(found) == (2 if layer == 2048 else 1)
    for mine, theirs in zip(found, expected, strict=True):
        assert away(mine, theirs) < ROUNDING


def test_a_device_gets_its_own_form(reference: Callable[[int], nn.Module]) -> None:
    forms = {name: folded(reference(64), 64, torch.device(name)) for name in ("cpu", "cuda", "mps")}
    assert {name: type(form) for name, form in forms.items()} == {"cpu": Folded, "cuda": Merged, "mps": Folded}
    formats = {
        name: next(weight for weight in form.parameters() if weight.ndim == 4 and weight.shape[2:] == (3, 3)).stride()[
            1
        ]
        for name, form in forms.items()
    }
    assert formats == {"cpu": 1, "cuda": 9, "mps": 1}  # between channels: they are last, or not


def test_bias_and_relu() -> None:
    x, bias = torch.tensor([[-3.0, 0.5, torch.nan]]).reshape(1, 3, 1, 1), torch.tensor([1.0, 1, 1]).reshape(1, 3, 1, 1)
    assert biased_relu(x, bias).flatten()[:2].tolist() == [0, 1.5]
    assert biased_relu(x, bias).flatten()[2].isnan()


@pytest.mark.gpu
def test_one_kernel_for_bias_and_relu_has_the_bits_of_two() -> None:
    x, bias = torch.randn(3, 8, 5, 5, device="cuda"), torch.randn(1, 8, 1, 1, device="cuda")
    x[0, 0, 0, 0] = torch.nan
    expected = torch.relu(x + bias)
    assert torch.equal(biased_relu(x, bias).nan_to_num(7), expected.nan_to_num(7))
    assert torch.equal(biased_relu(x[:, 2:5], bias[:, 2:5]).contiguous(), expected[:, 2:5])


@pytest.mark.gpu
@pytest.mark.parametrize("fast", [False, True])
def test_features_on_a_gpu_are_those_of_a_cpu(fast: bool, random_weights: Path) -> None:
    images = torch.from_numpy(random_images(20))
    exact = replace(inception(weights=str(random_weights), fast=False), batch_size=4)(images)
    extractor = replace(inception(weights=str(random_weights), fast=fast, device="cuda"), batch_size=8)
    found = extractor(images)
    assert extractor._captured  # so these are values of a graph
    assert all(captured is not None for captured in extractor._captured.values())
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.device.type == "cpu"
        assert away(mine, theirs) < 10 * ROUNDING
    eager = replace(extractor, graph=False)
    assert all(map(torch.equal, eager(images), found))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert torch.equal(eager(images).features, found.features)
    finally:
        torch.set_float32_matmul_precision(before)


def test_tf32_is_refused_where_there_is_none(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"extractor\.tf32=true needs a GPU of CUDA: a cpu device has no TF32"):
        inception(weights=str(random_weights), tf32=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Card")
    with pytest.raises(UserError, match="Old Card has no TF32"):
        inception(weights=str(random_weights), tf32=True, device="cuda")


def test_tf32_is_in_the_name_the_key_and_the_caveats(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_module, "_products", lambda tf32, device: "tf32" if tf32 else "ieee")
    monkeypatch.setattr(
        inception_module,
        "INCEPTION",
        replace(inception_module.INCEPTION, sha256=inception(weights=str(random_weights)).digest),
    )
    whole, short = (inception(weights=str(random_weights), tf32=tf32) for tf32 in (False, True))
    assert (whole.official, short.official) == (True, False)
    assert (whole.arithmetic, short.arithmetic) == ("folded", "folded tf32")
    assert "fid" + suffix(short, 50_000, "train") == f"fid_inception-tf32-{short.digest[:8]}"
    assert not whole.caveats
    assert "TF32" in short.caveats[0]


def test_tf32_is_set_for_the_network_alone() -> None:
    seen = []

    class Noting(Means):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
            return super().forward(images)

    before = torch.backends.cuda.matmul.fp32_precision
    for products in ("ieee", "tf32"):
        extractor = NetworkExtractor(Noting(), "noting", "0" * 64, "none", torch.device("cpu"), products=products)
        extractor(torch.from_numpy(random_images(2)))
    assert seen == [("ieee", "ieee"), ("tf32", "ieee")]
    assert torch.backends.cuda.matmul.fp32_precision == before


def means(**options: object) -> NetworkExtractor:
    return NetworkExtractor(Means(), "means", "0" * 64, "none", torch.device("cpu"), batch_size=16, **options)


def test_the_graphs_stand_in_gives_the_same_features(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.from_numpy(random_images(150))  # more than are moved at once, and a last batch that is not full
    captured = means(graph=True)
    assert all(map(torch.equal, captured(images), means()(images)))
    assert all(map(torch.equal, captured(images[:3]), means()(images[:3])))
    smaller = torch.from_numpy(random_images(3, size=8))
    assert torch.equal(captured(smaller).features, means()(smaller).features)
    assert [found is not None for found in captured._captured.values()] == [True, True]
    assert not caplog.records


class Counting(Means):
    """Gives other values with each call, as code does that a graph would leave out."""

    calls = 0

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        return tuple(self.calls * seen for seen in super().forward(images))


def test_a_network_that_a_graph_would_change_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.from_numpy(random_images(3))
    extractor = NetworkExtractor(Counting(), "counting", "0" * 64, "none", torch.device("cpu"), graph=True)
    first, second = extractor(images).features, extractor(images).features
    assert not torch.equal(first, second)
    assert caplog.messages == ["counting runs without a CUDA graph: the graph's values are others"]


def test_where_capture_fails_the_network_runs_without_and_the_reason_is_said(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    class Failing(Means):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("operation not permitted when stream is capturing\nand more")
            return super().forward(images)

    images = torch.from_numpy(random_images(20))
    extractor = replace(means(graph=True), network=Failing())
    assert torch.equal(extractor(images).features, means()(images).features)
    assert caplog.messages == ["means runs without a CUDA graph: operation not permitted when stream is capturing"]
