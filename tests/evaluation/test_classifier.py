import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import image_set, random_images, served
from omegaconf import OmegaConf

from gantry.core.config.instantiate import maker
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.data.reading import Reading
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors import classifier as module
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.extractors.extractor import NetworkExtractor


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECIPE", dataclasses.replace(module.RECIPE, epochs=1, images=0))


def two_kinds(count: int = 100, **shape: int) -> ImageSet:
    images = random_images(count, **shape)
    labels = np.arange(count, dtype=np.int64) % 2
    images[labels == 1] //= 4
    return image_set(images, labels)


def test_it_recognises_the_digits(digits: ImageSet, digits_classifier: NetworkExtractor) -> None:
    assert digits_classifier.details["classifier_accuracy"] >= 0.98
    features, logits = digits_classifier(torch.from_numpy(digits.images[:300]))
    assert features.shape == (300, 64)
    assert logits.shape == (300, 10)
    assert (logits.argmax(1).numpy() == digits.labels[:300]).mean() > 0.98


def test_it_is_trained_once(
    digits: ImageSet,
    digits_classifier: NetworkExtractor,
    classifier_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_train", None)
    again = classifier(data=digits, cache=classifier_cache)
    assert again.digest == digits_classifier.digest
    assert again.details == digits_classifier.details
    images = torch.from_numpy(digits.images[:10])
    assert torch.equal(again(images).features, digits_classifier(images).features)


def test_images_mapped_from_the_disk_are_no_reason_to_warn(quick: None, tmp_path: Path) -> None:
    """Folders of images are mapped read-only; torch warns of undefined behaviour where it is given such an array."""
    data = two_kinds()
    np.save(tmp_path / "images.npy", data.images)
    mapped = dataclasses.replace(data, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            classifier(data=mapped, cache=tmp_path)
    finally:
        torch.set_warn_always(False)


def test_data_without_labels_is_refused_with_the_reason(tmp_path: Path) -> None:
    reading = Reading(labels="no labels: the sub-folders look like dates (data.labels=folders takes them for classes)")
    data = dataclasses.replace(two_kinds(), labels=None, classes=None, reading=reading)
    with pytest.raises(UserError, match=r"has none \(no labels: the sub-folders .*data\.labels=folders"):
        classifier(data=data, cache=tmp_path)


def test_its_scores_fall_as_images_get_better(
    digits: ImageSet, digits_classifier: NetworkExtractor, tmp_path: Path
) -> None:
    evaluator = Evaluator(digits_classifier, digits, 1000, tmp_path)
    random = np.random.default_rng(0)
    real = digits.images[random.permutation(len(digits.images))[:1000]]
    noise = random.integers(0, 256, real.shape, dtype=np.uint8)
    mixed = lambda share: ((1 - share) * real + share * noise).astype(np.uint8)  # noqa: E731
    shown = [evaluator.evaluate(served(mixed(share))).values for share in (0, 0.1, 0.2, 0.4)]
    for name in ("fid_classifier", "kid_classifier"):
        assert shown[0][name] < shown[1][name] < shown[2][name] < shown[3][name]
    assert shown[0]["modes_classifier"] == 10
    assert shown[0]["inception_score_classifier"] > 8.5


def test_a_generator_of_two_digits_covers_two_classes(
    digits: ImageSet, digits_classifier: NetworkExtractor, tmp_path: Path
) -> None:
    assert digits.labels is not None
    collapsed = digits.images[digits.labels < 2]
    values = Evaluator(digits_classifier, digits, 300, tmp_path).evaluate(served(collapsed)).values
    assert values["modes_classifier"] == 2
    assert values["inception_score_classifier"] == pytest.approx(2, abs=0.1)


@pytest.mark.usefixtures("quick")
def test_the_recipe_of_cached_classifiers_stays_what_it_was(tmp_path: Path) -> None:
    """Scores on its features are compared over years: a change of the recipe must raise `Recipe.version`."""
    data = dataclasses.replace(two_kinds(300, size=16), flip=True)
    extractor = classifier(data=data, cache=tmp_path)
    (path,) = (tmp_path / "classifiers").glob("*.safetensors")
    assert path.stem == "0e0b507ce7c1fc665f4135596c32656f"
    logits = extractor(torch.from_numpy(data.images[:4])).logits
    expected = [[0.00468, 0.01762], [-0.08501, 0.14540], [0.01440, 0.02641], [-0.09031, 0.14825]]
    assert logits.numpy() == pytest.approx(np.array(expected), abs=1e-3)  # rounding differs between processors


@pytest.mark.usefixtures("quick")
def test_the_same_data_gives_the_same_classifier_on_any_number_of_threads(tmp_path: Path) -> None:
    data, threads = two_kinds(), torch.get_num_threads()
    digests = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            digests.append(classifier(data=data, cache=tmp_path / str(count)).digest)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("quick")
def test_training_it_leaves_the_random_state_alone(tmp_path: Path) -> None:
    import random

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with torch.no_grad():  # as a callback may call it
        classifier(data=two_kinds(), cache=tmp_path)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_file_is_trained_again(damage: bytes | None, tmp_path: Path) -> None:
    data = two_kinds()
    first = classifier(data=data, cache=tmp_path)
    (path,) = (tmp_path / "classifiers").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 255  # one weight changed
    path.write_bytes(content if damage is None else damage)
    assert classifier(data=data, cache=tmp_path).digest == first.digest
    assert classifier(data=data, cache=tmp_path).digest == first.digest


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 12), (1, 28), (3, 64), (3, 128)])
def test_any_image_shape(channels: int, size: int, tmp_path: Path) -> None:
    data = two_kinds(40, channels=channels, size=size)
    extractor = classifier(data=data, cache=tmp_path)
    assert extractor(torch.from_numpy(data.images[:3])).features.shape == (3, 64)


