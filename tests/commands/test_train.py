"""`python train.py` itself: what a run leaves behind, for every variant, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from project import COMMON, EACH, ROOT, widths

from gantry.commands import train
from gantry.core.errors import UserError
from gantry.models.labels import taken_by
from gantry.models.module import GAN
from gantry.runs import checkpoint_files
from gantry.runs.generator_files import load_generator
from gantry.runs.tracking.tracker import Trackers
from gantry.training import run as entry


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One tracking store for the module: its tables take seconds to make."""
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture
def arguments(tmp_path, cache, store):
    """The overrides that keep a run's files in temporary folders."""
    return [f"paths.root={tmp_path}", f"paths.cache={cache}", f"tracking.uri={store}", f"hydra.run.dir={tmp_path}/run"]


@pytest.fixture
def cli(monkeypatch, tmp_path, arguments):
    """Run train.py's main in this process; returns the exit code."""

    def run(*overrides):
        monkeypatch.chdir(tmp_path)
        tracked = "tracking=none" not in overrides
        mine = [argument for argument in arguments if tracked or not argument.startswith("tracking.")]
        monkeypatch.setattr(sys, "argv", ["train.py", *mine, *overrides])
        try:
            train.main()
        except SystemExit as error:
            return error.code
        return 0

    return run


def process(*arguments, **options):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def runs(store):
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("gantry")
    return client, client.search_runs([experiment.experiment_id]) if experiment else []


def run_of(store, folder):
    client, found = runs(store)
    (run,) = [run for run in found if run.data.tags.get("gantry.folder") == str(folder)]
    return client, run


def test_without_a_number_of_devices_a_run_has_one(cli, tmp_path):
    assert cli("experiment=smoke", "tracking=none", "steps=1", "metrics.n_generated=16", "~trainer.devices") == 0
    assert "devices: 1" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize("variant", EACH)
def test_a_smoke_run_leaves_everything_a_run_leaves(variant, cli, tmp_path, store, capsys, config):
    assert cli("experiment=smoke", f"model={variant}", *widths(variant, 8), "metrics.raw=true", "batch_size=16") == 0
    folder = tmp_path / "run"

    summary = json.loads((folder / "summary.json").read_text())
    model = config(f"model={variant}", *widths(variant, 8)).model
    n_critic = model.n_critic
    batches = n_critic + (model.get("generator_reals") == "next")
    assert (summary["steps"], summary["images"]) == (4, 4 * batches * 16)
    text = capsys.readouterr().out
    for word in ("fid_classifier", "a second", "mlflow ui --backend-store-uri", "train.py -m"):
        assert word in text
    begun = f"{variant} on digits: 4 generator steps, {4 * batches * 16} real images, measured every 2\ntime left: "
    assert begun in text
    assert "\noutput in run, its pictures in samples\n" in text
    assert text.splitlines()[-1] == f"look at    run/samples/{summary['best_step']:07d}.png"

    grids = sorted((folder / "samples").glob("*.png"))
    assert [path.name for path in grids] == ["0000000.png", "0000002.png", "0000004.png"]
    grid = np.asarray(Image.open(grids[-1]))
    assert grid.dtype == np.uint8
    assert grid.std() > 1
    kept = checkpoint_files.found(folder, checkpoint_files.STEP)
    assert [checkpoint.step for checkpoint in kept] == [4, 2]
    assert all(checkpoint.is_sound() for checkpoint in checkpoint_files.found(folder))
    (best,) = checkpoint_files.found(folder, checkpoint_files.BEST)
    assert best.step == summary["best_step"]
    generator = load_generator(folder / "generator" / "last")
    with torch.no_grad():
        labels = [torch.arange(3)] if "labels" in taken_by(generator) else []
        images = generator(torch.randn(3, 100 if variant in COMMON else model.z_dim), *labels)
    assert images.shape == (3, 1, 8, 8)
    assert images.abs().max() <= (1 if variant in COMMON else 10)  # some end without tanh
    checkpoint = torch.load(kept[0].path, weights_only=True)
    exported = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("averaged.module.")}
    assert all(torch.equal(generator.state_dict()[name[16:]], value) for name, value in exported.items())
    states = {name.split(".")[0] for name in checkpoint["state_dict"]}
    assert states - {"augment", "_terms"} == {"generator", "discriminator", "averaged"}

    client, run = run_of(store, folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.n_critic"] == str(n_critic)
    assert run.data.tags["variant"] == variant
    assert run.data.tags["dataset"] == "digits"
    assert run.data.tags["seed"] == "0"
    assert run.data.tags["metrics.n_generated"] == "64"
    if (ROOT / ".git").exists():
        assert len(run.data.tags["git.commit"]) == 40
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "digits"
    history = client.get_metric_history(run.info.run_id, "fid_classifier")
    assert [point.step for point in history] == [0, 2, 4]
    seen = client.get_metric_history(run.info.run_id, "images_seen")
    assert [(point.step, point.value) for point in seen] == [(2, 32.0 * batches), (4, 64.0 * batches)]
    for name in ("loss/generator", "loss/discriminator", "score/real", "score/fake", "images_per_second"):
        assert np.isfinite(run.data.metrics[name]), name
    for name in ("final/fid_classifier", "best/fid_classifier", "raw/fid_classifier", "kid_classifier"):
        assert np.isfinite(run.data.metrics[name]), name
    assert "inception_score_classifier" in run.data.metrics
    assert "fid" not in run.data.metrics  # that name is Inception's on 50k images
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "environment.json", "generator", "images"} <= artifacts
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert sum("samples" in path and path.endswith(".png") for path in images) == 3


