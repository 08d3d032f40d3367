"""Latents with named parts: what a generator makes of its standard normal vector before anything else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from .blocks import UnsupportedError
from .conditional import one_hot
from .priors import uniform

Codes = Mapping[str, int | Sequence[float]]


@dataclass(frozen=True)
class Code:
    """One named part of a latent.

    Attributes:
        name: of the part.
        first: its first entry in the latent.
        width: its entries: the values of a categorical code, 1 of a uniform one.
        bounds: of a uniform code; None of a categorical one.
    """

    name: str
    first: int
    width: int
    bounds: tuple[float, float] | None = None

    @property
    def of_latent(self) -> slice:
        """Its entries in the latent."""
        return slice(self.first, self.first + self.width)


class LatentMap(nn.Module):
    """Turns standard normal vectors into structured ones of the same length (Chen et al. 2016, InfoGAN, section 7.2).

    The latents of the whole pipeline stay standard normal; each part is a function of its own entries:

    - the noise, the first z_dim - code_size entries: as it is, or uniform in [low, high], low + (high - low) Phi(z);
    - a categorical code of K values, K entries: one-hot of the largest of its normal ones: each is as likely;
    - a uniform code in [low, high], one entry: as uniform noise.

    Args:
        z_dim: length of the latents.
        codes: by name, in the order in which they follow the noise: a number of values, or [low, high].
        prior: [low, high] of uniform noise; None: standard normal.

    Attributes:
        codes: the named parts.
        code_size: entries of all codes together.

    Raises:
        UnsupportedError: a code is neither, an interval is empty, or the codes are wider than the latents.
    """

    def __init__(self, z_dim: int, codes: Codes | None = None, prior: Sequence[float] | None = None) -> None:
        super().__init__()
        given = codes or {}
        widths = {name: _width(name, code) for name, code in given.items()}
        self.code_size = sum(widths.values())
        if self.code_size > z_dim:
            raise UnsupportedError(f"codes: take {self.code_size} entries, and the latents have z_dim={z_dim}")
        made, first = [], z_dim - self.code_size
        for name, code in given.items():
            made.append(Code(name, first, widths[name], None if isinstance(code, int) else _interval(name, code)))
            first += widths[name]
        self.codes = tuple(made)
        self.z_dim = z_dim
        self.prior = None if prior is None else _interval("prior", prior)

    def forward(self, z: Tensor) -> Tensor:
        """Structured latents (B, z_dim) of standard normal ones (B, z_dim)."""
        noise = z[:, : self.z_dim - self.code_size]
        parts = [noise if self.prior is None else uniform(noise, self.prior)]
        for code in self.codes:
            own = z[:, code.of_latent]
            parts.append(
                one_hot(own.argmax(1), code.width, z.dtype) if code.bounds is None else uniform(own, code.bounds)
            )
        return torch.cat(parts, 1)

    def code_values(self, z: Tensor) -> dict[str, Tensor]:
        """Return the codes of standard normal latents (B, z_dim) by name: int64 (B,) in [0, K), or float (B,)."""
        own = {code: z[:, code.of_latent] for code in self.codes}
        return {
            code.name: part.argmax(1) if code.bounds is None else uniform(part, code.bounds)[:, 0]
            for code, part in own.items()
        }

    def categories(self, z: Tensor) -> dict[str, Tensor]:
        """Return the categorical codes alone, of `code_values`."""
        values = self.code_values(z)
        return {code.name: values[code.name] for code in self.codes if code.bounds is None}

    def with_code(self, latents: Tensor, name: str, value: Tensor) -> Tensor:
        """Return structured latents (B, z_dim) in which a code has other values.

        Args:
            latents: see `forward`.
            name: of the code.
            value: (B,), int64 of a categorical code; of a uniform one any number, beyond its interval too.
        """
        code = next(code for code in self.codes if code.name == name)
        new = one_hot(value, code.width, latents.dtype) if code.bounds is None else value[:, None].to(latents.dtype)
        return torch.cat([latents[:, : code.first], new, latents[:, code.first + code.width :]], 1)


def latent_map(network: nn.Module) -> LatentMap | None:
    """Return the map of a generator whose latents have codes, its attribute `latents`; None of others."""
    latents = getattr(network, "latents", None)
    return latents if isinstance(latents, LatentMap) and latents.codes else None


def code_size(codes: Codes | None) -> int:
    """Return the entries that codes take of a latent."""
    return sum(_width(name, code) for name, code in (codes or {}).items())


def _width(name: str, code: object) -> int:
    if type(code) is int and code >= 2:
        return code
    _interval(name, code)
    return 1


def _interval(name: str, given: object) -> tuple[float, float]:
    match given:
        case [int() | float() as low, int() | float() as high] if low < high:
            return float(low), float(high)
    _refuse(name, given)


def _refuse(name: str, given: object) -> NoReturn:
    one = "prior: is" if name == "prior" else f"codes.{name}: is a number of values, 2 or more, or"
    raise UnsupportedError(f"{one} an interval [low, high], low below high, not {given}")
