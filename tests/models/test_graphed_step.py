"""Steps replayed from a recording of their operations, for which a CUDA graph is a faster way, against plain ones."""

import logging
import re
from copy import deepcopy

import pytest
import torch
from project import COMMON, VARIANTS, widths
from pytorch_lightning import Callback
from recorded import Recorded
from small import NOISE, bare_trainer
from torch import nn
from trained import FLIPPED, SMALL, Changing, Odd, assert_equal, train

from gantry.data.batches import Batches
from gantry.data.resident import Resident
from gantry.models.fixed_step import FixedStep
from gantry.models.graphed_step import MOST, WARM_UP, GraphedStep, Rates
from gantry.models.optimizers import keep_capturable
from gantry.models.penalties import R1
from gantry.training.model import build_model

SETTINGS = {
    "whole": [],
    "accumulate=2 and clipped": ["accumulate=2", "model.max_grad_norm=0.1"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
}
RMSPROP = ["model.optimizer._target_=torch.optim.RMSprop", "~model.optimizer.betas"]


def recording(**options):
    """Steps on the CPU whose captures are tapes, and the list of these."""
    made = []
    return FixedStep(lambda device: (made.append(Recorded(device)), made[-1])[1], **options), made


# By default every kind of variant with one setting, and every setting with batch, spectral and no norms and a penalty.
QUICK = {"whole": (*COMMON, "acgan", "stylegan2", "sngan_official")}
REPLAYED = [
    pytest.param(
        *(variant, settings),
        marks=() if variant in QUICK.get(name, ("dcgan", "sngan", "wgan_gp")) else pytest.mark.slow,
        id=f"{variant}-{name}",
    )
    for variant in VARIANTS
    for name, settings in SETTINGS.items()
]


@pytest.mark.parametrize(("variant", "settings"), REPLAYED)
def test_replays_are_plain_steps_to_the_bit(variant, settings, config):
    cfg = config(f"model={variant}", *SMALL[:2], *widths(variant), *settings)
    fixed, made = recording()
    replayed = train(cfg, fixed)
    assert made[0].tapes
    assert_equal(replayed, train(cfg))


def test_lazy_penalties_are_one_graph_for_each_set_of_them_due(config):
    cfg = config("model=wgan_gp", "model.n_critic=2", *SMALL)
    penalties = [R1(1.0, every=2), R1(0.5, every=3)]
    fixed, made = recording()
    replayed = train(cfg, fixed, steps=14, penalties=penalties)
    assert_equal(replayed, train(cfg, steps=14, penalties=penalties))
    # Turns 0 to 5 have both, none, the first, the second, the first, none; norms are asked for at 1, 2, 4, 8 and 10.
    assert len(made[0].tapes) == 5


def test_networks_that_grow_have_graphs_of_each_level_and_of_each_fade(config):
    """Other layers are computed from steps 6, 9, 14 and 17 on; the first step with them is not replayed.

    Norms are asked for in steps 1, 2, 4, 8, 10 and 16: two graphs each, but for the last layers, which have one.
    """
    slowly = ["model.growth.stable=24", "model.growth.fade=24"]
    cfg = config("model=progan", *SMALL[:2], *widths("progan"), *slowly)
    fixed, made = recording()
    replayed = train(cfg, fixed, steps=18)
    assert_equal(replayed, train(cfg, steps=18))
    assert len(made[0].tapes) == 9


@pytest.mark.parametrize("data", [NOISE, FLIPPED], ids=["as they are", "mirrored at random, with labels"])
def test_indices_of_images_on_the_device_give_the_steps_of_the_images(data, config):
    cfg = config("model=wgan", "model.n_critic=2", *SMALL)
    fixed, _ = recording(images=Resident(data.images, torch.device("cpu")))
    assert_equal(train(cfg, fixed, data=data), train(cfg, data=data))


@pytest.mark.parametrize(
    ("settings", "name", "value", "graphs"),
    [
        ([], "lr", lambda step: 1e-3 / (1 + step), 2),  # fused: a tensor on the device
        (["+model.optimizer.fused=false"], "weight_decay", lambda step: 0.1 * step, 0),  # Adam reads its counter
        (RMSPROP, "lr", lambda step: 1e-3 * step, 5),
        ([], "betas", lambda step: (0.5 + (step > 2) * 0.1, 0.9), 4),
    ],
    ids=["a rate on the device", "an optimizer that cannot be captured", "a rate on the host", "betas"],
)
def test_what_changes_in_an_optimizer_takes_effect(settings, name, value, graphs, config):
    cfg = config("model=dcgan", *SMALL, *settings)
    fixed, made = recording()
    replayed = train(cfg, fixed, steps=6, change=Changing(name, value))
    assert_equal(replayed, train(cfg, steps=6, change=Changing(name, value)))
    assert replayed.trainer.optimizers[0].param_groups[0][name] == value(5)
    assert len(made[0].tapes) == graphs


def test_hyperparameters_that_change_in_place_are_another_kind_of_step():
    optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=0.1, fused=True)
    (group,) = optimizer.param_groups
    group["betas"] = [0.5, 0.9]
    rates = Rates([optimizer])
    first = rates.others()
    group["lr"] = 0.2  # on the device
    assert rates.others() == first
    group["betas"][0] = 0.6
    second = rates.others()
    assert second != first
    group["more"] = torch.tensor(1.0)
    third = rates.others()
    group["more"].fill_(2.0)
    assert len({first, second, third, rates.others()}) == 4


