"""Exported generators from elsewhere: which code their configs may choose, and what damaged ones are told."""

import json
import pickle
import sys

import pytest
import torch
from hostile_files import DCGAN, resident
from safetensors.torch import save_file

from gantry.core.errors import UserError
from gantry.runs.generator_files import load_generator
from gantry.runs.generator_metadata import GENERATOR_CONFIG, WEIGHTS, exported_step

# --- exported generators ---


def test_a_sound_generator_is_rebuilt(exported):
    network = load_generator(exported)
    assert network(torch.zeros(2, 4)).shape == (2, 1, 8, 8)
    assert exported_step(exported) == 3


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("os.system", r"names the class os\.system; trusted are gantry\.models\.networks\."),
        ("gantry.networks_evil.G", "trusted are"),
        ("gantry.models.networks", "trusted are|no network"),
        ("gantry.models.networks.dcgan.pairwise", "no network"),  # imported into the module
        ("gantry.models.networks.dcgan.initialise", "no network"),  # a function of ours
        ("gantry.models.networks.dcgan.nn", "no network"),
        ("gantry.models.networks.dcgan.nn.Linear", "cannot be imported"),
        ("gantry.models.networks.dcgan.Tensor", "no network"),
        ("gantry.models.networks.sync_batch_norm.nn.Module", "cannot be imported"),
        ("gantry.models.networks.dcgan.Generator.forward", "cannot be imported"),
        ("gantry.models.networks.dcgan.NoSuch", "cannot be imported"),
        ("gantry.models.networks..dcgan.Generator", "dotted name"),
        ("", "dotted name"),
        ("Generator", "dotted name"),
        ("gantry.models.networks.dcgan.Discriminator", "z_dim: no such argument"),
    ],
)
def test_an_exported_config_chooses_among_our_own_networks(exported, target, why):
    (exported / GENERATOR_CONFIG).write_text(json.dumps(DCGAN | {"_target_": target}))
    with pytest.raises(UserError, match=why):
        load_generator(exported)


def test_a_class_that_a_trusted_module_has_only_imported_is_refused(exported, tmp_path, monkeypatch):
    (tmp_path / "lender.py").write_text("from torch.nn import Linear, Module\nclass Own(Module): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("lender.Linear", "lender.Module"):
        (exported / GENERATOR_CONFIG).write_text(json.dumps(DCGAN | {"_target_": target}))
        with pytest.raises(UserError, match=rf"{target}, which is torch\.nn\..*; trusted are"):
            load_generator(exported, ("lender.",))


def test_nothing_is_imported_for_an_untrusted_name(exported, tmp_path, monkeypatch):
    for name in ("stranger", "trusted_by_prefix"):
        (tmp_path / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("stranger", "trusted_by_prefix"):
        (exported / GENERATOR_CONFIG).write_text(json.dumps(DCGAN | {"_target_": f"{name}.G"}))
        with pytest.raises(UserError, match="trusted are"):
            load_generator(exported, ("gantry.models.networks.", "trusted"))
        assert name not in sys.modules
    assert not (tmp_path / "ran").exists()


NETWORK = """
import torch
from torch import nn

class G(nn.Module):
    def __init__(self, z_dim, image_shape):
        super().__init__()
        self.map = nn.Linear(z_dim, 64)
        {more}

    def forward(self, z):
        return self.map(z).view(-1, 1, 8, 8)
"""


@pytest.mark.parametrize(
    ("name", "more"), [("plain_net", ""), ("eager_net", "self.scale = float(torch.linspace(0, 1, 3)[1])")]
)
@pytest.mark.parametrize("trusted", ["{}.", "{}", "{}.G"])
def test_a_network_of_ones_own_loads_where_it_is_trusted(tmp_path, monkeypatch, name, more, trusted):
    (tmp_path / f"{name}.py").write_text(NETWORK.format(more=more))
    monkeypatch.syspath_prepend(tmp_path)
    config = {"_target_": f"{name}.G", "z_dim": 4, "image_shape": [1, 8, 8]}
    save_file({"map.weight": torch.ones(64, 4), "map.bias": torch.zeros(64)}, tmp_path / WEIGHTS)
    (tmp_path / GENERATOR_CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="trusted are"):
        load_generator(tmp_path)
    network = load_generator(tmp_path, ("gantry.models.networks.", trusted.format(name)))
    assert network(torch.ones(1, 4)).unique().tolist() == [4.0]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"width": 10**6}, "of another network: .* of its tensors differ"),
        ({"width": 10**9}, "cannot be made of these arguments"),
        ({"width": 10**30}, "cannot be made of these arguments"),
        ({"z_dim": 10**9}, "tensors differ"),
        ({"image_shape": [10**9, 8, 8]}, "tensors differ"),
        ({"image_shape": [3, 10**6, 10**6]}, "8 to 128 pixels"),
        ({"image_shape": [1, 8]}, "three whole numbers"),
        ({"image_shape": "188"}, "three whole numbers"),
        ({"image_shape": [1, 8.0, True]}, "three whole numbers"),
        ({"z_dim": None}, "z_dim: must be a whole number"),
        ({"z_dim": -1}, "z_dim: must be a whole number"),
        ({"width": float("nan")}, "width: must be a whole number, not NaN"),
        ({"width": "2"}, 'width: must be a whole number, not "2"'),
        ({"norm": "bach"}, "norm: must be one of"),
        ({"widht": 2}, "widht: no such argument; did you mean 'width'"),
        ({"_args_": [1]}, "_args_ asks for more"),
        ({"norm": {"_target_": "os.system", "command": "true"}}, "norm asks for more"),
    ],
)
def test_arguments_are_checked_before_memory_is_taken_for_them(exported, arguments, why):
    (exported / GENERATOR_CONFIG).write_text(json.dumps(DCGAN | arguments))
    before = resident()
    with pytest.raises(UserError, match=why):
        load_generator(exported)
    assert resident() - before < 100 * 2**20


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b'"text"', b"{}", b"\xff\xfe", b"[" * 100_000, b" " * (2**20 + 1)),
        *(b'{"_target_": {"_target_": "os.system"}}', b'{"_target_": ["a.b"]}'),
        b'{"_target_": "a.b", "n": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(12),
)
def test_a_config_that_is_none_is_named(exported, content):
    (exported / GENERATOR_CONFIG).write_bytes(content)
    with pytest.raises(UserError, match=r"generator\.json"):
        load_generator(exported)


def test_weights_that_are_none_are_named(exported):
    sound = (exported / WEIGHTS).read_bytes()
    huge = (2**62).to_bytes(8, "little") + sound[8:]
    for content in (b"", sound[:4], sound[:-1], sound + b"x", huge, b"\xff" * 64, pickle.dumps({})):
        (exported / WEIGHTS).write_bytes(content)
        for read in (load_generator, exported_step):
            with pytest.raises(UserError, match=r"generator\.safetensors is missing, damaged or of another"):
                read(exported)
    (exported / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"generator\.safetensors is missing"):
        load_generator(exported)
