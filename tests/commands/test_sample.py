"""`python sample.py` as a user meets it: what it writes, and what it says to what cannot work."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from project import ROOT

from gantry.commands import sample
from gantry.core.errors import UserError
from gantry.runs.tracking.store import prepare_store


def test_a_grid_goes_into_the_runs_folder(call, run):
    code, said = call("run=latest", "n=10")
    assert code == 0, said
    path = run / "generated" / "samples_seed0_10.png"
    assert said.endswith(f"{path.relative_to(run.parents[2])}\n")
    picture = Image.open(path)
    assert picture.size == (6 * (4 * 9 + 1), 6 * (3 * 9 + 1))  # 4 by 3 images of 8 pixels, enlarged six times
    assert sorted(path.parent.iterdir()) == [path]


def test_the_grid_shows_what_the_files_hold(call, run, tmp_path):
    call("run=latest", "n=4", "out=grid.png")
    code, said = call("run=latest", "n=4", "out=files")
    assert code == 0, said
    one = np.asarray(Image.open(tmp_path / "files" / "000003.png"))
    grid = np.asarray(Image.open(tmp_path / "grid.png"))[::6, ::6, 0]
    assert np.array_equal(grid[10:18, 10:18], one)


def test_an_exported_folder_alone_will_do(call, run, tmp_path):
    shutil.copytree(run / "generator" / "best", tmp_path / "sent")
    code, said = call(f"run={tmp_path / 'sent'}", "n=3", f"out={tmp_path / 'three.npz'}")
    assert code == 0, said
    assert np.load(tmp_path / "three.npz")["arr_0"].shape == (3, 8, 8, 1)


def test_of_an_exported_folder_there_is_no_other_generator(call, run, tmp_path):
    shutil.copytree(run / "generator" / "best", tmp_path / "sent")
    code, said = call("run=sent", "generator=last", "out=one.png", "n=1")
    assert code == 2
    assert "generator=last: sent holds one generator; name its run to choose" in said
    code, said = call(f"run={run / 'generator' / 'last'}", "generator=last", "out=one.png", "n=1")
    assert code == 0, said


def test_the_script_is_in_its_place(run, tmp_path):
    """A real process, from another folder, as it is typed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "sample.py"), "run=latest", "n=2", "seed=3", "truncation=0.5"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "generated" / "samples_seed3_2_truncation0.5.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "run: say which generator"),
        (("run=nowhere",), "run=nowhere: no such run"),
        (("run=latest", "n=0"), "n: must be at least 1, not 0"),
        (("run=latest", "n=5000"), "out=<folder> or out=<file>.npz"),
        (("run=latest", "truncation=0"), "truncation: must be above 0"),
        (("run=latest", "latent_grid=3", "extent=0"), "extent: must be above 0"),
        (("run=latest", "truncation=-1"), "truncation: must be at least 0"),
        (("run=latest", "interpolate=3", "latent_grid=3"), "interpolate, latent_grid: one at a time"),
        (("run=latest", "mask=m.png"), "mask: belongs to project"),
        (("run=latest", "interpolate=3", "out=walk.avi"), ".gif (GIF), .webp (WebP), .mp4"),
        (("run=latest", "out=picture.jpg"), "samples are written as a .png, an .npz or a folder"),
        (("run=latest", "latent_grid=3", "directions=[1,1]"), "directions: takes two different numbers"),
        (("run=latest", "latent_grid=3", "directions=[0,6]"), "directions: latents have 6 directions"),
        (("run=latest", "latent_grid=33"), "latent_grid: must be at most 32"),
        (("run=latest", "interpolate=3", "n=2000"), "n: a film shows 1024 walks at most"),
        (("run=latest", "ui=true", "accelerator=gpu"), "accelerator: belongs to images or interpolate or"),
        (("run=latest", "latent_grid=3", "devices=2"), "devices: belongs to images, not to latent_grid"),
        (("run=latest", "project=no.png"), "project: no.png does not exist"),
        (("run=latest", "export=there", "formats=[onxx]"), "did you mean 'onnx'?"),
        (("run=latest", "export=there", "raw=true"), "raw: what export hands on is the averaged generator"),
        (("run=latest", "register=mine", "tracking=none"), "register: the registry is MLflow's, which tracking=none"),
        (("run=latest", "register=a b"), "register=a b: a model's name has letters, digits"),
        (("run=latest", "register=latest"), "register=latest: run=latest means a run"),
        (("run=latest", "truncaton=1"), "did you mean 'truncation'?"),
        (("run=latest", "out=/proc/nothing/here.png"), "cannot be written"),
        (("run=latest", "codes=1"), "codes: must be at least 2, not 1"),
        (("run=latest", "codes=8"), "codes: the latents of this generator have no named parts; those of model=infogan"),
        (("run=latest", "codes=8", "truncation=1"), "truncation: belongs to images or interpolate"),
    ],
)
def test_bad_input_is_refused_with_the_valid_choices(call, arguments, said):
    code, text = call(*arguments)
    assert code == 2
    assert said in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_registry_that_is_away_is_said(call, run):
    summary = {"primary": "fid", "best": {"fid": 2.0}, "best_step": 7, "steps": 9, "final": {}, "protocol": {}}
    (run / "summary.json").write_text(json.dumps(summary))
    code, said = call("run=latest", "register=mine", "tracking.uri=http://127.0.0.1:9")
    assert code == 2
    assert "tracking.uri=http://127.0.0.1:9 does not answer" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("mine.npz", "is there already"),
        ("notes", "is a file; name a folder"),
        ("outputs", "holds other files"),
        ("folder.png", "is a folder; name a file"),
    ],
)
def test_a_name_that_is_taken_is_refused_before_anything_is_computed(call, tmp_path, monkeypatch, out, said):
    for name in ("mine.npz", "notes"):
        (tmp_path / name).write_text("all of it")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(sample, "chosen", None)  # it imports torch
    code, text = call("run=latest", f"out={out}")
    assert code == 2
    assert said in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out=notes/grid.png"], "out={}/notes cannot be written: Not a directory; choose another out=..."),
        (["out=notes/deep/samples.npz", "n=50000"], "/notes/deep cannot be written: Not a directory"),
        (["out=notes/walk.gif", "interpolate=2"], "/notes cannot be written: Not a directory"),
        (["out=folder", "interpolate=2"], "out: "),
        (["out=folder.gif", "interpolate=2"], "is a folder; name a file"),
        (["out=folder.png", "latent_grid=2"], "is a folder; name a file"),
        (["export=notes/sent"], "export={}/notes/sent cannot be written: Not a directory; choose another export=..."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_written_is_refused_before_anything_is_looked_for(call, tmp_path, monkeypatch, arguments, said):
    (tmp_path / "notes").write_text("all of it")
    for name in ("folder", "folder.gif", "folder.png"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sample, "find_generator", None)
    code, text = call("run=latest", *arguments)
    assert (code, text.count("\n")) == (2, 1), text
    assert said.format(tmp_path) in text


def test_a_port_that_is_taken_is_refused_before_anything_is_looked_for(call, monkeypatch):
    monkeypatch.setattr(sample, "find_generator", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, said = call("run=latest", "ui=true", f"port={other.getsockname()[1]}")
    assert code == 2
    assert "cannot be had on 127.0.0.1" in said


def test_a_run_without_a_generator_is_refused(call, run):
    shutil.rmtree(run / "generator")
    code, said = call(f"run={run}")
    assert code == 2
    assert "the run has exported no generator" in said


def test_foreign_weights_are_refused(call, run, tmp_path):
    (run / "generator" / "best" / "generator.safetensors").write_bytes(b"\xff" * 100)
    code, said = call("run=latest")
    assert code == 2
    assert "missing, damaged or of another network" in said
    config = run / "generator" / "best" / "generator.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_target_": "os.system"}))
    code, said = call("run=latest")
    assert code == 2
    assert "trusted are gantry.models.networks.*" in said


