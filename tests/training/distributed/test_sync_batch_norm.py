"""BatchNorm over several ranks: what one process gets from the whole batch, ranks that share it out get too."""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import batch_norm_ranks
import pytest
import torch
from batch_norm_ranks import CASES, run
from filelock import FileLock
from torch import nn

from gantry.core.errors import UserError
from gantry.models.networks import dcgan
from gantry.models.networks.sync_batch_norm import restore, synchronise

# Largest difference, as a share of the largest value of the tensor, or of all gradients; float32 rounds by 6e-8.
TOLERANCE = dict.fromkeys(CASES, 1e-5) | {"far from zero": 1e-4, "bfloat16": 1e-2}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Train every case on a number of gloo ranks, once, also for tests side by side; gives their results in order."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    root = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent

    @functools.cache
    def trained(world):
        folder = root / f"batch_norm_ranks_{world}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                start(world, folder)
        return [torch.load(folder / f"{rank}.pt") for rank in range(world)]

    return trained


def start(world, folder):
    """Train every case on new ranks, to their end."""
    command = [sys.executable, batch_norm_ranks.__file__]
    children = [subprocess.Popen([*command, str(rank), str(world), str(folder)]) for rank in range(world)]
    try:
        assert [child.wait(timeout=120) for child in children] == [0] * world
    finally:
        for child in children:
            child.kill()


def difference(actual, expected):
    """The largest difference of two lists of tensors, as a share of the largest expected value."""
    largest = max(tensor.abs().max() for tensor in expected)
    return float(max((a - e).abs().max() for a, e in zip(actual, expected, strict=True)) / largest)


def differences(name, results):
    """How far the ranks are together from one process with plain BatchNorm and the whole batch."""
    whole = run(name)
    by_image = ["outputs", "input gradients"]
    if name != "nothing tracked":  # there eval mode too depends on the batch, and is each rank's own
        by_image.append("evaluated")
    found = {key: difference([torch.cat([result[key] for result in results], dim=1)], [whole[key]]) for key in by_image}
    if whole["parameter gradients"]:
        shares = [result["parameter gradients"] for result in results]
        # The wrapper has averaged them already.
        total = shares[0] if name == "wrapped" else [sum(share) for share in zip(*shares, strict=True)]
        found["parameter gradients"] = difference(total, whole["parameter gradients"])
    for index, buffer in enumerate(whole["buffers"]):
        found[f"buffer {index}"] = max(difference([result["buffers"][index]], [buffer]) for result in results)
    return found


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_ranks_together_compute_what_one_process_does(name, world, ranks):
    results = [result[name, True] for result in ranks(world)]
    found = differences(name, results)
    assert max(found.values()) < TOLERANCE[name], found
    assert not any(buffer.isnan().any() for buffer in results[0]["buffers"])
    for result in results[1:]:
        assert all(map(torch.equal, result["buffers"], results[0]["buffers"]))


@pytest.mark.parametrize("name", CASES)
def test_plain_batch_norm_does_not(name, ranks):
    found = differences(name, [result[name, False] for result in ranks(2)])
    assert min(found["outputs"], found["input gradients"]) > 0.05, found


def network():
    """A network with two kinds of BatchNorm."""
    layers = nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.Flatten(), nn.BatchNorm1d(16)
    return nn.Sequential(*layers)


def test_modules_parameters_and_buffers_stay_the_same_objects():
    generator = dcgan.Generator(8, (1, 16, 16), width=4)
    objects = [*generator.modules(), *generator.parameters(), *generator.buffers()]
    names = list(generator.state_dict())
    for change in (synchronise, synchronise, restore):
        change(generator)
        now = [*generator.modules(), *generator.parameters(), *generator.buffers()]
        assert list(map(id, now)) == list(map(id, objects))
        assert list(generator.state_dict()) == names


def test_without_other_ranks_it_is_plain_batch_norm():
    ours, plain, x = network(), network(), torch.randn(6, 1, 3, 3)
    ours.load_state_dict(plain.state_dict())
    synchronise(ours)
    for _ in range(2):
        assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.eval()(x), plain.eval()(x))
    assert all(map(torch.equal, ours.buffers(), plain.buffers()))


def test_a_batch_norm_of_another_kind_is_refused_by_name():
    class Conditional(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match=r"1 is a Conditional") as error:
        synchronise(nn.Sequential(nn.Identity(), Conditional(3)))
    assert "BatchNorm1d, BatchNorm2d" in str(error.value)


def on(device):
    """A module as Lightning's strategy holds it when it calls the plugin, its average in eval mode."""
    module = nn.ModuleDict({"generator": network(), "averaged": network().eval()})
    module.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    return module


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_plugin_is_undone_and_the_average_stays_in_eval_mode(device):
    from gantry.training.distributed.sync_batch_norm import SyncBatchNormAnywhere

    module, plugin = on(device), SyncBatchNormAnywhere()
    parameters, modes = list(module.parameters()), [part.training for part in module.modules()]
    synchronised = plugin.apply(module)
    kinds = {type(part) for part in synchronised.modules() if "forward" not in vars(part)}
    assert (nn.SyncBatchNorm in kinds) == (device == "cuda")
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d}
    assert nn.InstanceNorm2d in kinds
    reverted = plugin.revert(synchronised)
    assert [part.training for part in reverted.modules()] == modes
    assert all(a is b for a, b in zip(reverted.parameters(), parameters, strict=True))
    x = torch.randn(6, 1, 3, 3)
    reverted["averaged"](x)
    assert reverted["averaged"][1].num_batches_tracked == 0
    if device == "cpu":
        assert type(reverted["generator"][1]) is nn.BatchNorm2d
        assert not any("forward" in vars(part) for part in reverted.modules())


@pytest.mark.parametrize("asked", [True, False])
def test_lightning_takes_the_plugin_beside_its_own_option(asked):
    from pytorch_lightning import Trainer

    from gantry.training.distributed.sync_batch_norm import SyncBatchNormAnywhere

    plugin = SyncBatchNormAnywhere()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(accelerator="cpu", strategy="ddp", devices=2, plugins=[plugin], sync_batchnorm=asked, **quiet)
    assert trainer.strategy._layer_sync is plugin
