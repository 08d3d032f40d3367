"""The averaged generator against a computation by hand."""

import pytest
import torch
from torch import nn

from gantry.models.ema import AveragedGenerator
from gantry.models.schedules import Progress


def test_weights_follow_the_recursion_and_buffers_are_copied():
    network = nn.BatchNorm1d(1)
    network.weight.data.fill_(1.0)
    average = AveragedGenerator(network, half_life=100, ramp_up=0.5)
    expected, images = 1.0, 0
    for step, value in enumerate([2.0, 5.0, -1.0, 4.0]):
        network.weight.data.fill_(value)
        network.running_mean.fill_(value)
        network.num_batches_tracked.fill_(step + 1)
        average.update(network, average.share(Progress(0, images), batch=50))
        half_life = min(100, 0.5 * images)
        decay = 0.5 ** (50 / half_life) if half_life else 0.0
        expected = decay * expected + (1 - decay) * value
        images += 50
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
        assert average.module.running_mean.item() == value
        assert average.module.num_batches_tracked.item() == step + 1


def test_a_weights_share_halves_after_the_half_life():
    average = AveragedGenerator(nn.Linear(1, 1, bias=False), half_life=1000, ramp_up=1.0)
    average.module.weight.data.fill_(1.0)
    still = nn.Linear(1, 1, bias=False)
    still.weight.data.fill_(0.0)
    for step in range(10):
        average.update(still, average.share(Progress(0, 10**6 + 100 * step), batch=100))
    assert average.module.weight.item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.7, 1.0])
def test_a_share_in_a_tensor_gives_the_same_numbers(share):
    """A captured graph reads it from a buffer."""
    torch.manual_seed(1)
    averages = [AveragedGenerator(network) for network in [nn.Linear(7, 5)] * 2]
    new = nn.Linear(7, 5)
    for average, given in zip(averages, (share, torch.tensor(share)), strict=True):
        average.update(new, given)
    assert torch.equal(averages[0].module.weight, averages[1].module.weight)
    assert torch.equal(averages[0].module.weight, new.weight) == (share == 1.0)


def test_no_half_life_is_a_copy():
    network = nn.Linear(2, 2)
    average = AveragedGenerator(nn.Linear(2, 2), half_life=0)
    average.update(network, average.share(Progress(0, 10**6), 64))
    assert torch.equal(average.module.weight, network.weight)


def test_the_average_neither_trains_nor_leaves_eval_mode():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedGenerator(network).train()
    assert not any(module.training for module in average.modules())
    assert not any(weight.requires_grad for weight in average.parameters())
    assert all(weight.requires_grad for weight in network.parameters())
