"""A loss of one's own, as a variant: conf/model/squared_hinge.yaml names this function.

PYTHONPATH=examples python train.py --config-dir=examples/conf model=squared_hinge experiment=smoke tracking=none
"""

from torch import Tensor
from torch.nn.functional import relu

from gantry.models.losses import Losses


def squared_hinge(real: Tensor, fake: Tensor, margin: float = 1.0) -> Losses:
    """The hinge loss with squared margins, from the discriminator's raw outputs, two tensors (B,)."""
    return Losses(
        discriminator=relu(margin - real).square().mean() + relu(margin + fake).square().mean(),
        generator=-fake.mean(),
    )
