"""Trained weights that a run does not begin with, and why: other networks, other files, code."""

import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from origins import SMALL, found, written

from gantry.core.errors import UserError
from gantry.runs import checkpoint_files
from gantry.training.init_from.origin import check_classes, origin_of
from gantry.training.init_from.weights import read_initial
from gantry.training.resume import Start

SMALL += ["model.generator.width=4", "model.discriminator.width=4"]


# The same networks, and others; and what the message says is to be done.
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model=wgan_gp"], None),
        (["model/network=resnet"], "its generator is gantry.models.networks.dcgan.Generator, this run's is .*resnet"),
        (
            ["model.discriminator._target_=gantry.models.networks.resnet.Discriminator"],
            "its discriminator is .*dcgan.Discriminator, this run's is .*; init_networks=generator leaves",
        ),
        (
            [
                "model.discriminator._target_=gantry.models.networks.resnet.Discriminator",
                "model.discriminator.norm=spectral",
                "init_networks=generator",
            ],
            None,
        ),
    ],
)
def test_networks_of_another_class_are_refused_before_torch_is_needed(trained, config, tmp_path, given, said):
    run = trained()
    cfg = config(*SMALL[:-2], *given, f"init_from={run}")
    if said is None:
        assert origin_of(cfg, tmp_path / "new", Start()) is not None
    else:
        with pytest.raises(UserError, match=f"init_from=outputs/.*: {said}"):
            origin_of(cfg, tmp_path / "new", Start())


@pytest.mark.parametrize(
    ("given", "channels", "said"),
    [
        (
            ["model.generator.width=8"],
            1,
            r"no layer of its generator fits .*generator.layers.1.weight is \(4, 32, 2, 2\) ",
        ),
        (
            ["model.discriminator.width=8", "model.discriminator.norm=layer"],
            1,
            "no layer of its discriminator .*; init_",
        ),
    ],
)
def test_weights_of_which_nothing_fits_are_refused(trained, build, tmp_path, given, channels, said):
    origin = found(trained(), tmp_path)
    with pytest.raises(UserError, match=said):
        read_initial(origin, "all", build(*given, channels=channels).gan)


def test_without_its_config_a_checkpoint_fits_whole_or_not_at_all(trained, build, tmp_path):
    run = trained()
    lone = tmp_path / "downloaded.ckpt"
    shutil.copy(checkpoint_files.newest(run, "best").path, lone)
    origin = found(lone, tmp_path)
    assert (origin.classes, origin.run_id) == ({}, None)
    assert read_initial(origin, "all", build().gan).record["generator"]["fresh"] == []
    with pytest.raises(UserError, match="nothing beside it says which network it is, and not all of it fits"):
        read_initial(origin, "all", build(channels=3).gan)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return os.system, (f"touch {self.touched}",)


def test_no_code_in_a_checkpoint_runs(trained, build, tmp_path):
    made, touched = build(), tmp_path / "touched"
    for number, content in enumerate(
        [
            written(made.gan, payload=Payload(touched)),
            pickle.dumps({"state_dict": Payload(touched)}),
            b"",
            b"\x80\x02garbage",
        ]
    ):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"init_from=.*{number}.ckpt: the checkpoint cannot be read: it "):
            read_initial(found(path, tmp_path), "all", made.gan)
    assert not touched.exists()


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        {"state_dict": 3},
        {"state_dict": {"averaged.module.layers.1.weight": "text", 3: torch.zeros(1)}},
        {"generator.layers.1.weight": torch.zeros(3)},
        {"state_dict": {"generator.layers.1.weight": torch.zeros(3)}, "global_step": "x"},
    ],
)
def test_a_file_of_tensors_that_is_no_checkpoint_is_refused(build, tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"a.pt: the checkpoint is not Gantry's: its state_dict holds no averaged.module."
    ):
        read_initial(found(tmp_path / "a.pt", tmp_path), "all", build().gan)


def test_what_an_export_names_is_compared_and_never_imported(trained, build, tmp_path, monkeypatch):
    (tmp_path / "gantry_test_evil.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    export = trained() / "generator" / "best"
    config = json.loads((export / "generator.json").read_text())
    cfg = build().cfg
    for target in ("gantry_test_evil.Generator", "os.system"):
        (export / "generator.json").write_text(json.dumps(config | {"_target_": target}))
        with pytest.raises(UserError, match=f"its generator is {target}, this run's is gantry"):
            check_classes(found(export, tmp_path), cfg)
    assert not (tmp_path / "touched").exists()
    assert "gantry_test_evil" not in sys.modules
    for text in ("[1]", "{", "[" * 100_000, '{"_target_": 3}'):
        (export / "generator.json").write_text(text)
        with pytest.raises(UserError, match="missing or damaged: it names no class"):
            found(export, tmp_path)
    (export / "generator.json").write_text(json.dumps(config))
    (export / "generator.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match=r"init_from=.*: generator.safetensors is damaged"):
        read_initial(found(export, tmp_path), "all", build().gan)


def test_weights_that_are_not_finite_are_refused(build, tmp_path):
    made = build()
    with torch.no_grad():
        next(made.gan.averaged.module.parameters()).fill_(torch.nan)
    (tmp_path / "a.ckpt").write_bytes(written(made.gan))
    with pytest.raises(UserError, match="the weights of its generator are not finite: its training has diverged"):
        read_initial(found(tmp_path / "a.ckpt", tmp_path), "all", build().gan)
