"""Standing statistics: the means over batches, in closed form, and nothing else changed."""

import pytest
import torch
from torch import nn

from gantry.models.networks import bigan, biggan
from gantry.models.networks.sync_batch_norm import synchronise
from gantry.models.standing import standing_statistics


class Normed(nn.Module):
    """BatchNorm of the latents themselves, and a dropout that would show training mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.plain = nn.BatchNorm1d(3, track_running_stats=False)
        self.seen = []

    def forward(self, z):
        assert not self.training
        assert not self.drop.training
        self.seen.append(z)
        return self.norm(z)


def test_the_means_over_batches_of_any_sizes():
    network = Normed().train()
    network.norm(torch.randn(4, 3))
    batches = [torch.randn(size, 3) * scale + scale for size, scale in ((4, 1.0), (8, 2.0), (16, 3.0))]
    standing_statistics(network, [(z, None) for z in batches])
    assert torch.allclose(network.norm.running_mean, torch.stack([z.mean(0) for z in batches]).mean(0), atol=1e-6)
    assert torch.allclose(network.norm.running_var, torch.stack([z.var(0) for z in batches]).mean(0), atol=1e-5)
    assert len(network.seen) == 3
    assert all(module.training for module in network.modules())
    assert network.norm.momentum == 0.1
    assert network.norm.num_batches_tracked == 1


def test_a_generator_with_labels():
    torch.manual_seed(0)
    network = biggan.Generator(30, (3, 32, 32), 10, 4, shared_dim=6).eval()
    batches = [(torch.randn(8, 30), torch.arange(8)) for _ in range(3)]
    kept = {name: value.clone() for name, value in network.state_dict().items() if "running" not in name}
    standing_statistics(network, batches)
    first = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in kept.items())
    standing_statistics(network, iter(batches))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in first.items())
    with torch.no_grad():  # one batch: evaluation gives what training gives, up to the variance's n / (n - 1)
        standing_statistics(network, batches[:1])
        expected = network(*batches[0])
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        assert torch.allclose(network(*batches[0]), expected, atol=0.02)


def test_modes_return_after_an_error():
    network = Normed().train()
    with pytest.raises(RuntimeError, match="running_mean"):
        standing_statistics(network, [(torch.randn(4, 2), None)])
    assert network.training
    assert network.norm.momentum == 0.1


def test_no_batches_are_refused():
    network = Normed()
    before = network.norm.running_mean.clone()
    with pytest.raises(ValueError, match="at least one batch"):
        standing_statistics(network, [])
    assert torch.equal(network.norm.running_mean, before)


def test_without_batch_norm_nothing_is_computed():
    network = nn.Linear(2, 2).train()
    standing_statistics(network, [(torch.randn(3, 2), None)])
    assert network.training


def test_batches_are_drawn_one_after_the_other():
    network = Normed()
    drawn = []

    def latents():
        for number in range(3):
            assert len(network.seen) == number
            drawn.append(torch.randn(4, 3))
            yield drawn[-1], None

    standing_statistics(network, latents())
    assert [id(z) for z in network.seen] == [id(z) for z in drawn]


@pytest.mark.parametrize("synchronised", ["on a CPU", "on a GPU"])
def test_a_rank_takes_them_by_itself(synchronised, monkeypatch):
    """Its BatchNorms would wait for those of the other ranks, and count the equal batches of all of them."""
    batches = [(torch.randn(4, 3), None) for _ in range(2)]
    alone = Normed()
    standing_statistics(alone, batches)
    network = Normed()
    if synchronised == "on a CPU":
        synchronise(network)
    else:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    own = vars(network.norm).get("forward")
    with monkeypatch.context() as ranks:
        ranks.setattr(torch.distributed, "is_initialized", lambda: True)
        ranks.setattr(torch.distributed, "get_world_size", lambda *_: 2)
        standing_statistics(network, batches)
    assert torch.equal(network.norm.running_var, alone.norm.running_var)
    assert vars(network.norm).get("forward") is own


def test_an_encoder_that_no_latent_passes_keeps_the_statistics_of_training():
    torch.manual_seed(0)
    network = bigan.Generator(5, (1, 8, 8), 4)
    network.encode(torch.rand(16, 1, 8, 8))
    before = {name: value.clone() for name, value in network.named_buffers()}
    standing_statistics(network, [(torch.randn(32, 5), None)])
    for name, value in network.named_buffers():
        if "num_batches" not in name:
            assert torch.equal(value, before[name]) is name.startswith("encoder."), name
