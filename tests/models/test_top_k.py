"""Top-k training: the gradient is that of the mean over the highest logits."""

import pytest
import torch

from gantry.models import losses
from gantry.models.top_k import TopK, keep_highest

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.9, -0.4, 1.1, -2.2, 0.1])


def gradient(value, logits):
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("loss", [losses.non_saturating, losses.hinge, losses.wasserstein, losses.least_squares])
@pytest.mark.parametrize(("share", "kept"), [(1.0, 8), (0.75, 6), (0.5, 4), (0.3, 2), (0.01, 1)])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_gradient_is_that_of_the_mean_over_the_highest(loss, share, kept, as_tensor):
    logits = LOGITS.clone().requires_grad_()
    same = keep_highest(logits, torch.tensor(share) if as_tensor else share)
    assert torch.equal(same, logits)
    found = gradient(loss(LOGITS, same).generator, logits)
    expected = gradient(loss(LOGITS[:kept], logits.topk(kept).values).generator, logits)
    assert torch.allclose(found, expected, atol=1e-7)


def test_the_value_is_that_over_all_logits():
    assert losses.hinge(LOGITS, keep_highest(LOGITS, 0.5)).generator == losses.hinge(LOGITS, LOGITS).generator


def test_equal_logits_share_the_places_left():
    logits = torch.tensor([1.0, 0.0, 0.0, 0.0], requires_grad=True)
    found = gradient(keep_highest(logits, 0.5).mean(), logits)  # of two places one is left for three
    assert found.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_ranks_keep_together_what_one_would():
    whole = LOGITS.clone().requires_grad_()
    expected = gradient(losses.non_saturating(LOGITS, keep_highest(whole, 0.5)).generator, whole)
    found = []
    for part in LOGITS.split(4):
        part = part.clone().requires_grad_()
        kept = keep_highest(part, 0.5, gather=lambda own: LOGITS)
        found.append(gradient(losses.non_saturating(LOGITS[:4], kept).generator, part) / 2)  # the mean over two ranks
    assert torch.allclose(torch.cat(found), expected)
    assert [int((part != 0).sum()) for part in found] == [3, 1]


def test_a_second_derivative_is_refused_since_it_would_be_wrong():
    logits = LOGITS.clone().requires_grad_()
    (first,) = torch.autograd.grad(keep_highest(logits, 0.5).square().mean(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_no_value_is_read():
    with torch.device("meta"):
        assert keep_highest(torch.empty(8), torch.empty(())).shape == (8,)


def test_the_share_falls_with_every_epoch_to_nu():
    share = TopK(epoch_images=1000)
    assert share.unit == "images"
    assert [share.at(images) for images in (0, 999, 1000, 2500)] == pytest.approx([1, 1, 0.99, 0.99**2])
    assert share.at(1_000_000) == 0.5
    assert TopK(epoch_images=10, gamma=0.5, nu=0.75).at(10) == 0.75


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"nu": 1.5}])
def test_a_share_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        TopK(epoch_images=10, **options)