def test_measuring_does_not_change_what_is_trained(config, tmp_path):
    tags = {"variant": "dcgan", "dataset": "digits"}
    weights = []
    for name, every in (("often", 1), ("never", 100)):
        cfg = config(
            "experiment=smoke", f"metrics.every={every}", "model.generator.width=4", "model.discriminator.width=4"
        )
        (tmp_path / name).mkdir()
        entry.train(cfg, tmp_path / name, tags)
        weights.append(load_generator(tmp_path / name / "generator" / "last").state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_diverged_run_fails_and_names_what_is_not_finite(cli, tmp_path, capsys, store):
    assert cli("experiment=smoke", "model=wgan", "model.optimizer.lr=1e30") == 1
    said = capsys.readouterr().err
    assert "diverged" in said
    assert "generator" in said
    assert "Traceback" not in said
    _, run = run_of(store, tmp_path / "run")
    assert run.info.status == "FAILED"
    assert run.data.tags["gantry.reason"].startswith("diverged")
    assert all(checkpoint.is_sound() for checkpoint in checkpoint_files.found(tmp_path / "run"))


def test_training_needs_no_mlflow(tmp_path, cache):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "mlflow.py").write_text("raise ImportError('no mlflow here')\n")
    overrides = ["experiment=smoke", "tracking=none", f"paths.cache={cache}", f"hydra.run.dir={tmp_path}/run"]
    done = process(*overrides, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(blocked)})
    text = done.communicate(timeout=120)[0]
    assert done.returncode == 0, text
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "fid_classifier" in line] == [0, 2, 4]
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_is_killed_and_says_so(number, code, tmp_path, arguments, store):
    started = process("experiment=smoke", "steps=1000000", *arguments, cwd=tmp_path)
    record = tmp_path / "run" / "metrics.jsonl"
    deadline = time.time() + 120
    while not (record.exists() and record.read_text().count("\n") > 3):
        assert started.poll() is None, started.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.1)
    started.send_signal(number)
    text = started.communicate(timeout=60)[0]
    assert started.returncode == code, text
    assert "Traceback" not in text
    _, run = run_of(store, tmp_path / "run")
    assert run.info.status == "KILLED"
    assert signal.Signals(number).name in run.data.tags["gantry.reason"]
    assert load_generator(tmp_path / "run" / "generator" / "last")
    assert "final/fid_classifier" not in run.data.metrics


def test_a_signal_while_the_run_is_closed_does_not_leave_it_open(cli, monkeypatch, tmp_path, store):
    close = Trackers.close

    def disturbed(self, status, reason=None):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        close(self, status, reason)

    monkeypatch.setattr(Trackers, "close", disturbed)
    assert cli("experiment=smoke") == 0
    _, run = run_of(store, tmp_path / "run")
    assert run.info.status == "FINISHED"


def test_a_password_in_the_stores_address_is_written_nowhere(cli, tmp_path):
    uri = "tracking.uri=http://someone:hunter2@127.0.0.1:9"  # nothing listens there
    assert cli("experiment=smoke", uri, "tracking.close_timeout=1") == 0
    ours = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and ".hydra" not in path.parts]
    assert (tmp_path / "run" / "undelivered.jsonl") in ours
    assert not [path for path in ours if b"hunter2" in path.read_bytes()]


def test_a_finished_run_that_mlflow_has_not_heard_of_is_told_when_it_is_asked_for_again(cli, tmp_path, store, capsys):
    away = ["tracking.uri=http://127.0.0.1:9", "tracking.close_timeout=0"]  # nothing listens there
    assert cli("experiment=smoke", *away) == 0
    assert cli(f"resume={tmp_path}/run", f"tracking.uri={store}") == 0
    assert "is finished and kept" in capsys.readouterr().out
    client, run = run_of(store, tmp_path / "run")
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "fid_classifier")] == [0, 2, 4]


