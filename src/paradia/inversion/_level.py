"""How much noise there is beside χ, told by the field itself."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.sources.cone import level

MEAN = 4 / 45
"""Mean square of the dipole over all directions: how much of the power of χ the field shows."""


def wiener(field: Tensor, mask: Tensor, grid: Grid) -> Tensor:
    r"""Return the power of noise over that of χ, as a field tells where it is known: :math:`\bar{D^2}\sigma^2 / (\|f\|^2 - \sigma^2)`."""
    power = field.detach()[mask].square().mean()
    noise = level(field, mask, grid, power.sqrt()).square()
    return MEAN * noise / torch.maximum(power - noise, 0.1 * power)
