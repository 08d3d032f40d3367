"""The other networks: torch-fidelity's, those of GitHub, and one's own."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from metrics_helpers import image_set, random_images
from omegaconf import DictConfig, OmegaConf
from project import ROOT

from gantry.core.config.instantiate import maker
from gantry.core.errors import UserError
from gantry.evaluation.extractors import networks
from gantry.evaluation.extractors.networks import clip, dinov2, own, vgg16
from gantry.evaluation.protocol import suffix


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub folder, and nothing to fill it from."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (vgg16, ["vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"]),
        (
            clip,
            ["ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "clip-vit-b-32-40d"],
        ),
        (dinov2, ["facebookresearch_dinov2_main", "dinov2_vitl14_pretrain.pth"]),
    ],
)
def test_without_network_the_message_says_what_to_put_where(build: object, words: list[str], offline: Path) -> None:
    with pytest.raises(UserError) as failure:
        build()
    for word in (*words, str(offline), "metrics=classifier", "extractor=classifier"):
        assert word in str(failure.value)


@pytest.mark.parametrize("build", [vgg16, clip])
def test_a_file_that_holds_something_else_is_refused(build: object, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("other.pth", "text.pth", "missing.pth"):
        with pytest.raises(UserError, match=name):
            build(weights=str(tmp_path / name))


@pytest.mark.slow
def test_vgg16_is_torch_fidelitys(tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
    from torchvision.models import vgg16 as torchvision_vgg16

    torch.save(torchvision_vgg16().state_dict(), tmp_path / "vgg16.pth")
    extractor = replace(vgg16(weights=str(tmp_path / "vgg16.pth")), batch_size=2)
    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=tmp_path / "vgg16.pth")
    images = torch.from_numpy(random_images(2))
    features, logits = extractor(images)
    torch.testing.assert_close(features, theirs(images)[0], rtol=1e-6, atol=1e-6)
    assert logits.shape == (2, 0)
    assert "fid" + suffix(extractor, 50_000, "train") == f"fid_vgg16-{extractor.digest[:8]}"


class TinyViT(torch.nn.Module):
    """What DINOv2's code might build: any map of normalised images (n, 3, 224, 224) to features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 5, 14, stride=14)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embed(images).mean((2, 3))


def test_dinov2_says_whose_code_runs_before_it_runs_and_asks_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    network, calls = TinyViT(), []

    def load(repository: str, model: str, **options: object) -> torch.nn.Module:
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        calls.append((repository, model, options.get("trust_repo"), any("github.com" in line for line in warned)))
        return network

    monkeypatch.setattr(torch.hub, "load", load)
    extractor = dinov2(model="dinov2-vit-b-14")
    assert calls == [("facebookresearch/dinov2", "dinov2_vitb14", True, True)]
    assert extractor.name == "dinov2-vit-b-14"
    images = torch.from_numpy(random_images(2))
    theirs = FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"])
    torch.testing.assert_close(extractor(images).features, theirs(images)[0], rtol=1e-6, atol=1e-6)


def test_remote_code_runs_only_by_name() -> None:
    users = [path.name for path in (ROOT / "conf").rglob("*.yaml") if "extractors.networks.dinov2" in path.read_text()]
    assert users == ["dinov2.yaml"]
    chosen = [path.name for path in (ROOT / "conf").rglob("*.yaml") if "extractor: dinov2" in path.read_text()]
    assert chosen == []


class Brightness(torch.nn.Module):
    """Features: scaled means of the channels; logits too where wanted."""

    def __init__(self, scale: float = 1.0, classes: int = 0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        means = self.scale * images.float().mean((2, 3))
        return (means, means[:, : self.classes]) if self.classes else means


def node(**network: object) -> DictConfig:
    target = {"_target_": f"{__name__}.Brightness", **network}
    return OmegaConf.create(
        {"_target_": "gantry.evaluation.extractors.networks.own", "name": "brightness", "network": target}
    )


def test_ones_own_network_is_a_few_lines_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "extractor").mkdir()
    OmegaConf.save(node(scale=2.0), tmp_path / "extractor" / "brightness.yaml")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{tmp_path}]", "extractor@metrics.extractor=brightness"]
        composed = compose("train", ["metrics=inception", *overrides]).metrics.extractor
    images = random_images(5)
    extractor = maker(composed)(data=image_set(images), cache=tmp_path, device="cpu")
    features, logits = extractor(torch.from_numpy(images))
    assert np.allclose(features.numpy(), 2 * images.mean((2, 3)), rtol=1e-6)
    assert logits.shape == (5, 0)
    assert not extractor.has_logits
    assert "fid" + suffix(extractor, 5000, "train") == f"fid_brightness-{extractor.digest[:8]}_5k"


def test_its_digest_is_that_of_its_weights_and_attributes(tmp_path: Path) -> None:
    data = image_set(random_images(4))
    build = {scale: instantiate(node(scale=scale), _partial_=True)(data=data) for scale in (1.0, 2.0)}
    assert build[1.0].digest == own(network=Brightness(), name="other", data=data).digest
    assert build[1.0].digest != build[2.0].digest
    torch.save(Brightness(2.0).state_dict(), tmp_path / "weights.pth")
    loaded = own(network=Brightness(), name="brightness", data=data, weights=str(tmp_path / "weights.pth"))
    assert loaded.digest == build[2.0].digest
    assert own(network=Brightness(classes=2), name="brightness", data=data).digest != build[1.0].digest
    by_side = [own(network=torch.nn.Sequential(Brightness(), torch.nn.Softmax(d)), name="b", data=data) for d in (0, 1)]
    assert by_side[0].digest != by_side[1].digest


def test_it_may_give_logits() -> None:
    extractor = own(network=Brightness(classes=2), name="brightness", data=image_set(random_images(4)))
    assert extractor.has_logits
    assert extractor(torch.from_numpy(random_images(3))).logits.shape == (3, 2)


@pytest.mark.parametrize("network", [torch.nn.Flatten(0), torch.nn.Conv2d(1, 2, 3), torch.nn.Identity()])
def test_a_network_that_cannot_serve_is_refused_before_anything_is_measured(network: torch.nn.Module) -> None:
    with pytest.raises(UserError, match=r"extractor\.network"):
        own(network=network, name="mine", data=image_set(random_images(4)))


def test_code_in_ones_own_weights_file_does_not_run(tmp_path: Path) -> None:
    torch.save(Brightness(), tmp_path / "whole.pth")  # a pickled module
    with pytest.raises(UserError, match=r"whole\.pth"):
        own(network=Brightness(), name="b", data=image_set(random_images(4)), weights=str(tmp_path / "whole.pth"))


def test_two_channels_are_refused_before_anything_is_fetched(offline: Path) -> None:
    data = image_set(random_images(4, channels=2))
    for build in (networks.inception, vgg16, clip, dinov2):
        with pytest.raises(UserError, match="1 or 3 channels"):
            build(data=data)