def test_a_folder_with_a_run_in_it_is_refused(cli, capsys):
    assert cli("experiment=smoke", "tracking=none") == 0
    assert cli("experiment=smoke", "tracking=none") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_failing_run_says_why(cli, monkeypatch, tmp_path, store, capsys):
    def fail(self, batch, batch_idx):
        raise RuntimeError("the critic has left")

    monkeypatch.setattr(GAN, "training_step", fail)
    assert cli("experiment=smoke") == 1
    _, run = run_of(store, tmp_path / "run")
    assert run.info.status == "FAILED"
    assert "the critic has left" in run.data.tags["gantry.reason"]
    assert "the critic has left" in capsys.readouterr().err


def folder_of(tmp_path, kind):
    folder = tmp_path / "pictures"
    if kind != "missing":
        folder.mkdir()
    if kind == "corrupt":
        for index in range(20):
            Image.new("RGB", (20, 20), (index, 0, 0)).save(folder / f"{index}.png")
        (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    return folder


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=dcgn"], ["dcgn", "wgan_gp"]),
        (["model.n_critc=5"], ["n_critc", "n_critic"]),
        (["steps=-5"], ["steps", "at least 1"]),
        (["steps=many"], ["steps", "many"]),
        (["batch_size=5000"], ["batch_size=5000", "1797"]),
        (["data.image_size=30"], ["data.image_size", "28, 32"]),
        (["experiment=smok"], ["smok", "smoke"]),
        (["model=wgan_gp", "model.discriminator.norm=batch"], ["GradientPenalty", "norm=none"]),
        (["model=wgan", "+model.discriminator.sigmoid=true"], ["sigmoid"]),
        (["metrics.every=0"], ["metrics.every", "at least 1"]),
        (["trainer.devices=2"], ["trainer.devices"]),
        (["trainer.accelerator=gpuu"], ["trainer.accelerator", "gpu"]),
        (["trainer.precision=64-true"], ["trainer.precision", "bf16-mixed"]),
        (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], ["trainer.precision=16-mixed", "bf16-mixed"]),
        (["+trainer.max_steps=3"], ["trainer.max_steps"]),
        (["+model.generator.z_dim=7"], ["model.generator.z_dim", "width"]),
        (["paths.cache="], ["paths.cache", "empty"]),
        (["tracking.experiment="], ["tracking.experiment", "empty"]),
        (["+metrics.evry=3"], ["metrics.evry", "every"]),
        (["+stepz=3"], ["stepz", "steps"]),
        (["~model.loss"], ["model.loss", "missing"]),
        (["metrics.extractor=inception"], ["metrics.extractor", "_target_"]),
        (["max_images=many"], ["max_images", "whole number"]),
        (["max_images=0"], ["max_images", "at least 1"]),
        (["metrics.raw=maybe"], ["metrics.raw", "true or false"]),
        (["metrics.n_generated=9"], ["metrics.n_generated", "at least 10"]),
        (["paths.cache=/dev/null/x"], ["paths.cache"]),
        (["tracking.uri=htp://there"], ["tracking.uri", "http"]),
        (["data=image_folder"], ["data.folder"]),
        (["data=image_folder", "data.folder={missing}"], ["pictures"]),
        (["data=image_folder", "data.folder={empty}"], ["pictures", "png"]),
        (["data=image_folder", "data.folder={corrupt}", "batch_size=4"], ["bad.png", "data.skip_unreadable=true"]),
    ],
)
def test_a_users_mistake_gets_one_clear_message_and_no_run(overrides, words, cli, tmp_path, store, capsys):
    for kind in ("missing", "empty", "corrupt"):
        if any(f"{{{kind}}}" in override for override in overrides):
            folder = folder_of(tmp_path, kind)
            overrides = [override.format(**{kind: folder}) for override in overrides]
    before = len(runs(store)[1]) if (store / "mlflow.db").exists() else 0
    code = cli(*overrides)
    message = capsys.readouterr().err
    assert code == 2, message
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert (len(runs(store)[1]) if (store / "mlflow.db").exists() else 0) == before


