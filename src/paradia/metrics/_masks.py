"""Neighbours and depth in a mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d


def erode(mask: Tensor, voxels: int) -> Tensor:
    """Take away every voxel with an unmasked one in the box of ``voxels`` around it; the edge of the volume takes nothing away."""
    width = 2 * voxels + 1
    outside = (~mask).to(torch.float32)[None]
    for axis in range(3):
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = width, voxels
        outside = max_pool3d(outside, size, stride=1, padding=padding)
    return outside[0] == 0


def jumps(phase: Tensor, mask: Tensor) -> Tensor:
    """Return the share of neighbours, both in the mask, that differ by more than π."""
    apart, pairs = phase.new_zeros(()), 0
    for axis in range(3):
        n = mask.shape[axis]
        both = mask.narrow(axis, 0, n - 1) & mask.narrow(axis, 1, n - 1)
        apart = apart + ((phase.diff(dim=axis).abs() > math.pi) & both).sum()
        pairs += int(both.sum())
    return apart / max(pairs, 1)
