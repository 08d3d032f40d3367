"""A number that is not finite ends training within `every` steps, whatever the optimizer makes of it."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small import NOISE, bare_trainer

from gantry.data.batches import Batches
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.models.penalties import WeightClipping
from gantry.training.callbacks.divergence import Diverged, Guard
from gantry.training.distributed.peers import Peers
from gantry.training.hardware.precision import LossScaling

EVERY, STEPS = 3, 9
BAD = 4  # the generator step, counted from 1, at which a number goes bad
SGD = partial(torch.optim.SGD, lr=1e-3)
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.9))
CLIPPED = {"constraints": [WeightClipping(0.01)]}
NAN, INF = float("nan"), float("inf")


def gan_of(optimizer=ADAM, **options):
    networks = dcgan.Generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4, "none")
    return GAN(*networks, non_saturating, optimizer, z_dim=6, seed=0, batch_size=6, **options)


def fit(gan, guard, steps=STEPS, start=0, checkpoint=None, plugins=None):
    trainer = bare_trainer(steps, callbacks=[guard], plugins=plugins)
    trainer.fit(gan, Batches(NOISE, gan.batch_size, gan.n_critic, gan.seed, start=start), ckpt_path=checkpoint)
    return trainer


def after_step(gan, number, spoil):
    """Have `spoil(record)` called after a generator step, counted from 1, before anything looks."""
    step = gan.training_step

    def training_step(batch, batch_idx):
        record = step(batch, batch_idx)
        if gan.global_step == number:
            spoil(record)
        return record

    gan.training_step = training_step
    return gan


def with_gradient(gan, network, value, number=BAD):
    """Have one number of a network's gradient be `value` at a generator step."""
    backward = gan.manual_backward

    def manual_backward(loss):
        backward(loss)
        weight = next(getattr(gan, network).parameters())
        if gan.global_step == number - 1 and weight.requires_grad:
            weight.grad[(0,) * weight.ndim] = value

    gan.manual_backward = manual_backward
    return gan


def caught(gan, **options):
    with pytest.raises(Diverged) as error:
        fit(gan, Guard(EVERY), **options)
    assert error.value.step == 6  # the first multiple of EVERY
    assert str(error.value).startswith("diverged between steps 4 and 6, no longer finite: ")
    return error.value.what


@pytest.mark.parametrize(
    ("name", "value"), [("loss/generator", NAN), ("loss/discriminator", INF), ("score/fake", -INF)]
)
def test_a_bad_value_is_caught_and_named(name, value):
    """Also where the weights have taken no harm."""
    gan = after_step(gan_of(), BAD, lambda record: record.update({name: torch.tensor(value)}))
    assert caught(gan) == [name]


@pytest.mark.parametrize(
    ("network", "value", "optimizer", "options"),
    [
        ("generator", NAN, ADAM, {}),
        ("generator", INF, SGD, {}),
        ("generator", INF, SGD, {"max_grad_norm": 1.0}),
        ("discriminator", INF, ADAM, CLIPPED),
        ("discriminator", INF, partial(torch.optim.RMSprop, lr=1e-3), CLIPPED),
        ("discriminator", INF, partial(SGD, momentum=0.9), CLIPPED),
        ("discriminator", INF, SGD, CLIPPED),  # which makes weights of 0.01 out of infinite ones
        ("discriminator", NAN, SGD, CLIPPED | {"max_grad_norm": 1.0}),
        ("discriminator", INF, partial(torch.optim.Rprop, lr=1e-3), CLIPPED),  # takes its sign, and forgets it
    ],
)
def test_one_steps_bad_gradient_is_caught(network, value, optimizer, options):
    """Though it leaves no trace in losses and scores, and perhaps none in the weights."""
    gan = with_gradient(gan_of(optimizer, **options), network, value)
    step = gan.training_step
    gan.training_step = lambda *batch: {name: torch.zeros(()) for name in step(*batch)}
    assert any(network in name for name in caught(gan))


@pytest.mark.parametrize(
    ("part", "step", "expected"),
    [
        ("discriminator.layers.2.weight", 6, "discriminator's weights (1 of 6 tensors, first layers.2.weight)"),
        ("generator.layers.1.weight", BAD, "generator's weights ("),
        ("generator.layers.2.running_var", BAD, "generator's weights (1 of "),
    ],
)
def test_a_bad_weight_or_buffer_is_caught_and_named(part, step, expected):
    gan = gan_of()
    what = caught(after_step(gan, step, lambda record: gan.state_dict()[part][0].fill_(INF)))
    assert any(text.startswith(expected) for text in what)


