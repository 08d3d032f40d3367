"""The mutual information of InfoGAN against its closed form, and whose weights it moves."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import norm

from gantry.core.errors import UserError
from gantry.models.mutual_information import MutualInformation
from gantry.models.networks.blocks import Output
from gantry.models.networks.latent_map import LatentMap

CODES = {"kind": 3, "tilt": [-1.0, 1.0], "tint": [0.0, 4.0]}
BATCH = 7


def play(player, told, codes=CODES):
    drawn = torch.Generator().manual_seed(1)
    z = torch.randn(BATCH, 8, generator=drawn)
    outputs = {"fake": Output(torch.zeros(BATCH), None, {} if told is None else {"code": told})}
    players = SimpleNamespace(latents=None if codes is None else LatentMap(8, codes))
    return SimpleNamespace(player=player, outputs=outputs, z=z, players=players)


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_the_term_is_the_codes_negative_log_likelihood(player):
    told = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(2))
    given = play(player, told)
    kinds = given.z[:, 3:6].argmax(1)
    uniform = torch.from_numpy(norm.cdf(given.z[:, 6:].double().numpy())) * torch.tensor([2.0, 4.0]) - torch.tensor(
        [1, 0]
    )
    expected = 0.0
    for image in range(BATCH):
        likelihood = told[image, :3].exp() / told[image, :3].exp().sum()
        expected -= 0.5 * math.log(likelihood[kinds[image]]) / BATCH
        for part in range(2):
            density = norm.logpdf(float(uniform[image, part]), loc=float(told[image, 3 + part]))
            expected -= 0.25 * density / BATCH
    term = MutualInformation(categorical=0.5, continuous=0.25)
    assert term(given).item() == pytest.approx(expected, rel=1e-5)
    assert term.needs_of(player) == {"fake"}


def test_what_tells_nothing_costs_the_entropy():
    given = play("generator", torch.zeros(BATCH, 3), {"kind": 3})
    assert MutualInformation()(given).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    ("told", "codes"), [(torch.zeros(BATCH, 5), None), (None, CODES), (torch.zeros(BATCH, 4), CODES)]
)
def test_without_codes_or_the_head_that_tells_them_it_is_refused(told, codes):
    with pytest.raises(UserError, match="MutualInformation needs a generator with codes and a discriminator"):
        MutualInformation()(play("generator", told, codes))
