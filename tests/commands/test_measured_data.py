"""What a run is measured against: the images it was trained on, from every folder, or those that are named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gantry.commands import evaluate, train
from gantry.runs.folder import read_values

OWN = """
from pathlib import Path
from gantry.data.image_folder import image_folder

def load(*, cache, listed, image_size, flip):
    return image_folder(folder=Path(listed).read_text(), cache=cache, image_size=image_size, flip=flip)
"""
MEASURE = ("extractor=classifier", "n=64", "measures=[fid]", "tracking=none")


def pictures(folder: Path, seed: int, count: int = 60) -> None:
    random = np.random.default_rng(seed)
    for place in range(count):
        path = folder / ("left" if place % 2 else "right") / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = 60 if place % 2 else 190
        Image.fromarray(random.integers(grey - 60, grey + 60, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def call(typed, monkeypatch, cache):
    monkeypatch.setenv("GANTRY_CACHE", str(cache))

    def called(main, folder, *arguments):
        monkeypatch.chdir(folder)
        return typed(main, *arguments)

    return called


@pytest.fixture
def trained(call, tmp_path, request, monkeypatch):
    """Two folders `a` and `b`, each with other pictures in `pets`, and a run in `a`/run trained on those of `a`."""
    for seed, name in enumerate("ab"):
        pictures(tmp_path / name / "pets", seed)
        (tmp_path / name / "list").write_text("pets")
    (tmp_path / "my_pets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = getattr(request, "param", ("data=image_folder", "data.folder=pets", "data.image_size=16"))
    code, _, said = call(
        train.main,
        *(tmp_path / "a", "experiment=smoke", "tracking=none", "metrics=classifier", "hydra.run.dir=run"),
        *("steps=1", "batch_size=8", "model.generator.width=8", "model.discriminator.width=8", *options),
    )
    assert code == 0, said
    return tmp_path


def record(run: Path):
    (path,) = run.glob("evaluations/*/*.json")
    return json.loads(path.read_text())


def test_a_run_is_measured_against_its_own_images_from_every_folder(call, trained):
    run = trained / "a/run"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["folder"] == str(trained / "a/pets")
    assert read_values(run / "params.json")["data.folder"] == str(trained / "a/pets")
    code, _, said = call(evaluate.main, trained / "b", "run=../a/run", *MEASURE)
    assert code == 0, said
    found = record(run)
    assert found["settings"]["data_digest"] == read_values(run / "tags.json")["metrics.data_digest"]
    assert found["subject"]["trained_on_these_images"] is True
    assert found["reference"]["source"] == str(trained / "a/pets")
    shutil.rmtree(run / "evaluations")
    changed_images_are_refused_and_measured_when_named(call, trained, run)


def changed_images_are_refused_and_measured_when_named(call, trained, run):
    shutil.copy(trained / "a/pets/left/1.png", trained / "a/pets/left/new.png")
    code, _, said = call(evaluate.main, trained / "a", "run=run", *MEASURE)
    assert code == 2
    assert f"the 61 images of {trained}/a/pets are not those that the run was trained on" in said
    assert f"data=image_folder data.folder={trained}/a/pets data.image_size=16" in said
    assert not (run / "evaluations").exists()
    code, shown, said = call(
        *(evaluate.main, trained / "a", "run=run", *MEASURE),
        *("data=image_folder", "data.folder=pets", "data.image_size=16"),
    )
    assert code == 0, said
    assert "are not those that the run was trained on" in shown
    assert record(run)["subject"]["trained_on_these_images"] is False
    assert "the command names other data" in " ".join(record(run)["caveats"])


def test_a_run_of_earlier_versions_is_measured_from_where_it_was_started(call, trained):
    """Their configs have paths as they were typed; Hydra's record has the folder."""
    run = trained / "a/run"
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(trained / "a/pets"), "pets"))
    tags = read_values(run / "tags.json")
    del tags["gantry.started_in"]
    (run / "tags.json").write_text(json.dumps(tags))
    code, _, said = call(evaluate.main, trained / "b", "run=../a/run", *MEASURE)
    assert code == 0, said
    assert record(run)["reference"]["source"] == str(trained / "a/pets")


def test_a_moved_project_has_its_own_images(call, trained):
    (trained / "a").rename(trained / "c")
    code, _, said = call(evaluate.main, trained / "b", "run=../c/run", *MEASURE)
    assert code == 0, said
    assert record(trained / "c/run")["reference"]["source"] == str(trained / "c/pets")


@pytest.mark.parametrize(
    "trained",
    [("data=digits", "data._target_=my_pets.load", "data.image_size=16", "+data.listed=list")],
    indirect=True,
)
def test_paths_of_a_data_set_of_ones_own_are_relative_to_where_the_run_was_started(call, trained):
    code, _, said = call(evaluate.main, trained / "b", "run=../a/run", "trusted=[my_pets.]", *MEASURE)
    assert code == 0, said
    assert record(trained / "a/run")["reference"]["source"] == str(trained / "a/pets")


def test_going_on_elsewhere_takes_the_same_images(call, trained):
    code, _, said = call(train.main, trained / "b", "resume=../a/run", "steps=2")
    assert code == 0, said
    assert json.loads((trained / "a/run/summary.json").read_text())["steps"] == 2
