"""Metrics compute on a GPU what they compute on a CPU; images are drawn beside the network; the parts are timed."""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from metrics_helpers import Means, image_set, random_images
from test_features import COUNT, Asked, tiny
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from gantry.evaluation import placement
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors.networks import NetworkExtractor
from gantry.evaluation.extractors.tf1_resize import interpolate_like_tensorflow1, resize_like_tensorflow1
from gantry.evaluation.features import CHUNK, PIECE, at_a_time, look_at
from gantry.evaluation.metrics.fid import fid, fid_spread, frechet
from gantry.evaluation.metrics.fid_infinity import fid_infinity
from gantry.evaluation.metrics.inception_score import inception_score
from gantry.evaluation.metrics.kid import kid, kid_of_subsets, kid_spread
from gantry.evaluation.metrics.memorization import memorisation, nearest
from gantry.evaluation.metrics.precision_recall import manifold, radii
from gantry.evaluation.moments import Moments, Reference, moments, reference
from gantry.evaluation.placement import computing, placed
from gantry.evaluation.stopwatch import Stopwatch, written
from gantry.models.networks.dcgan import Generator
from gantry.runs.generators import GeneratorSource

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def features(count: int, seed: int, scale: float = 1.0, dimensions: int = 24) -> torch.Tensor:
    deviations = scale * torch.arange(1, dimensions + 1) ** -0.7
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) * deviations + 0.4


def test_metrics_compute_on_a_gpu_of_cuda_alone() -> None:
    assert [computing(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]
    held = features(5, 0)
    assert placed(CPU, held, held) == (held, held)
    assert placed(torch.device("mps"), held)[0] is held


def test_features_that_do_not_fit_stay_together_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: moved.append(device) or self)
    two = features(5, 0), features(7, 1)
    size = sum(one.nbytes for one in two)
    for free, expected in ((4 * size, [CUDA, CUDA]), (4 * size - 1, [])):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2 * free))
        moved.clear()
        placement.placed(CUDA, *two)
        assert moved == expected


@pytest.mark.parametrize("rows", [None, torch.tensor([5, 1, 1, 30])])
def test_moments_of_a_copy_are_those_of_the_features(rows: torch.Tensor | None) -> None:
    held = features(3000, 0)
    for alone, beside in zip(moments(held, rows), moments(held, rows, held.clone()), strict=True):
        assert torch.equal(torch.as_tensor(alone), torch.as_tensor(beside))


