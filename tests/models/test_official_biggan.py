"""BigGAN's networks against its official code: the same weights make the same images, logits and gradients.

GANTRY_OFFICIAL_CODE names a folder with a checkout of ajbrock/BigGAN-PyTorch, whose modules are imported, in a folder
owner+name/repo, owner+name or name.
"""

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import is_parametrized

from gantry.models.networks import biggan

NAMED = ("ajbrock+BigGAN-PyTorch/repo", "ajbrock+BigGAN-PyTorch", "BigGAN-PyTorch")
PLACES = [Path(os.environ.get("GANTRY_OFFICIAL_CODE", "")) / name for name in NAMED]
CODE = next((place for place in PLACES if (place / "BigGAN.py").is_file()), None)
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(CODE is None, reason="GANTRY_OFFICIAL_CODE names no folder with BigGAN-PyTorch"),
]
MODULES = ("BigGAN", "layers", "sync_batchnorm")
NAMES = (  # of the official code, and here
    (r"^linear\.", "dense."),
    (r"^embed\.", "embedding."),
    (r"^output_layer\.0\.gain$", "norm.weight"),
    (r"^output_layer\.0\.bias$", "norm.bias"),
    (r"^output_layer\.0\.", "norm."),
    (r"^output_layer\.2\.", "image."),
    (r"^blocks\.\d+\.1\.", "attention."),
    (r"^blocks\.(\d+)\.0\.", r"blocks.\1."),
    (r"\.conv_sc\.", ".shortcut."),
    (r"\.bn(\d)\.stored_", r".norm\1.norm.running_"),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.stored_", ".running_"),
)
FORMS = {  # the official options of a form's generator, and those here
    "script": (
        dict(dim_z=128, G_shared=False, hier=False, G_init="N02"),
        dict(shared_dim=None, hierarchical=False, initialisation="normal"),
    ),
    "full": (dict(dim_z=120, G_shared=True, shared_dim=128, hier=True, G_init="ortho"), {}),
}
# Form, side in pixels, side of the maps with attention, width. At 32 pixels the official table says that each of the
# discriminator's maps has 16 pixels, so that attention at 16 follows all four blocks.
CASES = {
    "script": ("script", 32, None, 64),
    "full": ("full", 32, None, 96),
    "full at 64": ("full", 64, 32, 16),
    "full at 128": ("full", 128, 64, 8),
}


@pytest.fixture
def official(monkeypatch):
    monkeypatch.syspath_prepend(CODE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import BigGAN

    yield BigGAN
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        del sys.modules[name]


def pair(official, case):
    """The official generator and discriminator, and those here with their weights; random running statistics."""
    form, size, attention, width = CASES[case]
    options, here = FORMS[form]
    torch.manual_seed(0)
    common = dict(n_classes=10, resolution=size)
    theirs = (
        official.Generator(width, G_attn=str(attention or 0), no_optim=True, **common, **options),
        official.Discriminator(width, D_attn=str(attention or 0), D_init=options["G_init"], **common),
    )
    drawn = here.get("initialisation", "orthogonal")
    ours = (
        biggan.Generator(options["dim_z"], (3, size, size), 10, width, attention=attention, **here),
        biggan.Discriminator((3, size, size), 10, width, attention, drawn),
    )
    with torch.no_grad():
        for network in theirs:
            for name, value in network.state_dict().items():
                if name.endswith("stored_mean"):
                    value.normal_()
                elif name.endswith("stored_var"):
                    value.uniform_(0.5, 2)
                elif name.endswith("gamma"):
                    value.fill_(0.7)
    for mine, network in zip(ours, theirs, strict=True):
        take(mine, network)
    return theirs, ours


@torch.no_grad()
def take(mine, network):
    """Load the official weights; each must have a place, and each place a weight."""
    state, found = network.state_dict(), {}
    for name, value in state.items():
        kind = name.rpartition(".")[2]
        for pattern, here in NAMES:
            name = re.sub(pattern, here, name)
        owner = name.rpartition(".")[0]
        if kind == "weight" and is_parametrized(mine.get_submodule(owner), "weight"):
            name = f"{owner}.parametrizations.weight.original"
        if kind == "u0":  # of a power iteration here, the official code does the next one in each forward pass
            matrix = found[f"{owner}.parametrizations.weight.original"].flatten(1)
            v = normalize(value @ matrix)
            found[f"{owner}.parametrizations.weight.0._v"] = v[0]
            found[f"{owner}.parametrizations.weight.0._u"] = normalize(v @ matrix.T)[0]
        elif kind != "sv0":
            assert name not in found
            found[name] = value
    missing, unexpected = mine.load_state_dict(found, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def in_mode(network, training):
    """Set a network's mode; spectral normalisation does no further power iteration."""
    network.train(training)
    for module in network.modules():
        if isinstance(module, _SpectralNorm):
            module.eval()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_do_the_same(official, case, training):
    (generator, discriminator), (mine, judge) = pair(official, case)
    for network in (generator, discriminator):
        network.train(training)
    for network in (mine, judge):
        in_mode(network, training)
    z, labels = torch.randn(8, sum(mine.parts)), torch.arange(8)
    expected = generator(z, generator.shared(labels))
    images = mine(z, labels)
    assert torch.allclose(images, expected, atol=1e-5)
    assert expected.std() > 1e-3
    pictures = torch.rand_like(expected) * 2 - 1
    logits, wanted = judge(pictures, labels).logits, discriminator(pictures, labels).flatten()
    assert wanted.std() > 1e-3
    assert torch.allclose(logits, wanted, atol=1e-5, rtol=1e-5)


def test_the_same_gradients(official):
    (generator, discriminator), (mine, judge) = pair(official, "full at 64")
    for network in (mine, judge):
        in_mode(network, True)
    z, labels = torch.randn(8, sum(mine.parts)), torch.arange(8)
    discriminator(generator(z, generator.shared(labels)), labels).sum().backward()
    judge(mine(z, labels), labels).logits.sum().backward()
    for network, other in ((generator, mine), (discriminator, judge)):
        theirs = sorted(float(weight.grad.norm()) for weight in network.parameters())
        ours = sorted(float(weight.grad.norm()) for weight in other.parameters())
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
