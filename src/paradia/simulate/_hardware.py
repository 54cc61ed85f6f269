"""What coils do to a signal: smooth factors and phases in head coordinates."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.simulate import _smooth
from paradia.simulate._noise import REACH
from paradia.simulate._shapes import Frame

WAVE = 0.05
"""Transmit bias over the head for each tesla: the higher the field, the shorter the wave beside the head. A usual value."""


def centred(grid: Grid) -> Frame:
    """Return the coordinates of a grid whose middle is the middle of the head."""
    axes = [(torch.arange(n) - (n - 1) / 2) * size for n, size in zip(grid.shape, grid.voxel_size, strict=True)]
    return Frame(*axes)


def sensitivity(frame: Frame, bias: float) -> Tensor:
    """Return the brightness of a head coil: more the nearer the rim."""
    x, y, z = (axis / r for axis, r in zip(frame.at((slice(None),) * 3), (80.0, 100.0, 90.0), strict=True))
    return 1 + bias * (x.square() + (y + 0.15).square() + z.square() - 0.6 + 0.2 * x * y - 0.15 * y).clamp(-1.0, 2.0)


def offset(frame: Frame, generator: torch.Generator) -> Tensor:
    """Draw a polynomial up to fourth order that spans about two π over the head."""
    u, v, w = (axis / (0.7 * REACH) for axis in frame.at((slice(None),) * 3))
    total = torch.zeros([len(axis) for axis in frame])
    for i, j, k in product(range(5), repeat=3):
        order = i + j + k
        if 1 <= order <= 4:
            total += float(torch.randn((), generator=generator)) * math.pi / (1.4 * order) * (u**i * v**j * w**k)
    return total + float(torch.randn((), generator=generator))


def transmission(grid: Grid, b0: float, strength: float, generator: torch.Generator) -> Tensor:
    """Draw the flip angle over the nominal one: larger in the middle of the head, smaller at its rim, never the same on both sides."""
    if strength == 0:
        return torch.ones(grid.shape)
    lean = 0.2 * torch.randn(3, generator=generator)
    x, y, z = (axis / r - float(m) for axis, r, m in zip(centred(grid).at((slice(None),) * 3), (75.0, 90.0, 80.0), lean, strict=True))
    hump = 0.6 - 1.4 * (x.square() + y.square() + z.square()).clamp(max=1.6)
    ripple = 0.1 * _smooth.random(grid.shape, grid.voxel_size, 60.0, generator)
    return (1 + strength * WAVE * b0 * (hump + ripple)).clamp(0.2, 2.0)
