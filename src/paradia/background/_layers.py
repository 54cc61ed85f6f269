"""Layers of voxels in a window, whose margin is outside whatever the mask."""

from __future__ import annotations

from torch import Tensor


def all_six(mask: Tensor) -> Tensor:
    """Keep the voxels whose neighbours across all six faces are in the mask."""
    kept = mask.clone()
    for axis in range(3):
        kept &= mask.roll(1, axis)
        kept &= mask.roll(-1, axis)
    return kept


def any_of_27(mask: Tensor) -> Tensor:
    """Add the neighbours across faces, edges and corners."""
    for axis in range(3):
        mask = mask | mask.roll(1, axis) | mask.roll(-1, axis)
    return mask
