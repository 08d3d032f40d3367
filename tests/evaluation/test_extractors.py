import hashlib
import pickle
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from metrics_helpers import image_set, random_images
from omegaconf import DictConfig, OmegaConf

from gantry.core.errors import UserError
from gantry.evaluation.extractors import inception as inception_module
from gantry.evaluation.extractors import weights as weights_files
from gantry.evaluation.extractors.networks import NetworkExtractor, inception
from gantry.evaluation.protocol import suffix


def test_greyscale_is_the_same_as_three_equal_channels(random_inception: NetworkExtractor) -> None:
    grey = torch.from_numpy(random_images(2, channels=1, size=28))
    features, logits = random_inception(grey)
    assert features.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    assert torch.equal(features, random_inception(grey.repeat(1, 3, 1, 1)).features)


def test_the_network_is_frozen_and_stays_float32_under_autocast(random_inception: NetworkExtractor) -> None:
    images = torch.from_numpy(random_images(2))
    plain = random_inception(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = random_inception(images)
    assert mixed.features.dtype == torch.float32
    assert torch.equal(plain.features, mixed.features)
    assert not plain.features.requires_grad
    assert not any(parameter.requires_grad for parameter in random_inception.network.parameters())
    assert not any(module.training for module in random_inception.network.modules())


def test_batches_do_not_change_the_features(tiny: NetworkExtractor) -> None:
    images = torch.from_numpy(random_images(150))
    together = tiny(images).features
    assert together.shape == (150, 4 * 3)
    assert torch.equal(together, torch.cat([tiny(image[None]).features for image in images]))


def test_float_images_are_refused(tiny: NetworkExtractor) -> None:
    with pytest.raises(TypeError, match="uint8"):
        tiny(torch.zeros(2, 3, 8, 8))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub folder; gives the place of the Inception weights file in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def publish(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    monkeypatch.setattr(inception_module, "INCEPTION", replace(inception_module.INCEPTION, **changes))


def offer(monkeypatch: pytest.MonkeyPatch, weights: Path, sha256: str) -> None:
    folder = weights.parent / "server"
    folder.mkdir(exist_ok=True)
    (folder / "weights-inception-2015-12-05-6726825d.pth").write_bytes(weights.read_bytes())
    publish(monkeypatch, url=(folder / "weights-inception-2015-12-05-6726825d.pth").as_uri(), sha256=sha256)


def test_the_official_weights_are_fetched_once_and_give_the_papers_names(
    hub: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    offer(monkeypatch, random_weights, digest)
    assert inception().official
    assert hub.exists()
    publish(monkeypatch, url="http://127.0.0.1:9/" + hub.name)
    second = inception()
    assert second.digest == digest


def test_a_download_with_another_hash_is_not_kept(
    hub: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, random_weights, inception_module.INCEPTION.sha256)
    with pytest.raises(UserError, match="invalid hash value"):
        inception()
    assert not hub.exists()


@pytest.mark.parametrize("answering", [False, True])
def test_without_network_the_message_says_what_to_put_where(
    answering: bool, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answering:
            server.close()  # else it takes the connection and never says a word
        url = f"http://127.0.0.1:{port}/{hub.name}"
        publish(monkeypatch, url=url)
        monkeypatch.setattr(weights_files, "DOWNLOAD_TIMEOUT", 0.2)
        with pytest.raises(UserError) as failure:
            inception()
    whole_hash = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    for part in (hub.name, url, whole_hash, str(hub.parent), "metrics=classifier", "extractor=classifier"):
        assert part in str(failure.value)
    assert socket.getdefaulttimeout() is None


def test_a_damaged_official_file_is_named(hub: Path) -> None:
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged") as failure:
        inception()
    assert str(hub) in str(failure.value)


class Touch:
    """Pickled, it creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_weights_file_does_not_run(tmp_path: Path) -> None:
    torch.save({"fc.weight": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth"):
        inception(weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):  # so the file is one that would have been refused for this alone
        torch.load(tmp_path / "evil.pth", weights_only=True)


@pytest.mark.parametrize("content", [b"", b"not weights", "other network"])
def test_a_file_that_is_not_inceptions_weights_is_refused(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UserError, match=r"file\.pth"):
        inception(weights=str(path))


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.extractor\.weights"):
        inception(weights=str(tmp_path / "nowhere.pth"))


def test_two_channels_are_refused(random_weights: Path) -> None:
    with pytest.raises(UserError, match="1 or 3 channels"):
        inception(weights=str(random_weights), data=image_set(random_images(4, channels=2)))


@pytest.mark.parametrize("layer", [64, 192, 768])
def test_an_earlier_layer_has_a_name_of_its_own_and_no_logits(layer: int, random_weights: Path) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    extractor = replace(inception(weights=str(random_weights), layer=layer), batch_size=2)
    features, logits = extractor(torch.from_numpy(random_images(2)))
    assert features.shape == (2, layer)
    assert logits.shape == (2, 0)
    assert not extractor.has_logits
    assert "fid" + suffix(extractor, 50_000, "train") == f"fid_inception-{layer}-{digest[:8]}"


def test_an_earlier_layer_of_the_official_weights_does_not_bear_the_papers_names(
    hub: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, random_weights, hashlib.sha256(random_weights.read_bytes()).hexdigest())
    assert not inception(layer=768).official


def test_another_layer_is_refused_with_the_choices(random_weights: Path) -> None:
    with pytest.raises(UserError, match="64, 192, 768, 2048"):
        inception(weights=str(random_weights), layer=1024)


def test_no_feature_depends_on_how_many_images_are_asked_for_at_once(random_weights: Path) -> None:
    # oneDNN convolves one image and sixteen by algorithms that round differently.
    extractor = inception(weights=str(random_weights))
    images = torch.from_numpy(random_images(16))
    assert torch.equal(extractor(images).features[3:4], extractor(images[3:4]).features)


class Product(torch.nn.Module):
    """A product of matrices large enough for a shortened mantissa to be used where that is allowed."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1).float()
        return flat @ torch.linspace(0, 1, flat.shape[1] * 64).reshape(-1, 64)


def test_float32_means_float32_whatever_training_allows() -> None:
    extractor = NetworkExtractor(Product(), "product", "0" * 64, resize="none", device=torch.device("cpu"))
    images = torch.from_numpy(random_images(64))
    exact = extractor(images).features
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(extractor(images).features, exact)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_it_says_how_it_computed(random_weights: Path) -> None:
    ways = {fast: inception(weights=str(random_weights), fast=fast).arithmetic for fast in (False, True)}
    assert ways == {False: "plain", True: "folded"}


def test_the_config_builds_it(random_weights: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "extractor" / "inception.yaml")
    config.weights = str(random_weights)
    data = image_set(random_images(4))
    assert instantiate(config, data=data, cache=tmp_path, device="cpu").name == "inception"


def test_train_py_takes_it_from_the_group(config: Callable[..., DictConfig]) -> None:
    composed = config("metrics=inception", "metrics.extractor.weights=/a/file.pth").metrics.extractor
    assert composed._target_.endswith(".inception")
    assert composed.weights == "/a/file.pth"
    assert config("metrics=classifier").metrics.extractor._target_.endswith(".classifier")
    assert config("extractor@metrics.extractor=vgg16").metrics.extractor._target_.endswith(".vgg16")
