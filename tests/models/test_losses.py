"""Closed-form values of every loss, by hand from its paper's equation."""

import math
from functools import partial

import pytest
import torch

from gantry.models import losses

REAL, FAKE = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 1.0])


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


D_MINIMAX = -(log_sigmoid(0) + log_sigmoid(2)) / 2 - (log_sigmoid(1) + log_sigmoid(-1)) / 2
PAIRS = [(0.0, -1.0), (2.0, 1.0)]


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        (losses.minimax, D_MINIMAX, (log_sigmoid(1) + log_sigmoid(-1)) / 2),  # E log(1 - D(G(z)))
        (losses.non_saturating, D_MINIMAX, -(log_sigmoid(-1) + log_sigmoid(1)) / 2),
        (losses.least_squares, 0.5 * (1 + 1) / 2 + 0.5 * (1 + 1) / 2, 0.5 * (4 + 0) / 2),
        (losses.wasserstein, 0.0 - 1.0, 0.0),
        (losses.hinge, (1 + 0) / 2 + (0 + 2) / 2, 0.0),
        (
            losses.relativistic_pairing,
            -sum(log_sigmoid(real - fake) for real, fake in PAIRS) / 2,
            -sum(log_sigmoid(fake - real) for real, fake in PAIRS) / 2,
        ),
        (
            losses.relativistic_average,  # the mean of the reals is 1, that of the fakes 0
            -(log_sigmoid(0) + log_sigmoid(2)) / 4 - (log_sigmoid(2) + log_sigmoid(0)) / 4,
            -(log_sigmoid(0) + log_sigmoid(-2)) / 4 - (log_sigmoid(-2) + log_sigmoid(0)) / 4,
        ),
    ],
)
def test_closed_form(loss, discriminator, generator):
    values = loss(REAL, FAKE)
    assert values.discriminator.item() == pytest.approx(discriminator, rel=1e-6)
    assert values.generator.item() == pytest.approx(generator, rel=1e-6, abs=1e-7)


def test_the_gradient_of_the_relativistic_average_by_hand():
    """With s the logistic function and all means as above: of D at each real image -(s(-r + 0) + s(f - 1)'s mean) / 4.

    d/dr_i of [mean softplus(-(r - mean f)) + mean softplus(f - mean r)] / 2 is -[s(mean f - r_i) + mean s(f - mean r)]
    / 4 for two images, and of the generator's loss with respect to f_i the same with the kinds exchanged.
    """

    def s(x):
        return 1 / (1 + math.exp(-x))

    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    made = losses.relativistic_average(real, fake)
    (of_real,) = torch.autograd.grad(made.discriminator, real, retain_graph=True)
    (of_fake,) = torch.autograd.grad(made.generator, fake)
    others = (s(-2) + s(0)) / 2
    assert of_real.tolist() == pytest.approx([-(s(0) + others) / 4, -(s(-2) + others) / 4], rel=1e-6)
    others = (s(0) + s(2)) / 2  # s(r - mean f)
    assert of_fake.tolist() == pytest.approx([-(s(2) + others) / 4, -(s(0) + others) / 4], rel=1e-6)


def test_only_a_loss_that_says_so_is_given_the_logits_of_all_ranks():
    assert losses.compares_the_batch(partial(losses.relativistic_average))
    assert not losses.compares_the_batch(losses.relativistic_pairing)


@pytest.mark.parametrize("loss", [losses.minimax, losses.non_saturating])
def test_smoothing_lowers_the_target_of_real_images_alone(loss):
    smooth, plain = loss(REAL, FAKE, smoothing=0.1), loss(REAL, FAKE)
    on_real = -(0.9 * log_sigmoid(0) + 0.1 * log_sigmoid(0) + 0.9 * log_sigmoid(2) + 0.1 * log_sigmoid(-2)) / 2
    on_fake = -(log_sigmoid(1) + log_sigmoid(-1)) / 2
    assert smooth.discriminator.item() == pytest.approx(on_real + on_fake, rel=1e-6)
    assert smooth.generator == plain.generator


