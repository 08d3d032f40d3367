"""Turns that are taken at once, discriminators of pairs, and BiGAN's networks and loss."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from gantry.core.errors import UserError
from gantry.models.check_parts import check_codes, check_order
from gantry.models.ema import AveragedGenerator
from gantry.models.losses import bidirectional, non_saturating, seen_by_generator
from gantry.models.networks import bigan, mlp
from gantry.models.networks.priors import from_uniform, uniform
from gantry.models.objective import objective
from gantry.models.penalties import R1
from gantry.models.play import Players
from gantry.models.step import step, weights_of
from gantry.models.step_inputs import IMAGES, Inputs, Order, plan, turns
from gantry.training.hardware.precision import LossScaling

SHAPE, Z = (1, 8, 8), 5
TOGETHER = Order(first="together")


def players():
    torch.manual_seed(0)
    generator, discriminator = bigan.Generator(Z, SHAPE, 8), bigan.Discriminator(SHAPE, Z, 8)
    nn.init.normal_(discriminator.last.weight)
    averaged, takes = AveragedGenerator(generator), {"discriminator": frozenset({"codes"})}
    made = Players(generator, discriminator, averaged, generator, discriminator, takes)
    return replace(made, code=generator.code, encode=generator.encode)


def taken(order, batch=6):
    terms, needed, draw = objective(bidirectional, ()), Inputs(Z), torch.Generator().manual_seed(1)
    planned = plan(terms, 0, order)
    inputs = {IMAGES: torch.randint(0, 256, (1, batch, *SHAPE), generator=draw, dtype=torch.uint8)}
    for turn in planned:
        inputs |= {
            turn.key(name): torch.randn(one.shape(batch), generator=draw) for name, one in turn.drawn(needed).items()
        }
    return turns(planned, needed, inputs, (), torch.contiguous_format)


def moved(order, players):
    networks = {"generator": players.generator, "discriminator": players.discriminator}
    optimizers = {name: torch.optim.SGD(network.parameters(), lr=0.1) for name, network in networks.items()}
    before = {name: [weight.clone() for weight in weights_of(one)] for name, one in optimizers.items()}
    step(players, taken(order), optimizers, 0.5)
    return {
        name: [(old - new).detach() / 0.1 for old, new in zip(before[name], weights_of(one), strict=True)]
        for name, one in optimizers.items()
    }


def gradients(players):
    """Of both players at one place, by hand."""
    turn = taken(TOGETHER)[0]
    real, (g, d) = turn.images.float() / 127.5 - 1, (players.generator, players.discriminator)
    codes = uniform(turn.z)
    p, q = d(g(turn.z), codes), d(real, g.encode(real))
    softplus = nn.functional.softplus
    of_d = torch.autograd.grad((softplus(-q) + softplus(p)).mean(), list(d.parameters()), retain_graph=True)
    return {
        "discriminator": of_d,
        "generator": torch.autograd.grad((softplus(q) + softplus(-p)).mean(), list(g.parameters())),
    }


def test_both_players_move_by_their_gradients_at_one_place():
    wanted, found = gradients(players()), moved(TOGETHER, players())
    for name in wanted:
        for left, right in zip(found[name], wanted[name], strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)
    alternating = moved(Order(), players())
    assert (
        all(torch.equal(*pair) for pair in zip(alternating["discriminator"], found["discriminator"], strict=True))
        is False
    )


def test_turns_at_once_have_one_batch_of_images_and_latents_and_others_each_their_own():
    critic, generator = taken(TOGETHER)
    assert critic.together
    assert generator.together
    assert torch.equal(critic.z, generator.z)
    critic, generator = taken(Order())
    assert not torch.equal(critic.z, generator.z)


def test_the_loss_is_that_of_swapped_pairs():
    q, p = torch.tensor([0.3, -1.0]), torch.tensor([0.7, 0.1])
    losses = bidirectional(q, p, weight=0.5)
    log1p = lambda x: math.log1p(math.exp(x))  # noqa: E731
    assert float(losses.discriminator) == pytest.approx(0.25 * (log1p(-0.3) + log1p(1.0) + log1p(0.7) + log1p(0.1)))
    assert float(losses.generator) == pytest.approx(0.25 * (log1p(0.3) + log1p(-1.0) + log1p(-0.7) + log1p(-0.1)))
    assert seen_by_generator(partial(bidirectional, weight=0.5)) == {"real", "fake"}


def test_the_prior_is_uniform_and_has_an_inverse():
    z = torch.linspace(-3, 3, 61)
    assert torch.allclose(uniform(z), torch.special.ndtr(z) * 2 - 1, atol=1e-6)
    torch.testing.assert_close(from_uniform(uniform(z)), z, rtol=1e-3, atol=1e-3)
    assert from_uniform(torch.tensor([-7.0, 7.0])).isfinite().all()


def test_bigans_networks_are_those_of_its_code():
    generator, discriminator = bigan.Generator(50, (1, 28, 28)), bigan.Discriminator((1, 28, 28), 50)
    size = 784 * 1024 + 1024 * 1024 + 50 * 1024
    assert sum(weight.numel() for weight in generator.encoder.parameters()) == size
    assert sum(weight.numel() for weight in generator.parameters()) == 2 * size + 50 * 1024
    assert sum(weight.numel() for weight in discriminator.parameters()) == size + 1024
    images = torch.rand(4, 1, 28, 28) * 2 - 1
    assert discriminator(images, generator.encode(images)).tolist() == [0.0] * 4
    assert generator(torch.randn(4, 50)).shape == images.shape
    assert generator.hidden(images).shape == (4, 1024)


def test_the_discriminator_judges_the_code_beside_the_image():
    made = players()
    images, (one, other) = torch.rand(4, *SHAPE), torch.randn(2, 4, Z)
    assert not torch.allclose(made.discriminator(images, one), made.discriminator(images, other))


@pytest.mark.parametrize(
    ("order", "labels", "said"),
    [
        (Order(2, "together"), {}, "n_critic=2"),
        (Order(1, "together", 2), {}, "generator_batches=2"),
        (Order(1, "together", 1, "next"), {}, "generator_reals=next"),
        (TOGETHER, {"generator": "data", "discriminator": "uniform"}, "discriminator_labels=uniform"),
    ],
)
def test_what_leaves_no_room_for_turns_at_once_is_refused_by_name(order, labels, said):
    with pytest.raises(UserError, match=said):
        check_order(order, bidirectional, labels)


def test_a_penalty_with_a_step_of_its_own_is_refused_beside_turns_at_once():
    with pytest.raises(UserError, match="own_step of R1"):
        check_order(TOGETHER, non_saturating, {}, [R1(gamma=1.0, own_step=True)])


def test_halves_of_a_pair_are_refused_by_name():
    generator, discriminator = bigan.Generator(Z, SHAPE, 8), bigan.Discriminator(SHAPE, Z, 8)
    with pytest.raises(UserError, match=r"model\.generator has no encoder"):
        check_codes(mlp.Generator(Z, SHAPE), discriminator, bidirectional, [])
    with pytest.raises(UserError, match="takes no codes"):
        check_codes(generator, mlp.Discriminator(SHAPE), bidirectional, [])
    with pytest.raises(UserError, match=r"losses\.bidirectional"):
        check_codes(generator, discriminator, non_saturating, [])
    with pytest.raises(UserError, match="R1 takes the gradient"):
        check_codes(generator, discriminator, bidirectional, [R1(gamma=1.0)])


class Two(LightningModule):
    """A module whose trainer has two optimizers, of a weight each."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(2)])
        self.automatic_optimization = False
        self.optimizers_made = [torch.optim.SGD([weight], lr=1.0, foreach=False) for weight in self.weights]

    @property
    def trainer(self):
        return type("Trainer", (), {"optimizers": self.optimizers_made})()


@pytest.mark.parametrize(("gradients", "skipped", "scale"), [((2.0, 3.0), [0, 0], 8.0), ((2.0, math.inf), [0, 1], 2.0)])
def test_at_once_all_optimizers_unscale_by_the_scale_of_their_gradients(gradients, skipped, scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_factor=2.0, growth_interval=1)
    plugin, module = LossScaling("cpu", scaler), Two()
    for weight, gradient in zip(module.weights, gradients, strict=True):
        scaler.scale(weight * gradient).backward()
    plugin._after_closure = lambda *_: None
    with plugin.at_once():
        for optimizer in module.optimizers_made:
            plugin.optimizer_step(optimizer, module, lambda: None)
    wanted = [-one if math.isfinite(one) else 0.0 for one in gradients]
    assert [weight.item() for weight in module.weights] == wanted
    assert [int(count) for count in plugin.skipped.values()] == skipped
    assert scaler.get_scale() == scale
