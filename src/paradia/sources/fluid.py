"""Where cerebrospinal fluid is, for methods that ask it to be even."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.sources.inside import largest_pieces

R2STAR = 5.0
"""Rate below which a voxel may be fluid, 1/s."""

RADIUS = 30.0
"""Distance from the middle of the mask within which the ventricles lie, mm."""

PIECES = 3
"""Connected pieces to keep: two lateral ventricles and the third."""


def fluid(r2star: Tensor, mask: Tensor, grid: Grid, *, threshold: float = R2STAR, radius: float = RADIUS) -> Tensor:
    """Mark what hardly decays near the middle of a mask."""
    sizes = mask.new_tensor(grid.voxel_size, dtype=torch.float32)
    middle = (mask.nonzero() * sizes).mean(0)
    distance = torch.zeros(mask.shape, device=mask.device)
    for axis, n in enumerate(mask.shape):
        along = (torch.arange(n, device=mask.device) * sizes[axis] - middle[axis]).square()
        distance += along.reshape([-1 if a == axis else 1 for a in range(3)])
    return mask & (r2star < threshold) & (r2star > 0) & (distance < radius**2)


def ventricles(
    r2star: Tensor, mask: Tensor, grid: Grid, *, threshold: float = R2STAR, radius: float = RADIUS, pieces: int = PIECES
) -> Tensor:
    """Return the largest pieces of fluid near the middle of a mask; empty where there are none."""
    return largest_pieces(fluid(r2star, mask, grid, threshold=threshold, radius=radius), pieces)
