"""Files from elsewhere: what they hold is data, and none of it runs."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile_files import row
from project import ROOT

from gantry.core.errors import UserError
from gantry.core.safe_load import load_plain
from gantry.data.sample_files import samples
from gantry.runs import checkpoint_files
from gantry.runs.find_generators import _fetched, find_generators
from gantry.runs.folder import RUN_FILE
from gantry.runs.generators import GeneratorFiles
from gantry.runs.run_config import data_config
from gantry.training.callbacks.checkpointing import DurableIO


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.touched}",)


@pytest.fixture
def payload(tmp_path):
    """A payload shown to work: plain unpickling runs it."""
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Payload(touched)))
    assert touched.exists()
    touched.unlink()
    return Payload(touched)


def pickles(payload):
    """The payload as each kind of file that `torch.load` or numpy's may read, by name."""
    yield "zip.ckpt", lambda path: torch.save({"state_dict": payload, "global_step": 1}, path)
    yield "legacy.ckpt", lambda path: torch.save({"a": payload}, path, _use_new_zipfile_serialization=False)
    for protocol in (0, 2, pickle.HIGHEST_PROTOCOL):
        yield f"bare{protocol}.ckpt", lambda path, p=protocol: path.write_bytes(pickle.dumps({"a": payload}, p))


def planted(run, content):
    """The best checkpoint of a run as an attacker would write it, its name in order."""
    checkpoint_files.mark_best(run, checkpoint_files.write(run, 3, content))
    (best,) = checkpoint_files.found(run, checkpoint_files.BEST)
    return best.path


# --- pickles ---


def test_a_pickle_with_a_payload_is_refused_wherever_tensors_are_read(payload, tmp_path, exported, record_property):
    run = exported.parents[1]
    readers = (
        lambda path: DurableIO(run).load_checkpoint(path),
        lambda path: GeneratorFiles(run, "best", True, ()).step(),
        lambda path: load_plain(path, "it"),
    )
    refused = 0
    for name, write in pickles(payload):
        write(tmp_path / name)
        checkpoint = planted(run, (tmp_path / name).read_bytes())
        for read in readers:
            with pytest.raises(UserError, match="cannot be read") as failure:
                read(checkpoint)
            assert "weights_only" not in str(failure.value)
            refused += 1
    assert not payload.touched.exists()
    record_property("fault", row("a pickle with a payload as a checkpoint", refused))


def test_a_pickle_with_a_payload_is_refused_as_weights(payload, tmp_path, record_property):
    from gantry.evaluation.extractors.networks import clip, inception, vgg16

    refused = 0
    for name, write in pickles(payload):
        write(tmp_path / name)
        for extractor in (inception, vgg16, clip):
            with pytest.raises(UserError, match=name):
                extractor(weights=str(tmp_path / name))
            refused += 1
    assert not payload.touched.exists()
    record_property("fault", row("a pickle with a payload as an extractor's weights", refused))


def test_a_pickle_with_a_payload_as_a_cached_classifier_is_trained_anew(payload, tmp_path):
    from gantry.evaluation.extractors.classifier import _load

    path = tmp_path / "classifier.safetensors"
    for _, write in pickles(payload):
        write(path)
        assert _load(torch.nn.Linear(1, 1), path) is None
    assert not payload.touched.exists()


def test_a_pickle_with_a_payload_is_refused_as_images(payload, tmp_path, record_property):
    objects = np.array([payload], object)
    np.save(tmp_path / "bare.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "zip.npz", images=objects)
    np.savez(tmp_path / "labels.npz", images=np.zeros((1, 8, 8), np.uint8), labels=objects)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(payload))
    with zipfile.ZipFile(tmp_path / "pickle.npz", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(payload))
    names = ("bare.npy", "zip.npz", "labels.npz", "pickle.npy", "pickle.npz")
    for name in names:
        with pytest.raises(UserError, match=name):
            samples(tmp_path / name, tmp_path / "cache", (1, 8, 8))
    assert not payload.touched.exists()
    record_property("fault", row("a pickle with a payload as images", len(names)))


