"""Files from elsewhere: what they hold is data, and none of it runs."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from project import ROOT
from safetensors.torch import save_file

from gantry.core.errors import UserError
from gantry.core.safe_load import load_plain
from gantry.data.image_folder import image_folder
from gantry.data.sample_files import samples
from gantry.models.networks.dcgan import Generator
from gantry.runs import checkpoint_files
from gantry.runs.find_generators import _fetched, find_generators
from gantry.runs.folder import RUN_FILE
from gantry.runs.generator_files import load_generator, save_generator
from gantry.runs.generator_metadata import GENERATOR_CONFIG, WEIGHTS, exported_step
from gantry.runs.generators import GeneratorFiles
from gantry.runs.run_config import data_config
from gantry.training.callbacks.checkpointing import DurableIO

DCGAN = {"_target_": "gantry.models.networks.dcgan.Generator", "z_dim": 4, "image_shape": [1, 8, 8], "width": 2}


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


@pytest.fixture
def exported(tmp_path):
    """An exported generator's folder."""
    arguments = {key: value for key, value in DCGAN.items() if key != "_target_"}
    save_generator(tmp_path / "run/generator/best", Generator(**arguments), DCGAN, 3)
    return tmp_path / "run/generator/best"


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
    record_property("fault", _row("a pickle with a payload as a checkpoint", refused))


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
    record_property("fault", _row("a pickle with a payload as an extractor's weights", refused))


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
    record_property("fault", _row("a pickle with a payload as images", len(names)))


def test_what_is_refused_is_not_recommended_to_be_run(payload, tmp_path):
    torch.save({"a": payload}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"holds a Python object \(\w+\.system\), which can run code") as failure:
        load_plain(tmp_path / "a.ckpt", "the checkpoint")
    assert "False" not in str(failure.value)  # torch's advice: weights_only=False


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
    before = _resident()
    with pytest.raises(UserError, match=why):
        load_generator(exported)
    assert _resident() - before < 100 * 2**20


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


# --- images ---


COLOURS = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
RGB = Image.fromarray(COLOURS)
TURNED = Image.Exif()
TURNED[0x0112] = 6
UNUSUAL = {  # each has one meaning, and is taken
    "animated.gif": lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)] * 3),
    "animated.png": lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)] * 3),
    "animated.webp": lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)], lossless=True),
    "sixteen.png": lambda path: Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(path),
    "palette.png": lambda path: RGB.quantize(8).save(path, transparency=0),
    "cmyk.jpg": lambda path: RGB.convert("CMYK").save(path),
    "turned.jpg": lambda path: RGB.save(path, exif=TURNED),
    "misnamed.jpg": lambda path: RGB.save(path, "PNG"),
}
IMPOSSIBLE = {  # and why they are refused
    "empty.png": (lambda path: path.touch(), "cannot identify image file"),
    "text.png": (lambda path: path.write_text("no image"), "cannot identify image file"),
    "cut.png": (lambda path: path.write_bytes(_png(RGB)[:-40]), "cannot identify|truncated|broken"),
    "bomb.png": (lambda path: path.write_bytes(bomb(10_000)), "decompression bomb|exceeds limit"),
    "float.tif": (lambda path: Image.fromarray(np.zeros((8, 8), np.float32)).save(path), "no fixed range"),
    "pipe.png": (os.mkfifo, "no regular file"),
    "device.png": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "itself.png": (lambda path: path.symlink_to(path), "symbolic links"),
    "nowhere.png": (lambda path: path.symlink_to(path.with_name("not-there")), "No such file"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_image_is_taken(tmp_path, name):
    UNUSUAL[name](tmp_path / name)
    for images in (
        image_folder(folder=str(tmp_path), cache=tmp_path / ".cache", image_size=8),
        samples(tmp_path, tmp_path / ".cache", (3, 8, 8)),
    ):
        assert images.images.shape == (1, 3, 8, 8)
        if name in ("animated.png", "animated.webp", "misnamed.jpg"):  # of an animation, the first frame
            assert (images.images[0] == COLOURS.transpose(2, 0, 1)).all()


def test_impossible_images_are_refused_by_name_or_left_out_and_counted(tmp_path, record_property):
    RGB.save(tmp_path / "sound.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    before = _resident()
    for name, (write, why) in IMPOSSIBLE.items():
        write(tmp_path / name)
        with pytest.raises(
            UserError, match=rf"1 of 2 images in .* cannot be read:\n  {name}: .*({why})(.|\n)*skip_unreadable"
        ):
            image_folder(folder=str(tmp_path), cache=tmp_path / ".cache", image_size=8)
        with pytest.raises(UserError, match=rf"1 of 2 images .*\n?.*({why}|10000x10000)"):
            samples(tmp_path, tmp_path / ".cache", (3, 8, 8))
        found = image_folder(folder=str(tmp_path), cache=tmp_path / ".cache", image_size=8, skip_unreadable=True)
        assert (len(found), found.skipped) == (1, 1)
        (tmp_path / name).unlink()
    assert _resident() - before < 100 * 2**20
    record_property("fault", _row("images that are none: cut, bombs, pipes, loops", 2 * len(IMPOSSIBLE)))


def test_a_folder_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"data\.folder=.*loop"):
        image_folder(folder=str(tmp_path / "loop"), cache=tmp_path)
    with pytest.raises(UserError, match=r"images=.*loop"):
        samples(tmp_path / "loop", tmp_path, (3, 8, 8))
    with pytest.raises(UserError, match=r"data\.folder=~no-such-user"):
        image_folder(folder="~no-such-user/x", cache=tmp_path)


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
    record_property("fault", _row("a password or token in the address, environment or config", len(planted) + 2 * away))


def bomb(side):
    """A PNG whose head promises a square of this side."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return _png(RGB)[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + _png(RGB)[33:]


def _png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _row(fault: str, injected: int) -> dict[str, object]:
    return {"fault": fault, "injected": injected, "happened": "refused, nothing ran", "lost": "nothing"}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
