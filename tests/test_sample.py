"""`python sample.py` as a user meets it: what it writes, and what it says to what cannot work."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from project import ROOT

from gantry import sample
from gantry.export import save_generator
from gantry.networks.dcgan import Generator


@pytest.fixture
def run(tmp_path, cache, monkeypatch):
    """The folder of a run with an untrained generator; the current folder is the one above its outputs."""
    folder = tmp_path / "outputs" / "2026-01-01" / "00-00-00_dcgan_digits"
    for which in ("best", "last"):
        save_generator(
            folder / "generator" / which,
            Generator(6, (1, 8, 8), width=4),
            {"_target_": "gantry.networks.dcgan.Generator", "z_dim": 6, "image_shape": [1, 8, 8], "width": 4},
            7,
        )
    OmegaConf.save({"data": {"_target_": "gantry.data.sources.digits", "image_size": 8}}, folder / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_CACHE", str(cache))
    return folder


@pytest.fixture
def call(run, typed):
    """Type `python sample.py ...`; gives the exit code and what stood on the terminal."""

    def called(*arguments):
        code, out, errors = typed(sample.main, *arguments)
        return code, out + errors

    return called


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
        (("run=latest", "truncation=-1"), "truncation: must be at least 0"),
        (("run=latest", "interpolate=3", "latent_grid=3"), "interpolate, latent_grid: one at a time"),
        (("run=latest", "mask=m.png"), "mask: belongs to project"),
        (("run=latest", "interpolate=3", "out=walk.avi"), ".gif, .webp, .mp4, .png"),
        (("run=latest", "out=picture.jpg"), "samples are written as a .png, an .npz or a folder"),
        (("run=latest", "latent_grid=3", "directions=[1,1]"), "directions: takes two different numbers"),
        (("run=latest", "latent_grid=3", "directions=[0,6]"), "directions: latents have 6 directions"),
        (("run=latest", "project=no.png"), "project: no.png does not exist"),
        (("run=latest", "export=there", "formats=[onxx]"), "did you mean 'onnx'?"),
        (("run=latest", "export=there", "raw=true"), "raw: what export hands on is the averaged generator"),
        (("run=latest", "truncaton=1"), "did you mean 'truncation'?"),
        (("run=latest", "out=/proc/nothing/here.png"), "cannot be written"),
    ],
)
def test_bad_input_is_refused_with_the_valid_choices(call, arguments, said):
    code, text = call(*arguments)
    assert code == 2
    assert said in text
    assert "Traceback" not in text


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
    assert "trusted are gantry.networks.*" in said