def test_what_is_refused_is_not_recommended_to_be_run(payload, tmp_path):
    torch.save({"a": payload}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"holds a Python object \(\w+\.system\), which can run code") as failure:
        load_plain(tmp_path / "a.ckpt", "the checkpoint")
    assert "False" not in str(failure.value)  # torch's advice: weights_only=False


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            {"_target_": "os.system", "command": "touch harm"},
            r"names os\.system .* defined in gantry\.data\., their_data\.",
        ),
        (
            {"_target_": "gantry.data.image_folder.os.system", "command": "touch harm"},
            "there is no 'os' in gantry.data.image_folder",
        ),
        ({"_target_": "their_data.os.system", "command": "touch harm"}, r"their_data\.os\.system"),
        ({"_target_": "their_data.system", "command": "touch harm"}, r"their_data\.system"),
        ({"_target_": "their_data.stripes", "inner": [{"_target_": "os.system"}]}, r"names os\.system"),
        ({"_target_": "gantry.data.sources.digits", "name": "${oc.env:HOME}"}, r"data\.name is \$\{oc\.env:HOME\}"),
        ({"_target_": {"_target_": "os.system"}}, "has no _target_"),
        ("digits", "has no _target_"),
    ],
)
def test_a_runs_config_chooses_among_our_own_data(tmp_path, monkeypatch, data, why):
    (tmp_path / "their_data.py").write_text("import os\nfrom os import system\ndef stripes(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data}))
    with pytest.raises(UserError, match=why):
        data_config(tmp_path, ["their_data."])
    (tmp_path / "config.yaml").write_text(json.dumps({"data": {"_target_": "their_data.stripes", "flip": True}}))
    assert data_config(tmp_path, ["their_data"]) == {"_target_": "their_data.stripes", "flip": True}


@pytest.mark.parametrize(
    "listing",
    [
        {"generator": ["generator/../../evil"]},
        {"generator": ["../evil"]},
        {"generator": ["/evil"]},
        {"generator": ["generator/sub/"], "generator/sub": ["generator/sub/../../../evil"]},
    ],
)
def test_a_servers_names_of_files_stay_in_the_runs_folder(tmp_path, listing):
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    def entry(path):
        return FileInfo(
            path.replace("/evil", f"{tmp_path}/evil") if path[0] == "/" else path.rstrip("/"), path[-1] == "/", 3
        )

    class Hostile(ArtifactRepository):
        log_artifact = log_artifacts = None

        def list_artifacts(self, path=None):
            return [entry(name) for name in (listing.get(path, []) if path else ["generator/", "config.yaml"])]

        def _download_file(self, remote_file_path, local_path):
            Path(local_path).write_text("{}")

    server = Hostile("s3://bucket/run")
    client = SimpleNamespace(
        list_artifacts=lambda run: server.list_artifacts(),
        download_artifacts=lambda run, path, to: server.download_artifacts(path, to),
    )
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=r"cannot be fetched from MLflow: .*outside"):
        _fetched(SimpleNamespace(client=client), "1234abcd", tmp_path / "in", "run")
    with pytest.raises(UserError, match="not an id of MLflow's"):
        _fetched(SimpleNamespace(client=client), "../../x", tmp_path / "in", "run")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != "config.yaml"] == []


def test_a_stores_word_for_where_a_run_is_is_checked(tmp_path, exported):
    other = exported.parents[1]  # a run of another id
    (other / "config.yaml").write_text("data: {}")
    (other / RUN_FILE).write_text(json.dumps({"run_id": "mine"}))
    tags = {"gantry.folder": str(other)}
    client = SimpleNamespace(list_artifacts=lambda run: [])
    data = SimpleNamespace(tags=tags)
    store = SimpleNamespace(
        get=lambda name: SimpleNamespace(info=SimpleNamespace(run_id=name), data=data), client=client
    )
    with pytest.raises(UserError, match="has logged no generator"):
        find_generators(["theirs"], lambda: store, tmp_path / "cache")
    assert find_generators(["mine"], lambda: store, tmp_path / "cache")[0].folder == other


def test_a_raw_generator_of_another_checkpoint_is_named(exported):
    run = exported.parents[1]
    for state in ({}, {"state_dict": 3}, {"state_dict": {"generator.x": torch.zeros(1)}}, [1], {"state_dict": {1: 2}}):
        content = io.BytesIO()
        torch.save(state, content)
        planted(run, content.getvalue())
        with pytest.raises(UserError, match=r"checkpoint .*best_0000003_"):
            GeneratorFiles(run, "best", True, ("gantry.models.networks.",)).load()
        with pytest.raises(UserError, match=r"checkpoint .*best_0000003_"):
            GeneratorFiles(run, "best", True, ()).step()


# --- secrets ---


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[], ["-m"]])
@pytest.mark.parametrize("away", [False, True])
def test_no_secret_is_in_anything_a_run_leaves(tmp_path, cache, record_property, sweep, away):
    planted = {"MLFLOW_TRACKING_PASSWORD": "planted-in-the-environment", "HF_TOKEN": "planted-in-the-config"}
    words = ["experiment=smoke", "model.generator.width=8", "tracking.close_timeout=1"]
    words += ["tracking.run_name=${oc.env:HF_TOKEN}"]
    words += ["tracking.uri='http://me:planted-in-the-address@127.0.0.1:9/?token=planted-in-the-query'"] * away
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *sweep, *words],
        cwd=tmp_path,
        env=os.environ | planted | {"GANTRY_CACHE": str(cache)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "params.json", "train.log"} <= {path.name for path in files}
    holding = {str(path.relative_to(tmp_path)) for path in files if b"planted-in" in path.read_bytes()}
    assert holding == set()
    assert sweep or b"planted-in" not in done.stdout + done.stderr  # a sweep tells its jobs apart as they were typed
    record_property("fault", row("a password or token in the address, environment or config", len(planted) + 2 * away))
