"""`python sample.py` of a generator that takes labels, as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from project import ROOT

from gantry.commands import sample
from gantry.models.labels import Classes, label_stream
from gantry.models.latents import stream
from gantry.models.networks.conditional_dcgan import ConditionalGenerator
from gantry.models.networks.dcgan import Generator
from gantry.models.sampling import generate
from gantry.runs.generator_files import save_generator

CLASSES = Classes(("cat", "dog", "two words"), (0.5, 0.25, 0.25))


@pytest.fixture
def network():
    made = ConditionalGenerator(6, (1, 8, 8), 3, width=4)
    for weight in made.parameters():
        weight.data *= 5  # a fresh one makes all but grey images
    return made.eval()


@pytest.fixture
def run(tmp_path, cache, monkeypatch, network):
    """The folder of a run whose generator takes labels; the current folder is the one above its outputs."""
    folder = tmp_path / "outputs" / "2026-01-01" / "00-00-00_cgan_pets"
    config = {"z_dim": 6, "image_shape": [1, 8, 8], "n_classes": 3, "width": 4}
    target = "gantry.models.networks.conditional_dcgan.ConditionalGenerator"
    save_generator(folder / "generator" / "best", network, {"_target_": target} | config, 7, CLASSES)
    OmegaConf.save({"data": {"_target_": "gantry.data.sources.digits", "image_size": 8}}, folder / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_CACHE", str(cache))
    return folder


def made(network, seed, labels):
    z = torch.from_numpy(stream(seed, 0, 64, 6))
    return generate(network, z, torch.from_numpy(np.resize(labels, 64)))[:, 0].numpy()


@pytest.mark.parametrize(
    ("arguments", "labels", "name"),
    [
        (["class=dog"], [1], "samples_seed0_8_class1.png"),
        (["class=two words"], [2], "samples_seed0_8_class2.png"),
        (["class=0"], [0], "samples_seed0_8_class0.png"),
        (["classes=[dog,0]"], [1, 0], "samples_seed0_8_class1-0.png"),
        (["classes=[two words,cat]"], [2, 0], "samples_seed0_8_class2-0.png"),
        (["classes=[0..1]", "truncation=2"], None, "samples_seed0_8_truncation2_class0-1.png"),
        ([], None, "samples_seed0_8.png"),
    ],
)
def test_the_classes_asked_for_are_those_of_the_images(call, run, network, tmp_path, arguments, labels, name):
    code, said = call("run=latest", "n=8", *arguments)
    assert code == 0, said
    assert [path.name for path in (run / "generated").iterdir()] == [name]
    code, said = call("run=latest", "n=8", "out=files", *arguments)
    assert code == 0, said
    if labels is not None:
        for number, expected in enumerate(made(network, 0, labels)[:8]):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "files" / f"{number:06d}.png")), expected)


def test_images_without_a_class_have_the_shares_of_the_data(call, network, tmp_path):
    code, said = call("run=latest", "n=70", "out=all.npz", "seed=3")
    assert code == 0, said
    expected = made(network, 3, label_stream(3, 0, 64, CLASSES.shares))
    assert np.array_equal(np.load(tmp_path / "all.npz")["arr_0"][:64, ..., 0], expected)


def test_images_between_classes_are_a_grid(call, run):
    code, said = call("run=latest", "classes=[cat,dog]", "between=3", "n=9")
    assert code == 0, said
    picture = Image.open(run / "generated" / "between_seed0_3_class0-1.png")
    assert picture.size == (6 * (4 * 9 + 1), 6 * (2 * 9 + 1))  # of nine images two full rows
    code, said = call("run=latest", "between=1", "out=all.png")
    assert code == 0, said
    assert Image.open("all.png").size == (6 * (3 * 9 + 1), 6 * (21 * 9 + 1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["class=dgo"], "class=dgo: no such class; did you mean 'dog'? (valid: cat, dog, two words; or 0 to 2)"),
        (["class=3"], "class=3: no such class (valid: cat, dog, two words; or 0 to 2)"),
        (["class=-1"], "class=-1: no such class"),
        (["class=[0,1]"], "class=[0,1]: no such class"),
        (["classes=[cat,4]"], "classes=4: no such class"),
        (["classes=cat"], "classes: takes a list, classes=[cat]"),
        (["class=cat", "classes=[dog]"], "class, classes: give one of them"),
        (
            ["class=cat", "between=3"],
            "class: belongs to images or interpolate or latent_grid or project, not to between",
        ),
        (
            ["classes=[cat]", "between=3"],
            "classes: a grid between classes takes two or more, not 0 (cat) alone (valid: cat, dog, two words; or 0 to",
        ),
        (
            ["classes=[cat,dog,1]", "between=3"],
            "classes: 1 (dog) follows itself, and there is nothing in between: name another class after it (valid: cat",
        ),
        (["between=600"], "between: a grid has 1024 images at most in a row; 3 classes with between=600 are 1201"),
        (["between=2", "n=2000"], "n: a grid shows 1024 images at most"),
        (["between=2", "out=between.gif"], "out: the picture is a .png"),
        (["classes=[cat]", "latent_grid=3"], "classes: belongs to images or interpolate or between or project"),
        (["class=cat", "export=there"], "class: belongs to images"),
        (["clas=cat"], "did you mean 'class'?"),
    ],
)
def test_a_class_that_cannot_be_had_is_refused_before_anything_is_loaded(call, monkeypatch, arguments, said):
    monkeypatch.setattr(sample, "chosen", None)  # it imports torch
    code, text = call("run=latest", *arguments)
    assert code == 2
    assert said in text
    assert "Traceback" not in text


@pytest.mark.parametrize("asked", ["class=3", "classes=[1,2]", "between=4"])
def test_a_generator_without_labels_refuses_a_class(call, run, monkeypatch, asked):
    config = {"z_dim": 6, "image_shape": [1, 8, 8], "width": 4}
    target = "gantry.models.networks.dcgan.Generator"
    save_generator(run / "generator" / "best", Generator(6, (1, 8, 8), width=4), {"_target_": target} | config, 7)
    monkeypatch.setattr(sample, "chosen", None)
    code, text = call("run=latest", asked)
    assert code == 2
    assert f"{asked.partition('=')[0]}: {(run / 'generator' / 'best').relative_to(run.parents[2])} takes no" in text


def test_torch_is_not_imported_to_refuse_a_class(run):
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        "from gantry.commands.sample import main; sys.argv = ['sample.py', 'run=latest', 'class=bird']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "class=bird: no such class" in done.stderr
    assert done.stdout.endswith("False\n")


def test_what_is_shown_of_one_class_says_which(call):
    code, said = call("run=latest", "latent_grid=3", "out=plane.png")
    assert code == 0, said
    assert "of class 0 (cat); class=... chooses another\n" in said
    code, said = call("run=latest", "latent_grid=3", "out=plane.png", "class=dog")
    assert (code, "chooses" in said) == (0, False)
    code, said = call("run=latest", "n=2", "out=two.png")
    assert code == 0, said
    assert "of the first 2 of 3 classes; classes=[...] chooses others\n" in said


def test_a_projection_searches_all_classes_or_the_one_given(call, tmp_path):
    call("run=latest", "n=1", "class=dog", "out=one", "seed=4")
    code, said = call("run=latest", "project=one/000000.png", "class=two words", "out=of.png")
    assert code == 0, said
    assert "\nof class 2 (two words)\n" in said
    assert np.load(tmp_path / "of.labels.npy").tolist() == [2]
    np.save(tmp_path / "given.labels.npy", np.zeros((1, 8, 8), np.uint8))
    code, said = call("run=latest", "project=given.labels.npy", "out=given.png")
    assert code == 2
    assert "would write over given.labels.npy" in said


def test_a_film_of_one_class(call, network, tmp_path):
    code, said = call("run=latest", "interpolate=2", "n=1", "frames=2", "class=dog", "out=walk.gif")
    assert code == 0, said
    first = np.asarray(Image.open(tmp_path / "walk.gif").convert("RGB"))[::6, ::6, 0].astype(int)
    assert np.abs(first - made(network, 0, [1])[0]).max() <= 1


def test_the_help_and_an_exported_folder_know_the_classes(call, tmp_path):
    code, said = call("run=latest", "export=sent", "formats=[safetensors]")
    assert code == 0, said
    for out, name in (("mine", "latest"), ("theirs", "sent")):
        code, said = call(f"run={name}", "n=4", "class=dog", f"out={out}.npz")
        assert code == 0, said
    assert np.array_equal(*(np.load(tmp_path / f"{name}.npz")["arr_0"] for name in ("mine", "theirs")))
    assert json.loads((tmp_path / "sent" / "generator.json").read_text())["n_classes"] == 3
    done = subprocess.run(
        [sys.executable, str(ROOT / "sample.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "  class=null " in done.stdout
