"""How much of a field is noise, told by itself, and how far one relaxivity can hold."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from paradia.fft import half_mean, irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.dipole import dipole_kernel
from paradia.operators.laplacian import laplacian_kernel

CONE = 0.1
"""Largest :math:`|D|` at which a frequency of the field counts as noise: there χ hardly shows."""

FINE = 0.25
"""Least share of the largest squared slope: lower frequencies leak into each other, because the mask cuts the field."""

LEAST = 0.02
"""Least noise of a field, as a share of it: what a mask's edge leaks."""

UNSURE = 0.1
"""Least error of a map of rates, as a share of it: one relaxivity for all tissue is no better than that."""

NORMAL = 0.6745
"""Median absolute value of a normal number."""


def field_noise(field: Tensor, mask: Tensor, grid: Grid) -> tuple[float, float]:
    r"""Return the standard deviations of a field in its mask and of its noise, ppm.

    On the cone where the dipole vanishes a field has no part that any χ could make: what is there, back in space, is noise.
    """
    strength = float(field.detach()[mask].std(correction=0))
    strength = max(strength, torch.finfo(torch.float32).tiny ** 0.25)
    cone = _cone(grid).to(mask.device)
    share = half_mean(cone.to(field), grid.shape[-1])
    middle = irfftn(rfftn(field.detach()) * cone, grid.shape)[mask].abs().median()
    noise = float(middle / NORMAL / share.sqrt().clamp_min(1e-6))
    return strength, max(noise, LEAST * strength)


def doubt(rate: Tensor, mask: Tensor) -> float:
    """Return the error of a map of rates that is none of its noise, in its unit: a tenth of its root mean square."""
    return max(UNSURE * float(rate.detach()[mask].square().mean().sqrt()), torch.finfo(torch.float32).tiny ** 0.25)


@lru_cache(maxsize=2)
def _cone(grid: Grid) -> Tensor:
    """Mark the fine frequencies at which the dipole nearly vanishes."""
    fineness = -laplacian_kernel(grid)
    return (dipole_kernel(grid).abs() < CONE) & (fineness > FINE * fineness.max())