@pytest.mark.parametrize(("n_real", "n_generated", "size"), [(150, 90, 60), (40, 40, 40)])
def test_kid_of_subsets_is_torch_fidelitys(n_real: int, n_generated: int, size: int) -> None:
    real, generated = features(n_real, 0), features(n_generated, 1, 1.2)
    theirs = kid_features_to_metric(generated, real, kid_subsets=7, kid_subset_size=size, verbose=False)
    expected = (theirs[KEY_METRIC_KID_MEAN], theirs[KEY_METRIC_KID_STD])
    assert kid_of_subsets(real, generated, 7, size) == pytest.approx(expected, abs=1e-6)
    assert expected[0] > 1e-3  # so that this tolerance says something


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU of which torch knows types, shapes and devices only: mixing devices is an error, a number is 0.5."""
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 0.5)
    monkeypatch.setattr(torch, "cov", lambda values: values @ values.T)
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        yield


@pytest.mark.usefixtures("imagined")
def test_metrics_mix_no_devices() -> None:
    real, generated = torch.empty(60, 24, device="cuda"), torch.empty(50, 24, device="cuda")
    held = Moments(torch.empty(24, dtype=torch.float64), torch.empty(24, 24, dtype=torch.float64), 60)
    with pytest.raises(RuntimeError, match=r"on the same device|two different devices"):
        real + torch.empty(60, 24)  # else this test could not fail
    assert reference(held.to(CUDA)).root.device.type == "cuda"
    kept = Reference(held.to(CUDA), held.to(CUDA).covariance)
    assert frechet(kept, held) == frechet(kept, held.to(CUDA)) == 0.5
    assert math.isfinite(fid_spread(kept, generated, held))
    assert kid_of_subsets(real, generated, 3, 40) == (0.5, 0.5)
    assert kid_spread(real, generated, 0.1, 3) > 0
    assert inception_score(generated)[0] == 0.5
    assert radii(real).device.type == "cuda"
    assert manifold(real, generated)[0].recall == manifold(real, generated, torch.empty(60, 2))[0].recall == 0.5
    for exclude in (None, torch.arange(50)):
        assert {found.device.type for found in nearest(generated, real, exclude)} == {"cuda"}
    images = torch.empty(4, 3, 32, 32, device="cuda")
    for resize in (interpolate_like_tensorflow1, resize_like_tensorflow1):
        assert resize(images.float(), 299).device.type == "cuda"


def both(compute, *inputs: torch.Tensor):
    """What is computed on the CPU and on the GPU."""
    return compute(*inputs), compute(*(one.cuda() for one in inputs))


@pytest.mark.gpu
@pytest.mark.parametrize("count", [12, 700])  # fewer than dimensions: torch-fidelity computes the distance
def test_distances_on_a_gpu_are_those_of_a_cpu(count: int) -> None:
    real, generated = features(2000, 0), features(count, 1, 1.1)
    known = moments(real)
    here, there = reference(known), reference(known.to(CUDA))
    mine, theirs = moments(generated), moments(generated, copy=generated.cuda())
    assert theirs.covariance.is_cuda
    assert torch.equal(theirs.mean.cpu(), mine.mean)
    torch.testing.assert_close(theirs.covariance.cpu(), mine.covariance, rtol=1e-12, atol=1e-15)
    assert frechet(there, theirs) == pytest.approx(frechet(here, mine), rel=1e-8)
    within = 1e-6 if count > 24 else 1e-4  # the library's rounding noise
    assert fid(there, theirs) == pytest.approx(fid(here, mine), rel=within)
    assert fid(there, mine) == pytest.approx(fid(here, mine), rel=within)
    assert fid_spread(there, generated.cuda(), theirs) == pytest.approx(fid_spread(here, generated, mine), rel=1e-6)
    if count > 30:
        copied = fid_infinity(there, generated, 3, generated.cuda())
        assert copied == pytest.approx(fid_infinity(here, generated, 3), rel=1e-6)


@pytest.mark.gpu
def test_neighbours_on_a_gpu_are_those_of_a_cpu() -> None:
    real, generated = features(3000, 0), features(2500, 1, 1.2)
    here, there = both(manifold, real, generated)
    for mine, theirs in zip(here, there, strict=True):
        assert theirs == pytest.approx(mine, rel=0.02)  # distances that are nearly equal may round either way
    torch.testing.assert_close(radii(real.cuda()).cpu(), radii(real), rtol=1e-3, atol=1e-3)
    generated[5] = real[7]
    mine, theirs = both(memorisation, generated, real)
    assert theirs.distances[5] == mine.distances[5] == 0
    assert theirs.distances.device == theirs.indices.device == CPU
    torch.testing.assert_close(theirs.distances, mine.distances)
    assert theirs.distance_ratio == pytest.approx(mine.distance_ratio, rel=1e-5)
    held_out = features(300, 2)
    assert both(memorisation, generated, real, held_out)[1].reference == "held out"


@pytest.mark.gpu
def test_kid_and_inception_score_on_a_gpu_are_those_of_a_cpu() -> None:
    real, generated = features(600, 0), features(500, 1, 1.2)
    here, there = both(lambda *sides: kid(*sides, 20), real, generated)
    assert there == pytest.approx(here, abs=1e-6)
    here, there = both(lambda *sides: kid_spread(*sides, here[1], 20), real, generated)
    assert there == pytest.approx(here, rel=1e-6)
    here, there = both(inception_score, 3 * generated)
    assert there == pytest.approx(here, rel=1e-9)


@pytest.mark.gpu
def test_an_evaluation_on_a_gpu_is_that_of_a_cpu(tmp_path: Path) -> None:
    data, made = image_set(random_images(700)), torch.from_numpy(random_images(600, seed=1))
    values = {}
    for device in (CPU, CUDA):
        extractor = NetworkExtractor(Means(), "means", "0" * 64, "none", device, graph=device == CUDA)
        evaluator = Evaluator(extractor, data, 600, tmp_path / device.type)
        values[device] = evaluator.evaluate(lambda at, n, on=device: made[at : at + n].to(on)).values
    assert values[CUDA] == pytest.approx(values[CPU], rel=1e-4, abs=1e-6)


@pytest.mark.gpu
def test_images_drawn_beside_the_network_are_those_of_the_generator(tmp_path: Path) -> None:
    generator = Generator(z_dim=6, image_shape=(3, 8, 8), width=8, norm="none").eval().cuda()
    source = GeneratorSource(generator, 6, 0, 0, 3 * CHUNK + 7)
    extractor = NetworkExtractor(nn.Flatten(), "pixels", "0" * 64, "none", CUDA, has_logits=False, batch_size=256)
    seen = look_at(source, {"a": extractor}, tmp_path, "test")["a"].features
    pieces = [source(at, min(CHUNK, len(source) - at)) for at in range(0, len(source), CHUNK)]
    assert torch.equal(seen, torch.cat(pieces).flatten(1).float().cpu())


def test_a_gpu_is_given_a_whole_chunk_at_a_time() -> None:
    of = {name: SimpleNamespace(device=torch.device(name)) for name in ("cpu", "cuda")}
    assert at_a_time(of["cpu"]) == PIECE
    assert at_a_time(of["cuda"], of["cpu"]) == CHUNK


def test_beside_tf32_no_image_is_made_by_another_thread(tmp_path: Path) -> None:
    """Its switch is the process's: an image made meanwhile would be another one."""
    working, seen = [False], []

    class Working(Means):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            working[0] = True
            time.sleep(0.01)
            working[0] = False
            return super().forward(images)

    class Noting(Asked):
        def __call__(self, start: int, count: int) -> torch.Tensor:
            seen.append((working[0], torch.backends.cuda.matmul.fp32_precision))
            return super().__call__(start, count)

    short = NetworkExtractor(
        Working(), "tiny", "0" * 64, "none", CPU, labelled=True, products="tf32", arithmetic="plain tf32"
    )
    outside = torch.backends.cuda.matmul.fp32_precision
    looked = look_at(Noting(), {"a": short}, tmp_path / "1", "test")["a"]
    assert set(seen) == {(False, outside)}
    assert len(seen) == -(-COUNT // PIECE)
    assert torch.equal(looked.features, look_at(Asked(), {"a": tiny()}, tmp_path / "2", "test")["a"].features)


def test_the_parts_of_looking_at_images_are_timed(tmp_path: Path) -> None:
    class Slow(Means):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0.02)
            return super().forward(images)

    class Drawn(Asked):
        def __call__(self, start: int, count: int) -> torch.Tensor:
            time.sleep(0.01)
            return super().__call__(start, count)

    watch = Stopwatch()
    slow = dataclasses.replace(tiny(), network=Slow(), batch_size=PIECE)
    with watch("generated images"):
        look_at(Drawn(), {"a": slow}, tmp_path, "test", note=watch.note)
    pieces = -(-COUNT // PIECE)
    assert list(watch.seconds) == ["generated images", "generated images / drawing", "generated images / network"]
    whole, drawing, network = watch.seconds.values()
    assert drawing >= 0.01 * pieces
    assert network >= 0.02 * pieces
    assert whole >= network


def test_a_stopwatch_names_a_part_after_what_it_is_a_part_of() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch("fid"), watch("moments"):
            pass
    watch.note("kid", 2.04)
    with pytest.raises(KeyError), watch("fid"), watch("distance"):
        raise KeyError
    assert list(watch.seconds) == ["fid", "fid / moments", "kid", "fid / distance"]
    assert written({"a b": 3.0, "kid": 2.04, "a b / c": 1.0, "a b / d": 1.96}) == "a b 3.0 (c 1.0, d 2.0), kid 2.0"
