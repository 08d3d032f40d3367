"""A new run begins with trained weights: which they are, what of them is taken, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from project import FEW_CODES, VARIANTS
from safetensors.torch import load_file
from small import NOISE
from test_resume import StopAt, history

from gantry.core.errors import UserError
from gantry.core.processes.signals import Stop
from gantry.runs import checkpoint_files
from gantry.runs.folder import read_params, read_values, write_status
from gantry.training import build
from gantry.training import run as training
from gantry.training.init_from.origin import check_classes, find_origin
from gantry.training.init_from.weights import lines, load_initial, read_initial
from gantry.training.model import build_model
from gantry.training.resume import check_unchanged, take_up
from gantry.training.rules import check_run

TINY = ["experiment=smoke", "steps=2", "model.z_dim=8", "data.image_size=16", "model.ema.half_life=16"]
FAST = ("dcgan", "sngan", "wgan_gp")  # the others take half a minute more
EACH = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS]
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
SIX = ["experiment=smoke", "model=wgan", *NARROW, "steps=6", "metrics.every=3", "checkpoint.keep=9"]


@pytest.fixture
def run(config, tmp_path, monkeypatch):
    """Train a run of these overrides in a folder of that name."""

    def run(name, *overrides, stop=None, start=None):
        monkeypatch.setattr(build, "AgreedStop", lambda _: Stop() if stop is None else StopAt(stop))
        (tmp_path / name).mkdir(exist_ok=True)
        cfg = config(*overrides)
        check_run(cfg)
        training.train(cfg, tmp_path / name, {"variant": "x", "dataset": "digits"}, start)
        return tmp_path / name

    return run


def at_step(folder, step):
    """The networks in a run's checkpoint of a step, as they are trained, measured and judged."""
    (path,) = {one.step: one.path for one in checkpoint_files.found(folder, "step") if one.step == step}.values()
    state = torch.load(path, weights_only=True)["state_dict"]
    return {part: {k: v for k, v in state.items() if k.startswith(part)} for part in ("gen", "dis", "ave")}


def pixels(folder, step):
    return np.asarray(Image.open(folder / "samples" / f"{step:07d}.png"))


def same(mine, theirs):
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def tiny(variant):
    """A variant's overrides with networks of a few channels."""
    narrow = [] if variant == "vanilla" else NARROW
    return [*TINY, f"model={variant}", *narrow, *FEW_CODES.get(variant, [])]


@pytest.mark.parametrize("variant", EACH)
def test_every_variant_begins_with_the_images_the_trained_generator_made(run, variant, capsys):
    source = run("source", *tiny(variant))
    said = capsys.readouterr().out
    assert "trained weights" not in said
    begun = run("begun", *tiny(variant), "checkpoint.keep=9", f"init_from={source}")
    assert np.array_equal(pixels(begun, 0), pixels(source, 2))
    assert pixels(begun, 0).std() > 1
    first, last = at_step(begun, 0), at_step(source, 2)
    assert same(first["dis"], last["dis"])
    assert same(first["ave"], last["ave"])
    average = {name.replace("averaged.module", "generator"): value for name, value in last["ave"].items()}
    assert same(first["gen"], average)
    assert not same(first["gen"], last["gen"])  # the average is another network
    said = capsys.readouterr().out
    assert f"begins with trained weights, at step 0: {source}/checkpoints/best_0000002" in said
    assert "  generator, averaged: all " in said
    assert "  discriminator: all " in said
    record = json.loads((begun / "init.json").read_text())
    best = checkpoint_files.newest(source, "best")
    assert (record["file"], record["step"], record["networks"]) == (str(best.path), 2, "all")
    assert record["sha256"].startswith(best.digest)
    assert record["generator"]["fresh"] == record["discriminator"]["fresh"] == []
    tags = read_values(begun / "tags.json")
    assert (tags["init.file"], tags["init.step"], tags["init.sha256"]) == (str(best.path), "2", record["sha256"])
    assert tags["init.loaded"].count("layers") == 2
    assert read_params(begun)["init_from"] == str(source)
    assert not {"init_from", "init_networks"} & read_params(source).keys()


@pytest.mark.parametrize("n", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5))])
def test_resumed_after_a_stop_it_ends_as_if_it_never_had_been(run, config, tmp_path, n):
    source = run("source", *SIX, "seed=1")
    begins = [*SIX, f"init_from={source}"]
    whole = run("whole", *begins)
    with pytest.raises(SystemExit):
        run("stopped", *begins, stop=n)
    shutil.rmtree(source)  # what goes on does not load it again
    start = take_up(tmp_path / "stopped", config(*begins))
    assert start.checkpoint is not None
    stopped = run("stopped", *begins, start=start)
    assert history(stopped) == history(whole)
    ended = (load_file(folder / "generator/last/generator.safetensors") for folder in (stopped, whole))
    assert same(*ended)
    assert json.loads((stopped / "init.json").read_text()) == json.loads((whole / "init.json").read_text())
    assert read_values(stopped / "tags.json")["init.sha256"] == read_values(whole / "tags.json")["init.sha256"]


