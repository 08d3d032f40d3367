"""A portable generator works where only torch is installed, and makes the very same images."""

import hashlib
import json
import struct
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from sharing_helpers import LATENTS, NETWORKS, Z_DIM, exported, images_of, python_with, small, small_with_labels
from torch import nn

from gantry.core.errors import UserError
from gantry.data.images import quantise
from gantry.generation.export import standalone
from gantry.generation.export.portable import write_portable
from gantry.runs.generator_files import load_generator

DIGEST = "hashlib.sha256(b''.join(struct.pack('<d', v) for v in images.double().flatten().tolist())).hexdigest()"


def digest(images):
    return eval(DIGEST, {"hashlib": hashlib, "struct": struct, "images": images})


@pytest.fixture(scope="module")
def only_torch(tmp_path_factory):
    return python_with(tmp_path_factory.mktemp("python") / "packages", "torch")


def test_the_bits_are_the_same_where_only_torch_is_installed(tmp_path, only_torch):
    expected = {name: digest(images_of(small(tmp_path / name, name))) for name in NETWORKS}
    for name in NETWORKS:
        assert write_portable(tmp_path / name, tmp_path / f"{name} portable") == ()
    found = only_torch(
        f"""
import hashlib, importlib.util, json, struct, torch
assert not any(map(importlib.util.find_spec, ("numpy", "safetensors", "gantry")))
for name in {list(NETWORKS)}:
    sys.path.insert(0, f"{tmp_path}/{{name}} portable")
    sys.modules.pop("generator", None)
    import generator
    images = generator.load()({LATENTS})
    generator.save(images, f"{tmp_path}/{{name}}.png", columns=4)
    print(name, {DIGEST})
"""
    )
    assert dict(line.split() for line in found.splitlines()) == expected
    images = quantise(images_of(load_generator(tmp_path / "dcgan"))).numpy()
    picture = np.asarray(Image.open(tmp_path / "dcgan.png"))
    assert picture.shape == (32, 64, 3)
    np.testing.assert_array_equal(picture[:16, 16:32], images[1].transpose(1, 2, 0))
    np.testing.assert_array_equal(picture[16:, :16], images[4].transpose(1, 2, 0))
    assert not picture[16:, 16:].any()


@pytest.mark.parametrize("kind", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_the_users_own_network_goes_along_with_all_it_imports(tmp_path, monkeypatch, kind):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / f"mine_{kind.__name__}"
    sources = {
        "__init__": "",
        "net": f"""
            # Ein Gruß: bytes are not characters
            from __future__ import annotations
            import {package.name}.sizes, math; import {package.name}.deep.layers as layers
            from typing import TYPE_CHECKING
            from gantry.models.networks.blocks import (  # a list in brackets
                Shape,
                doublings,
            )
            from torch import nn
            if TYPE_CHECKING:
                import pandas
            class Generator(nn.Module):
                def __init__(self, z_dim: int, image_shape: Shape):
                    super().__init__()
                    from {package.name} import late
                    doublings(image_shape[-1])
                    self.layers = nn.Sequential(
                        layers.dense(z_dim, math.prod(image_shape)), {package.name}.sizes.back(image_shape), late.End()
                    )
                def forward(self, z):
                    return self.layers(z)
            """,
        "sizes": "from torch import nn\ndef back(shape): return nn.Unflatten(1, tuple(shape))\n",
        "late": "from torch.nn import Tanh as End\n",
        "unused": "raise RuntimeError\n",
        "deep/layers": f"""
            from torch import nn
            from torch.nn.utils.parametrizations import {kind.__name__} as constrained
            from .. import sizes
            def dense(before, after): return constrained(nn.Linear(before, after))
            """,  # deep has no __init__.py
    }
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    net = __import__(f"{package.name}.net", fromlist=["Generator"])
    network = exported(tmp_path / "source", net.Generator, z_dim=Z_DIM, image_shape=[1, 8, 8])
    assert write_portable(tmp_path / "source", tmp_path / "out", ["gantry.models.networks.", f"{package.name}."]) == ()
    assert not (tmp_path / "out" / "network" / package.name / "unused.py").exists()
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        monkeypatch.delitem(sys.modules, name)
    package.rename(tmp_path / "gone")
    assert torch.equal(images_of(standalone.load(tmp_path / "out")), images_of(network))


def test_packages_that_the_users_network_needs_are_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needy.py").write_text(
        "import scipy.special\nfrom gantry.models.networks.mlp import Generator as G\nclass Generator(G): pass\n"
    )
    import needy

    exported(tmp_path / "source", needy.Generator, z_dim=Z_DIM, image_shape=[1, 8, 8])
    assert write_portable(tmp_path / "source", tmp_path / "out", ["gantry.models.networks.", "needy."]) == ("scipy",)


