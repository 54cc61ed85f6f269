"""Where sources may be."""

from __future__ import annotations

from torch import Tensor

from paradia.grid import Grid


def region(mask: Tensor, grid: Grid, reach: float) -> Tensor:
    """Extend a mask along each axis by a reach, mm, in whole voxels, across the periodic border; negative gives the whole grid."""
    if reach < 0:
        return mask.new_ones(mask.shape)
    wide = mask
    for axis, (size, count) in enumerate(zip(grid.voxel_size, grid.shape, strict=True)):
        line = wide
        for step in range(1, min(int(reach / size + 1e-6), count // 2) + 1):
            wide = wide | line.roll(step, axis) | line.roll(-step, axis)
    return wide
