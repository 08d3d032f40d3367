"""How the steps of a run are carried out, by its device, its config and its callbacks."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from small import NOISE

from gantry.core.cuda_graph import CudaGraphs
from gantry.core.errors import UserError
from gantry.training.hardware import cuda_graph
from gantry.training.hardware.cuda_graph import check_cuda_graph, fixed_step, reasons


class Clips(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        """As a user's that changes gradients."""


class Ends(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Outside the step."""


def trainer(device="cuda", world_size=1, scaler=None):
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        world_size=world_size,
        precision_plugin=SimpleNamespace(scaler=scaler),
        is_global_zero=True,
    )


@pytest.fixture
def a_gpu(monkeypatch):
    """As if there were one, with all its memory free; a data set would be copied to the CPU."""
    monkeypatch.setattr(cuda_graph, "fits", lambda images, device: True)
    monkeypatch.setattr(cuda_graph, "Resident", lambda images, device: ("resident", device.type))


@pytest.mark.parametrize(
    ("overrides", "of_trainer", "callbacks", "why"),
    [
        (["cuda_graph=false"], {}, [], "cuda_graph=false"),
        ([], {"world_size": 2}, [], "trainer.strategy exchanges gradients between ranks in the middle of a step"),
        (["trainer=ddp"], {}, [], "trainer.strategy exchanges gradients between ranks in the middle of a step"),
        (
            ["trainer.precision=16-mixed"],
            {"scaler": object()},
            [],
            "under trainer.precision=16-mixed the host decides whether a step counts",
        ),
        (
            ["model=r3gan_full"],
            {},
            [],
            "model.optimizer.betas changes from step to step, and a graph holds it fixed",
        ),
        (
            ["+model.optimizer.weight_decay={_target_: gantry.models.schedules.Constant, value: 0.1}"],
            {},
            [],
            "model.optimizer.weight_decay changes from step to step, and a graph holds it fixed",
        ),
        (["+trainer.detect_anomaly=true"], {}, [], "trainer.detect_anomaly looks at each operation"),
        ([], {}, [Ends(), Clips()], "Clips has on_before_optimizer_step, which is called in the middle of a step"),
    ],
)
def test_steps_are_eager_for_a_reason_that_is_said(overrides, of_trainer, callbacks, why, config, a_gpu, capsys):
    made = fixed_step(config(*overrides), trainer(**of_trainer), NOISE, callbacks)
    assert made.capture is None
    assert made.images == ("resident", "cuda")
    assert capsys.readouterr().out == f"steps are run eagerly, since {why}; images are on the GPU\n"
    if "cuda_graph=false" not in overrides:
        with pytest.raises(UserError, match=r"cuda_graph=true: steps cannot be CUDA graphs, since .*cuda_graph=auto"):
            check_cuda_graph(config("cuda_graph=true", *overrides), trainer(**of_trainer), callbacks)


@pytest.mark.parametrize("asked", ["auto", "true"])
def test_steps_are_graphs_where_nothing_speaks_against_it(asked, config, a_gpu, capsys):
    check_cuda_graph(config(f"cuda_graph={asked}"), trainer(), [Ends()])
    made = fixed_step(config(f"cuda_graph={asked}"), trainer(), NOISE, [Ends()])
    assert made.capture is CudaGraphs
    said = "steps are replayed as CUDA graphs (cuda_graph=false: eagerly); images are on the GPU\n"
    assert capsys.readouterr().out == said


def test_a_data_set_that_is_too_large_stays_in_the_hosts_memory(config, a_gpu, monkeypatch, capsys):
    monkeypatch.setattr(cuda_graph, "fits", lambda images, device: False)
    assert fixed_step(config(), trainer(), NOISE, []).images is None
    assert "images are in the host's memory" in capsys.readouterr().out


def test_on_a_cpu_nothing_is_said_and_asking_for_graphs_is_an_error(config, capsys):
    assert fixed_step(config(), trainer("cpu"), NOISE, []) is None
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="cuda_graph=true needs a CUDA device, and this run is on cpu; cuda_graph=auto"):
        check_cuda_graph(config("cuda_graph=true"), trainer("cpu"), [])


def test_no_callback_of_gantrys_acts_in_the_middle_of_a_step(config):
    from gantry.training.callbacks import checkpointing, diagnostics, divergence, evaluation, logging, progress

    modules = (checkpointing, diagnostics, divergence, evaluation, logging, progress)
    ours = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    made = [object.__new__(kind) for kind in ours if issubclass(kind, Callback) and kind is not Callback]
    assert made
    assert list(reasons(config(), trainer(), made)) == []
