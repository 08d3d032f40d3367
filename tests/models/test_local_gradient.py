"""DRAGAN's penalty on a critic whose gradient is known, and its noise."""

import pytest
import torch
from torch import nn

from gantry.core.errors import UserError
from gantry.models.check_parts import check_discriminator
from gantry.models.local_gradient import LocalGradientPenalty
from gantry.models.objective import Further
from gantry.models.play import Play, Players
from gantry.models.step_inputs import Inputs, Planned

BATCH, SHAPE = 4, (3, 2, 2)


class Scaled(nn.Module):
    """D(x) = a |x|^2 / 2: its gradient is a x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return 0.5 * self.a * images.square().sum((1, 2, 3))


@pytest.fixture
def shown():
    return torch.randint(0, 256, (BATCH, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def play(shown, critic, **draws):
    players = Players(nn.Identity(), critic, None, None, critic)
    return Play("discriminator", shown, None, torch.zeros(BATCH, 2), None, players, draws)


def test_the_penalty_and_its_gradient_by_hand(shown):
    critic = Scaled()
    noise = torch.rand(BATCH, 12, generator=torch.Generator().manual_seed(1))
    place = torch.tensor([0.0, 1.0, 0.25, 0.5])
    found = LocalGradientPenalty(weight=10.0, spread=0.5)(play(shown, critic, noise=noise, place=place))
    found.backward()
    real = shown.double() / 127.5 - 1
    near = real + place.double().view(-1, 1, 1, 1) * 0.5 * real.std(correction=0) * noise.double().view(real.shape)
    lengths = near.flatten(1).norm(dim=1)
    assert found.item() == pytest.approx(10 * (2 * lengths - 1).square().mean().item(), rel=1e-5)
    assert critic.a.grad.item() == pytest.approx(10 * (2 * (2 * lengths - 1) * lengths).mean().item(), rel=1e-5)


def test_the_deviation_is_that_of_the_images_of_all_ranks(shown):
    class Two:
        """The second rank has black images alone, whose values are -1."""

        count = 2

        def mean(self, value):
            return (value + torch.tensor([-1.0, 1.0])) / 2

    drawn = dict(noise=torch.ones(BATCH, 12), place=torch.ones(BATCH))
    made = play(shown, Scaled(), **drawn)
    vars(made)["ranks"] = Two()
    real = shown.double() / 127.5 - 1
    deviation = torch.cat([real, torch.full_like(real, -1.0)]).std(correction=0)
    expected = 10 * (2 * (real + 0.5 * deviation).flatten(1).norm(dim=1) - 1).square().mean()
    assert LocalGradientPenalty()(made).item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_draws_a_number_for_each_value_of_an_image_and_one_for_the_place():
    term = Further(LocalGradientPenalty(), 0, "discriminator")
    drawn = Planned("discriminator", 0, [term], False).drawn(Inputs(z_dim=5, pixels=12))
    assert drawn["term 0 noise"].shape(BATCH) == (BATCH, 12)
    assert drawn["term 0 place"].shape(BATCH) == (BATCH,)


def test_batch_norm_is_refused_under_it():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(UserError, match="no gradient of its own for LocalGradientPenalty"):
        check_discriminator(network, [LocalGradientPenalty()])
