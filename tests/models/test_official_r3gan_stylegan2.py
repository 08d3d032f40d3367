"""The networks give what the official code gives with the same weights.

GANTRY_OFFICIAL_CODE names a folder with checkouts of brownvc/R3GAN and NVlabs/stylegan2-ada-pytorch, each in a folder
owner+name/repo, owner+name or name. On the CPU their custom operators are their own reference implementations.
"""

import importlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.version import parse
from torch import nn

from gantry.models.networks import r3gan, stylegan2

CODE = os.environ.get("GANTRY_OFFICIAL_CODE")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(CODE is None, reason="GANTRY_OFFICIAL_CODE names no folder of checkouts"),
    pytest.mark.filterwarnings("ignore"),
]
SIZES = ["small", "full"]
CLASSES = 10


@contextmanager
def imported(repository, name):
    """A module of a checkout; both checkouts have packages of the same names, so they are forgotten afterwards."""
    owner, _, plain = repository.partition("/")
    places = [Path(CODE, f"{owner}+{plain}", "repo"), Path(CODE, f"{owner}+{plain}"), Path(CODE, plain)]
    folder = next((place for place in places if (place / "torch_utils").is_dir()), None)
    if folder is None:
        pytest.skip(f"no checkout of {repository} in {CODE}")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        package = ModuleType("pkg_resources")  # of old setuptools; the code needs one function of it
        package.parse_version = parse
        patch.setitem(sys.modules, "pkg_resources", package)
        try:
            yield importlib.import_module(name)
        finally:
            for added in set(sys.modules) - before:
                if added.partition(".")[0] in ("R3GAN", "training", "torch_utils", "dnnlib"):
                    del sys.modules[added]


def named(network, kind):
    return [module for module in network.modules() if type(module).__name__ == kind]


def filled(network, scale):
    """The network with noise added to all its weights, since some start at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return network


def copied(ours, pairs):
    """Our network with their weights; each of ours has one of theirs."""
    assert {id(mine) for mine, _ in pairs} == {id(weight) for weight in ours.parameters()}
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.copy_(theirs.reshape(mine.shape))
    return ours.eval()


def one_hot(labels):
    return nn.functional.one_hot(labels, CLASSES).float()


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0
    difference = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"largest difference, as a share of the largest value: {difference:.1e}")
    assert difference < (1e-5 if ours.dtype == torch.float32 else 1e-12)


def agree_with_gradients(ours, theirs, images):
    """Logits, and their gradients with respect to the images."""
    results = []
    for network in (ours, theirs):
        given = images.clone().requires_grad_()
        logits = network(given).flatten()
        results.append((logits.detach(), *torch.autograd.grad(logits.sum(), given)))
    for mine, other in zip(*results, strict=True):
        agree(mine, other)


def double(theirs):
    """Their R3GAN network in float64: rounding that turns a LeakyReLU's sign changes whole gradients in float32."""
    for stage in theirs.MainLayers:
        stage.DataType = torch.float64
    for weight in theirs.parameters():
        weight.data = weight.double()  # the filters stay in float32, which their operators ask for
    return theirs


