"""Consistency terms and LeCam, on a discriminator and a generator that can be computed by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gantry.models.augment.ada import ADA
from gantry.models.augment.uniform import standard_normal
from gantry.models.consistency import BalancedConsistency, Consistency, LatentConsistency, distance
from gantry.models.lecam import LeCam
from gantry.models.networks.blocks import Output
from gantry.models.step_inputs import LATENT


class Shift(nn.Module):
    """A view that adds an image's uniform number to it."""

    width = 1

    def forward(self, images, uniform):
        return images + uniform[:, :, None, None]


class Ranks:
    """Two ranks, of which the other has means that are larger by 2."""

    def mean(self, value):
        return value.detach() + 1


def play(player="discriminator", ranks=None):
    """A game in which D sums an image times a weight w of 3, and G repeats the sum of a latent times a weight of 2."""
    w, g = (torch.tensor(value, requires_grad=True) for value in (3.0, 2.0))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 5, generator=generator)

    def discriminate(images, labels=None, codes=None):
        assert labels is not None  # they go with their images
        return Output(w * images.sum((1, 2, 3)) + labels)

    def generate(z, labels=None):
        return (g * z.sum(1) + labels)[:, None, None, None].expand(-1, 1, 2, 2)

    labels = torch.arange(4)
    real = torch.randn(4, 1, 2, 2, generator=generator)
    fake = generate(z, labels)
    batches = {"real": real, "fake": fake if player == "generator" else fake.detach()}
    draws = {f"change of {name}": torch.rand(4, 1, generator=generator) for name in batches}
    return SimpleNamespace(
        player=player,
        **{name: SimpleNamespace(images=images, labels=labels, codes=None) for name, images in batches.items()},
        outputs={name: discriminate(images, labels) for name, images in batches.items()},
        z=z,
        draws=draws | {"change of latent": torch.rand(4, 5, generator=generator)},
        discriminate=discriminate,
        generate=generate,
        code=lambda z: None,
        ranks=ranks or SimpleNamespace(mean=torch.Tensor.detach),
        weights=(w, g),
    )


def test_cr_compares_reals_with_their_view():
    game = play()
    term = Consistency(weight=10.0, view=Shift())
    value = term(game)
    shift = game.draws["change of real"][:, 0]
    assert value.item() == pytest.approx(10 * (3 * 4 * shift).square().mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, game.weights[0])
    assert gradient.item() == pytest.approx(2 * value.item() / 3, rel=1e-5)  # it is proportional to w squared
    assert (term.draws, term.needs_of("discriminator")) == ({"change of real": 1}, {"real"})


def test_bcr_compares_both_kinds_with_their_own_numbers():
    game = play()
    term = BalancedConsistency(real=10.0, fake=5.0, view=Shift())
    squares = {name: (12 * game.draws[f"change of {name}"]).square().mean().item() for name in ("real", "fake")}
    assert term(game).item() == pytest.approx(10 * squares["real"] + 5 * squares["fake"], rel=1e-5)
    assert term.draws.keys() == game.draws.keys() - {"change of latent"}
    assert term.needs_of("discriminator") == {"real", "fake"}


def test_the_papers_view_is_that_which_mirrors_and_shifts():
    assert type(Consistency().view).__name__ == type(BalancedConsistency().view).__name__ == "FlipTranslate"
    assert Consistency().draws == {"change of real": 3}


def test_zcr_in_the_discriminators_turn():
    game = play()
    term = LatentConsistency(sigma=0.05, discriminator=20.0)
    change = 0.05 * standard_normal(game.draws["change of latent"]).sum(1) * 2
    value = term(game)
    assert value.item() == pytest.approx(20 * (3 * 4 * change).square().mean().item(), rel=1e-4)
    of_d, of_g = torch.autograd.grad(value, game.weights, allow_unused=True)
    assert of_d != 0
    assert of_g is None  # the generator is not moved
    assert (term.draws, term.needs_of("discriminator")) == ({"change of latent": LATENT}, {"fake"})


