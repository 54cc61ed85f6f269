"""Whole turns that each piece of a mask is shifted by, so that its median is where it should be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def level(value: Tensor, piece: Tensor, earlier: Sequence[Tensor], times: Sequence[float]) -> Tensor:
    """Return the turns to add to each voxel.

    The first echo's median comes nearest to zero, the step to the second echo's does too, and later echoes continue that step in
    proportion to echo time.

    Parameters
    ----------
    value
        Unwrapped phase of the voxels, turns.
    piece
        Number of the piece that each belongs to.
    earlier
        Phase of earlier echoes, already shifted.
    times
        Echo times up to this echo, s.
    """
    if not earlier:
        return -medians(value, piece).round()
    expected = earlier[-1]
    if len(earlier) > 1:
        rate = (earlier[1] - earlier[0]) / (times[1] - times[0])
        expected = expected + rate * (times[-1] - times[-2])
    return -medians(value - expected, piece).round()


def medians(value: Tensor, piece: Tensor) -> Tensor:
    """Return at every voxel the median over its piece."""
    sizes = torch.bincount(piece)
    if sizes.numel() == 1:
        return value.median().expand_as(value)
    result = torch.empty_like(value)
    largest = sizes.argmax()
    inside = piece == largest
    result[inside] = value[inside].median()
    rest = (~inside).nonzero().squeeze(1)
    order = rest[value[rest].argsort(stable=True)]
    order = order[piece[order].argsort(stable=True)]
    counts = sizes.clone()
    counts[largest] = 0
    first = counts.cumsum(0) - counts
    middle = (first + (counts - 1).clamp_min(0).div(2, rounding_mode="floor")).clamp_max(max(order.numel() - 1, 0))
    result[rest] = value[order[middle[piece[rest]]]]
    return result
