"""`resume=<run>/checkpoints/<file>` begins a new run there, and leaves the old one as it is."""

import hashlib
import json
import os
import shutil
import sys

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf
from project import VARIANTS
from safetensors.torch import load_file

from gantry.commands import train
from gantry.commands.arguments import run_arguments
from gantry.core.config.typed import plain
from gantry.core.errors import UserError
from gantry.runs import checkpoint_files
from gantry.runs.find_checkpoint import find_checkpoint

SHORT = [
    "experiment=smoke",
    "steps=3",
    "batch_size=8",
    "max_images=64",
    "metrics.n_generated=16",
    "metrics.every=2",
    "log_every=1",
]
NARROW = ["model=dcgan", "model.generator.width=4", "model.discriminator.width=4"]
KEPT = ["checkpoint.every=1", "checkpoint.keep=9"]
VARYING = ("time", "images_per_second", "training_seconds", "evaluation_seconds", "peak_memory_mib")


@pytest.fixture
def cli(monkeypatch, tmp_path, cache):
    """Run train.py's main in this process, in a folder of its own; returns the exit code."""

    def run(*overrides):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", f"paths.cache={cache}", *overrides])
        try:
            train.main()
        except SystemExit as error:
            return error.code
        return 0

    return run


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(folder, after):
    """Return what a run logged after a step, without what depends on the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in one.items() if key not in VARYING and not key.startswith("best/")}
        for one in found
        if one["step"] > after
    ]


def weights(folder, step):
    (found,) = [one for one in checkpoint_files.found(folder, "step") if one.step == step]
    state = torch.load(found.path, weights_only=True)
    return state["state_dict"] | {f"optimizer {i}": one for i, one in enumerate(state["optimizer_states"])}


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


FAST = ("dcgan", "wgan_gp")  # the others take a minute more


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS]
)
def test_the_new_run_does_what_the_old_one_did_from_there(variant, cli, tmp_path):
    assert cli(*SHORT, *KEPT, f"model={variant}", "tracking=none", "hydra.run.dir=old") == 0
    old = tmp_path / "old"
    before = digests(old)
    (begun,) = [one for one in checkpoint_files.found(old, "step") if one.step == 1]
    assert cli(f"resume=old/checkpoints/{begun.path.name}", "hydra.run.dir=new") == 0
    new = tmp_path / "new"
    assert digests(old) == before
    for step in (2, 3):
        assert same(weights(old, step), weights(new, step)), step
    assert all(one["step"] > 1 for one in lines(new, -1))
    assert lines(new, 1) == lines(old, 1)
    last = [load_file(folder / "generator/last/generator.safetensors") for folder in (old, new)]
    assert same(*last)
    assert (new / "generator/best/generator.safetensors").exists()


def test_it_is_recorded_where_it_began_and_goes_on_by_itself(cli, tmp_path, capsys):
    assert cli(*SHORT, *KEPT, *NARROW, "hydra.run.dir=old") == 0
    old = tmp_path / "old"
    (begun,) = [one for one in checkpoint_files.found(old, "step") if one.step == 2]
    capsys.readouterr()
    assert cli(f"resume={begun.path}", "steps=4") == 0
    assert f"begins at step 2 of {old}, {begun.path.name}, steps 3 -> 4" in capsys.readouterr().out
    (new,) = tmp_path.glob("outputs/*/*_dcgan_digits")
    old_run, new_run = (json.loads((folder / "mlflow_run.json").read_text())["run_id"] for folder in (old, new))
    told = {
        "gantry.began.folder": str(old),
        "gantry.began.run": old_run,
        "gantry.began.checkpoint": begun.path.name,
        "gantry.began.step": "2",
    }
    assert json.loads((new / "tags.json").read_text()).items() >= told.items()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    run = client.get_run(new_run)
    assert new_run != old_run
    assert run.data.tags.items() >= told.items()
    assert run.data.params.items() >= {"began.checkpoint": begun.path.name, "began.step": "2"}.items()
    assert run.info.status == client.get_run(old_run).info.status == "FINISHED"
    assert "gantry.resumed" not in client.get_run(old_run).data.tags
    # The measurement at that step is its first, and the best until a better one.
    first = json.loads((new / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 2
    assert first["best/fid_classifier"] == first["fid_classifier"]
    shutil.rmtree(old)
    assert cli(f"resume={new}", "steps=5") == 0
    assert "continues at step 4" in capsys.readouterr().out
    assert json.loads((new / "tags.json").read_text()).items() >= told.items()
    assert client.get_run(new_run).data.tags.items() >= told.items()


def test_a_run_stopped_before_its_first_step_still_begins_there(cli, tmp_path, monkeypatch):
    assert cli(*SHORT, *KEPT, *NARROW, "tracking=none", "hydra.run.dir=old") == 0
    (begun,) = [one for one in checkpoint_files.found(tmp_path / "old", "step") if one.step == 2]

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gantry.commands.train.train", stopped)
        assert cli(f"resume={begun.path}", "hydra.run.dir=new") == 130
    assert cli("resume=new") == 0
    assert same(weights(tmp_path / "old", 3), weights(tmp_path / "new", 3))
    assert (tmp_path / "new/generator/best/generator.safetensors").exists()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with one checkpoint, without a run."""
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(["model=wgan", "resume=elsewhere", "steps=9"]), folder / ".hydra/overrides.yaml")
    checkpoint_files.write(folder, 7, b"state")
    (folder / "generator/best").mkdir(parents=True)
    (folder / "generator/best/generator.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_command_line_is_the_runs_with_a_folder_of_its_own(run):
    (checkpoint,) = checkpoint_files.found(run)
    words = run_arguments([f"resume={checkpoint.path.relative_to(run.parent)}", "steps=12"])
    assert words[:2] == ["model=wgan", "steps=12"]
    assert plain(words[2].partition("=")[2]) == str(checkpoint.path)
    assert len(words) == 3


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run/checkpoints", "a folder inside a run's"),
        ("run/generator/best", "a folder inside a run's"),
        ("run/generator/best/generator.safetensors", "a generator alone"),
        ("run/checkpoints/step_0000009_0123456789abcdef.ckpt", "no such file"),
        ("run/checkpoints/epoch=3.ckpt", "no checkpoint of a run"),
        ("run/checkpoints/step_0000008_0123456789abcdef.ckpt", "it is damaged"),
        ("run/checkpoints/step_0000006_0123456789abcdef.damaged", "it is damaged, and was set aside"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_those_of_the_run_around_it(run, word, said):
    for name in ("epoch=3.ckpt", "step_0000008_0123456789abcdef.ckpt", "step_0000006_0123456789abcdef.damaged"):
        (run / "checkpoints" / name).write_bytes(b"other")
    with pytest.raises(UserError) as refused:
        run_arguments([f"resume={word}"])
    (sound,) = [one for one in checkpoint_files.found(run) if one.step == 7]
    assert f"resume={word}: {said}" in str(refused.value)
    assert "the run around it goes on by resume=run\n" in str(refused.value)
    assert f"  resume=run/checkpoints/{sound.path.name}" in str(refused.value)


def test_a_foreign_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model.ckpt", "weights.safetensors", "step_0000008_0123456789abcdef.ckpt", "notes.txt"):
        (tmp_path / name).write_bytes(b"other")
        with pytest.raises(UserError, match=r"resume=<run>/checkpoints/<file> begins a new one from there"):
            find_checkpoint(name)


def test_a_word_is_no_file_even_inside_a_run(run, monkeypatch):
    monkeypatch.chdir(run)
    assert find_checkpoint("latest") is None
    assert find_checkpoint(".") is None
    assert find_checkpoint(os.pardir) is None


def test_the_last_step_another_config_and_a_taken_folder_are_refused(cli, tmp_path, capsys):
    assert cli(*SHORT, *NARROW, "tracking=none", "hydra.run.dir=old", "checkpoint.every=2") == 0
    steps = {one.step: one.path for one in checkpoint_files.found(tmp_path / "old", "step")}
    before = digests(tmp_path / "old")
    for words, said in (
        ([f"resume={steps[3]}"], "steps=3: the checkpoint is of step 3; give more steps"),
        ([f"resume={steps[2]}", "seed=4"], "seed: was 0, is 4"),
        ([f"resume={steps[2]}", "hydra.run.dir=old"], "old already holds a run"),
        (["-m", f"resume={steps[2]}"], "a sweep is taken up with sweep.resume="),
    ):
        assert cli(*words) == 2
        assert said in capsys.readouterr().err
    assert digests(tmp_path / "old") == before
