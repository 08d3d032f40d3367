"""Exported programs make the network's images wherever they are loaded, and a wrong one leaves no file."""

import importlib.util
import json

import pytest
import torch
from project import COMMON, FEW_CODES, VARIANTS
from sharing_helpers import LATENTS, NETWORKS, Z_DIM, exported, images_of, python_with, small
from small import NOISE
from torch import nn

from gantry.core.errors import UserError
from gantry.generation.export import programs
from gantry.generation.export.programs import require_onnx, write_onnx, write_torch_export, write_torchscript
from gantry.training.model import build_model


class Branching(nn.Module):
    def __init__(self, z_dim: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.dense = nn.Linear(z_dim, 64)

    def forward(self, z):
        return torch.tanh(self.dense(z if z.sum() > 0 else -z)).unflatten(1, (1, 8, 8))


class Drawing(nn.Module):
    def __init__(self, z_dim: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.dense = nn.Linear(z_dim, 64)

    def forward(self, z):
        return torch.tanh(self.dense(z + torch.randn_like(z))).unflatten(1, (1, 8, 8))


class Constrained(nn.Module):
    def __init__(self, z_dim: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.dense = nn.utils.parametrizations.spectral_norm(nn.Linear(z_dim, 64))

    def forward(self, z):
        return torch.tanh(self.dense(z)).unflatten(1, (1, 8, 8))


def assert_near(images, network):
    expected = images_of(network)
    assert expected.std() > 0.02
    torch.testing.assert_close(torch.as_tensor(images).reshape(expected.shape), expected, rtol=0, atol=1e-4)


def test_a_program_is_read_back_for_any_batch(tmp_path, capfd):
    network = small(tmp_path / "x")
    assert write_torch_export(network, Z_DIM, tmp_path / "g.pt2") <= 1e-6
    assert capfd.readouterr() == ("", "")
    assert_near(images_of(torch.export.load(tmp_path / "g.pt2").module()), network)


@pytest.mark.parametrize("variants", [COMMON, pytest.param(VARIANTS, marks=pytest.mark.slow)], ids=["common", "all"])
def test_the_torchscript_of_every_variant_makes_its_images_where_there_is_torch_alone(
    variants, config, tmp_path, capfd
):
    networks, labels = {}, {}
    for variant in variants:
        short = [f"model.z_dim={Z_DIM}", *FEW_CODES.get(variant, [])]
        gan, made_of = build_model(config(f"model={variant}", "experiment=smoke", *short), NOISE)
        network = networks[variant] = gan.generator.train()
        classes = gan.classes if gan.conditional else None
        labels[variant] = [] if classes is None else [[0, 1, 2, 1, 0]]
        with torch.no_grad():  # BatchNorm's statistics are no longer those it begins with
            network(torch.randn(15, Z_DIM), *(torch.tensor(3 * one) for one in labels[variant]))
        network.eval().requires_grad_(False)
        assert write_torchscript(network, Z_DIM, tmp_path / f"{variant}.torchscript", classes) == 0
        assert made_of["image_shape"] == [1, 8, 8]
    assert capfd.readouterr() == ("", "")
    assert {path.stem for path in tmp_path.iterdir()} == set(variants)  # one file each
    run = python_with(tmp_path / "torch alone", "torch")
    printed = run(
        "import torch, json, importlib.util\n"
        "assert not any(map(importlib.util.find_spec, ('numpy', 'gantry')))\n"
        f"for variant, labels in {labels}.items():\n"
        f"    program = torch.jit.load({str(tmp_path)!r} + f'/{{variant}}.torchscript')\n"
        "    labels = list(map(torch.tensor, labels))\n"
        f"    images = program({LATENTS}, *labels), program(torch.zeros(1, {Z_DIM}), *(one[:1] for one in labels))\n"
        "    print(json.dumps([one.tolist() for one in images]))"
    )
    for (variant, network), line in zip(networks.items(), printed.splitlines(), strict=True):
        images, one = map(torch.tensor, json.loads(line))
        torch.testing.assert_close(images, images_of(network, *labels[variant]), rtol=0, atol=1e-6)
        first = network(torch.zeros(1, Z_DIM), *(torch.tensor(of[:1]) for of in labels[variant]))
        torch.testing.assert_close(one, first, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_programs_run_without_the_project(tmp_path, capfd):
    network = small(tmp_path / "source")
    assert write_torch_export(network, Z_DIM, tmp_path / "g.pt2") <= 1e-6
    assert write_onnx(network, Z_DIM, tmp_path / "g.onnx", step=7) <= 1e-4
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "g.pt2", "g.onnx"}  # one file each

    run = python_with(tmp_path / "torch alone", "torch")
    printed = run(
        "import torch, json, importlib.util\n"
        "assert not any(map(importlib.util.find_spec, ('numpy', 'gantry')))\n"
        f"program = torch.export.load({str(tmp_path / 'g.pt2')!r}).module()\n"
        f"print(json.dumps(program({LATENTS}).tolist()))"
    )
    assert_near(json.loads(printed), network)

    z = eval(LATENTS, {"torch": torch})
    run = python_with(tmp_path / "onnxruntime alone", "onnxruntime", "numpy")
    printed = run(
        "import onnxruntime, json, importlib.util, numpy\n"
        "assert not any(map(importlib.util.find_spec, ('torch', 'onnx', 'gantry')))\n"
        f"session = onnxruntime.InferenceSession({str(tmp_path / 'g.onnx')!r})\n"
        "(i,), (o,) = session.get_inputs(), session.get_outputs()\n"
        "print(json.dumps([[i.name, i.shape, i.type], [o.name, o.shape, o.type]]))\n"
        "print(json.dumps(session.get_modelmeta().custom_metadata_map))\n"
        f"print(json.dumps(session.run(None, {{'z': numpy.array({z.tolist()}, 'float32')}})[0].tolist()))"
    )
    signature, meta, images = map(json.loads, printed.splitlines())
    assert signature == [["z", ["batch", Z_DIM], "tensor(float)"], ["images", ["batch", 3, 16, 16], "tensor(float)"]]
    assert meta == {"z_dim": str(Z_DIM), "image_range": "[-1, 1]", "step": "7"}
    assert_near(images, network)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "none"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_ours_can_be_exported(tmp_path, name, norm):
    kind, arguments, shape = NETWORKS[name]
    import onnx

    if (name, norm) == ("mlp", "instance"):
        pytest.skip("a dense layer has no instances")
    network = exported(tmp_path / "x", kind, z_dim=Z_DIM, image_shape=shape, **arguments | {"norm": norm})
    assert write_torch_export(network, Z_DIM, tmp_path / "g.pt2") <= 1e-6
    assert write_onnx(network, Z_DIM, tmp_path / "g.onnx") <= 1e-4
    assert write_torchscript(network, Z_DIM, tmp_path / "g.torchscript") == 0
    onnx.checker.check_model(tmp_path / "g.onnx", full_check=True)


@pytest.mark.slow
def test_a_generator_with_spectral_norm_can_be_exported(tmp_path):
    network = exported(tmp_path / "x", Constrained, z_dim=Z_DIM, image_shape=[1, 8, 8])
    write_torch_export(network, Z_DIM, tmp_path / "g.pt2")
    write_onnx(network, Z_DIM, tmp_path / "g.onnx")
    write_torchscript(network, Z_DIM, tmp_path / "g.torchscript")


def test_a_network_that_branches_on_its_input_is_refused_with_the_reason(tmp_path, capfd):
    network = exported(tmp_path / "x", Branching, z_dim=Z_DIM, image_shape=[1, 8, 8])
    for write in (write_torch_export, write_onnx, write_torchscript):
        with pytest.raises(UserError, match=r"Branching cannot be written as a program: .*data-dependent"):
            write(network, Z_DIM, tmp_path / "g")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert capfd.readouterr() == ("", "")


def test_a_file_that_makes_other_images_is_removed(tmp_path):
    network = exported(tmp_path / "x", Drawing, z_dim=Z_DIM, image_shape=[1, 8, 8])
    (tmp_path / "g.pt2").write_text("before")
    with pytest.raises(UserError, match="makes other images: they differ by up to"):
        write_torch_export(network, Z_DIM, tmp_path / "g.pt2")
    with pytest.raises(UserError, match="as torchscript makes other images: they differ by up to"):
        write_torchscript(network, Z_DIM, tmp_path / "g.torchscript")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.pt2", "x"]
    assert (tmp_path / "g.pt2").read_text() == "before"


def test_missing_libraries_are_named_before_anything_is_done(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(programs, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(UserError, match=r"onnx needs onnxscript: pip install -c constraints.txt -e '.\[export\]'"):
        require_onnx()
    with pytest.raises(UserError, match="onnxscript"):
        write_onnx(nn.Identity(), Z_DIM, tmp_path / "g.onnx")
    assert list(tmp_path.iterdir()) == []
