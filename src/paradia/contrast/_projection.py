"""The minimum-intensity projection."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from paradia.grid import Grid
from paradia.sources.knobs import check_positive


def slices(grid: Grid, slab: float) -> tuple[int, int]:
    """Return the axis to project along, the one nearest to B0, and the odd number of slices nearest to the slab.

    Raises
    ------
    InputError
        The slab is not a positive length.
    """
    check_positive(slab=slab)
    axis = max(range(3), key=lambda a: abs(grid.b0_dir[a]))
    return axis, 2 * max(round((slab / grid.voxel_size[axis] - 1) / 2), 0) + 1


def projection(image: Tensor, grid: Grid, slab: float, mask: Tensor | None) -> Tensor:
    """Take the least value over the slab centred on every slice; outside the mask nothing counts, beyond the volume neither.

    Where the slab meets no voxel of the mask the projection is zero.
    """
    axis, count = slices(grid, slab)
    kernel, padding = [1, 1, 1], [0, 0, 0]
    kernel[axis], padding[axis] = count, count // 2
    bright = image.neg() if mask is None else image.neg().masked_fill(~mask, -math.inf)
    least = max_pool3d(bright[None], kernel, stride=1, padding=padding)[0].neg_()
    return torch.where(least.isinf(), 0.0, least)
