"""Spheres that fit into a mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import InputError, MaskError
from paradia.fft import Window, irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.smv import TIE, even_spectrum, sphere
from paradia.sources.knobs import check_not_negative

SINGLE = 2**15
"""Voxels in a sphere up to which a transform in single precision counts them without an error near one half."""


class Spheres(NamedTuple):
    """One sphere, moved all over a window."""

    share: Tensor
    """Half spectrum of one minus the mean over the sphere, :math:`1 - S`: what is left of a field without the mean around it."""
    fits: Tensor
    """Voxels around which the whole sphere lies in the mask."""


def least_radius(voxel_size: tuple[float, float, float], radius: float, name: str = "radius") -> float:
    """Return the radius, mm, or that of the smallest sphere with a neighbour on each side, whichever is larger.

    Raises
    ------
    InputError
        The radius is negative or no number.
    """
    check_not_negative(**{name: radius})
    return max(radius, 1.5 * max(voxel_size))


def check_threshold(threshold: float) -> None:
    """Refuse a share of what a sphere leaves of waves that no wave, or none but the shortest, exceeds."""
    if not 0 <= threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, what a sphere leaves of the shortest waves, got {threshold}. 0.05 is usual.")


def spheres(window: Window, radius: float, like: Tensor) -> Spheres:
    """Find where a sphere fits into the mask of a window whose margin is at least its radius.

    Parameters
    ----------
    window
        Frame of the mask.
    radius
        Radius of the sphere, mm.
    like
        Image whose precision and device the spectrum takes.

    Raises
    ------
    MaskError
        It fits nowhere.
    """
    ball = sphere(window.grid.voxel_size, radius)
    fits = window.mask & (_count(window.mask, window.grid, ball != 0) > int((ball != 0).sum()) - 0.5)
    if not fits.any():
        raise MaskError(f"no sphere of radius {radius:g} mm fits into the mask. Give a larger mask or a smaller radius.")
    return Spheres(even_spectrum(ball, window.grid).neg_().add_(1).to(like), fits)


def reached(window: Window, voxels: Tensor, radius: float) -> Tensor:
    """Return which voxels of a window the spheres around given ones touch, the radius at most the window's margin."""
    return _count(voxels, window.grid, sphere(window.grid.voxel_size, radius) != 0) > 0.5


def peeled(window: Window, depth: float) -> Tensor:
    """Take all voxels off the mask whose centres lie within a depth, mm, of the centre of one outside; the margin is larger."""
    places = [torch.arange(-(n := int(depth / d * (1 + TIE))), n + 1, dtype=torch.float64) * d for d in window.grid.voxel_size]
    x, y, z = (p.square() for p in places)
    ball = x[:, None, None] + y[:, None] + z <= depth**2 * (1 + TIE)
    return window.mask & (_count(window.mask, window.grid, ball) > int(ball.sum()) - 0.5)


def _count(voxels: Tensor, grid: Grid, ball: Tensor) -> Tensor:
    """Count the given voxels in the sphere around each voxel; in a sphere larger than the window, as if both were repeated."""
    exact = torch.float32 if int(ball.sum()) <= SINGLE else torch.float64
    spectrum = even_spectrum(ball.to(torch.float64), grid).to(voxels.device, exact)
    return irfftn(rfftn(voxels.to(exact)).mul_(spectrum), grid.shape)
