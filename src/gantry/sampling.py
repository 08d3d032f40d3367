"""Images from a generator, and how they are shown."""

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from gantry.data.images import quantise
from gantry.randomness import draws

GRID = 8  # images along a side of the sample grid
TILE = 48  # pixels an image of the grid is enlarged to, at least


def enlarged_grid(images: Tensor) -> np.ndarray:
    """uint8 images (N, C, H, W) as one uint8 picture (H', W', 3), rows of eight, enlarged without smoothing."""
    scale = max(1, -(-TILE // images.shape[-1]))
    grid = make_grid(images.cpu(), nrow=GRID, padding=1).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(grid.repeat(scale, 0).repeat(scale, 1))


def generate(network: nn.Module, z: Tensor) -> Tensor:
    """uint8 images (B, C, H, W) of a generator in eval mode from latents (B, z_dim); its modes are put back."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    with torch.inference_mode():
        images = quantise(network(z.to(next(network.parameters()).device)))
    for module in training:
        module.training = True
    return images


def normal(seed: int, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fixed float32 noise of a purpose: the same at every step and for every variant of one z_dim."""
    return draws(seed, 0, purpose).standard_normal(shape, dtype="float32")