def test_with_smoothing_a_discriminator_is_best_at_the_target():
    sure = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)
    losses.non_saturating(sure, FAKE[:1], smoothing=0.1).discriminator.backward()
    assert sure.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_smoothing_of_least_squares():
    smooth, plain = losses.least_squares(REAL, FAKE, smoothing=0.25), losses.least_squares(REAL, FAKE)
    assert smooth.discriminator.item() == pytest.approx(0.5 * (0.75**2 + 1.25**2) / 2 + 0.5 * (1 + 1) / 2)
    assert smooth.generator == plain.generator


@pytest.mark.parametrize("loss", [losses.minimax, losses.non_saturating, losses.hinge, losses.relativistic_pairing])
def test_extreme_logits_stay_finite(loss):
    values = loss(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]))
    assert all(value.isfinite() for value in values)


def test_a_saturated_minimax_generator_has_no_gradient_and_a_non_saturating_one_has():
    fake = torch.tensor([-20.0], requires_grad=True)  # the discriminator is certain
    (minimax,) = torch.autograd.grad(losses.minimax(REAL[:1], fake).generator, fake)
    (heuristic,) = torch.autograd.grad(losses.non_saturating(REAL[:1], fake).generator, fake)
    assert abs(minimax.item()) < 1e-8
    assert heuristic.item() == pytest.approx(-1, rel=1e-6)


def test_only_relativistic_losses_need_the_real_logits_for_the_generator():
    every = (losses.minimax, losses.non_saturating, losses.least_squares, losses.wasserstein, losses.hinge)
    assert not any("real" in losses.seen_by_generator(loss) for loss in every)
    for loss in (losses.relativistic_pairing, losses.relativistic_average):
        assert "real" in losses.seen_by_generator(loss)


def undeclared(loss):
    """A user's own loss, which declares nothing."""
    return lambda real, fake: loss(real, fake)


OURS = [
    "minimax",
    "non_saturating",
    "least_squares",
    "wasserstein",
    "hinge",
    "relativistic_pairing",
    "relativistic_average",
]


@pytest.mark.parametrize("name", OURS)
def test_what_a_loss_declares_is_what_trying_it_out_finds(name):
    loss = getattr(losses, name)
    assert losses.seen_by_generator(loss) == losses.seen_by_generator(undeclared(loss))


@pytest.mark.parametrize(
    "generator",
    [
        lambda real, fake: (real - fake).mean(),
        lambda real, fake: (real.detach().mean() - fake).square().mean(),  # no gradient reaches the real logits
        lambda real, fake: (fake - (real > 5).float()).mean(),
        lambda real, fake: -fake.mean() if real.mean() > -3 else fake.mean(),
        lambda real, fake: -fake.mean() + real.detach().clamp(2, 3).mean(),
    ],
)
def test_a_loss_of_ones_own_whose_generator_looks_at_real_logits_in_any_way_is_given_them(generator):
    assert "real" in losses.seen_by_generator(lambda r, f: losses.Losses(r.mean() - f.mean(), generator(r, f)))


def test_a_loss_with_a_memory_keeps_no_trial_in_it():
    class Remembering:
        def __init__(self):
            self.calls = 0

        def __call__(self, real, fake):
            self.calls += 1
            return losses.hinge(real, fake)

    loss = Remembering()
    assert losses.seen_by_generator(loss) == {"fake"}
    assert loss.calls == 0


def test_a_declaration_wins_and_is_found_through_hydras_partial():
    def loss(real, fake, weight):
        raise AssertionError("not tried out")

    declared = losses.generator_sees("fake")(loss)
    assert declared is loss
    assert losses.seen_by_generator(partial(partial(loss, weight=1.0))) == {"fake"}


def test_a_misspelt_declaration_is_refused():
    with pytest.raises(ValueError, match="real and fake, not reals"):
        losses.generator_sees("reals", "fake")