def test_an_output_folder_that_cannot_be_made(cli, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli(f"hydra.run.dir={tmp_path}/file/run") == 2
    message = capsys.readouterr().err
    assert "hydra.run.dir" in message
    assert "Traceback" not in message


def test_skipping_unreadable_images_is_counted_and_trains(cli, tmp_path, store, monkeypatch):
    folder = folder_of(tmp_path, "corrupt")
    data = ["data=image_folder", f"data.folder={folder}", "data.skip_unreadable=true", "data.image_size=8"]
    monkeypatch.setattr("gantry.evaluation.extractors.networks.inception", tiny_extractor)
    assert cli("experiment=smoke", *data, "batch_size=4", "model.generator.width=4") == 0
    _, run = run_of(store, tmp_path / "run")
    assert run.data.tags["dataset"] == "image_folder"
    assert run.data.tags["data.skipped"] == "1"
    assert np.isfinite(run.data.metrics["fid_mean-00000000_64"])


def test_a_zip_of_stylegan_trains_with_its_labels_and_says_what_it_holds(cli, tmp_path, store, monkeypatch, capsys):
    """Buckets of files are no classes; transparent and left-out files are counted, in print and on record."""
    names = [f"{number // 20:05d}/img{number:08d}.png" for number in range(60)]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number, name in enumerate(names):
            file = io.BytesIO()
            alpha = 128 if number < 5 else 255
            Image.new("RGBA", (16, 16), (120 * (number % 2), 60, 200, alpha)).save(file, "PNG")
            archive.writestr(name, file.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[name, i % 2] for i, name in enumerate(names)]}))
        archive.writestr("preview.heic", b"")
    monkeypatch.setattr("gantry.evaluation.extractors.networks.inception", tiny_extractor)
    data = ["data=image_folder", f"data.folder={tmp_path}/set.zip", "data.image_size=8"]
    assert cli("experiment=smoke", *data, "batch_size=4", "model.generator.width=4") == 0
    shown = capsys.readouterr().out
    assert "set: 60 images (all), 8x8 colour, 2 classes by dataset.json: 0 (30), 1 (30)\n" in shown
    assert "  from 60 PNG of 16x16\n  left out: 1 .heic\n  altered: 5 transparent, laid on white, 60 reduced\n" in shown
    held = json.loads((tmp_path / "run/summary.json").read_text())["data"]
    assert (held["images"], held["shape"], held["classes"]) == (60, [3, 8, 8], {"0": 30, "1": 30})
    assert held["reading"]["left_out"] == {".heic": 1}
    assert held["reading"]["altered"] == {"composited_on_ground": 5, "reduced": 60}
    _, run = run_of(store, tmp_path / "run")
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("data.")}
    assert tags == {
        "data.images": "60",
        "data.size": "8x8",
        "data.classes": "2 classes by dataset.json: 0 (30), 1 (30)",
        "data.files": "60 PNG of 16x16",
        "data.left_out": "1 .heic",
        "data.altered": "composited_on_ground 5, reduced 60",
    }


def tiny_extractor(*, device, **options):
    from gantry.evaluation.extractors.extractor import NetworkExtractor

    class Mean(torch.nn.Module):
        def forward(self, images):
            features = images.float().mean((2, 3))
            return features, features

    return NetworkExtractor(Mean(), name="mean", digest="0" * 64, resize="none", device=torch.device(device))


def test_a_new_variant_is_one_file_and_one_function(cli, tmp_path, monkeypatch):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "my_losses.py").write_text(
        "from gantry.models.losses import Losses\n"
        "def squared_hinge(real, fake, margin: float = 1.0):\n"
        "    gap = (margin - real).relu().square().mean() + (margin + fake).relu().square().mean()\n"
        "    return Losses(gap, -fake.mean())\n"
    )
    (tmp_path / "mine" / "model" / "my_gan.yaml").write_text(
        "defaults: [base, _self_]\nloss: {_target_: my_losses.squared_hinge, margin: 0.5}\nn_critic: 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert cli("experiment=smoke", "model=my_gan", "--config-dir", str(tmp_path / "mine")) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["images"] == 4 * 2 * 16


def test_the_guides_data_set_trains(cli, tmp_path, monkeypatch):
    guide = (ROOT / "docs" / "guides" / "add-a-dataset.md").read_text()
    code = guide.split("```python\n# my_data.py")[1].split("```")[0]
    yaml = guide.split("```yaml\n# conf/data/stripes.yaml\n")[1].split("```")[0]
    (tmp_path / "my_data.py").write_text("#" + code)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "stripes.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli("experiment=smoke", "data=stripes", "--config-dir", str(tmp_path / "mine")) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["dataset"] == "stripes"


def test_an_exported_config_cannot_choose_what_code_runs(tmp_path):
    from gantry.runs.generator_files import save_generator

    save_generator(tmp_path, torch.nn.Linear(1, 1), {"_target_": "subprocess.call", "args": ["true"]}, 0)
    with pytest.raises(UserError, match=r"subprocess\.call"):
        load_generator(tmp_path)
    with pytest.raises(UserError, match="no exported generator"):
        load_generator(Path(tmp_path / "nowhere"))