def test_stopped_before_its_first_checkpoint_it_begins_again_with_the_same_weights_or_not_at_all(run, config, tmp_path):
    source, other = run("source", *SIX, "seed=1"), run("other", *SIX, "seed=2")
    begins = [*SIX, f"init_from={source}"]
    killed = run("killed", *begins)
    shutil.rmtree(killed / "checkpoints")
    for left in ("metrics.jsonl", "summary.json"):
        (killed / left).unlink()
    write_status(killed, "KILLED", "stopped by SIGKILL")
    start = take_up(killed, config(*begins))
    assert (start.checkpoint, start.goes_on) == (None, True)
    shutil.rmtree(source / "checkpoints")
    shutil.copytree(other / "checkpoints", source / "checkpoints")
    with pytest.raises(UserError, match="began with other weights than init_from names now"):
        run("killed", *begins, start=start)
    with pytest.raises(UserError, match="init_from"):
        check_unchanged(killed, config(*SIX, f"init_from={other}"))
    with pytest.raises(UserError, match=r"init_from: was .*, is absent"):
        check_unchanged(killed, config(*SIX))
    assert check_unchanged(source, config(*SIX, "seed=1")) == ()


def test_the_networks_to_load_are_chosen_and_an_export_has_one(run, tmp_path, capsys):
    source = run("source", *SIX)
    exported = source / "generator" / "best"
    fresh = at_step(run("fresh", *SIX, "steps=1"), 0)["dis"]
    trained = at_step(source, checkpoint_files.newest(source, "best").step)["ave"]
    capsys.readouterr()
    for number, (given, said) in enumerate(
        [
            ((f"init_from={source}", "init_networks=generator"), "is left out, begins fresh"),
            ((f"init_from={exported}",), "is not in it, begins fresh"),
            ((f"init_from={exported / 'generator.safetensors'}",), "is not in it, begins fresh"),
        ]
    ):
        begun = run(f"begun{number}", *SIX, "steps=1", *given)
        assert f"  discriminator: {said}" in capsys.readouterr().out
        assert same(at_step(begun, 0)["ave"], trained)
        assert same(at_step(begun, 0)["dis"], fresh)
        assert read_values(begun / "tags.json")["init.loaded"].endswith("discriminator none")


@pytest.fixture
def gan(config):
    """The networks of a config for images of its size, as a run builds them."""

    def gan(*overrides, channels=1):
        cfg = config("experiment=smoke", *overrides)
        images = np.zeros((50, channels, cfg.data.image_size, cfg.data.image_size), np.uint8)
        return cfg, build_model(cfg, replace(NOISE, images=images))[0]

    return gan


def checkpoint(folder, made, step=7):
    """A checkpoint of a GAN in a folder of its own, without its run's config; its file."""
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": made.state_dict(), "global_step": step}, folder / "mine.ckpt")
    return folder / "mine.ckpt"


def begun(cfg, path, made, classes=True):
    """The weights of a checkpoint matched with a GAN, as if its run's config named the same classes."""
    origin = find_origin(str(path), lambda: None, path.parent)
    if classes:
        origin = replace(origin, classes={name: cfg.model[name]._target_ for name in ("generator", "discriminator")})
        check_classes(origin, cfg)
    return read_initial(origin, cfg.init_networks, made)


@pytest.mark.parametrize("variant", EACH)
def test_every_variant_takes_what_fits_from_another_size(gan, tmp_path, variant):
    narrow = [] if variant == "vanilla" else NARROW
    _, small = gan(f"model={variant}", *narrow, "data.image_size=32")
    cfg, large = gan(f"model={variant}", *narrow, "data.image_size=64", "seed=1")
    before = {name: value.clone() for name, value in large.state_dict().items()}
    initial = begun(cfg, checkpoint(tmp_path, small), large)
    load_initial(large, initial)
    for name in ("generator", "discriminator"):
        said = initial.record[name]
        assert said["loaded"]
        assert said["fresh"]
        assert 0 < said["values"] < said["of"]
        mine, theirs = getattr(large, name).state_dict(), getattr(small, name).state_dict()
        for own, value in mine.items():
            taken = own in initial.tensors[name]
            assert not taken or any(torch.equal(value, other) for other in theirs.values())
            assert taken or torch.equal(value, before[f"{name}.{own}"])
    assert same(large.averaged.module.state_dict(), large.generator.state_dict())
    text = "\n".join(lines(initial.record))
    assert "generator, averaged: " in text
    assert "of the values; fresh: " in text