def r3gan_pairs(ours, theirs, basis):
    """The weights that the generator and the discriminator have in common."""
    pairs = [(ours.weights.weight, basis.LinearLayer.weight)]
    blocks = zip(
        [module for module in ours.modules() if isinstance(module, r3gan.Block)],
        named(theirs, "ResidualBlock"),
        strict=True,
    )
    for mine, other in blocks:
        pairs += [
            (mine.widen.weight, other.LinearLayer1.Layer.weight),
            (mine.widen.bias, other.NonLinearity1.Bias),
            (mine.grouped.weight, other.LinearLayer2.Layer.weight),
            (mine.grouped.bias, other.NonLinearity2.Bias),
            (mine.narrow.weight, other.LinearLayer3.Layer.weight),
        ]
    between = [layer for layer in ours.layers if isinstance(layer, nn.Conv2d)]
    resized = [
        m.LinearLayer.Layer
        for kind in ("UpsampleLayer", "DownsampleLayer")
        for m in named(theirs, kind)
        if hasattr(m, "LinearLayer")
    ]
    return pairs + [(mine.weight, other.weight) for mine, other in zip(between, resized, strict=True)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conditional", [False, True])
def test_r3gan(size, conditional):
    widths, groups = ([48, 32, 32, 16], [6, 4, 2, 2]) if size == "small" else ([768] * 4, [96] * 4)
    labels = {"ConditionDimension": CLASSES} if conditional else {}
    shape, images, z = (3, 32, 32), torch.randn(3, 3, 32, 32).double(), torch.randn(3, 64).double()
    classes = torch.tensor([3, 0, 9])
    with imported("brownvc/R3GAN", "R3GAN.Networks") as official, torch.no_grad():
        embedded = labels | ({"ConditionEmbeddingDimension": 64} if conditional else {})
        theirs = filled(official.Generator(64, widths, groups, [2] * 4, 2, **embedded), 0.05)
        ours = (
            r3gan.ConditionalGenerator(64, shape, CLASSES, 64, widths, groups)
            if conditional
            else (r3gan.Generator(64, shape, widths, groups))
        )
        network, basis = (ours.network if conditional else ours), theirs.MainLayers[0].Layers[0]
        pairs = r3gan_pairs(network, theirs, basis)
        pairs += [(network.basis, basis.Basis), (network.image.weight, theirs.AggregationLayer.Layer.weight)]
        pairs += [(ours.embedding.weight, theirs.EmbeddingLayer.weight.T)] if conditional else []
        copied(ours, pairs)
        ours, theirs = ours.double(), double(theirs)
        agree(ours(z, classes) if conditional else ours(z), theirs(z, one_hot(classes).double()))

    with imported("brownvc/R3GAN", "R3GAN.Networks") as official:
        embedded = labels | ({"ConditionEmbeddingDimension": widths[0]} if conditional else {})
        theirs = filled(official.Discriminator(widths[::-1], groups[::-1], [2] * 4, 2, **embedded), 0.05)
        ours = (
            r3gan.ConditionalDiscriminator(shape, CLASSES, widths, groups)
            if conditional
            else (r3gan.Discriminator(shape, widths, groups))
        )
        basis = theirs.MainLayers[-1].Layers[-1]
        pairs = r3gan_pairs(ours.trunk, theirs, basis)
        pairs += [
            (ours.trunk.basis, basis.Basis.weight),
            (ours.trunk.image.weight, theirs.ExtractionLayer.Layer.weight),
        ]
        pairs += [(ours.embedding.weight, theirs.EmbeddingLayer.weight.T)] if conditional else []
        copied(ours, pairs)
        ours, theirs = ours.double(), double(theirs)
        agree_with_gradients(
            lambda x: ours(x, classes) if conditional else ours(x),
            lambda x: theirs(x, one_hot(classes).double()),
            images,
        )


def both(mine, other):
    return [(mine.weight, other.weight), (mine.bias, other.bias)]


def mapping_pairs(ours, theirs):
    dense = [getattr(theirs.mapping, f"fc{index}") for index in range(theirs.mapping.num_layers)]
    pairs = [pair for layers in zip(ours.mapping, dense, strict=True) for pair in both(*layers)]
    return pairs + (both(ours.embedding, theirs.mapping.embed) if hasattr(theirs.mapping, "embed") else [])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conditional", [False, True])
def test_stylegan2_generator(size, conditional):
    width, classes, shape = (24 if size == "small" else 512), torch.tensor([3, 0, 9]), (3, 32, 32)
    z = torch.randn(3, width)
    with imported("NVlabs/stylegan2-ada-pytorch", "training.networks") as official, torch.no_grad():
        theirs = official.Generator(
            width, CLASSES if conditional else 0, width, 32, 3,
            mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channel_max": width},
        )  # fmt: skip
        theirs = filled(theirs, 0.1).eval()
        ours = (
            stylegan2.ConditionalGenerator(width, shape, CLASSES, width, width)
            if conditional
            else (stylegan2.Generator(width, shape, width, width))
        )
        styled, to_image = named(theirs, "SynthesisLayer"), named(theirs, "ToRGBLayer")
        pairs = [*mapping_pairs(ours, theirs), (ours.synthesis.constant, theirs.synthesis.b4.const)]
        for mine, other in zip(ours.synthesis.convolutions, styled, strict=True):
            pairs += [*both(mine, other), *both(mine.affine, other.affine), (mine.strength, other.noise_strength)]
            mine.noise.copy_(other.noise_const)
        for mine, other in zip(ours.synthesis.to_image, to_image, strict=True):
            pairs += [*both(mine, other), *both(mine.affine, other.affine)]
        copied(ours, pairs)
        theirs.mapping.w_avg.normal_()
        ours.w_average.copy_(theirs.mapping.w_avg)
        given = (z, classes) if conditional else (z,)
        for psi in (1, 0.5):
            expected = theirs(z, one_hot(classes), noise_mode="const", truncation_psi=psi)
            agree(ours(*given, psi=psi), expected)
        for network in (ours, theirs):
            network.train()
        ours(*given)
        theirs(z, one_hot(classes))
        agree(ours.w_average, theirs.mapping.w_avg)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conditional", [False, True])
def test_stylegan2_discriminator(size, conditional):
    width, batch = (24, 64) if size == "small" else (512, 4)
    images, classes = torch.randn(batch, 3, 32, 32), torch.randint(CLASSES, (batch,))
    with imported("NVlabs/stylegan2-ada-pytorch", "training.networks") as official:
        theirs = official.Discriminator(
            CLASSES if conditional else 0, 32, 3,
            architecture="orig", channel_max=width, epilogue_kwargs={"mbstd_group_size": 32},
        )  # fmt: skip
        theirs = filled(theirs, 0.1).eval()
        ours = (
            stylegan2.ConditionalDiscriminator((3, 32, 32), CLASSES, width)
            if conditional
            else (stylegan2.Discriminator((3, 32, 32), width))
        )
        convolutions = zip([*ours.trunk.layers, ours.trunk.last], named(theirs, "Conv2dLayer"), strict=True)
        pairs = [pair for layers in convolutions for pair in both(*layers)]
        pairs += both(ours.trunk.dense, theirs.b4.fc) + both(ours.trunk.out, theirs.b4.out)
        pairs += mapping_pairs(ours, theirs) if conditional else []
        copied(ours, pairs)
        agree_with_gradients(
            lambda x: ours(x, classes) if conditional else ours(x), lambda x: theirs(x, one_hot(classes)), images
        )
