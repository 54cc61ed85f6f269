"""Implicit shapes in head coordinates: positive inside, zero on the surface, about mm near it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]


class Frame(NamedTuple):
    """Head coordinates of the voxel centres along each axis, mm."""

    x: Tensor
    y: Tensor
    z: Tensor

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box | None:
        """Return the voxels between two corners, or nothing when the field of view holds none."""
        slices = []
        for axis, a, b in zip(self, low, high, strict=True):
            inside = ((axis >= a) & (axis <= b)).nonzero()
            if inside.numel() == 0:
                return None
            slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
        x, y, z = slices
        return x, y, z

    def at(self, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """Return coordinates in a box, ready to broadcast."""
        x, y, z = (axis[s] for axis, s in zip(self, box, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]


def superellipsoid(at: tuple[Tensor, Tensor, Tensor], centre: Point, semi: Point, below: float | None = None) -> tuple[Tensor, Tensor]:
    """Evaluate a slightly boxy ellipsoid (exponent 2.5); return distance in mm to first order, and ρ.

    `below` is the lower semi-axis where it differs from the upper.
    """
    rho = torch.zeros(())
    slope = torch.zeros(())
    for axis, (u, c, a) in enumerate(zip(at, centre, semi, strict=True)):
        size = torch.where(u < c, below, a) if axis == 2 and below is not None else torch.tensor(a)
        t = ((u - c) / size).abs()
        root = t.sqrt()
        rho = rho + t * t * root
        slope = slope + (t * root / size).square()
    rho = rho.clamp(min=1e-6).pow(0.4)
    return ((1 - rho) * rho.pow(1.5) / slope.clamp(min=1e-12).sqrt()).clamp(max=min(semi)), rho


def ellipsoid(at: tuple[Tensor, Tensor, Tensor], centre: Point, semi: Point, turn: Point = (0.0, 0.0, 0.0)) -> Tensor:
    """Evaluate an ellipsoid turned by angles in degrees about x, y and z."""
    x, y, z = (u - c for u, c in zip(at, centre, strict=True))
    for (i, j), angle in zip(((1, 2), (2, 0), (0, 1)), turn, strict=True):
        if angle:
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            u = [x, y, z]
            u[i], u[j] = cosine * u[i] + sine * u[j], cosine * u[j] - sine * u[i]
            x, y, z = u
    a, b, c = semi
    rho = ((x / a).square() + (y / b).square() + (z / c).square()).clamp(min=1e-8).sqrt()
    slope = ((x / a**2).square() + (y / b**2).square() + (z / c**2).square()).clamp(min=1e-12).sqrt()
    return ((1 - rho) * rho / slope).clamp(max=min(semi))


def tube(at: tuple[Tensor, Tensor, Tensor], path: Sequence[Point], radii: Sequence[float]) -> Tensor:
    """Evaluate a tube along straight pieces, its radius changing linearly on each."""
    best: Tensor | None = None
    for a, b, ra, rb in zip(path, path[1:], radii, radii[1:], strict=False):
        step = [q - p for p, q in zip(a, b, strict=True)]
        length = sum(s * s for s in step) or 1.0
        offset = [u - p for u, p in zip(at, a, strict=True)]
        t = ((offset[0] * step[0] + offset[1] * step[1] + offset[2] * step[2]) / length).clamp(0, 1)
        squared = sum((o - t * s).square() for o, s in zip(offset, step, strict=True))
        inside = ra + (rb - ra) * t - torch.as_tensor(squared).sqrt()
        best = inside if best is None else torch.maximum(best, inside)
    if best is None:
        raise ValueError("a tube needs two points")
    return best


def join(a: Tensor, b: Tensor, smooth: float = 4.0) -> Tensor:
    """Unite two shapes with a rounded seam."""
    share = (0.5 + 0.5 * (a - b) / smooth).clamp(0, 1)
    return torch.lerp(b, a, share) + smooth * share * (1 - share)


def coverage(distance: Tensor) -> Tensor:
    """Return the share of each voxel inside a shape: how much the distance changes across the voxel sets the width of the edge."""
    width = torch.zeros_like(distance)
    for axis in range(3):
        if distance.shape[axis] > 2:
            difference = distance.diff(dim=axis).abs()
            first, last = difference.narrow(axis, 0, 1), difference.narrow(axis, difference.shape[axis] - 1, 1)
            width += torch.maximum(torch.cat([first, difference], axis), torch.cat([difference, last], axis))
    return (0.5 + distance / width.clamp(min=0.3)).clamp(0, 1)
