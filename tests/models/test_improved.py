"""The parts of Improved Techniques against closed forms and gradients by hand."""

import pytest
import torch
from torch import nn

from gantry.core.errors import UserError
from gantry.models.improved import FeatureMatching, HistoricalAveraging
from gantry.models.networks.blocks import Output
from gantry.models.networks.minibatch import Discriminator, MinibatchDiscrimination
from gantry.models.networks.virtual_batch import Generator, VirtualBatchNorm
from gantry.models.play import Play, Players

REAL = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # means 2, 2
FAKE = torch.tensor([[1.0, 5.0], [2.0, 5.0]])  # means 1.5, 5; d = 0.5, -3


def play(player="generator", network=None, real=REAL, fake=FAKE):
    made = Play(player, None, None, None, None, Players(network, network, None, None, None), {})
    made.outputs.update({"real": Output(torch.zeros(2), real), "fake": Output(torch.zeros(2), fake)})
    return made


@pytest.mark.parametrize(
    ("distance", "value", "gradient"),
    [
        ("squared", 2 * (0.25 + 9) / 2, [-0.5 * 2 / 2, 3.0 * 2 / 2]),  # -2 d / (2 features, 2 images), twice
        ("absolute", 2 * (0.5 + 3) / 2, [-0.5, 0.5]),  # -sign d / (2 features, 2 images), twice
    ],
)
def test_feature_matching_and_its_gradient_by_hand(distance, value, gradient):
    fake = FAKE.clone().requires_grad_()
    found = FeatureMatching(weight=2.0, distance=distance)(play(fake=fake))
    found.backward()
    assert found.item() == pytest.approx(value)
    assert fake.grad.tolist() == [pytest.approx(gradient)] * 2


def test_feature_matching_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="must be squared or absolute, not l2"):
        FeatureMatching(distance="l2")
    with pytest.raises(UserError, match="model/network=improved"):
        FeatureMatching()(play(real=None))


def test_historical_averaging_by_hand_and_from_its_saved_state():
    network = nn.Linear(1, 1, bias=False)
    term, values = HistoricalAveraging(weight=0.5), [2.0, 5.0, -1.0]
    term.begin({"generator": network, "discriminator": network})
    for turn, value in enumerate(values, 1):
        if turn == 3:  # goes on from what a checkpoint holds
            saved, term = term.state_dict(), HistoricalAveraging(weight=0.5)
            term.begin({"generator": network, "discriminator": network})
            term.load_state_dict(saved)
        nn.init.constant_(network.weight, value)
        network.zero_grad()
        found = term(play(network=network))
        found.backward()
        away = value - sum(values[:turn]) / turn
        assert found.item() == pytest.approx(0.5 * away**2, abs=1e-7)
        assert network.weight.grad.item() == pytest.approx(0.5 * 2 * away, abs=1e-7)
    assert term.get_buffer("discriminator_turns") == 0


def test_minibatch_discrimination_is_the_papers_sum():
    torch.manual_seed(0)
    layer, x = MinibatchDiscrimination(3, kernels=2, dims=4), torch.randn(5, 3)
    with torch.no_grad():
        layer.log_length.copy_(torch.randn(2, 4))
        found = layer(x)
    for i in range(5):
        for b in range(2):
            total = -1.0
            for j in set(range(5)) - {i}:
                columns = layer.weight[:, b] / layer.weight[:, b].square().sum(0).sqrt()
                away = ((x[i] - x[j]) @ columns * layer.log_length[b].exp()).abs().sum()
                total += torch.exp(-away).item()
            assert found[i, b].item() == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_the_gradient_of_minibatch_discrimination_by_hand():
    """Of two images with one feature, d / dx_0 of both results is -2 s exp(-|s (x_0 - x_1)|) for x_0 > x_1."""
    layer, x = MinibatchDiscrimination(1, kernels=1, dims=1), torch.tensor([[1.5], [1.0]], requires_grad=True)
    nn.init.constant_(layer.log_length, 0.7)
    layer(x).sum().backward()
    slope = torch.tensor(0.7).exp()
    expected = -2 * slope * torch.exp(-slope * 0.5)
    assert x.grad.flatten().tolist() == pytest.approx([expected.item(), -expected.item()], rel=1e-5)


def test_alike_images_are_told_from_different_ones():
    torch.manual_seed(0)
    network = Discriminator((1, 8, 8), width=4, norm="none", kernels=3, dims=2)
    images = torch.randn(6, 1, 8, 8)
    alike, different = (network.nearness(network(x).features) for x in (images[:1].expand(6, -1, -1, -1), images))
    assert torch.allclose(alike, torch.full((6, 3), 5.0 - 1))
    assert (different < 4).all()
    assert network(images).logits.shape == (6,)
    assert network(images).features.shape == (6, 4 * 2 * 2 * 2)


def test_without_kernels_the_images_are_judged_apart():
    network = Discriminator((1, 8, 8), width=4, norm="none", kernels=0)
    images = torch.randn(6, 1, 8, 8)
    assert torch.allclose(network(images).logits[:2], network(images[:2]).logits, atol=1e-6)


def test_virtual_batch_norm_by_hand():
    torch.manual_seed(0)
    layer, x = VirtualBatchNorm(2, reference=3, eps=0.0), torch.randn(5, 2, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
        found = layer(x)
    for channel, (gain, bias) in enumerate([(2.0, 0.5), (3.0, -1.0)]):
        fixed = x[:3, channel]
        by_hand = (fixed - fixed.mean()) / fixed.std(correction=0) * gain + bias
        assert torch.allclose(found[:3, channel], by_hand, atol=1e-5)
        for image in (3, 4):  # as in a batch of the reference and itself
            batch = torch.cat([fixed, x[image : image + 1, channel]])
            by_hand = (x[image, channel] - batch.mean()) / batch.std(correction=0) * gain + bias
            assert torch.allclose(found[image, channel], by_hand, atol=1e-5)


def test_an_image_depends_on_no_other_and_is_the_same_in_training_and_evaluation():
    torch.manual_seed(0)
    generator, z = Generator(5, (1, 8, 8), width=4, reference=6), torch.randn(4, 5)
    whole = generator(z)
    assert whole.shape == (4, 1, 8, 8)
    assert torch.allclose(whole[1:2], generator.eval()(z[1:2]), atol=1e-6)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())
    other = Generator(5, (1, 8, 8), width=4, reference=6)
    other.load_state_dict(generator.state_dict())
    assert torch.equal(other(z), generator(z))
