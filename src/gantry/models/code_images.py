"""Images in which one part of a structured latent changes and the others stay (Chen et al. 2016, InfoGAN, figure 2)."""

from typing import Protocol

import torch
from torch import Tensor, nn

from gantry.models.networks.latent_map import Code, LatentMap
from gantry.models.sampling import generate

MOST_VALUES = 16  # of a categorical code that are shown, the first ones
LATENTS = 4  # rows of a uniform code, a latent each
REACH = 2.0  # of a uniform code in [-1, 1]: from -2 to 2, as the paper's figure


class Structured(Protocol):
    """A generator that maps standard normal latents by `latents`, and their result to images by `network`."""

    latents: LatentMap
    network: nn.Module


def code_images(generator: Structured, z: Tensor) -> Tensor:
    """Generate the images of all codes, in rows as long as there are latents.

    A categorical code has a row for each value, in which each latent is as it is but for the code. A uniform code has a
    row for each of the first `LATENTS` latents, along which it goes from `REACH` times its interval's half length below
    the middle to as much above.

    Args:
        generator: such as `gantry.models.networks.structured.Generator`.
        z: standard normal latents (columns, z_dim).

    Returns:
        uint8 images (rows * columns, C, H, W), row by row, of the codes in their order.
    """
    latents = generator.latents
    structured = latents(z)
    rows = [row for code in latents.codes for row in _rows(latents, code, structured)]
    return torch.cat([generate(generator.network, row) for row in rows])


def rows_of(latents: LatentMap, columns: int) -> dict[str, int]:
    """Return by code how many rows of `code_images` show it."""
    most = min(columns, LATENTS)
    return {code.name: most if code.bounds else min(code.width, MOST_VALUES) for code in latents.codes}


def _rows(latents: LatentMap, code: Code, structured: Tensor) -> list[Tensor]:
    """Return the structured latents (columns, z_dim) of each row of a code."""
    columns = len(structured)
    if code.bounds is None:
        values = range(min(code.width, MOST_VALUES))
        return [latents.with_code(structured, code.name, torch.full((columns,), value)) for value in values]
    low, high = code.bounds
    middle, reach = (low + high) / 2, REACH * (high - low) / 2
    along = torch.linspace(middle - reach, middle + reach, columns)
    return [latents.with_code(row.expand(columns, -1), code.name, along) for row in structured[:LATENTS]]
