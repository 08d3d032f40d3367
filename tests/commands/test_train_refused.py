"""`python train.py` where it cannot begin, and data of others: one clear message, or a run that says what it holds."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from stored_runs import run_of, runs


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