def test_images_are_shifted_and_mirrored_whole() -> None:
    image = torch.arange(16 * 16, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(200, 3, 16, 16)
    inner = image[0, 0, 1:-1, 1:-1]
    seen = {bytes(shifted[2, 1:-1, 1:-1].numpy().tobytes()) for shifted in module._augment(image, True, 0)}
    whole = torch.nn.functional.pad(image[:1].float(), (1,) * 4, mode="replicate")[0, 0].to(torch.uint8)
    possible = set()
    for dy in range(3):
        for dx in range(3):
            for view in (whole, whole.flip(1)):
                possible.add(view[dy : dy + 16, dx : dx + 16][1:-1, 1:-1].contiguous().numpy().tobytes())
    assert inner.contiguous().numpy().tobytes() in possible
    assert seen == possible  # all nine shifts, either way round


def test_data_it_cannot_learn_from_is_refused(tmp_path: Path) -> None:
    images = random_images(30)
    for labels in (None, np.zeros(30, np.int64)):
        with pytest.raises(UserError, match="metrics=inception"):
            classifier(data=image_set(images, labels), cache=tmp_path)
    with pytest.raises(UserError, match="20 images"):
        classifier(data=image_set(images[:10], np.arange(10)), cache=tmp_path)


def test_the_config_builds_it(digits: ImageSet, digits_classifier: NetworkExtractor, classifier_cache: Path) -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "extractor" / "classifier.yaml")
    built = maker(config)(data=digits, cache=classifier_cache, device="cpu")
    assert built.digest == digits_classifier.digest


@pytest.mark.slow
@pytest.mark.data
def test_it_recognises_mnist(tmp_path: Path) -> None:
    root = Path(os.environ.get("GANTRY_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST in {root}")
    from gantry.data.sources import mnist

    data = mnist(root=root, cache=tmp_path, download=False)
    assert classifier(data=data, cache=tmp_path).details["classifier_accuracy"] > 0.98
