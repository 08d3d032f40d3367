"""Schedules against closed forms, and what a scheduled number does to training."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small import NOISE, bare_trainer

from gantry.data.batches import Batches
from gantry.models.ema import AveragedGenerator
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.models.penalties import R1
from gantry.models.scheduled import own_step_interval, rescaled, without_schedules
from gantry.models.schedules import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Progress,
    Schedule,
    WarmUp,
    found,
    settled,
    value_at,
)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(3.0), {0: 3.0, 10**9: 3.0}),
        (Linear(2e-4, 0.0, 100), {0: 2e-4, 25: 1.5e-4, 100: 0.0, 1000: 0.0}),
        (Linear(0.0, 0.6, 50, after=10), {0: 0.0, 10: 0.0, 35: 0.3, 60: 0.6, 61: 0.6}),
        (Cosine(2e-4, 5e-5, 20), {0: 2e-4, 10: 1.25e-4, 20: 5e-5, 99: 5e-5}),
        (Cosine(1.0, 0.0, 3), {1: (1 + math.cos(math.pi / 3)) / 2, 2: (1 + math.cos(2 * math.pi / 3)) / 2}),
        (WarmUp(4, 2.0), {0: 0.0, 1: 0.5, 4: 2.0, 9: 2.0}),
        (WarmUp(4, Linear(2.0, 1.0, 8)), {0: 0.0, 2: 0.5 * 1.75, 4: 1.5, 8: 1.0}),
        (Exponential(1.0, 0.99, 10, 0.5), {9: 1.0, 10: 0.99, 25: 0.99**2, 10**5: 0.5}),
        (Exponential(1.0, 10.0, 2, 100.0), {1: 1.0, 2: 10.0, 4: 100.0, 6: 100.0}),
    ],
)
def test_values_are_the_closed_forms(schedule, values):
    assert isinstance(schedule, Schedule)
    for done, value in values.items():
        assert schedule.at(done) == pytest.approx(value, abs=1e-15)


def test_a_schedule_counts_steps_or_images():
    assert value_at(Linear(0.0, 1.0, 100), Progress(50, 6400)) == 0.5
    assert value_at(Linear(0.0, 1.0, 12800, unit="images"), Progress(50, 6400)) == 0.5
    assert value_at(0.25, Progress(50, 6400)) == 0.25


def test_the_schedules_of_a_part_are_found_and_replaced_by_the_present_numbers():
    penalty = R1(gamma=Cosine(0.05, 0.005, 100), every=2)
    ((place, schedule),) = found(penalty, "penalties.3")
    assert (place, schedule) == ("penalties.3.gamma", penalty.gamma)
    now = settled(
        penalty, "penalties.3", {"penalties.3.gamma": torch.tensor(0.02), "penalties.30.gamma": torch.ones(())}
    )
    assert float(now.gamma) == pytest.approx(0.02)
    assert now.every == 2
    assert penalty.gamma == schedule  # the part itself stays
    assert settled(penalty, "penalties.0", {"penalties.3.gamma": torch.ones(())}) is penalty


def test_an_optimizers_schedules_leave_the_first_numbers():
    factory = partial(torch.optim.Adam, lr=Linear(1e-3, 0.0, 10), betas=[0.0, Constant(0.9)])
    plain, schedules = without_schedules(factory)
    assert plain.keywords == {"lr": 1e-3, "betas": [0.0, 0.9]}
    assert schedules.keys() == {("lr", None), ("betas", 1)}
    untouched = partial(torch.optim.SGD, lr=0.1)
    assert without_schedules(untouched) == (untouched, {})


def test_the_half_life_of_the_average_may_change():
    average = AveragedGenerator(torch.nn.Linear(1, 1), Linear(0, 1000, 100, unit="images"), ramp_up=None)
    assert average.share(Progress(0, 0), 10) == 1.0  # a half-life of 0: a copy
    assert average.share(Progress(5, 50), 10) == 1 - 0.5 ** (10 / 500)
    assert average.share(Progress(99, 990), 10) == 1 - 0.5 ** (10 / 1000)


def gan_with(**options):
    torch.manual_seed(0)
    networks = dcgan.Generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4, "none")
    return GAN(*networks, non_saturating, z_dim=6, seed=0, batch_size=6, **options)


SCHEDULED = {
    "optimizer": partial(torch.optim.Adam, lr=Linear(1e-3, 0.0, 4), betas=[0.5, Cosine(0.9, 0.99, 4)]),
    "penalties": [R1(Linear(0.0, 8.0, 8))],
    "ema": {"half_life": Linear(0, 100, 24, unit="images")},
}


def train(gan, steps, start=0, checkpoint=None):
    rates, trainer = [], bare_trainer(steps)
    one = gan.training_step
    records = []

    def watched(*given):
        records.append(one(*given))
        rates.append([(group["lr"], *group["betas"]) for o in trainer.optimizers for group in o.param_groups])
        return records[-1]

    gan.training_step = watched
    trainer.fit(gan, Batches(NOISE, 6, 1, 0, start=start), ckpt_path=checkpoint)
    return SimpleNamespace(rates=rates, records=records, trainer=trainer, gan=gan)


def test_rates_and_weights_follow_their_schedules_in_training():
    run = train(gan_with(**SCHEDULED), 4)
    assert [[rate for rate, *_ in step] for step in run.rates] == [[1e-3 * (1 - n / 4)] * 2 for n in range(4)]
    decay = [0.99 - 0.09 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)]
    assert [step[0][2] for step in run.rates] == pytest.approx(decay)
    penalties = [float(record["penalty/0_R1"]) for record in run.records]
    assert penalties[0] == 0.0
    assert all(value > 0 for value in penalties[1:])
    logged = run.gan.scheduled.logged(Progress(2, 12))
    assert logged == {
        "schedule/penalties.0.gamma": 2.0,
        "schedule/ema.half_life": 50.0,
        "schedule/optimizer.lr": 5e-4,
        "schedule/optimizer.betas.1": pytest.approx(0.945),
        "schedule/discriminator_optimizer.lr": 5e-4,
        "schedule/discriminator_optimizer.betas.1": pytest.approx(0.945),
    }


def test_a_scheduled_weight_is_the_number_itself():
    ends = []
    for gamma in (Constant(0.3), 0.3):
        gan = gan_with(optimizer=partial(torch.optim.Adam, lr=1e-3), penalties=[R1(gamma)])
        bare_trainer(3).fit(gan, Batches(NOISE, 6, 1, 0))
        ends.append(gan.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-7)


def test_a_resumed_run_has_the_numbers_of_one_never_stopped(tmp_path):
    whole = train(gan_with(**SCHEDULED), 6)
    half = train(gan_with(**SCHEDULED), 3)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = train(gan_with(**SCHEDULED), 6, 3, tmp_path / "half.ckpt")
    assert half.rates + resumed.rates == whole.rates
    for name, value in whole.gan.state_dict().items():
        assert torch.equal(value, resumed.gan.state_dict()[name]), name


def test_a_penalty_with_a_step_of_its_own_rescales_the_rate_and_the_betas():
    """StyleGAN2: 16 turns and one more, in which Adam's averages reach as far back."""
    assert own_step_interval([R1(1.0)]) is None
    assert own_step_interval([R1(1.0, every=16, own_step=True)]) == 16
    assert rescaled("lr", 0.0025, 16) == 0.0025 * 16 / 17
    assert rescaled("betas", (0.0, 0.99), 16) == (0.0, 0.99 ** (16 / 17))
    adam = partial(torch.optim.Adam, lr=0.0025, betas=(0.0, 0.99))
    gan = gan_with(optimizer=adam, penalties=[R1(1.0, every=2, own_step=True)])
    run = train(gan, 4)
    assert run.rates == [[(0.0025, 0.0, 0.99), (0.0025 * (2 / 3), 0.0, 0.99 ** (2 / 3))]] * 4
    generator, discriminator = run.trainer.optimizers
    assert {int(state["step"]) for state in generator.state.values()} == {4}
    assert {int(state["step"]) for state in discriminator.state.values()} == {4 + 2}
    assert ["penalty/0_R1" in record for record in run.records] == [True, False, True, False]
