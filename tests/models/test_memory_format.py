import torch
from torch import nn

from gantry.models.memory_format import channels_last, lay_out, lies_channels_last


def stepped(weight, contiguous_memory):
    """The weight after two fused steps, its optimizer's memory having been saved and loaded in between."""
    weight = nn.Parameter(weight.clone(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    for step in range(2):
        if step and contiguous_memory:
            state = optimizer.state_dict()
            for kind in ("exp_avg", "exp_avg_sq"):
                state["state"][0][kind] = state["state"][0][kind].contiguous()
            optimizer.load_state_dict(state)
            lay_out([optimizer])
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)) * weight.detach()
        optimizer.step()
    return weight


def test_an_optimizers_memory_that_lies_otherwise_is_that_of_the_same_weights():
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(stepped(weight, contiguous_memory=True), stepped(weight, contiguous_memory=False))


def test_networks_of_images_lie_channels_last_and_dense_ones_do_not():
    convolutions, dense = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten()), nn.Sequential(nn.Flatten(), nn.Linear(9, 1))
    assert lies_channels_last(convolutions)
    assert not lies_channels_last(dense)
    images = torch.randn(2, 3, 8, 8)
    before = convolutions(images)
    assert channels_last(convolutions)[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(convolutions(images), before, atol=1e-6)
