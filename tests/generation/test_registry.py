"""Generators in MLflow's registry: which version is the champion, and that the one found is the one registered."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from registry_helpers import RULER, TRUSTED, Registry, drawn, fid, generator, pixels

from gantry.core.errors import UserError
from gantry.generation.registry.alias import settle
from gantry.generation.registry.champion import Measured, from_tags, measured, verdict
from gantry.generation.registry.find import find_model, models
from gantry.generation.registry.logged_model import log_model
from gantry.generation.registry.names import check_name
from gantry.generation.registry.registry import register
from gantry.runs.generator_metadata import WEIGHTS
from gantry.runs.generators import ExportedFiles
from gantry.runs.tracking.store import prepare_store

NAN = math.nan


def score(value):
    return Measured("inception_score", value, RULER)


@pytest.mark.parametrize(
    ("mine", "present", "wins"),
    [
        (fid(3.0), None, True),
        (fid(NAN), None, False),
        (None, None, False),
        (fid(3.0), fid(3.5), True),
        (fid(3.5), fid(3.0), False),
        (fid(3.0), fid(3.0), False),
        (fid(NAN), fid(3.0), False),
        (fid(3.0), fid(NAN), True),
        (None, fid(3.0), False),
        (score(8.0), score(7.0), True),
        (score(7.0), score(8.0), False),
        (score(99.0), fid(3.0), False),
        (fid(0.1, n_generated=50000), fid(3.0), False),
        (fid(0.1, split="test"), fid(3.0), False),
    ],
)
def test_the_champion_is_beaten_only_by_what_is_better_and_measured_alike(mine, present, wins):
    assert verdict(mine, present, present and "1").wins is wins


def test_a_version_that_says_nothing_of_its_quality_keeps_the_alias():
    found = verdict(fid(3.0), None, "4")
    assert not found.wins
    assert "version 4 stays the champion" in found.why


def test_the_user_is_told_how_the_measuring_differs():
    found = verdict(fid(0.1, n_generated=50000), fid(3.0), "1")
    assert "n_generated: 50000 and 2000" in found.why
    assert "n_real" not in found.why


def test_tags_keep_what_was_measured():
    for one in (fid(1 / 3), score(8.0)):
        assert from_tags(one.tags) == one
    assert math.isnan(from_tags(fid(NAN).tags).value)
    assert from_tags({"metric": "fid"}) is None


@pytest.mark.parametrize("worse_first", [True, False])
@pytest.mark.parametrize("champion", [None, 9.0])
@pytest.mark.parametrize("at", range(1, 9))
def test_of_two_registrations_at_once_the_better_one_is_the_champion(at, champion, worse_first):
    """Whenever the second one's registration falls within the first one's."""
    registry = Registry()
    registry.alias = champion and registry.add(fid(champion))
    values = (2.0, 1.0) if worse_first else (1.0, 2.0)
    told = {}

    def second(number):
        if number == at:
            registry.before = lambda number: None
            told[values[1]] = settle(registry, "digits", registry.add(fid(values[1])), fid(values[1]))[0]

    first = registry.add(fid(values[0]))
    registry.before = second
    told[values[0]] = settle(registry, "digits", first, fid(values[0]))[0]
    assert registry.versions[int(registry.alias) - 1]["value"] == ("1.0" if len(told) == 2 else str(values[0]))
    assert told[min(told)]


def test_a_version_once_demoted_does_not_come_back_with_the_next():
    """Somebody moved the alias to a worse one, having looked at the images."""
    registry = Registry()
    memorised, champion = registry.add(fid(0.1)), registry.add(fid(3.0))
    registry.alias = champion
    new = registry.add(fid(2.0))
    shown = registry._shown
    registry._shown = lambda number: shown(number) if str(number) != memorised else aged(shown(number))
    assert settle(registry, "digits", new, fid(2.0))[0]
    assert registry.alias == new


def aged(version):
    version.creation_timestamp = -3_600_000
    return version


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run whose best step is not its last, with two evaluations of its best generator."""
    folder = tmp_path / "run"
    folder.mkdir()
    summary = {
        "primary": "fid",
        "steps": 200,
        "best_step": 100,
        "best": {"fid": 3.0, "kid": 0.1, "kid_std": 0.01, "raw/fid": 5.0},
        "final": {"fid": 4.0, "kid": None},
        "protocol": RULER,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    for key, label, sha in (
        ("papers_11", "papers", "abc"),
        ("papers_22", "papers", "abc"),
        ("quick_33", "quick", "abc"),
    ):
        record = {
            "key": key,
            "protocol": label,
            "values": {"fid": int(key[-2:]), "kid_std": 0.1},
            "settings": {"n_generated": 50000},
        }
        record["subject"] = {"sha256": sha, "seed": 0, "draws": 1}
        path = folder / "evaluations" / key / "step_100.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    return folder


def test_what_training_measured_of_a_generator_is_its_steps(run):
    assert measured(run, 100, "abc") == fid(3.0)
    assert measured(run, 200, "abc") == fid(4.0)
    assert measured(run, 100, "abc", raw=True) == fid(5.0)
    assert measured(run, 100, "abc", metric="kid") == Measured("kid", 0.1, RULER)
    assert math.isnan(measured(run, 200, "abc", metric="kid").value)


def test_an_evaluation_is_that_of_this_generator_and_names_its_ruler(run):
    found = measured(run, 100, "abc", metric="quick/fid")
    assert found == Measured("fid", 33.0, {"n_generated": 50000, "seed": 0, "draws": 1})
    assert measured(run, 100, "abc", metric="papers_22/fid").value == 22.0


@pytest.mark.parametrize(
    ("step", "digest", "metric", "said"),
    [
        (150, "abc", None, "100 and 200"),
        (100, "abc", "fidd", "did you mean 'fid'"),
        (100, "abc", "papers/fid", "papers_11/fid, papers_22/fid"),
        (100, "abc", "quick/kid_std", "(valid: papers_11/fid, papers_22/fid, quick/fid"),
        (100, "abc", "quick/kid", "valid: papers_11/fid, papers_22/fid, quick/fid"),
        (100, "another", "quick/fid", "none yet"),
    ],
)
def test_a_metric_that_was_not_measured_is_refused_with_the_choices(run, step, digest, metric, said):
    with pytest.raises(UserError, match=said.replace("(", "\\(")):
        measured(run, step, digest, metric=metric)


def test_a_module_that_no_package_has_is_named_before_anything_is_logged(tmp_path):
    with pytest.raises(UserError, match=r"needs my_layers, .* trusted=\[...,my_layers.\]"):
        log_model(None, tmp_path, "0", packages=["my_layers"])


def test_models_beyond_the_first_page_are_known_too():
    pages = {None: ("one", "second"), "second": ("another", "third"), "third": ("last", None)}
    asked = []

    def search(page_token=None):
        asked.append(page_token)
        name, token = pages[page_token]
        return Page([SimpleNamespace(name=name)], token)

    assert models(SimpleNamespace(search_registered_models=search)) == ["another", "last", "one"]
    assert asked == [None, "second", "third"]


class Page(list):
    """MLflow's list with a token for what follows."""

    def __init__(self, items, token):
        super().__init__(items)
        self.token = token


@pytest.mark.parametrize("value", ["-Infinity", "Infinity", "NaN", "true", "[1]", '"low"'])
def test_what_is_no_finite_number_makes_no_champion(run, value):
    summary = json.loads((run / "summary.json").read_text()) | {"best": {"fid": json.loads(value)}}
    (run / "summary.json").write_text(json.dumps(summary))
    assert math.isnan(measured(run, 100, "abc").value)


@pytest.mark.parametrize("text", ["[1]", "{", '{"steps": 100}', '{"steps": 100, "final": [], "primary": "fid"}'])
def test_a_record_of_another_kind_tells_of_no_value(run, text):
    (run / "summary.json").write_text(text)
    (run / "evaluations" / "papers_11" / "step_100.json").write_text(text)
    with pytest.raises(UserError, match="papers/fid, quick/fid"):
        measured(run, 100, "abc")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a:b", "-x", "x" * 101, "latest", "best", "a b", "a\n"])
def test_a_name_that_is_no_models_is_refused(name):
    with pytest.raises(UserError, match="register="):
        check_name(name)


def test_a_registered_generator_is_found_loaded_and_the_same(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client, experiment = prepare_store(tmp_path / "store", "gantry")
    run = client.create_run(experiment).info.run_id
    worse, better = generator(tmp_path / "worse", 1), generator(tmp_path / "better", 2)
    other = generator(tmp_path / "other", 3, "mlp")
    import mlflow

    before = mlflow.get_tracking_uri()
    capfd.readouterr()
    results = [
        register(client, "digits", worse, experiment, run, fid(3.0), {"variant": "dcgan"}),
        register(client, "digits", better, experiment, None, fid(2.0)),
        register(client, "digits", other, experiment, None, fid(0.1, split="test")),
        register(client, "digits", worse, experiment, run, fid(2.5)),
    ]
    assert capfd.readouterr() == ("", "")
    assert mlflow.get_tracking_uri() == before
    assert [(one.version, one.new, one.champion) for one in results] == [
        ("1", True, True),
        ("2", True, True),
        ("3", True, False),
        ("1", False, False),
    ]
    assert client.get_run(run).info.status == "RUNNING"
    assert client.get_model_version("digits", "1").run_id == run
    assert [output.model_id for output in client.get_run(run).outputs.model_outputs]

    for name, files in (("digits", better), ("models:/digits@champion", better), ("models:/digits/3", other)):
        folder = find_model(client, name, tmp_path / "cache")
        assert {path.name for path in folder.iterdir()} == {"generator.safetensors", "generator.json"}
        assert ExportedFiles(folder, TRUSTED).digest() == files.digest()
    for name, said in (("nobody", "there are: digits"), ("models:/digits/9", "@champion, /1, /2, /3")):
        with pytest.raises(UserError, match=said):
            find_model(client, name, tmp_path / "cache")
    (folder / WEIGHTS).write_bytes(b"another store's")
    assert ExportedFiles(find_model(client, "models:/digits/3", tmp_path / "cache"), TRUSTED).digest() == other.digest()

    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/digits@champion")
    finally:
        mlflow.set_tracking_uri(None)
    asked = [{"seed": 3, "n": 70, "truncation": 0.7}, {"seed": 4}, {"seed": 4, "n": 10, "format": "grid"}]
    many, one, grid = model.predict(asked)
    assert np.array_equal([pixels(text) for text in many.images], drawn(better, 3, 70, 0.7))
    assert np.array_equal([pixels(text) for text in one.images], drawn(better, 4, 1))
    tiles = pixels(grid.images[0]).reshape(2, 16, 8, 16, 3).swapaxes(1, 2).reshape(16, 16, 16, 3)
    assert np.array_equal(tiles[:10], drawn(better, 4, 10))
    assert not tiles[10:].any()
    assert model.metadata.signature is not None
    assert model.metadata.saved_input_example_info is not None

    client.create_registered_model("empty")
    with pytest.raises(UserError, match="no version that is whole"):
        find_model(client, "empty", tmp_path / "cache")
    elsewhere, experiment = prepare_store(tmp_path / "elsewhere", "gantry")
    register(elsewhere, "digits", other, experiment)
    folders = [find_model(one, "models:/digits/1", tmp_path / "cache") for one in (client, elsewhere)]
    assert [ExportedFiles(one, TRUSTED).digest() for one in folders] == [worse.digest(), other.digest()]

    (tmp_path / "foreign").mkdir()
    client.create_registered_model("foreign")
    client.create_model_version("foreign", (tmp_path / "foreign").as_uri())
    (weights,) = (
        path
        for path in (tmp_path / "store").rglob(WEIGHTS)
        if path.read_bytes() == (other.folder / WEIGHTS).read_bytes()
    )
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    for name, said in (("foreign", "holds no generator"), ("models:/digits/3", "not those registered")):
        with pytest.raises(UserError, match=said):
            find_model(client, name, tmp_path / "another cache")