def test_a_resumed_run_replays_to_the_bit_what_one_never_stopped_does(config, tmp_path):
    cfg = config("model=r3gan", *SMALL)
    whole = train(cfg, recording()[0], steps=8)
    half = train(cfg, recording()[0], steps=5)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = train(cfg, recording()[0], steps=8, start=5, checkpoint=tmp_path / "half.ckpt")
    rest.records = half.records + rest.records
    assert_equal(rest, whole)


@pytest.mark.parametrize("optimizer", [[], RMSPROP], ids=["Adam", "RMSprop"])
def test_a_checkpoint_of_a_gpu_is_gone_on_with_on_a_cpu(optimizer, config, tmp_path):
    """There the optimizers' option `capturable` was set, which raises on a CPU."""
    cfg = config("model=lsgan", *SMALL, *optimizer)
    whole, half = train(cfg, steps=6), train(cfg, steps=3)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    for state in checkpoint["optimizer_states"]:
        state["param_groups"][0]["capturable"] = True
    torch.save(checkpoint, tmp_path / "gpu.ckpt")
    rest = train(cfg, steps=6, start=3, checkpoint=tmp_path / "gpu.ckpt")
    rest.records = half.records + rest.records
    assert_equal(rest, whole)


def test_counters_go_to_the_device_of_the_weights_with_a_checkpoint_of_a_cpu():
    weight = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = torch.optim.RMSprop([weight])
    optimizer.state[weight] = {"step": torch.tensor(7.0)}
    keep_capturable([optimizer], capturable=True)
    assert optimizer.param_groups[0]["capturable"]
    assert optimizer.state[weight]["step"].is_meta


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("reads a value", r"the step cannot be captured \(RuntimeError: operation not permitted"),
        ("counts on the host", r"3 replays change the \w+'s weights otherwise than 3 eager steps \(by 0\.\d+ of"),
    ],
)
def test_a_step_that_no_graph_can_be_goes_on_eagerly(kind, why, config, caplog):
    cfg = config("model=wgan_gp", "model.n_critic=1", *SMALL)
    fixed, _ = recording()
    with caplog.at_level(logging.WARNING):
        run = train(cfg, fixed, penalties=[Odd(kind)])
    assert run.trainer.global_step == 5
    (said,) = [record.message for record in caplog.records if "CUDA graph" in record.message]
    assert re.search(why, said), said
    if kind == "reads a value":
        assert_equal(run, train(cfg, penalties=[Odd(kind)]))


