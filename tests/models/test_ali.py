"""ALI's stochastic encoder, whose noise is a draw among the inputs of a step."""

import torch

from gantry.models.inference import Inference, encoder_draws
from gantry.models.losses import bidirectional
from gantry.models.networks import ali
from gantry.models.networks.priors import standard_normal
from gantry.models.objective import objective
from gantry.models.play import ENCODING
from gantry.models.step_inputs import Inputs, Order, plan

SHAPE, Z = (1, 8, 8), 5


def test_the_code_is_normal_about_its_mean_with_a_deviation_of_its_own():
    torch.manual_seed(0)
    generator = ali.Generator(Z, SHAPE, 8)
    assert isinstance(generator, Inference)
    images = torch.rand(2, *SHAPE).repeat_interleave(20_000, 0) * 2 - 1
    generator.eval()
    drawn = generator.encode(images, {"sample": torch.rand(len(images), Z)}).unflatten(0, (2, -1))
    mean, log_deviation = generator.encoder(images[::20_000]).chunk(2, 1)
    torch.testing.assert_close(drawn.mean(1), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(1), log_deviation.exp(), atol=0.03, rtol=0)
    assert torch.equal(generator.encode(images[:3]), generator.encode(images[:3]))


def test_the_deviation_learns_from_the_draw():
    generator = ali.Generator(Z, SHAPE, 8)
    uniform = torch.rand(6, Z)
    generator.encode(torch.rand(6, *SHAPE), {"sample": uniform}).sum().backward()
    gradient = generator.encoder.last.weight.grad
    assert gradient is not None
    assert (gradient[Z:] != 0).any()


def test_normal_values_are_the_inverse_of_their_distribution_and_finite_at_its_ends():
    uniform = torch.linspace(0.001, 0.999, 99)
    torch.testing.assert_close(torch.special.ndtr(standard_normal(uniform)), uniform, atol=1e-5, rtol=0)
    assert standard_normal(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


def test_turns_at_once_see_the_same_noise_of_the_encoder_and_others_each_their_own():
    needed = Inputs(Z, encoding=encoder_draws(ali.Generator(Z, SHAPE, 8)))
    for order, same in ((Order(first="together"), True), (Order(), False)):
        drawn = [turn.drawn(needed)[f"{ENCODING}sample"] for turn in plan(objective(bidirectional, ()), 0, order)]
        assert [one.width for one in drawn] == [Z, Z]
        assert (drawn[0] == drawn[1]) is same
