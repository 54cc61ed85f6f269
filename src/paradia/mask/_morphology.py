"""Erode, dilate and tidy masks by lengths in mm; the world beyond the field of view is taken to go on unchanged."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from paradia.grid import Grid

MUCH = 0.05
"""Share in other pieces than the largest from which on it is said that they were left out."""


def dilate(mask: Tensor, grid: Grid, radius: float) -> Tensor:
    """Grow a mask by a radius in mm, along the axes and every third time along the diagonals: nearly a ball."""
    step = min(grid.voxel_size)
    for turn in range(round(radius / step)):
        moving = [axis for axis, v in enumerate(grid.voxel_size) if int((turn + 1) * step / v + 1e-6) > int(turn * step / v + 1e-6)]
        grown = mask.clone()
        for axis in moving:
            source = grown if turn % 3 == 1 else mask  # growing what has grown already takes the diagonals too
            spread = source.clone() if turn % 3 == 1 else grown
            n = mask.shape[axis]
            if n > 1:
                spread.narrow(axis, 1, n - 1).logical_or_(source.narrow(axis, 0, n - 1))
                spread.narrow(axis, 0, n - 1).logical_or_(source.narrow(axis, 1, n - 1))
            grown = spread
        mask = grown
    return mask


def erode(mask: Tensor, grid: Grid, radius: float) -> Tensor:
    """Shrink a mask by a radius in mm, except where it leaves the field of view."""
    return ~dilate(~mask, grid, radius)


def opened(mask: Tensor, grid: Grid, radius: float) -> Tensor:
    """Take away what is thinner than twice the radius."""
    return dilate(erode(mask, grid, radius), grid, radius)


def closed(mask: Tensor, grid: Grid, radius: float) -> Tensor:
    """Fill what is narrower than twice the radius."""
    return erode(dilate(mask, grid, radius), grid, radius)


def largest(mask: Tensor, what: str = "") -> Tensor:
    """Keep the largest connected piece, and warn where what was named loses much by that."""
    pieces, count = ndimage.label(mask.cpu().numpy())
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    lost = 1 - sizes.max() / sizes.sum()
    if what and lost > MUCH:
        warnings.warn(
            f"{what} is in pieces, and {100 * lost:.0f} % of it were left out: only the largest piece is kept. "
            "Look at the mask; slices may be missing. Give a mask where it is wrong.",
            stacklevel=2,
        )
    return torch.from_numpy(pieces == sizes.argmax()).to(mask.device)


def filled(mask: Tensor) -> Tensor:
    """Fill the holes that do not reach the end of the image; a single slice has none above and below."""
    pieces, count = ndimage.label(~mask.cpu().numpy())
    if count == 0:
        return mask
    ends = [pieces.take(place, axis) for axis, n in enumerate(pieces.shape) if n > 1 for place in (0, -1)]
    outside = np.unique(np.concatenate([end.ravel() for end in ends] or [pieces.ravel()]))
    reaches = np.zeros(count + 1, dtype=bool)
    reaches[outside] = True
    reaches[0] = False
    return torch.from_numpy(~reaches[pieces]).to(mask.device)
