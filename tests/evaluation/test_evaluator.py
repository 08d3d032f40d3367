import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import Means, image_set, random_images, served

from gantry.core.errors import UserError
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors.extractor import Features, NetworkExtractor
from gantry.evaluation.protocol import protocol
from gantry.evaluation.real_statistics import real_features


class Counting:
    """Counts the images that an extractor looks at."""

    def __init__(self, extractor: NetworkExtractor) -> None:
        self.extractor = extractor
        self.seen = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.extractor, name)

    def __call__(self, images: torch.Tensor) -> Features:
        self.seen += len(images)
        return self.extractor(images)


@pytest.fixture
def counting(tiny: NetworkExtractor) -> Counting:
    return Counting(tiny)


def test_an_evaluation_says_how_it_was_made(tiny: NetworkExtractor, tmp_path: Path) -> None:
    evaluator = Evaluator(tiny, image_set(random_images(60)), 50, tmp_path)
    evaluation = evaluator.evaluate(served(random_images(50, seed=1)))
    assert next(iter(evaluation.values)) == evaluator.primary == "fid_tiny"
    assert all(type(value) is float and math.isfinite(value) for value in evaluation.values.values())
    assert (
        evaluation.protocol.items()
        >= {
            "extractor": "tiny",
            "extractor_sha256": "0" * 64,
            "extractor_resize": "none",
            "data": "made",
            "data_digest": evaluator.data.digest,
            "split": "all",
            "n_real": 60,
            "n_generated": 50,
            "kid_subset_size": 50,
        }.items()
    )
    assert evaluation.seconds > 0


def test_the_real_images_score_zero(tiny: NetworkExtractor, tmp_path: Path) -> None:
    images = random_images(60)
    values = Evaluator(tiny, image_set(images), 60, tmp_path).evaluate(served(images)).values
    assert values["fid_tiny"] == pytest.approx(0, abs=1e-9)


def test_each_generated_image_is_asked_for_once_in_order(tiny: NetworkExtractor, tmp_path: Path) -> None:
    images, asked = random_images(1100, size=8), []

    def generate(start: int, count: int) -> torch.Tensor:
        asked.extend(range(start, start + count))
        return torch.from_numpy(images[start : start + count])

    Evaluator(tiny, image_set(images[:50]), 1100, tmp_path).evaluate(generate)
    assert asked == list(range(1100))


def test_the_real_images_are_looked_at_once(counting: Counting, tmp_path: Path) -> None:
    data, generated = image_set(random_images(60)), served(random_images(50, seed=1))
    first = Evaluator(counting, data, 50, tmp_path)
    assert counting.seen == 60
    values = first.evaluate(generated).values
    assert first.evaluate(generated).values == values
    assert counting.seen == 60 + 2 * 50
    assert Evaluator(counting, data, 50, tmp_path).evaluate(generated).values == values
    assert counting.seen == 60 + 3 * 50


def test_other_data_or_weights_are_looked_at_anew(tiny: NetworkExtractor, tmp_path: Path) -> None:
    data = image_set(random_images(60))
    Evaluator(tiny, data, 50, tmp_path)
    for digest, images in [("1" * 64, data), (tiny.digest, image_set(random_images(60, seed=2)))]:
        counting = Counting(NetworkExtractor(Means(), "tiny", digest, "none", torch.device("cpu")))
        Evaluator(counting, images, 50, tmp_path)
        assert counting.seen == 60


DAMAGE = {
    "cut short": lambda content: content[:-40],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
}


