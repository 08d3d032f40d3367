"""Who gets which GPU, how many jobs share one, and how the cores are divided."""

import pytest
from omegaconf import OmegaConf

from gantry.core.errors import UserError
from gantry.core.processes import devices
from gantry.core.processes.devices import GPUS, JOBS, Shares, gpus_wanted, jobs_at_once, jobs_sharing, visible_gpus


def trainer(**options):
    return OmegaConf.create({"accelerator": "auto", "devices": 1} | options)


def test_gpus_go_to_one_job_at_a_time():
    shares = Shares(["0", "1", "2"], at_once=None, n_cores=8)
    two = trainer(devices=2)
    assert shares.take(0, two) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert shares.take(1, two) is None
    assert shares.take(2, trainer())["CUDA_VISIBLE_DEVICES"] == "2"
    assert shares.take(3, trainer()) is None
    shares.give_back(0)
    assert shares.take(1, two)["CUDA_VISIBLE_DEVICES"] == "0,1"
    shares.give_back(2)
    assert shares.take(3, trainer())["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_gpu_named_after_ten_others_is_not_given_first():
    shares = Shares([str(number) for number in range(12)], at_once=None, n_cores=8)
    for job in range(12):
        shares.take(job, trainer())
    for job in (10, 2):
        shares.give_back(job)
    assert shares.take(99, trainer())[GPUS] == "2"


@pytest.mark.parametrize("per_device", [1, 2, 4])
@pytest.mark.parametrize("gpus", [["0"], ["0", "1", "2"], ["GPU-8a3f0000-0001", "MIG-77aa0000-0002"]])
def test_each_gpu_holds_so_many_jobs_spread_evenly(monkeypatch, gpus, per_device):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = Shares(gpus, at_once=None, n_cores=24, per_device=per_device)
    most = len(gpus) * per_device
    taken = [shares.take(job, trainer()) for job in range(most)]
    assert [share[GPUS] for share in taken] == gpus * per_device  # in turn
    assert {share.get(JOBS) for share in taken} == {str(per_device) if per_device > 1 else None}
    assert {share.get("OMP_NUM_THREADS") for share in taken} == {str(24 // most) if most > 1 else None}
    assert shares.take(most, trainer()) is None
    for ended in (most - 1, 0):
        shares.give_back(ended)
        assert shares.take(ended, trainer())[GPUS] == gpus[ended % len(gpus)]  # the one with room
    assert jobs_at_once(trainer(), len(gpus), per_device) == most


def test_jobs_of_several_gpus_have_them_for_themselves():
    shares = Shares(["0", "1", "2"], at_once=None, n_cores=8, per_device=3)
    two = trainer(devices=2)
    assert shares.take(0, trainer())[GPUS] == "0"
    whole = shares.take(1, two)
    assert (whole[GPUS], JOBS in whole) == ("1,2", False)
    assert [shares.take(job, trainer())[GPUS] for job in (2, 3)] == ["0", "0"]
    assert shares.take(4, trainer()) is None
    shares.give_back(1)
    assert shares.take(5, trainer())[GPUS] == "1"
    assert shares.take(6, two) is None  # only one GPU is empty
    shares.give_back(5)
    assert shares.take(6, two)[GPUS] == "1,2"
    assert jobs_at_once(two, 5, 3) == 2
    assert jobs_at_once(trainer(accelerator="cpu"), 5, 3) == 1


def test_sweep_jobs_bounds_the_jobs_on_shared_gpus_too(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = Shares(["0", "1"], at_once=3, n_cores=8, per_device=4)
    taken = [shares.take(job, trainer()) for job in range(4)]
    assert [share and (share[GPUS], share["OMP_NUM_THREADS"]) for share in taken] == [
        ("0", "2"),
        ("1", "2"),
        ("0", "2"),
        None,
    ]


@pytest.mark.parametrize(
    ("gpus", "options", "said"),
    [
        ([], {}, r"sweep\.jobs_per_device=2: there is no GPU to share; on a CPU sweep\.jobs says"),
        (["0", "1"], {"accelerator": "cpu"}, "no job runs on one GPU"),
        (["0", "1"], {"devices": 2}, "no job runs on one GPU"),
        (["0", "1"], {"devices": 3}, "takes 3 GPUs; there are 2"),
    ],
)
def test_sharing_gpus_that_no_job_could_share_is_refused(gpus, options, said):
    with pytest.raises(UserError, match=said):
        Shares(gpus, None, 8, per_device=2).check([trainer(**options)])
    Shares(["0", "1"], None, 8, per_device=2).check([trainer(), trainer(accelerator="cpu")])  # one of them can
    Shares([], None, 8).check([trainer()])


def test_a_job_knows_how_many_share_its_gpu():
    assert jobs_sharing({}) == 1
    assert jobs_sharing(Shares(["0"], None, 8, per_device=4).take(0, trainer())) == 4


@pytest.mark.parametrize(("at_once", "together"), [(None, 1), (3, 3)])
def test_on_the_processor_jobs_share_the_cores(monkeypatch, at_once, together):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = Shares([], at_once=at_once, n_cores=8)
    taken = [shares.take(number, trainer()) for number in range(4)]
    assert [share is not None for share in taken] == [number < together for number in range(4)]
    assert taken[0] == ({} if together == 1 else {"OMP_NUM_THREADS": "2"})
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user knows better
    shares.give_back(0)
    assert shares.take(9, trainer()) == {}


@pytest.mark.parametrize(("at_once", "devices", "threads"), [(1, 2, "4"), (2, 2, "2"), (2, 8, "1"), (1, "auto", None)])
def test_the_ranks_of_jobs_share_them_too(monkeypatch, at_once, devices, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    taken = Shares([], at_once=at_once, n_cores=8).take(1, trainer(devices=devices, accelerator="cpu"))
    assert taken.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("options", "there_are", "wanted"),
    [
        ({}, 0, 0),
        ({}, 4, 1),
        ({"accelerator": "cpu"}, 4, 0),
        ({"accelerator": "gpu", "devices": 3}, 4, 3),
        ({"devices": "auto"}, 4, 4),
        ({"devices": -1}, 4, 4),
        ({"devices": [0, 2]}, 4, 2),
    ],
)
def test_a_job_takes_the_gpus_its_trainer_asks_for(options, there_are, wanted):
    assert gpus_wanted(trainer(**options), there_are) == wanted


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"trainer\.devices=3 takes 3 GPUs; there are 2"):
        Shares(["0", "1"], at_once=None, n_cores=8).check([trainer(), trainer(devices=3)])


def test_gpus_are_those_the_process_may_see(monkeypatch, tmp_path):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-8a"}) == ["3", "GPU-8a"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.visible_gpus({}) == ["0", "1"]
    tool.unlink()
    assert devices.visible_gpus({}) == []
