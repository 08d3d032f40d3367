"""`python train.py` itself: what a run leaves behind, for every variant, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from project import COMMON, EACH, ROOT, widths
from stored_runs import run_of

from gantry.core.errors import UserError
from gantry.models.labels import taken_by
from gantry.models.module import GAN
from gantry.runs import checkpoint_files
from gantry.runs.generator_files import load_generator
from gantry.runs.tracking.tracker import Trackers
from gantry.training import run as entry


def process(*arguments, **options):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


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


def test_a_failing_run_says_why(cli, monkeypatch, tmp_path, store, capsys):
    def fail(self, batch, batch_idx):
        raise RuntimeError("the critic has left")

    monkeypatch.setattr(GAN, "training_step", fail)
    assert cli("experiment=smoke") == 1
    _, run = run_of(store, tmp_path / "run")
    assert run.info.status == "FAILED"
    assert "the critic has left" in run.data.tags["gantry.reason"]
    assert "the critic has left" in capsys.readouterr().err


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
