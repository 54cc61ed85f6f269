"""The mean over a sphere."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from paradia.errors import GeometryError
from paradia.grid import Grid
from paradia.operators._convolution import Convolution

TIE = 1e-9
"""Share of a radius squared by which rounding may move a sample that lies on the sphere: it must do so alike on all sides."""


class SMV(Convolution):
    """Replace every voxel by the mean over a sphere around it: the spherical mean value.

    A harmonic function stays as it is wherever the sphere fits in.

    Parameters
    ----------
    grid
        Where the images live.
    radius
        Radius of the sphere, mm.
    padding
        Factor, at least 1, by which each axis is extended with zeros before the transform.

    Raises
    ------
    GeometryError
        The radius is not positive, or the sphere does not fit into the grid.

    Notes
    -----
    A voxel on the rim of the sphere counts by the share of it that lies inside, and the weights are balanced so that their
    second moments are those of a true sphere. Harmonic polynomials of third degree then keep their mean exactly, however
    coarse or anisotropic the voxels.
    """

    def __init__(self, grid: Grid, radius: float, padding: float | int = 1) -> None:
        if not (math.isfinite(radius) and radius > 0):
            raise GeometryError(f"the radius of a sphere must be positive, got {radius} mm. Give a few voxels' length.")
        super().__init__(grid, partial(sphere_kernel, radius=radius), padding)
        self.radius = radius


def sphere_kernel(grid: Grid, radius: float) -> Tensor:
    """Transform the normalised sphere to the half spectrum of the grid, double precision."""
    ball = sphere(grid.voxel_size, radius)
    if any(b > n for b, n in zip(ball.shape, grid.shape, strict=True)):
        extent = " × ".join(f"{side:.4g}" for side in grid.extent)
        raise GeometryError(f"a sphere of radius {radius:.3g} mm does not fit into a field of view of {extent} mm. Give a smaller radius.")
    return even_spectrum(ball, grid)


def even_spectrum(ball: Tensor, grid: Grid) -> Tensor:
    """Transform a small centred image, the same in both directions of every axis, to the half spectrum of the grid.

    As it is small and even, a cosine matrix along each axis is faster than the transform of a whole volume.
    """
    sizes = (grid.shape[0], grid.shape[1], grid.shape[2] // 2 + 1)
    for length, size in zip(grid.shape, sizes, strict=True):
        ball = ball.movedim(0, -1)
        half = ball.shape[-1] // 2
        waves = torch.outer(torch.arange(half + 1), torch.arange(size)) % length
        cosines = torch.cos(waves.to(ball) * (2 * math.pi / length))
        cosines[1:] *= 2
        ball = ball[..., half:] @ cosines
    return ball


def reach(ball: Tensor, voxel_size: tuple[float, float, float]) -> float:
    """Return how far from the centre the furthest voxel of a centred image lies that is not zero, mm."""
    offsets = ball.nonzero() - ball.new_tensor(ball.shape).sub(1).div(2)
    return float(torch.linalg.vector_norm(offsets * ball.new_tensor(voxel_size), dim=1).max())


def sphere(voxel_size: tuple[float, float, float], radius: float, parts: int = 5) -> Tensor:
    """Weigh the voxels of a centred sphere for its mean, starting from ``parts`` samples along each edge of a voxel."""
    half = [math.ceil(radius / d - 0.5) for d in voxel_size]
    places = [torch.arange(-h, h + 1, dtype=torch.float64) * d for h, d in zip(half, voxel_size, strict=True)]
    offsets = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts - 0.5
    x, y, z = ((p[:, None] + offsets * d).square().flatten() for p, d in zip(places, voxel_size, strict=True))
    inside = x[:, None, None] + y[None, :, None] + z[None, None, :] <= radius**2 * (1 + TIE)
    i, j, k = (len(p) for p in places)
    share = inside.to(torch.float64).reshape(i, parts, j, parts, k, parts).mean(dim=(1, 3, 5))
    return _balance(share, places, radius)


def _balance(share: Tensor, places: list[Tensor], radius: float) -> Tensor:
    """Give the weights the sum and the second moments of a true sphere, so that harmonic cubics keep their mean."""
    squares = torch.meshgrid(*[p.square() for p in places], indexing="ij")
    free = [torch.ones_like(share), *(s for s in squares if bool((share * s).any()))]  # an axis of one voxel has no moment to balance
    basis = torch.stack([f.flatten() for f in free])
    target = basis.new_tensor([1.0] + [radius**2 / 5] * (len(free) - 1))
    factors = torch.linalg.solve((basis * share.flatten()) @ basis.T, target)
    return share * (factors @ basis).reshape(share.shape)