def test_an_export_is_made_and_drawn_from(call, run, tmp_path):
    code, said = call("run=latest", "export=sent", "formats=[safetensors]", "licence=CC-BY-4.0 (mine, all of it)")
    assert code == 0, said
    assert "CC-BY-4.0 (mine, all of it)" in (tmp_path / "sent" / "README.md").read_text()
    call("run=latest", "n=4", "out=mine.npz")
    code, said = call("run=sent", "n=4", "out=theirs.npz")
    assert code == 0, said
    assert np.array_equal(*(np.load(tmp_path / name)["arr_0"] for name in ("mine.npz", "theirs.npz")))


def test_a_format_that_cannot_be_had_is_told_beside_what_was_written(call, run, tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("it draws random numbers")

    monkeypatch.setattr("gantry.generation.export.export.write_torch_export", refuse)
    code, said = call("run=latest", "export=sent", "formats=[safetensors,torch_export]")
    assert code == 1
    assert said.endswith("not written as torch_export: it draws random numbers\n")
    assert (tmp_path / "sent" / "generator.safetensors").exists()


@pytest.mark.slow
def test_a_registered_model_is_found_by_its_name(call, run, tmp_path):
    summary = {"primary": "kid_classifier", "best": {"kid_classifier": 0.2}, "best_step": 7, "steps": 9}
    (run / "summary.json").write_text(json.dumps(summary | {"final": {}, "protocol": {"n_real": 5}}))
    code, said = call("run=latest", "register=mine")
    assert code == 0, said
    assert "model mine version 1: the champion" in said
    (card,) = (tmp_path / "mlruns").rglob("README.md")
    assert "- parameters: not known" not in card.read_text()
    call("run=latest", "register=mine", "licence=MIT")
    call("run=latest", "register=mine")
    assert "\n`MIT`\n" in card.read_text()
    call("run=latest", "n=4", "out=mine.npz")
    for name in ("mine", "models:/mine@champion", "models:/mine/1"):
        (tmp_path / "theirs.npz").unlink(missing_ok=True)
        code, said = call(f"run={name}", "n=4", "out=theirs.npz")
        assert code == 0, said
        assert np.array_equal(*(np.load(tmp_path / name)["arr_0"] for name in ("mine.npz", "theirs.npz")))
    code, said = call("run=yours")
    assert code == 2
    assert "registered models: mine" in said
    client, experiment = prepare_store(tmp_path / "mlruns", "gantry")
    trained = client.create_run(experiment).info.run_id
    (run / "mlflow_run.json").write_text(json.dumps({"run_id": trained}))
    code, said = call("run=latest", "register=known")
    assert code == 0, said
    code, said = call("run=known", "export=handed_on", "formats=[safetensors]")
    assert code == 0, said
    assert "`gantry.data.sources.digits`" in (tmp_path / "handed_on" / "README.md").read_text()
    assert not (tmp_path / "mlflow.db").exists()  # the store of an MLflow that was given none
