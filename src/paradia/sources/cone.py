"""How much of a field is noise, told by the field itself."""

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
"""Least noise, as a share of the field: what a mask's edge leaks is of this size, and weights must not vanish."""


def level(field: Tensor, mask: Tensor, grid: Grid, strength: Tensor) -> Tensor:
    r"""Return the standard deviation of the noise of a field, errors of the model included, in the unit of the field.

    On the cone where the dipole vanishes a field has no part that any χ could make. The part of the field there, back in
    space, has the median absolute value :math:`0.6745\,\sigma\sqrt{q}` in the mask, :math:`q` being the share of
    frequencies that were kept and :math:`\sigma` the noise if it is white.

    Parameters
    ----------
    field
        Any field; nothing is read off it outside the mask.
    mask
        Voxels that count: those where the field is known.
    grid
        Their geometry.
    strength
        Root mean square of the field in the mask; the noise is taken to be 2 % of it at the least.
    """
    cone = _cone(grid).to(mask.device)
    share = half_mean(cone.to(field.dtype), grid.shape[-1])
    median = irfftn(rfftn(torch.where(mask, field.detach(), 0.0)).mul_(cone), grid.shape)[mask].abs_().median()
    return torch.maximum(median / 0.6745 / share.sqrt().clamp_min(1e-6), LEAST * strength)


@lru_cache(maxsize=2)
def _cone(grid: Grid) -> Tensor:
    """Mark the fine frequencies at which the dipole nearly vanishes."""
    fineness = -laplacian_kernel(grid)
    return (dipole_kernel(grid).abs() < CONE) & (fineness > FINE * fineness.max())
