"""A registered generator that takes labels, as others use it: loaded in Python, and by HTTP."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from registry_helpers import TRUSTED, fid, generator, pixels, process
from sharing_helpers import CLASSES, Z_DIM, small_with_labels
from test_serving import HIDDEN, LOADED, ask

from gantry.generation.classes import in_turn
from gantry.generation.registry.find import find_model
from gantry.generation.registry.registry import register
from gantry.models.labels import LabelSource
from gantry.models.sampling import Tiles
from gantry.runs.checkpoint_files import mark_best, write
from gantry.runs.generators import ExportedFiles, GeneratorFiles
from gantry.runs.tracking.store import prepare_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("classes")


@pytest.fixture(scope="module")
def files(folder):
    """The generator that is served."""
    small_with_labels(folder / "generator")
    return ExportedFiles(folder / "generator", TRUSTED)


@pytest.fixture(scope="module")
def store(folder, files):
    """A store whose model `pets` it is the champion of, and whose model `digits` takes no labels; its address."""
    client, experiment = prepare_store(folder / "store", "gantry")
    register(client, "pets", files, experiment, None, fid(2.0))
    register(client, "digits", generator(folder / "plain"), experiment, None, fid(2.0))
    return client.tracking_uri


@pytest.fixture
def load(store, tmp_path, monkeypatch):
    """Load a model of the store as others do."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    mlflow.set_tracking_uri(store)
    yield lambda name: mlflow.pyfunc.load_model(f"models:/{name}@champion")
    mlflow.set_tracking_uri(None)


def drawn(files, seed, n, *labels):
    """Gantry's own images, uint8 (n, H, W, C)."""
    source = in_turn(CLASSES, labels) if labels else LabelSource(CLASSES.shares)
    return Tiles(files.load(), Z_DIM, seed, None, source).first(n).permute(0, 2, 3, 1).numpy()


def test_a_request_names_a_class_or_takes_them_as_often_as_in_the_data(load, files):
    model = load("pets")
    asked = [{"seed": 0, "n": 2, "class": "dog"}, {"seed": 0, "n": 2, "class": 1}, {"seed": 3, "n": 70}]
    one, same, all_of = model.predict(asked)
    for answer in (one, same):
        assert answer.classes == ["dog", "dog"]
        assert np.array_equal([pixels(image) for image in answer.images], drawn(files, 0, 2, 1))
    assert np.array_equal([pixels(image) for image in all_of.images], drawn(files, 3, 70))
    assert all_of.classes == [CLASSES.names[label] for label in LabelSource(CLASSES.shares)(3, 0, 70)]
    properties = model.metadata.signature.inputs.to_dict()[0]["properties"]
    assert properties["class"] == {"type": "string", "required": False}


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ("pets", "bird", r"class=bird: no such class \(valid: cat, dog, a, b; or 0 to 2\)"),
        ("pets", 3, "class=3: no such class"),
        ("digits", 0, "class: this generator takes no labels; leave it out"),
    ],
)
def test_a_class_that_there_is_not_is_the_clients_error(load, model, asked, said):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=said) as refused:
        load(model).predict([{"seed": 0}, {"seed": 0, "class": asked}])
    assert refused.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 1}, "seed: has to be given: a whole number from 0 to 9223372036854775807"),
        ({"seed": 0, "n": 0}, "n: must be a whole number from 1 to 256, not 0"),
        ({"seed": 0, "class": True}, "class: must be the name or the number of a class, not True"),
        ({"seed": 0, "class": ["dog"]}, "class: must be the name or the number of a class, not ['dog']"),
        ({"seed": 0, "format": "j" * 99}, f"format: must be png or grid, not '{'j' * 39}..."),
        ({"seed": 0, "count": 3}, "count: there is no such field (valid: seed, n, format, truncation, class)"),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence(load, wrong, said):
    """Of pydantic's errors MLflow makes pages, and its server puts the whole request before a message."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as refused:
        load("pets").predict([{"seed": 0}, wrong])
    assert refused.value.get_http_status_code() == 400
    refused.value.message = "Failed to predict data ..."
    assert json.loads(refused.value.serialize_as_json())["message"] == f"inputs[1].{said}"


def test_the_answer_of_a_generator_without_labels_is_as_before(load):
    (answer,) = load("digits").predict([{"seed": 0}])
    assert answer.model_dump().keys() == {"seed", "n", "format", "images"}


def test_what_is_fetched_from_the_registry_keeps_its_classes(store, files, tmp_path):
    client, _ = prepare_store(store, "gantry")
    assert ExportedFiles(find_model(client, "pets", tmp_path), TRUSTED).classes() == CLASSES


def test_a_raw_generator_is_registered_with_its_classes(store, tmp_path):
    """Its weights are those of a checkpoint, which does not name them."""
    network = small_with_labels(tmp_path / "run" / "generator" / "best")
    OmegaConf.save({}, tmp_path / "run" / "config.yaml")
    state = {f"generator.{name}": 2 * value for name, value in network.state_dict().items()}
    content = io.BytesIO()
    torch.save({"state_dict": state, "global_step": 7}, content)
    mark_best(tmp_path / "run", write(tmp_path / "run", 7, content.getvalue()))
    client, experiment = prepare_store(store, "gantry")
    register(client, "raw", GeneratorFiles(tmp_path / "run", "best", True, TRUSTED), experiment)
    assert ExportedFiles(find_model(client, "raw", tmp_path / "cache"), TRUSTED).classes() == CLASSES


@pytest.mark.slow
def test_it_is_served_by_class_over_http(folder, store, files):
    command = "mlflow models serve -m models:/pets@champion --env-manager local --host 127.0.0.1 --port {port}"
    with process(command, folder, "/ping", MLFLOW_TRACKING_URI=store) as address:
        served = f"{address}/invocations"
        for asked, label in (("dog", 1), (2, 2), ("a, b", 2)):
            status, text = ask(served, {"inputs": [{"seed": 1, "n": 2, "class": asked}]})
            assert status == 200, text
            (answer,) = json.loads(text)["predictions"]
            assert answer["classes"] == [CLASSES.names[label]] * 2
            assert np.array_equal([pixels(image) for image in answer["images"]], drawn(files, 1, 2, label))
        for asked, said in (
            ("bird", "class=bird: no such class (valid: cat, dog, a, b; or 0 to 2)"),
            (-1, "class=-1: no such class"),
            (1.5, "inputs[0].class: must be the name or the number of a class, not 1.5"),
        ):
            status, text = ask(served, {"inputs": [{"seed": 1, "class": asked}]})
            assert status == 400
            assert json.loads(text)["message"].startswith(said)


@pytest.mark.slow
def test_it_loads_where_gantry_is_not_installed(tmp_path, store, files):
    code = LOADED.format(hidden=HIDDEN, store=store).replace("digits", "pets").replace('"n": 2', '"n": 2, "class": 2')
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout.splitlines()[-1])
    assert np.array_equal([pixels(image) for image in images], drawn(files, 9, 2, 2))
