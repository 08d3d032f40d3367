"""An export is whole or not there, replaces its own predecessor and nothing else."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sharing_helpers import Z_DIM, exported, images_of, small
from test_programs import Branching

from gantry.core.errors import UserError
from gantry.generation.export import export, standalone
from gantry.generation.export.export import export_generator
from gantry.runs.generator_files import load_generator

SAFETENSORS = ["README.md", "generator.json", "generator.py", "generator.safetensors", "network", "samples.png"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source(tmp_path):
    small(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.slow
def test_every_format_at_once(source, tmp_path):
    made = export_generator(source, tmp_path / "out", licence="mit", formats=export.FORMATS)
    programs = ["generator.pt2", "generator.onnx", "generator.torchscript"]
    assert names(tmp_path / "out") == sorted([*SAFETENSORS, *programs])
    differences = {file.name: file.difference for file in made.files if file.difference is not None}
    assert differences["generator.safetensors"] == differences["generator.torchscript"] == 0
    assert 0 <= differences["generator.pt2"] <= differences["generator.onnx"] <= 1e-4
    card = (tmp_path / "out" / "README.md").read_text()
    for way in ("from generator import load", "torch.export.load", "onnxruntime.InferenceSession", "torch.jit.load"):
        assert way in card


def test_the_card_lists_what_is_there_and_an_export_is_a_generator(source, tmp_path):
    made = export_generator(source, tmp_path / "new" / "out", formats=["safetensors"])
    folder = tmp_path / "new" / "out"
    assert made.failed == {}
    assert names(folder) == SAFETENSORS
    card = (folder / "README.md").read_text()
    assert {file.name for file in made.files if file.name.startswith("network/")} >= {
        "network/gantry/models/networks/dcgan.py",
        "network/gantry/models/networks/blocks.py",
    }
    for file in made.files[:-1]:
        assert f"| `{file.name}` |" in card
        assert hashlib.sha256((folder / file.name).read_bytes()).hexdigest() in card
    parameters = sum(weight.numel() for weight in load_generator(source).parameters())
    assert f"parameters: {parameters:,}" in card
    assert np.asarray(Image.open(folder / "samples.png")).std() > 10
    assert torch.equal(images_of(load_generator(folder)), images_of(load_generator(source)))


def test_an_export_replaces_its_predecessor(source, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    export_generator(source, folder, formats=["safetensors"])
    standalone.load(folder)  # which may leave bytecode there
    torch.manual_seed(5)
    other = small(tmp_path / "other")
    export_generator(tmp_path / "other", folder, formats=["safetensors"])
    assert torch.equal(images_of(standalone.load(folder)), images_of(other))
    export_generator(source, folder, formats=["torch_export"])
    assert names(folder) == ["README.md", "generator.pt2", "samples.png"]
    export_generator(source, folder, formats=["torchscript"])
    assert names(folder) == ["README.md", "generator.torchscript", "samples.png"]
    script = (folder / "README.md").read_text()
    assert 'network = torch.jit.load("generator.torchscript")' in script
    code = script.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    exec(code, drawn := {})
    assert drawn["images"].shape == (64, 3, 16, 16)


@pytest.mark.parametrize("held", ["notes.txt", "README.md", "generator.safetensors"])
def test_a_folder_that_holds_something_else_is_left_alone(source, tmp_path, held):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / held).write_text("mine")
    with pytest.raises(UserError, match=rf"holds something else \({held}\)"):
        export_generator(source, tmp_path / "out", formats=["safetensors"])
    assert (tmp_path / "out" / held).read_text() == "mine"
    assert names(tmp_path / "out") == [held]


def test_what_was_added_to_an_export_is_left_alone(source, tmp_path):
    export_generator(source, tmp_path / "out", formats=["safetensors"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds something else \(notes.txt\)"):
        export_generator(source, tmp_path / "out", formats=["safetensors"])


def test_another_runs_generator_and_the_source_itself_are_left_alone(source, tmp_path):
    small(tmp_path / "other")
    before = (tmp_path / "other" / "generator.safetensors").read_bytes()
    for folder in (tmp_path / "other", source):
        with pytest.raises(UserError, match="holds something else"):
            export_generator(source, folder, formats=["safetensors"])
    assert (tmp_path / "other" / "generator.safetensors").read_bytes() == before


def test_nothing_is_left_of_an_export_that_fails(source, tmp_path, monkeypatch):
    export_generator(source, tmp_path / "out", formats=["safetensors"], licence="mit")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_png", full)
    for folder in (tmp_path / "out", tmp_path / "fresh"):
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            export_generator(source, folder, formats=["safetensors"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
    assert (tmp_path / "out" / "network").is_dir()
    assert not (tmp_path / "fresh").exists()


def test_what_cannot_be_a_program_is_still_exported_with_its_source(tmp_path):
    source = tmp_path / "source"
    network = exported(source, Branching, z_dim=Z_DIM, image_shape=[1, 8, 8])
    trusted = ["test_programs."]
    made = export_generator(source, tmp_path / "out", formats=["torch_export", "safetensors"], trusted=trusted)
    assert list(made.failed) == ["torch_export"]
    assert "cannot be written as a program" in made.failed["torch_export"]
    assert names(tmp_path / "out") == SAFETENSORS
    assert "pytest" in made.needs
    assert torch.equal(images_of(standalone.load(tmp_path / "out")), images_of(network))
    with pytest.raises(UserError, match="cannot be written as a program"):
        export_generator(source, tmp_path / "other", formats=["torch_export"], trusted=trusted)
    assert not (tmp_path / "other").exists()


def test_bad_requests_are_refused(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder, formats, message in [
        (tmp_path / "out", ["onx"], "formats: 'onx' is none; did you mean 'onnx'"),
        (tmp_path / "out", [], "formats: name at least one of safetensors, torch_export, onnx, torchscript"),
        (tmp_path / "file", ["safetensors"], "is no folder that can be read"),
        (tmp_path / "file" / "out", ["safetensors"], "cannot be written: Not a directory"),
    ]:
        with pytest.raises(UserError, match=message):
            export_generator(source, folder, formats=formats)
    config = json.loads((source / "generator.json").read_text())
    (source / "generator.json").write_text(json.dumps(config | {"_target_": "os.system"}))
    with pytest.raises(UserError, match="trusted"):
        export_generator(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