def test_an_overflow_in_the_optimizers_memory_is_caught():
    """From a gradient of 1e30, whose square has no float: Adam never moves that weight again, and says nothing."""
    what = caught(with_gradient(gan_of(), "generator", 1e30))
    assert what == ["generator's optimizer (1 of 16 tensors, first exp_avg_sq of layers.1.weight)"]


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_a_step_that_loss_scaling_leaves_out_is_no_divergence(optimizer):
    gan = with_gradient(with_gradient(gan_of(optimizer), "generator", INF), "discriminator", NAN, 5)
    plugin = LossScaling("cpu", torch.amp.GradScaler("cpu", 1024.0))
    assert fit(gan, Guard(EVERY), plugins=[plugin]).global_step == STEPS
    assert plugin.values()["skipped/generator"] == plugin.values()["skipped/discriminator"] == 1


def test_large_numbers_are_finite():
    """Though their sum, or their norm, would not be."""
    gan = gan_of()
    gan.discriminator.register_buffer("large", torch.full((4,), 3e38))
    step = gan.training_step
    gan.training_step = lambda *batch: step(*batch) | {"score/real": torch.tensor(3e38)}
    assert fit(gan, Guard(STEPS)).global_step == STEPS


def test_networks_that_are_bad_from_the_start_are_caught_by_a_check_before_the_first_step():
    gan, guard = gan_of(), Guard(EVERY)
    trainer = SimpleNamespace(global_step=0, optimizers=fit(gan, Guard(EVERY), steps=1).optimizers)
    next(gan.generator.parameters()).data.fill_(INF)
    for _ in range(2):  # it does not come to terms with it
        with pytest.raises(Diverged, match="at step 0, no longer finite: generator's weights"):
            guard.check(trainer, gan)


def test_a_second_check_at_a_step_costs_nothing():
    gan, guard = gan_of(), Guard(EVERY)
    trainer = fit(gan, guard)
    gan.state_dict = lambda: pytest.fail("looked again")
    guard.check(trainer, gan)


def test_nothing_waits_for_the_device_between_two_looks():
    """Tensors on the meta device have no values: reading one raises."""
    with torch.device("meta"):
        gan = gan_of(SGD)
        outputs = {"loss/generator": torch.zeros(()), "loss/discriminator": torch.zeros(())}
        for weight in gan.parameters():
            weight.grad = torch.zeros_like(weight)
    trainer = SimpleNamespace(
        optimizers=[SGD(network.parameters()) for network in (gan.generator, gan.discriminator)],
        precision_plugin=None,
        global_step=1,
        max_steps=STEPS,
    )
    guard = Guard(EVERY)
    for _ in range(2):
        for optimizer in trainer.optimizers:
            guard.on_before_optimizer_step(trainer, gan, optimizer)
        guard.on_train_batch_end(trainer, gan, outputs, None, 0)
    with pytest.raises(NotImplementedError, match="meta"):
        guard.check(trainer, gan)


def test_a_resumed_run_knows_what_had_not_been_looked_at(tmp_path):
    def spoilt():
        return after_step(gan_of(), BAD, lambda record: record.update({"loss/generator": torch.tensor(NAN)}))

    guard = Guard(EVERY)
    guard.check = lambda trainer, gan: None if trainer.global_step == BAD else Guard.check(guard, trainer, gan)
    fit(spoilt(), guard, steps=BAD).save_checkpoint(tmp_path / "half.ckpt")
    what = caught(gan_of(), start=BAD, checkpoint=tmp_path / "half.ckpt")
    assert what == ["loss/generator"]


class OtherRank(Peers):
    """Rank 0 of two, where rank 1 has a bad value at this place among those named."""

    def __init__(self, place):
        super().__init__(0, 1)
        self.place = place

    def mean(self, values):
        theirs = torch.zeros(values.shape, dtype=torch.float64)
        theirs.view(-1)[self.place if values.ndim else 0] = 1.0
        return (values.double().cpu() + theirs) / 2


def test_a_bad_value_of_another_rank_ends_this_one_too():
    with pytest.raises(Diverged, match=r": score/real$"):
        fit(gan_of(), Guard(EVERY, OtherRank(3)))


def test_a_norm_that_another_callback_asks_for_too_is_kept_all_the_same():
    """Ranks exchange what the guard has kept, and only the first has the callback that also asks."""
    gan, guard = gan_of(SGD), Guard(EVERY)
    gan.ask_for_norms(lambda gan, player, step: True)
    kept, keep = [], guard._keep
    guard._keep = lambda values: (kept.extend(values), keep(values))
    fit(gan, guard, steps=EVERY)
    assert kept.count("generator's gradient") == kept.count("discriminator's gradient") == EVERY
