"""Networks with BatchNorm, trained for two batches by one process, or by gloo ranks that each have a part of them.

Imports no Lightning, so that the ranks start quickly.
"""

import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gantry.models.networks import dcgan
from gantry.models.networks.sync_batch_norm import synchronise

BATCHES = 2
# Of 8 images, where every rank begins and the last one ends.
EVEN, UNEVEN = {2: [0, 4, 8], 4: [0, 2, 4, 6, 8]}, {2: [0, 3, 8], 4: [0, 3, 3, 7, 8]}
CASES = {
    # name: network, shape of an image, mean of the values, parts
    "2d": (lambda: nn.BatchNorm2d(3), (3, 5, 4), 0.5, EVEN),
    "1d": (lambda: nn.BatchNorm1d(6), (6,), 0.5, EVEN),
    "1d with length": (lambda: nn.BatchNorm1d(6), (6, 3), 0.5, EVEN),
    "3d": (lambda: nn.BatchNorm3d(2), (2, 3, 2, 2), 0.5, EVEN),
    "uneven parts": (lambda: nn.BatchNorm2d(3), (3, 5, 4), 0.5, UNEVEN),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (3, 5, 4), 0.5, EVEN),
    "not affine": (lambda: nn.BatchNorm2d(3, affine=False), (3, 5, 4), 0.5, EVEN),
    "nothing tracked": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (3, 5, 4), 0.5, EVEN),
    "far from zero": (lambda: nn.BatchNorm2d(3), (3, 5, 4), 1000.0, EVEN),
    "bfloat16": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (3, 5, 4), 0.5, EVEN),
    "gradient penalty": (lambda: nn.BatchNorm2d(3), (3, 5, 4), 0.5, UNEVEN),
    "dcgan": (lambda: dcgan.Generator(8, (3, 16, 16), width=8), (8,), 0.0, EVEN),
    "wrapped": (lambda: dcgan.Discriminator((3, 16, 16), width=8), (3, 16, 16), 0.0, EVEN),
}


def run(name, rank=0, world=1, synchronised=False):
    """What rank `rank` of `world` gets: outputs and input gradients of its part, parameter gradients, buffers,
    and then the outputs in eval mode.

    Parameter gradients are of the sum over this rank's images, as they are in the network that DistributedDataParallel
    wraps ("wrapped") once multiplied by the number of ranks.
    """
    make, shape, mean, parts = CASES[name]
    torch.manual_seed(7)
    network = make()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
    part = slice(*parts[world][rank : rank + 2]) if world > 1 else slice(None)
    batches = [mean + torch.randn(8, *shape) * 2 for _ in range(BATCHES)]
    if synchronised:
        synchronise(network)
    wrapped = DistributedDataParallel(network) if name == "wrapped" and world > 1 else network
    outputs, input_gradients = [], []
    for batch in batches:
        x = batch[part].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext():
            y = wrapped(x)
        # The weights of the sum are drawn for the whole batch, and squares make the gradient depend on the values.
        whole = torch.randn(8, *y.shape[1:])
        loss = (whole[part] * y.float().square()).sum()
        if name == "gradient penalty":
            loss = torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()
        loss.backward()
        outputs.append(y.detach())
        input_gradients.append(x.grad)
    with torch.no_grad():
        evaluated = network.eval()(batches[0][part])
    factor = world if name == "wrapped" else 1
    return {
        "outputs": torch.stack(outputs),
        "input gradients": torch.stack(input_gradients),
        "parameter gradients": [parameter.grad * factor for parameter in network.parameters()],
        "evaluated": evaluated[None],
        "buffers": list(network.buffers()),
    }


def main(rank, world, folder):
    """Be one rank and leave every case, synchronised and plain, in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    results = {
        (name, synchronised): run(name, rank, world, synchronised) for name in CASES for synchronised in (True, False)
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