@pytest.mark.parametrize("target", ["gantry.networks.dcgan.Generator", "aged.Generator"])
def test_names_of_before_a_move_are_copied_under_them(tmp_path, monkeypatch, target):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "aged.py").write_text("from gantry.networks.dcgan import Generator as G\nclass Generator(G): pass\n")
    network = small(tmp_path / "source")
    config = tmp_path / "source" / "generator.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_target_": target}))
    assert write_portable(tmp_path / "source", tmp_path / "out", ["gantry.networks.", "aged."]) == ()
    assert [path.name for path in (tmp_path / "out" / "network" / "gantry").iterdir()] == ["networks"]
    assert torch.equal(images_of(standalone.load(tmp_path / "out")), images_of(network))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("(Path(__file__).parent / 'table.txt').read_text()", "does not work by itself: No such file"),
        ("G.forward = lambda self, z: self.layers(z if __name__ == 'awkward' else 2 * z)", "the same images"),
    ],
)
def test_a_network_whose_copy_is_another_is_refused(tmp_path, monkeypatch, statement, message):
    monkeypatch.syspath_prepend(tmp_path)
    source = f"""
        from pathlib import Path
        from gantry.models.networks.mlp import Generator as Theirs
        class G(Theirs): pass
        {statement}
        class Generator(G): pass
        """
    (tmp_path / "awkward.py").write_text(textwrap.dedent(source))
    (tmp_path / "table.txt").write_text("1")
    sys.modules.pop("awkward", None)
    import awkward

    exported(tmp_path / "source", awkward.Generator, z_dim=Z_DIM, image_shape=[1, 8, 8])
    with pytest.raises(UserError, match=message):
        write_portable(tmp_path / "source", tmp_path / "out", ["awkward."])
    with pytest.raises(UserError, match="trusted"):
        write_portable(tmp_path / "source", tmp_path / "out")


def test_two_folders_live_in_one_process_beside_gantry(tmp_path):
    networks = {name: small(tmp_path / name, name) for name in ("resnet", "dcgan")}
    for name in networks:
        write_portable(tmp_path / name, tmp_path / f"{name}2")
    before = sys.modules["gantry.models.networks.resnet"]
    loaded = {name: standalone.load(tmp_path / f"{name}2") for name in networks}
    assert sys.modules["gantry.models.networks.resnet"] is before
    assert type(loaded["resnet"]) is not before.Generator
    for name, network in networks.items():
        assert torch.equal(images_of(loaded[name]), images_of(network))
        assert not any(module.training for module in loaded[name].modules())


def test_every_kind_of_tensor_is_read_as_safetensors_does(tmp_path):
    kinds = set(standalone.DTYPES.values())
    tensors = {f"{kind}": (torch.arange(6).reshape(2, 3) % 2).to(kind) for kind in kinds}
    tensors |= {"none": torch.empty(0, 3), "one": torch.tensor(3)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"step": "1"})
    read = standalone.read_safetensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


GOOD = save({"a": torch.ones(3), "b": torch.ones(2)})
THREE = save({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:-1],
        GOOD + b"1",
        struct.pack("<Q", 2**60) + GOOD[8:],
        b"\x80\x04\x95" + bytes(64),
        struct.pack("<Q", 2) + b"[]",
        THREE.replace(b"[8,16]", b"[0,8 ]"),
        GOOD.replace(b'"shape":[3]', b'"shape":[9]'),
        GOOD.replace(b'"F32"', b'"F99"'),
    ],
    ids=["empty", "cut", "more", "long head", "pickle", "list", "overlapping", "shape", "type"],
)
def test_foreign_files_are_no_safetensors(tmp_path, content):
    assert content not in (GOOD, THREE)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
        standalone.read_safetensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 3], r"0 to 3"),
        ([-1, 2], r"-1 to 2"),
        ([1], r"torch.int64 \(1,\)"),
        ([[0.5, 0.5], [1.0, 0.0]], r"torch.float32 \(2, 2\)"),
    ],
)
def test_what_are_no_labels_is_refused_by_the_loaded_network(tmp_path, labels, found):
    """Of a label beyond the last class this one would make images of no class."""
    small_with_labels(tmp_path / "source")
    write_portable(tmp_path / "source", tmp_path / "out")
    network, z = standalone.load(tmp_path / "out"), torch.zeros(2, Z_DIM)
    with pytest.raises(ValueError, match=rf"^labels: takes whole numbers from 0 to 2, of shape \(2,\).*; not {found}$"):
        network(z, torch.tensor(labels))
    middle = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert network(z, labels=middle).shape == network(z, torch.tensor([0, 2])).shape == (2, 1, 8, 8)
