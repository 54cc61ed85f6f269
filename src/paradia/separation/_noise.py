"""How much of a field is noise, told by itself, and how far one relaxivity can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.sources.cone import level

UNSURE = 0.1
"""Least error of a map of rates, as a share of it: one relaxivity for all tissue is no better than that."""

TINY = torch.finfo(torch.float32).tiny ** 0.25
"""Least strength of anything, so that no weight divides by nothing."""


def field_noise(field: Tensor, mask: Tensor, grid: Grid) -> tuple[float, float]:
    """Return the standard deviations of a field in a mask, where it is known, and of its noise, ppm."""
    strength = field.detach()[mask].std(correction=0).clamp_min(TINY)
    return float(strength), float(level(field, mask, grid, strength))


def doubt(rate: Tensor, mask: Tensor) -> float:
    """Return the error of a map of rates that is none of its noise, in its unit: a tenth of its root mean square."""
    return max(UNSURE * float(rate.detach()[mask].square().mean().sqrt()), TINY)
