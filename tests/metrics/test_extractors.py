import hashlib
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from metrics_helpers import image_set, random_images, served
from omegaconf import OmegaConf
from threadpoolctl import threadpool_limits

from gantry.errors import UserError
from gantry.metrics import extractors
from gantry.metrics.evaluator import Evaluator
from gantry.metrics.extractors import NetworkExtractor, inception


class AsDataset(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_scores_agree_with_torch_fidelity(
    random_inception: NetworkExtractor, random_weights: Path, tmp_path: Path
) -> None:
    from torch_fidelity import calculate_metrics

    # Far apart: below 2048 images the covariances are singular, and the rounding noise in the square roots of
    # their zero eigenvalues, about 1e-6 in all, would show in a small distance.
    real, generated = random_images(14), random_images(12, size=8, seed=1).repeat(4, 2).repeat(4, 3) // 2
    with threadpool_limits(1):  # more threads gain nothing here, and crawl where tests run side by side
        theirs = calculate_metrics(
            input1=AsDataset(generated),
            input2=AsDataset(real),
            fid=True,
            kid=True,
            isc=True,
            kid_subset_size=12,
            feature_extractor_weights_path=str(random_weights),
            cuda=False,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        )
        evaluator = Evaluator(random_inception, image_set(real), len(generated), tmp_path)
        values = evaluator.evaluate(served(generated)).values
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()[:8]
    suffix = f"_inception-{digest}_12"
    assert evaluator.primary == f"fid{suffix}"
    assert next(iter(values)) == evaluator.primary
    assert values["inception_score" + suffix] > 1.001
    for ours, key in [
        ("fid", "frechet_inception_distance"),
        ("kid", "kernel_inception_distance_mean"),
        ("inception_score", "inception_score_mean"),
        ("inception_score_std", "inception_score_std"),
    ]:
        assert values[ours + suffix] == pytest.approx(theirs[key], rel=1e-6), ours


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
    """An empty torch.hub folder; gives the place of the weights file in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def offer(monkeypatch: pytest.MonkeyPatch, weights: Path, sha256: str) -> None:
    folder = weights.parent / "server"
    folder.mkdir(exist_ok=True)
    (folder / "weights-inception-2015-12-05-6726825d.pth").write_bytes(weights.read_bytes())
    monkeypatch.setattr(extractors, "INCEPTION_URL", (folder / "weights-inception-2015-12-05-6726825d.pth").as_uri())
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256)


def test_the_official_weights_are_fetched_once_and_give_the_papers_names(
    hub: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    offer(monkeypatch, random_weights, digest[:8])
    assert inception().official
    assert hub.exists()
    monkeypatch.setattr(extractors, "INCEPTION_URL", "http://127.0.0.1:9/" + hub.name)
    second = inception()
    assert second.digest == digest


def test_a_download_with_another_hash_is_not_kept(
    hub: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, random_weights, "6726825d")
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
        monkeypatch.setattr(extractors, "INCEPTION_URL", url)
        monkeypatch.setattr(extractors, "DOWNLOAD_TIMEOUT", 0.2)
        with pytest.raises(UserError) as failure:
            inception()
    for part in (hub.name, url, "6726825d", str(hub.parent), "metrics=classifier"):
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


def test_the_config_builds_it(random_weights: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "metrics" / "inception.yaml")
    config.extractor.weights = str(random_weights)
    data = image_set(random_images(4))
    assert instantiate(config.extractor, data=data, cache=tmp_path, device="cpu").name == "inception"
