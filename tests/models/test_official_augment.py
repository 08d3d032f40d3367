"""Augmentations against the authors' code, in checkouts in GANTRY_OFFICIAL_CODE: same numbers in, same images out."""

import os
import sys
from pathlib import Path

import pytest
import torch

from gantry.models.augment.ada import ADA
from gantry.models.augment.diffaugment import DiffAugment
from gantry.models.augment.uniform import standard_normal

pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore:torch.meshgrid")]
BLIT = dict(xflip=1, rotate90=1, xint=1)
GEOMETRY = dict(scale=1, rotate=1, aniso=1, xfrac=1)
COLORS = dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
PIPELINES = {
    "bgc": BLIT | GEOMETRY | COLORS,
    "r3gan": BLIT | GEOMETRY | dict.fromkeys(COLORS, 0.5) | {"cutout": 1},
}


def random(*shape):
    return torch.empty(shape).uniform_(generator=torch.Generator().manual_seed(0))


@pytest.fixture
def checkout(monkeypatch):
    """Make the modules of a checkout importable, for the time of a test."""

    def importable(name):
        path = Path(os.environ.get("GANTRY_OFFICIAL_CODE", "")) / name
        if "GANTRY_OFFICIAL_CODE" not in os.environ or not path.is_dir():
            pytest.skip(f"{name} is not in the folder GANTRY_OFFICIAL_CODE")
        monkeypatch.syspath_prepend(path)

    before = {*sys.modules}
    yield importable
    for name in {*sys.modules} - before:
        del sys.modules[name]


@pytest.fixture
def fed(monkeypatch):
    """Have torch's random functions return the columns of given uniform numbers, one after the other."""

    def feed(uniform):
        columns = iter(uniform.unbind(1))

        def rand(*size, **_):
            shape = size if isinstance(size[0], int) else size[0]
            taken = [next(columns) for _ in range(torch.Size(shape[1:]).numel())]
            return torch.stack(taken, 1).reshape(tuple(shape))

        def randint(low, high, size, **_):
            return (low + rand(size) * (high - low)).floor().long()

        monkeypatch.setattr(torch, "rand", rand)
        monkeypatch.setattr(torch, "randn", lambda *size, **_: standard_normal(rand(*size)))
        monkeypatch.setattr(torch, "randint", randint)

    return feed


@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], ["color", "translation", "cutout"]])
def test_diffaugment(policy, checkout, fed):
    checkout("data-efficient-gans")
    from DiffAugment_pytorch import DiffAugment as Official

    view, images = DiffAugment(policy), random(64, 3, 32, 28) * 2 - 1
    uniform = random(64, view.width)
    fed(uniform)
    assert torch.equal(view(images, uniform), Official(images, ",".join(policy)))


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_ada(pipeline, p, checkout, fed):
    checkout("stylegan2-ada-pytorch")
    from training.augment import AugmentPipe

    official = AugmentPipe(**PIPELINES[pipeline])
    official.p.fill_(p)
    view, images = ADA(pipeline, p=p, target=None), random(64, 3, 32, 28) * 2 - 1
    uniform = random(64, view.width)
    fed(uniform)
    # Theirs rounds more: at p = 0 it differs from the images by 5e-6. Contrast and saturation multiply the difference.
    assert torch.allclose(view(images, uniform), official(images), rtol=1e-4, atol=2e-4)