class Counting(torch.optim.Optimizer):
    """Gradient descent whose rate falls with a count that Python keeps."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            state["step"] = state.get("step", 0) + 1
            weight -= self.param_groups[0]["lr"] / state["step"] * weight.grad


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (lambda: Counting, "Counting keeps its state 'step' outside the device"),
        (lambda: CountsInGroups, "an optimizer changes its settings in each step"),
    ],
    ids=["in its state", "in its groups"],
)
def test_an_optimizer_that_counts_in_python_is_not_captured(kind, why, config, caplog):
    cfg = config("model=wgan", *SMALL)
    fixed, made = recording()

    def counting(fixed):
        gan, _ = build_model(cfg, NOISE)
        gan.fixed, gan.optimizer, gan.discriminator_optimizer = fixed, kind(), kind()
        trainer = bare_trainer(4)
        trainer.fit(gan, Batches(NOISE, gan.batch_size, gan.n_critic, gan.seed))
        return gan.state_dict()

    with caplog.at_level(logging.WARNING):
        replayed = counting(fixed)
    assert why in caplog.text
    assert all(map(torch.equal, replayed.values(), counting(None).values()))
    assert not made[0].tapes


def test_replaced_weights_are_captured_anew(config):
    class Replaces(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 3:
                weight = next(pl_module.discriminator.parameters())
                weight.data = weight.data.clone() * 0.5

    cfg = config("model=lsgan", *SMALL)
    fixed, _ = recording()
    assert_equal(train(cfg, fixed, steps=7, change=Replaces()), train(cfg, steps=7, change=Replaces()))


def test_the_step_that_makes_an_optimizers_state_is_an_eager_one(config):
    cfg = config("model=dcgan", *SMALL)
    fixed, made = recording()
    train(cfg, fixed, steps=1)
    assert made[0].tapes == []
    assert fixed.graphed is None  # after training, whose end takes the networks from the device


def test_settings_that_change_at_every_step_end_in_eager_steps(caplog):
    weight = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    graphed = GraphedStep(Recorded(), {"generator": weight}, [optimizer])

    def step():
        optimizer.zero_grad()
        loss = weight(torch.ones(1, 2)).square().mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    for number in range(MOST + 2):
        optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
        graphed("only", step)
    assert f"there are {MOST} kinds of steps" in caplog.text
    assert len(graphed.capture.tapes) == MOST
    assert WARM_UP > 1  # one replay alone does not tell a counter on the host from one on the device


class Remembers(nn.Module):
    """A penalty on the distance from a moving average of scores, which it keeps in a buffer."""

    every = 1

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, discriminator, real, fake, uniform):
        score = discriminator(real).mean()
        average = self.seen * 0.9 + score.detach() * 0.1
        if self.in_place:
            self.seen.copy_(average)
        else:
            self.seen = average
        return (score - self.seen).square()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_penaltys_own_state_is_as_in_plain_steps(in_place, config, caplog):
    cfg = config("model=wgan_gp", "model.n_critic=2", *SMALL)
    penalties = [Remembers(in_place), Remembers(in_place)]
    fixed, made = recording()
    assert_equal(train(cfg, fixed, penalties=penalties[:1]), train(cfg, penalties=penalties[1:]))
    assert torch.equal(penalties[0].seen, penalties[1].seen)
    assert bool(made[0].tapes) == in_place
    assert ("new tensors in the place of its buffers" in caplog.text) != in_place


class CountsInGroups(Counting):
    """As schedule-free optimizers do."""

    @torch.no_grad()
    def step(self, closure=None):
        (group,) = self.param_groups
        group["k"] = group.get("k", 0) + 1
        for weight in group["params"]:
            self.state[weight].setdefault("mean", torch.zeros_like(weight)).add_(weight.grad)
            weight -= group["lr"] / group["k"] * weight.grad


class Loads(Callback):
    """Has an optimizer load what it holds, into new tensors, in the midst of training."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3:
            trainer.optimizers[0].load_state_dict(deepcopy(trainer.optimizers[0].state_dict()))


def test_state_that_is_loaded_in_the_midst_of_training_is_captured_anew(config):
    cfg = config("model=dcgan", *SMALL)
    assert_equal(train(cfg, recording()[0], steps=8, change=Loads()), train(cfg, steps=8, change=Loads()))
