"""The second derivative."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.operators._convolution import Convolution, frequencies


class Laplacian(Convolution):
    r"""Sum of second differences, 1/mm²: convolution with the seven-point stencil.

    Its spectrum is :math:`-\sum_i (2 - 2\cos 2\pi k_i\Delta_i)/\Delta_i^2`, minus the squared spectrum of `Gradient`.

    Parameters
    ----------
    grid
        Where the images live.
    padding
        Factor, at least 1, by which each axis is extended with zeros before the transform.
    """

    def __init__(self, grid: Grid, padding: float | int = 1) -> None:
        super().__init__(grid, laplacian_kernel, padding)


@lru_cache(maxsize=2)
def laplacian_kernel(grid: Grid) -> Tensor:
    """Sample the stencil on the half spectrum of the grid, double precision; treat it as read-only."""
    x, y, z = ((2 * torch.cos(2 * torch.pi * k * d) - 2) / d**2 for k, d in zip(frequencies(grid), grid.voxel_size, strict=True))
    return x + y + z