def test_zcr_in_the_generators_turn():
    game = play("generator")
    term = LatentConsistency(sigma=0.05, generator=0.5)
    change = 0.05 * standard_normal(game.draws["change of latent"]).sum(1) * 2
    value = term(game)
    assert value.item() == pytest.approx(-0.5 * change.square().mean().item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(value, game.weights[1])
    assert gradient.item() == pytest.approx(2 * value.item() / 2, rel=1e-4)
    assert term.needs_of("generator") == set()


def test_further_outputs_are_compared_where_there_are_any():
    zeros, ones = torch.zeros(4), torch.ones(4, 2)
    left = Output(zeros, None, {"class": ones, "embedding": ones, "proxy": ones})
    right = Output(zeros + 2, None, {"class": ones * 2, "embedding": ones * 4, "proxy": ones * 9})
    assert distance(left, right).item() == 4 + 1 + 9
    assert distance(Output(zeros), Output(zeros + 2)).item() == 4


def scores(real, fake, ranks=None):
    outputs = {name: Output(torch.tensor(logits)) for name, logits in (("real", real), ("fake", fake))}
    return SimpleNamespace(outputs=outputs, ranks=ranks or SimpleNamespace(mean=torch.Tensor.detach))


def test_lecam_by_hand():
    term = LeCam(weight=0.3, decay=0.9, start=2)
    assert term(scores([5.0, 7.0], [1.0, -3.0])) == 0  # the averages are 6 and -1
    assert term(scores([2.0, 4.0], [0.0, -2.0])) == 0  # update 2 = start: averages .9 * 6 + .1 * 3 and -1
    real, fake = 0.9 * 5.7 + 0.1 * 1.0, 0.9 * -1.0 + 0.1 * 3.0
    value = term(scores([3.0, -1.0], [7.0, -1.0]))
    expected = ((3 - fake) ** 2 + (-1 - fake if fake < -1 else 0) ** 2) / 2 + (0 + (real + 1) ** 2) / 2
    assert value.item() == pytest.approx(0.3 * expected, rel=1e-5)
    assert (term.real.item(), term.fake.item()) == (pytest.approx(real), pytest.approx(fake))


def test_lecam_without_relu_is_the_papers():
    term = LeCam(weight=1.0, decay=0.5, start=0, relu=False)
    value = term(scores([2.0], [4.0]))  # the averages begin at 2 and 4
    assert value.item() == pytest.approx((2 - 4) ** 2 + (2 - 4) ** 2)
    assert LeCam(weight=1.0, decay=0.5, start=0)(scores([2.0], [4.0])) == 0


def test_lecams_averages_are_over_all_ranks_and_take_no_gradient():
    term = LeCam(weight=1.0, start=1)
    logits = torch.tensor([1.0, 3.0], requires_grad=True)
    game = scores([0.0], [0.0], ranks=Ranks())
    game.outputs["real"] = Output(logits)
    term(game)
    assert (term.real.item(), term.fake.item()) == (3.0, 1.0)
    value = term(game)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.tolist() == pytest.approx([0.0, 2.0])  # of ((1 - 1)^2 + (3 - 1)^2) / 2, and none through a_R
    term(game)  # an update before a backward pass does not disturb it


def test_lecam_goes_on_where_it_was_saved():
    first, second = LeCam(start=1), LeCam(start=1)
    first(scores([1.0], [2.0]))
    second.load_state_dict(first.state_dict())
    after = [term(scores([4.0], [-4.0])) for term in (first, second)]
    assert after[0] == after[1] > 0


def test_two_backward_passes_may_follow_two_updates():
    term, logits = LeCam(start=0), torch.tensor([1.0, 3.0], requires_grad=True)
    game = scores([0.0], [0.0])
    game.outputs["real"] = Output(logits)
    values = [term(game), term(game)]
    sum(values).backward()
    assert logits.grad.isfinite().all()


def test_a_view_that_would_adapt_itself_is_refused():
    with pytest.raises(ValueError, match="target: null"):
        Consistency(view=ADA())
    assert Consistency(view=ADA(p=0.5, target=None)).draws == {"change of real": ADA().width}
