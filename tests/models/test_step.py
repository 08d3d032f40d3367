"""The step without Lightning: a plain loop of it does to the bit what Lightning's training does."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from project import COMMON, VARIANTS, widths
from small import NOISE, bare_trainer
from torch import nn

from gantry.data.batches import Batches
from gantry.models import step_inputs
from gantry.models.ema import AveragedGenerator
from gantry.models.losses import non_saturating, relativistic_pairing
from gantry.models.objective import objective
from gantry.models.penalties import R1
from gantry.models.play import Players
from gantry.models.schedules import Progress
from gantry.models.step import Plain, Turn, due, step
from gantry.models.step_inputs import VALUE
from gantry.training.model import build_model

STEPS = 3
SMALL = ["data.image_size=8", "batch_size=6"]
PARTS = ["accumulate=2", "model.max_grad_norm=0.1"]
TRAINED = [pytest.param(variant, [], id=f"{variant}-whole") for variant in VARIANTS] + [
    pytest.param(
        *(variant, PARTS),
        marks=() if variant in (*COMMON, "reacgan", "stylegan2") else pytest.mark.slow,
        id=f"{variant}-accumulate=2 and clipped",
    )
    for variant in VARIANTS
]


def alone(gan):
    """The GAN as if attached to the trainer of a single process."""
    gan.trainer = SimpleNamespace(world_size=1, global_rank=0, precision_plugin=None)
    gan.objective = objective(gan.loss, gan.penalties, gan.terms, gan.top_k)
    return gan


def plain(gan, batches):
    """Train by a loop of `step`, with no Lightning in it; its records."""
    optimizers = dict(zip(("generator", "discriminator"), alone(gan).configure_optimizers(), strict=True))
    records = []
    for number, batch in zip(range(STEPS), batches, strict=False):
        progress, before = (Progress(done, done * gan.batch_size) for done in (number, number - 1))
        gan.grown.begin(progress, before if number else None, optimizers.values())
        share = gan.averaged.share(progress, gan.batch_size)
        gan.scheduled.set_optimizers(progress)
        numbers = {VALUE + place: torch.tensor(value) for place, value in gan.scheduled.values(progress).items()}
        planned = step_inputs.plan(gan.objective, number, gan.order)
        inputs = batch | gan.drawn(planned) | numbers
        made = step_inputs.turns(planned, gan.inputs, inputs, gan.constraints, gan.images_format)
        engine = Plain(gan.max_grad_norm)
        records.append(step(gan.players, made, optimizers, share, engine, gan.accumulate, gan.at_every_pass))
    return records, list(optimizers.values())


def lightning(gan, batches):
    """Train as Gantry does; its records."""
    records, one = [], gan.training_step
    gan.training_step = lambda *batch: (records.append(one(*batch)), records[-1])[1]
    trainer = bare_trainer(STEPS)
    trainer.fit(gan, batches)
    return records, trainer.optimizers


@pytest.mark.parametrize(("variant", "settings"), TRAINED)
def test_a_plain_loop_of_the_step_is_lightnings_training_to_the_bit(variant, settings, config):
    gans, ends = [], []
    for train in (lightning, plain):
        gan, _ = build_model(config(f"model={variant}", *SMALL, *widths(variant), *settings), NOISE)
        ends.append(train(gan, Batches(NOISE, gan.batch_size, gan.real_batches, gan.seed)))
        gans.append(gan)
    (records, optimizers), (plain_records, plain_optimizers) = ends
    assert plain_records == records
    states = [gan.state_dict() for gan in gans]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    for one, other in zip(optimizers, plain_optimizers, strict=True):
        for weight, same in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(weight[name], same[name]) for name in weight)


def dense(loss, penalties=(), kind=nn.Identity):
    """The smallest of GANs, its players, terms and optimizers."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)), nn.Tanh())
    critic = nn.Sequential(nn.Flatten(), kind(), nn.Linear(16, 1), nn.Flatten(0))
    players = Players(generator, critic, AveragedGenerator(generator), generator, critic)
    optimizers = {
        "generator": torch.optim.SGD(generator.parameters(), lr=0.1),
        "discriminator": torch.optim.SGD(critic.parameters(), lr=0.1),
    }
    return players, objective(loss, penalties), optimizers


def turns(terms, index=0, after=()):
    """Those of one generator step, their tensors drawn from the step's number."""
    drawn = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (4, 1, 4, 4), generator=drawn, dtype=torch.uint8)
    made = []
    for player in ("discriminator", "generator"):
        mine = due(terms, player, index)
        draws = {purpose: torch.rand(4, generator=drawn) for term in mine for purpose in term.draws}
        constraints = after if player == "discriminator" else ()
        made.append(Turn(player, mine, images, torch.randn(4, 3, generator=drawn), draws, constraints))
    return made


def test_the_same_tensors_refilled_give_the_same_step_as_new_ones():
    """As a captured graph's: its buffers stay, what is in them changes."""
    players, terms, optimizers = dense(relativistic_pairing, [R1(1.0)])
    other, other_terms, other_optimizers = dense(relativistic_pairing, [R1(1.0)])
    share, kept = torch.zeros(()), turns(other_terms)
    for index in range(3):
        new = turns(terms, index)
        record = step(players, new, optimizers, 0.3)
        for turn, filled in zip(new, kept, strict=True):
            filled.images.copy_(turn.images)
            filled.z.copy_(turn.z)
            for purpose, values in turn.draws.items():
                filled.draws[purpose].copy_(values)
        assert step(other, kept, other_optimizers, share.fill_(0.3)) == record
    assert all(map(torch.equal, players.generator.parameters(), other.generator.parameters()))
    assert all(map(torch.equal, players.averaged.parameters(), other.averaged.parameters()))


@pytest.mark.parametrize(("loss", "asked"), [(non_saturating, 3), (relativistic_pairing, 4)])
def test_the_discriminator_is_asked_only_what_a_term_needs(loss, asked):
    players, terms, optimizers = dense(loss)
    batches = []
    players.discriminator.register_forward_pre_hook(lambda _, given: batches.append(given[0]))
    step(players, turns(terms), optimizers, 1.0)
    assert [batch.requires_grad for batch in batches] == [False, False, True, False][:asked]


def test_terms_are_due_by_their_players_turns_and_draw_only_then():
    _, terms, _ = dense(non_saturating, [R1(1.0, every=2), R1(1.0, every=3)])
    names = [[term.name for term in due(terms, "discriminator", turn)] for turn in range(4)]
    always, second, third = "loss/discriminator", "penalty/0_R1", "penalty/1_R1"
    assert names == [[always, second, third], [always], [always, second], [always, third]]
    assert [turn.draws.keys() for turn in turns(terms, 3)] == [{"penalty 1"}, set()]


def test_a_constraint_follows_its_players_turn():
    players, terms, optimizers = dense(non_saturating)
    called = []
    step(players, turns(terms, after=[called.append]), optimizers, 1.0)
    assert called == [players.discriminator]


def test_the_step_imports_no_framework():
    frameworks = {"pytorch_lightning", "hydra", "omegaconf", "mlflow"}
    code = f"import sys, gantry.models.objective; print({frameworks} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
