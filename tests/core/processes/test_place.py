"""Who this process is among its run's ranks, and what is refused before any of them starts."""

import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from gantry.core.errors import UserError
from gantry.core.processes import ranks as places
from gantry.core.processes.ranks import Place, find_place, fixed_devices, ranks
from gantry.training.rules import check_run

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "gan"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        (TORCHRUN, Place(5, 8, 4, "torchrun")),
        (SLURM, Place(5, 8, 4, "slurm")),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, Place()),  # an interactive shell within an allocation
        (SLURM | {"SLURM_NTASKS": "1"}, Place()),
        ({"GANTRY_RANKS": "2", "LOCAL_RANK": "1"} | SLURM, Place(1, 2, 2, "gantry")),
    ],
)
def test_a_process_knows_its_place(environment, place):
    assert find_place(environment) == place


@pytest.fixture
def said(config, monkeypatch):
    """What is said of a command line by the process of a place."""

    def said(*overrides, place=None):
        monkeypatch.setattr("gantry.training.rules.find_place", lambda: place or Place())
        try:
            check_run(config(*overrides))
        except UserError as error:
            return str(error)

    return said


def test_several_devices_need_the_strategy(said):
    assert "trainer=ddp trainer.devices=2" in said("trainer.devices=2")
    assert said("trainer=ddp", "trainer.devices=2") is None
    assert said("trainer=ddp") is None


@pytest.mark.parametrize("value", ["0", "-2", "true", "foo", "'2'"])
def test_devices_that_there_cannot_be_are_refused(said, value):
    assert said("trainer=ddp", f"trainer.devices={value}").startswith("trainer.devices: ")


def test_a_batch_that_does_not_divide_is_refused_by_name(said):
    text = said("trainer=ddp", "trainer.devices=3", "batch_size=128")
    assert text.startswith("batch_size: 128 cannot be shared by 3 ranks")
    assert text.endswith("such as 129")
    assert "by 8 ranks" in said("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2", "batch_size=12",
                                place=Place(0, 8, 4, "torchrun"))  # fmt: skip


def test_several_machines_need_somebody_who_starts_their_ranks(said):
    assert "torchrun --nnodes=2 --node-rank=<0, 1, ...> --nproc-per-node=4" in said(
        "trainer=ddp", "trainer.num_nodes=2", "trainer.devices=4"
    )


@pytest.mark.parametrize("by", ["torchrun", "slurm"])
def test_what_another_launcher_has_started_must_be_what_the_config_says(said, by):
    place = Place(0, 8, 4, by)
    assert f"{by} has started 8 ranks" in said(place=place)
    assert "trainer=ddp trainer.devices=4 trainer.num_nodes=2" in said(place=place)
    assert f"are 4 ranks, but {by} has started 8" in said("trainer=ddp", "trainer.devices=4", place=place)
    assert said("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2", place=place) is None
    assert said("trainer=ddp", "trainer.num_nodes=2", place=place) is None  # devices: auto


def test_auto_takes_all_gpus_or_what_has_been_started(monkeypatch):
    monkeypatch.setattr(places, "visible_gpus", lambda: ["0", "1", "2"])
    trainer = {"devices": "auto", "strategy": {}}
    assert ranks(trainer, Place()) == fixed_devices(trainer, Place()) == 3
    assert ranks(trainer | {"accelerator": "cpu"}, Place()) == 1
    assert ranks(trainer | {"num_nodes": 2}, Place(0, 8, 4, "torchrun")) == 8
    assert fixed_devices({"devices": "auto"}, Place()) == "auto"  # of one process: Lightning's to choose


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (4, 4), ([0, 2], 2)])
def test_a_number_of_devices_is_taken_without_looking_for_gpus(monkeypatch, devices, count):
    monkeypatch.setattr(places, "visible_gpus", lambda: pytest.fail("nvidia-smi at every start"))
    assert ranks({"devices": devices}, Place()) == count


def test_a_sweep_is_not_for_another_launcher(tmp_path):
    command = [sys.executable, ROOT / "train.py", "-m", "model=wgan,dcgan", "trainer=ddp"]
    environment = {"PATH": "", "PYTHONPATH": str(Path(places.__file__).parents[3]), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment | TORCHRUN | {"RANK": "0"}, capture_output=True, cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert b"run it without torchrun" in done.stderr