@pytest.mark.parametrize("file", ["real.features.npy", "predicted.npy", "moments.safetensors", "about.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_rebuilt(file: str, damage: str, counting: Counting, tmp_path: Path) -> None:
    data = image_set(random_images(60))
    real = Evaluator(counting, data, 50, tmp_path).real
    features = real.features.clone()
    (path,) = (tmp_path / "features").glob(f"*/{file}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again = Evaluator(counting, data, 50, tmp_path).real
    assert counting.seen == 120
    assert torch.equal(again.features, features)
    assert all(map(torch.equal, again.moments[:2], real.moments[:2]))
    Evaluator(counting, data, 50, tmp_path)
    assert counting.seen == 120


def test_what_is_derived_from_real_features_is_kept_and_mended(tiny: NetworkExtractor, tmp_path: Path) -> None:
    real, computed = real_features(tiny, image_set(random_images(60)), tmp_path), []

    def norms(features: torch.Tensor) -> torch.Tensor:
        computed.append(len(features))
        return features.norm(dim=1)

    first = real.derived("norms", norms).clone()
    assert torch.equal(real.derived("norms", norms), first)
    assert computed == [60]
    path = real.folder / "norms.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert torch.equal(real.derived("norms", norms), first)
    assert computed == [60, 60]
    assert torch.equal(real_features(tiny, image_set(random_images(60)), tmp_path).derived("norms", norms), first)
    assert computed == [60, 60]


PROCESS = """
import sys, time
from pathlib import Path
import torch
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors.extractor import NetworkExtractor
from metrics_helpers import Means, image_set, random_images

class Slow(Means):
    def forward(self, images):
        with open(sys.argv[1] + "/looked", "a") as file:
            file.write(f"{len(images)}\\n")
        time.sleep(0.3)
        return super().forward(images)

go = Path(sys.argv[1], "go")
Path(sys.argv[1], f"ready{sys.argv[2]}").touch()
while not go.exists():
    time.sleep(0.01)
extractor = NetworkExtractor(Slow(), "tiny", "0" * 64, "none", torch.device("cpu"))
real = Evaluator(extractor, image_set(random_images(40)), 50, Path(sys.argv[1])).real
print(real.moments[0].sum().item())
"""


@pytest.mark.parametrize("many", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_at_once_look_once(tmp_path: Path, many: int) -> None:
    import time

    folder = Path(__file__).parent  # python -c looks for modules where it starts
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(index)],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(many)
    ]
    while not all((tmp_path / f"ready{index}").exists() for index in range(many)):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    (tmp_path / "go").touch()
    printed = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len(set(printed)) == 1
    assert printed[0]
    assert len((tmp_path / "looked").read_text().splitlines()) == 1


def test_evaluating_leaves_the_random_state_alone(tiny: NetworkExtractor, tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    evaluator = Evaluator(tiny, image_set(random_images(60)), 50, tmp_path)
    evaluator.evaluate(served(random_images(50, seed=1)))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_features_that_are_not_finite_give_nan_for_all(tiny: NetworkExtractor, tmp_path: Path) -> None:
    class Diverged(Means):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = super().forward(images)
            return torch.where(features == 0, math.nan, features), logits

    extractor = NetworkExtractor(Diverged(), "tiny", "0" * 64, "none", torch.device("cpu"), labelled=True)
    evaluator = Evaluator(extractor, image_set(random_images(60)), 50, tmp_path)
    evaluation = evaluator.evaluate(served(np.zeros((50, 3, 32, 32), np.uint8)))
    assert list(evaluation.values) == list(evaluator.names.values())
    assert all(math.isnan(value) for value in evaluation.values.values())


def test_a_generator_of_one_image_gives_finite_values(tiny: NetworkExtractor, tmp_path: Path) -> None:
    evaluator = Evaluator(tiny, image_set(random_images(60)), 50, tmp_path)
    values = evaluator.evaluate(served(np.zeros((50, 3, 32, 32), np.uint8))).values
    assert all(math.isfinite(value) for value in values.values())
    assert values["fid_tiny"] > 0.5


def test_the_classes_shares_are_the_classifiers_verdicts(tiny: NetworkExtractor, tmp_path: Path) -> None:
    # The logits are the brightness of the four quarters: an image is of the class of its brightest quarter.
    def bright(quarters: list[int]) -> np.ndarray:
        images = np.full((len(quarters), 1, 32, 32), 20, np.uint8)
        for image, quarter in zip(images, quarters, strict=True):
            top, left = 16 * (quarter // 2), 16 * (quarter % 2)
            image[:, top : top + 16, left : left + 16] = 200
        return images

    labels = np.array([0, 0, 1, 2, 3] * 4)
    data = replace(image_set(bright(labels.tolist()), labels), classes=("nw", "ne", "sw", "se"))
    evaluation = Evaluator(tiny, data, 20, tmp_path).evaluate(served(bright([0] * 15 + [1] * 5)))
    assert evaluation.classes == {"nw": (0.4, 0.75), "ne": (0.2, 0.25), "sw": (0.2, 0.0), "se": (0.2, 0.0)}
    assert evaluation.values["modes_tiny"] == 2


def test_there_are_no_classes_without_labels_or_finite_features(tmp_path: Path) -> None:
    class Diverged(Means):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = super().forward(images)
            return torch.where(features == 0, math.nan, features), logits

    for labelled, images in ((False, random_images(50, seed=1)), (True, np.zeros((50, 3, 32, 32), np.uint8))):
        extractor = NetworkExtractor(Diverged(), "tiny", "0" * 64, "none", torch.device("cpu"), labelled=labelled)
        evaluator = Evaluator(extractor, image_set(random_images(60)), 50, tmp_path)
        assert evaluator.evaluate(served(images)).classes is None


def test_a_memory_map_will_do(tiny: NetworkExtractor, tmp_path: Path) -> None:
    images = random_images(60)
    np.save(tmp_path / "images.npy", images)
    mapped = image_set(np.load(tmp_path / "images.npy", mmap_mode="r"))
    evaluation = Evaluator(tiny, mapped, 60, tmp_path).evaluate(served(images))
    assert evaluation.values["fid_tiny"] == pytest.approx(0, abs=1e-9)


def test_images_of_another_shape_or_type_are_refused(tiny: NetworkExtractor, tmp_path: Path) -> None:
    evaluator = Evaluator(tiny, image_set(random_images(60)), 50, tmp_path)
    for wrong in (random_images(50, size=16), random_images(50).astype(np.float32), random_images(20)):
        with pytest.raises(ValueError, match="expected uint8 images"):
            evaluator.evaluate(served(wrong))


def test_too_few_images_are_refused(tiny: NetworkExtractor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.n_generated=9"):
        Evaluator(tiny, image_set(random_images(60)), 9, tmp_path)
    with pytest.raises(UserError, match="at least 2"):
        Evaluator(tiny, image_set(random_images(1)), 50, tmp_path)


@pytest.mark.parametrize(
    ("shape", "resize", "said"),
    [
        ((3, 12, 16), "tensorflow-1 bilinear 299", "tensorflow-1 bilinear 299, stretched from 16x12"),
        ((3, 16, 16), "tensorflow-1 bilinear 299", "tensorflow-1 bilinear 299"),
        ((3, 12, 16), "none", "none"),
        ((3, 12, 16), "its own", "its own"),
    ],
)
def test_what_becomes_of_wide_pictures_is_on_record(
    tiny: NetworkExtractor, shape: tuple[int, int, int], resize: str, said: str
) -> None:
    images = image_set(np.zeros((60, *shape), np.uint8))
    assert protocol(replace(tiny, resize=resize), images, 50, 100)["extractor_resize"] == said
